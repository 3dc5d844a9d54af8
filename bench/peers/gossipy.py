"""Gossip learning of gossipy: every node pushes once a round; a receiver merges the model and trains for a pass."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import torch
from gossipy import set_seed
from gossipy.core import AntiEntropyProtocol, CreateModelMode, StaticP2PNetwork
from gossipy.data import DataDispatcher
from gossipy.data.handler import ClassificationDataHandler
from gossipy.model import TorchModel
from gossipy.model.handler import TorchModelHandler
from gossipy.node import GossipNode
from gossipy.simul import GossipSimulator, SimulationEventReceiver
from torch import Tensor

from bench.loops import with_covey
from bench.peers.cases import BATCH, CASES, Case, Run, by_covey, inputs_of, prepared, quality, row
from covey.runtime.prepared import Prepared

NODES, TICKS = 100, 100


def gossip_learning(case: Case, busy: float) -> Prepared:
    """Pushes once a period on the complete graph, to nodes that train for a share of their time."""
    program = {"kind": "gossip-learning", "topology": "complete", "jitter": 0.0}
    return prepared(case, program, {"nodes": NODES, "compute": case.samples / NODES / busy})


def trainings_of(setup: Prepared) -> int:
    """The number of trainings of a run."""
    count, train = 0, setup.task.learner.train

    def counted(trainings: Sequence[Any]) -> None:
        nonlocal count
        count += len(trainings)
        train(trainings)

    setup.task.learner.train = counted  # type: ignore[method-assign]
    with_covey(setup)
    return count


class Clock(SimulationEventReceiver):
    """When rounds end, and how many messages there are."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.messages = 0

    def update_message(self, failed: bool, msg: Any = None) -> None:
        self.messages += 1

    def update_timestep(self, t: int) -> None:
        if (t + 1) % TICKS == 0:
            self.ends.append(perf_counter())

    def update_end(self) -> None:
        pass


class Wrapped(TorchModel):
    """covey's module, begun as covey begins it."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def init_weights(self) -> None:
        pass


def by_gossipy(setup: Prepared) -> Run:
    """One run, on the nodes, data and first model of covey."""
    began = perf_counter()
    set_seed(1)
    learner = setup.task.learner
    data = ClassificationDataHandler(inputs_of(setup), learner.data.train.targets, test_size=0)
    dispatcher = DataDispatcher(data, n=NODES, eval_on_user=False, auto_assign=False)
    dispatcher.set_assignments([learner.parts.of(node).tolist() for node in range(NODES)], None)
    handler = TorchModelHandler(
        net=Wrapped(learner._make(0)),
        optimizer=torch.optim.SGD,
        optimizer_params={"lr": setup.experiment.task.optimizer.lr},
        criterion=torch.nn.CrossEntropyLoss(),
        batch_size=BATCH,
        create_model_mode=CreateModelMode.MERGE_UPDATE,
    )
    graph = StaticP2PNetwork(NODES)
    nodes = GossipNode.generate(dispatcher, graph, handler, round_len=TICKS, sync=True)
    simulator = GossipSimulator(nodes, dispatcher, delta=TICKS, protocol=AntiEntropyProtocol.PUSH)
    clock = Clock()
    simulator.add_receiver(clock)
    simulator.init_nodes()
    simulator.start(setup.experiment.rounds)
    simulator.remove_receiver(clock)
    assert clock.messages == NODES * setup.experiment.rounds, clock.messages
    return Run.between(
        began,
        clock.ends,
        torch.stack([learner.layout.flatten(node.model_handler.model.module) for node in nodes.values()]),
    )


def rows() -> Iterator[list[str]]:
    """The rows of gossipy."""
    for case in CASES:
        for busy in (0.01, 0.3):
            peer = by_gossipy(gossip_learning(case, busy))
            ours = by_covey(lambda case=case, busy=busy: gossip_learning(case, busy))
            setup = gossip_learning(case, busy)
            # Messages that covey passes over, since a newer one has come or the run is over, cost it no training.
            trained = trainings_of(setup) / (NODES * case.rounds)
            ours.round /= trained
            (mine, _), (its, _) = quality(setup, ours.models), quality(setup, peer.models)
            setup.task.learner.close()
            remark = (
                f"{NODES} nodes, in covey busy for {busy:.0%} of the time; a training for each message, in covey "
                f"for {trained:.0%} of them and the time scaled up to all; accuracy {mine:.1%} against {its:.1%} after "
                f"{case.rounds} rounds"
            )
            yield row("gossipy-dfl", case, peer, ours, remark)
