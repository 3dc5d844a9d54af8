"""covey against other simulators, where they are installed: flwr (with its simulation extra), gossipy-dfl and pfl.

`bench/peers.txt` says how to install them. Each peer has processes of its own, in which covey does the same work as
well: the same model and start, the same parts of the data, learning rate, batch size and passes, and no evaluation.
Figures are for a round in the steady state: the median of a peer's rounds after the first, against the median of three
whole runs of covey. All that comes before is the start-up: a peer's first round as far as it takes longer is in it,
imports are not. flwr and pfl have a process for each core, with one thread of torch; gossipy has only one process, and
one thread, since with two it took seven times longer on two busy cores. covey runs as it does by default. The
server of flwr looks for answers every 0.1 s, which is part of its rounds.

The models of flwr and pfl train on the very batches that covey draws, so they must end equal to rounding. gossipy draws
its own, trains every node once before the first round, and merges plain averages where covey weighs models by their
age: there the detail has both accuracies. (A covey program that does as gossipy does came to 58.6 % on the digits where
gossipy came to 58.7 %.) covey computes together what overlaps in virtual time, and training takes no time in gossipy:
so there is one figure with nodes that are nearly always idle, where little overlaps, and one with nodes that often
train.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.loops import with_covey
from covey import rng
from covey.engines.prepared import Prepared, prepare
from covey.experiment import Experiment
from covey.task.batches import plan
from covey.task.learner import default_workers

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 900
"""Seconds for one peer."""


@dataclass(frozen=True)
class Case:
    """A model and its data."""

    name: str
    model: str
    dataset: dict[str, Any]
    samples: int
    rounds: int
    lr: float


CASES = [
    Case("logistic on digits", "logistic", {"kind": "digits"}, 1437, 20, 0.1),
    Case("MLP 784-128-10", "mlp", {"kind": "synthetic-images", "samples": 6400, "noise": 1.5}, 6400, 8, 0.05),
]
CLIENTS, GOSSIPING, BATCH = 20, 100, 8
PROCESSES = min(default_workers(), CLIENTS)


@dataclass
class Run:
    """What a framework took in seconds, and its models at the end, one a row."""

    start_up: float
    round: float
    models: Tensor

    @classmethod
    def between(cls, began: float, ends: Sequence[float], models: Tensor) -> "Run":
        """From the times at which rounds ended."""
        steady = float(np.median(np.diff(ends)))
        return cls(max(ends[0] - began - steady, 0.0), steady, models)


def prepared(case: Case, program: dict[str, Any], network: dict[str, Any]) -> Prepared:
    """A case with a program, without evaluation."""
    experiment = Experiment.from_table(
        {
            "rounds": case.rounds,
            "program": program,
            "task": {
                "dataset": case.dataset,
                "model": case.model,
                "batch_size": BATCH,
                "local_epochs": 1,
                "optimizer": {"kind": "sgd", "lr": case.lr},
            },
            "network": network,
            "evaluation": {"every": 0, "nodes": 1, "samples": 1, "average": False},
        }
    )
    return prepare(experiment, **experiment.engine.compute_settings())


def by_covey(make: Callable[[], Prepared]) -> Run:
    """The median of three runs."""
    starts, rounds = [], []
    for _ in range(3):
        began = perf_counter()
        setup = make()
        starts.append(perf_counter() - began)
        seconds, models = with_covey(setup)
        setup.learner.close()
        rounds.append(seconds / setup.experiment.rounds)
    return Run(median(starts), median(rounds), models)


def quality(setup: Prepared, models: Tensor) -> tuple[float, float]:
    """(accuracy, loss) on the test data, means over models."""
    found = setup.learner.evaluate(list(models), setup.learner.kernel.test_split)
    return float(np.mean([each["accuracy"] for each in found])), float(np.mean([each["loss"] for each in found]))


def row(package: str, case: Case, peer: Run, ours: Run, remark: str) -> list[str]:
    """A line of the table."""
    detail = (
        f"{1000 * ours.round:.3g} against {1000 * peer.round:.3g} ms a round, "
        f"start-up {ours.start_up:.2g} against {peer.start_up:.2g} s; {remark}"
    )
    title = f"{package} {version(package)}, {case.name}: covey is faster by"
    return [title, f"{peer.round / ours.round:.2f}", "", detail]


# ---------------------------------------------------------------------- gossip learning


def gossip_learning(case: Case, busy: float) -> Prepared:
    """Pushes once a period on the complete graph, to nodes that train for a share of their time."""
    program = {"kind": "gossip-learning", "topology": "complete", "jitter": 0.0}
    return prepared(case, program, {"nodes": GOSSIPING, "compute": case.samples / GOSSIPING / busy})


def trainings_of(setup: Prepared) -> int:
    """How many trainings a run makes."""
    count, train = 0, setup.learner.train

    def counted(trainings: Sequence[Any]) -> None:
        nonlocal count
        count += len(trainings)
        train(trainings)

    setup.learner.train = counted  # type: ignore[method-assign]
    with_covey(setup)
    return count


def gossipy_rows() -> Iterator[list[str]]:
    """Gossip learning: every node pushes once a round; whoever gets a model merges it and trains for one pass."""
    from gossipy import set_seed
    from gossipy.core import AntiEntropyProtocol, CreateModelMode, StaticP2PNetwork
    from gossipy.data import DataDispatcher
    from gossipy.data.handler import ClassificationDataHandler
    from gossipy.model import TorchModel
    from gossipy.model.handler import TorchModelHandler
    from gossipy.node import GossipNode
    from gossipy.simul import GossipSimulator, SimulationEventReceiver

    ticks = 100

    class Clock(SimulationEventReceiver):
        """When rounds end, and how many messages there are."""

        def __init__(self) -> None:
            self.ends: list[float] = []
            self.messages = 0

        def update_message(self, failed: bool, msg: Any = None) -> None:
            self.messages += 1

        def update_timestep(self, t: int) -> None:
            if (t + 1) % ticks == 0:
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
        began = perf_counter()
        set_seed(1)
        learner = setup.learner
        data = ClassificationDataHandler(inputs_of(setup), learner.data.train.targets, test_size=0)
        dispatcher = DataDispatcher(data, n=GOSSIPING, eval_on_user=False, auto_assign=False)
        dispatcher.set_assignments([learner.parts.of(node).tolist() for node in range(GOSSIPING)], None)
        handler = TorchModelHandler(
            net=Wrapped(learner._make(0)),
            optimizer=torch.optim.SGD,
            optimizer_params={"lr": setup.experiment.task.optimizer.lr},
            criterion=torch.nn.CrossEntropyLoss(),
            batch_size=BATCH,
            create_model_mode=CreateModelMode.MERGE_UPDATE,
        )
        graph = StaticP2PNetwork(GOSSIPING)
        nodes = GossipNode.generate(dispatcher, graph, handler, round_len=ticks, sync=True)
        simulator = GossipSimulator(nodes, dispatcher, delta=ticks, protocol=AntiEntropyProtocol.PUSH)
        clock = Clock()
        simulator.add_receiver(clock)
        simulator.init_nodes()
        simulator.start(setup.experiment.rounds)
        simulator.remove_receiver(clock)
        assert clock.messages == GOSSIPING * setup.experiment.rounds, clock.messages
        return Run.between(
            began,
            clock.ends,
            torch.stack([learner.layout.flatten(node.model_handler.model.module) for node in nodes.values()]),
        )

    for case in CASES:
        for busy in (0.01, 0.3):
            peer = by_gossipy(gossip_learning(case, busy))
            ours = by_covey(lambda case=case, busy=busy: gossip_learning(case, busy))
            setup = gossip_learning(case, busy)
            # Messages that covey passes over, since a newer one has come or the run is over, cost it no training.
            trained = trainings_of(setup) / (GOSSIPING * case.rounds)
            ours.round /= trained
            (mine, _), (its, _) = quality(setup, ours.models), quality(setup, peer.models)
            setup.learner.close()
            remark = (
                f"{GOSSIPING} nodes, in covey busy for {busy:.0%} of the time; a training for each message, in covey "
                f"for {trained:.0%} of them and the time scaled up to all; accuracy {mine:.1%} against {its:.1%} after "
                f"{case.rounds} rounds"
            )
            yield row("gossipy-dfl", case, peer, ours, remark)


def inputs_of(setup: Prepared) -> Tensor:
    """All inputs, as a model takes them."""
    data = setup.learner.data
    return (data.train.inputs.float() * data.scale + data.shift).flatten(1)


# ---------------------------------------------------------------------- federated averaging


def fedavg(case: Case, weighting: str = "samples") -> Prepared:
    """Federated averaging with all clients in every round."""
    return prepared(case, {"kind": "fedavg", "weighting": weighting}, {"nodes": CLIENTS + 1})


@dataclass
class Clients:
    """What clients train on: for each round and client, the inputs and targets in the order of covey's batches."""

    module: torch.nn.Module
    lr: float
    data: list[list[tuple[Tensor, Tensor]]]

    @classmethod
    @cache
    def of(cls, name: str) -> "Clients":
        """Those of a case, made once in a process."""
        case = next(case for case in CASES if case.name == name)
        setup = fedavg(case)
        learner, parts = setup.learner, setup.learner.parts
        inputs, targets = inputs_of(setup), learner.data.train.targets
        data = []
        for t in range(case.rounds):
            data.append([])
            for node, holder in setup.holders.items():
                key = rng.mix(rng.mix(rng.purpose_key(setup.setting.seed, "train"), node), t, 0)
                steps = np.array([-(-int(parts.sizes[holder]) // BATCH)])
                drawn = plan(parts, np.array([holder]), np.array([key], dtype=np.uint64), steps, BATCH).samples
                order = torch.from_numpy(drawn[drawn >= 0])
                data[t].append((inputs[order], targets[order]))
        return cls(learner._make(0), case.lr, data)


def equality(setup: Prepared, ours: Tensor, theirs: Tensor) -> str:
    """How far two models are apart, and how good they are."""
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    assert difference < 1e-3, f"the models differ by {difference:g}"
    (accuracy, loss), (its, its_loss) = quality(setup, ours.unsqueeze(0)), quality(setup, theirs.unsqueeze(0))
    return (
        f"{CLIENTS} clients; models equal to {difference:.0e}, accuracy {accuracy:.1%} against {its:.1%} "
        f"and loss {loss:.3f} against {its_loss:.3f} after {setup.experiment.rounds} rounds"
    )


def flwr_rows() -> Iterator[list[str]]:
    """FedAvg in the simulation of flwr: each core runs one client at a time, in a process that stays."""
    # Both would otherwise report their use over the network.
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    def client_of(name: str) -> ClientApp:
        client = ClientApp()

        @client.train()
        def train(message: Message, context: Context) -> Message:
            clients = Clients.of(name)
            module = clients.module
            module.load_state_dict(message.content["arrays"].to_torch_state_dict())
            optimizer = torch.optim.SGD(module.parameters(), lr=clients.lr)
            t = int(message.content["config"]["server-round"]) - 1
            x, y = clients.data[t][int(context.node_config["partition-id"])]
            for at in range(0, len(x), BATCH):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(x[at : at + BATCH]), y[at : at + BATCH]).backward()
                optimizer.step()
            content = {
                "arrays": ArrayRecord(module.state_dict()),
                "metrics": MetricRecord({"num-examples": len(x)}),
            }
            return Message(content=RecordDict(content), reply_to=message)

        return client

    def by_flwr(case: Case, setup: Prepared) -> Run:
        ends: list[float] = []
        results = []
        server = ServerApp()

        def clock(number: int, arrays: ArrayRecord) -> None:
            if number > 0:
                ends.append(perf_counter())

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
            first = ArrayRecord(setup.learner._make(0).state_dict())
            results.append(strategy.start(grid, first, num_rounds=case.rounds, evaluate_fn=clock))

        began = perf_counter()
        run_simulation(
            server,
            client_of(case.name),
            num_supernodes=CLIENTS,
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {"num_cpus": PROCESSES},
            },
        )
        module = setup.learner._make(0)
        module.load_state_dict(results[0].arrays.to_torch_state_dict())
        return Run.between(began, ends, setup.learner.layout.flatten(module).unsqueeze(0))

    for case in CASES:
        setup = fedavg(case)
        peer = by_flwr(case, setup)
        ours = by_covey(lambda case=case: fedavg(case))
        yield row("flwr", case, peer, ours, equality(setup, ours.models[0], peer.models[0]))


def pfl_rows() -> Iterator[list[str]]:
    """FederatedAveraging of pfl on torch; clients count equally, as they do there by default."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class Clock(TrainingProcessCallback):
        """When rounds end."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
            self.ends.append(perf_counter())
            return False, Metrics()

    class Wrapped(torch.nn.Module):
        """covey's module with its loss."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(self.module(x), y)

        def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
            return {}

    def by_pfl(case: Case, setup: Prepared) -> Run:
        clients = Clients.of(case.name)
        began = perf_counter()
        wrapped = Wrapped(setup.learner._make(0))
        model = PyTorchModel(wrapped, torch.optim.SGD, torch.optim.SGD(wrapped.parameters(), lr=1.0))
        clock = Clock()

        def data_of(client: int) -> Dataset:
            return Dataset(clients.data[len(clock.ends)][client], user_id=str(client))

        def no_data(client: int) -> Dataset:
            raise NotImplementedError

        sampler = get_user_sampler("minimize_reuse", list(range(CLIENTS)))
        FederatedAveraging().run(
            NNAlgorithmParams(
                central_num_iterations=case.rounds,
                # The first round is always evaluated, so it goes to the start-up.
                evaluation_frequency=case.rounds,
                train_cohort_size=CLIENTS,
                val_cohort_size=None,
            ),
            SimulatedBackend(FederatedDataset(data_of, sampler), FederatedDataset(no_data, sampler)),
            model,
            NNTrainHyperParams(local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=case.lr),
            callbacks=[clock],
            send_metrics_to_platform=False,
        )
        return Run.between(began, clock.ends, setup.learner.layout.flatten(wrapped.module).unsqueeze(0))

    setups = [fedavg(case, "equal") for case in CASES]
    peers = [by_pfl(case, setup) for case, setup in zip(CASES, setups, strict=True)]
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if os.environ.get("RANK", "0") != "0":
        return
    for case, setup, peer in zip(CASES, setups, peers, strict=True):
        ours = by_covey(lambda case=case: fedavg(case, "equal"))
        yield row("pfl", case, peer, ours, f"{equality(setup, ours.models[0], peer.models[0])}")


# ---------------------------------------------------------------------- all of them


@dataclass
class Peer:
    """A package, what it needs to be imported, and what its rows are made with."""

    modules: tuple[str, ...]
    rows: Callable[[], Iterator[list[str]]]
    launcher: tuple[str, ...] = ()
    """What starts its processes, where it does not do that itself."""


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(PROCESSES))
PEERS = {
    "gossipy-dfl": Peer(("gossipy", "torchvision", "dill", "sklearn"), gossipy_rows),
    "flwr": Peer(("flwr", "ray"), flwr_rows),
    "pfl": Peer(("pfl",), pfl_rows, TORCHRUN),
}


def alone(name: str) -> None:
    """Write the rows of one peer to standard output as JSON, and nothing else that it prints."""
    torch.set_num_threads(1)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if found := list(PEERS[name].rows()):
        json.dump(found, answer)
    answer.close()


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail; for a peer that cannot be run, why."""
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    for name, peer in PEERS.items():
        title = f"{name}: covey is faster by"
        missing = [module for module in peer.modules if find_spec(module) is None]
        if missing:
            yield [title, "", "", f"not installed (no {', '.join(missing)})"]
            continue
        command = [sys.executable, *peer.launcher, "-m", "bench.peers", name]
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            yield [title, "", "", f"not done after {LIMIT} s"]
            continue
        if done.returncode == 0:
            yield from json.loads(done.stdout)
        else:
            told = [line for line in done.stderr.splitlines() if "Error" in line] or [f"exit code {done.returncode}"]
            yield [title, "", "", f"cannot be run: {told[0 if peer.launcher else -1].strip().replace('|', ' ')}"]


if __name__ == "__main__":
    # By its name, so that what other processes are sent is found there again.
    from bench import peers

    peers.alone(sys.argv[1])
