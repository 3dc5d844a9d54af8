"""The contract of every program and of every part, in small simulations."""

import numpy as np
import pytest
import torch

from covey.messages import wire
from covey.parts import kinds
from covey.runtime.simulation.world import World
from tests.conftest import models_of, simulate, stated_bytes, table
from tests.examples import (
    BLOBS,
    DISTILS,
    FEDERATED,
    IN_FLEET,
    IN_PROGRAM,
    LEARNING,
    NEVER_WHOLE,
    NODES,
    RUNS,
    SILENT,
    WHOLE,
    part_table,
    run_table,
)

IN_A_ROUND = [run for run in RUNS if run[0] in ("program", *IN_PROGRAM)]
PROGRAMS = {("program", kind): kinds.load("program", kind) for kind in LEARNING}
ASYNCHRONOUS = [run for run, program in PROGRAMS.items() if not program.synchronous]
TRAINED = {"every-round": 5, "periodic": 3, "skiptrain": 4, "greedy": 3}
"""The number of trainings of a node in five rounds."""
CHECKPOINTS = {"checkpoint": {"every": 2}}


class Heard:
    """A run, and all that its nodes sent."""

    def __init__(self, tables):
        self.sent, self.held = [], []
        self.counted = np.zeros(NODES, dtype=np.int64)
        post = World.post

        def listen(world, node, receivers, payload, tag, round):
            frame = wire.encode(payload, tag=tag, sender=node.id, round=round)
            self.sent.append((world.now, list(receivers), frame))
            self.counted[node.id] += len(frame) * len(receivers)
            self.held.extend((value, value.clone()) for value in payload.values() if isinstance(value, torch.Tensor))
            received = wire.decode(frame).payload
            assert received.keys() == payload.keys()
            assert all(type(received[name]) is _kind_of(value) for name, value in payload.items())
            return post(world, node, receivers, payload, tag, round)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(World, "post", listen)
            self.world, self.written = simulate(tables)
        self.models = models_of(self.world)

    def everything(self):
        """All that can be compared of two runs, beside their models."""
        return self.world.now, self.sent, self.written.rows, self.written.figures, self.written.happened


def _kind_of(value):
    """The type of a received entry. A model that is computed when it is needed is received as a tensor."""
    return torch.Tensor if isinstance(value, torch.Tensor) else type(value)


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def heard(request, files):
    """A kind, and the run with checkpoints of a small experiment in which it has its place."""
    return request.param, Heard(run_table(*request.param, files, **CHECKPOINTS))


def test_the_same_seed_gives_the_same_models_metrics_and_bytes(heard, files):
    run, first = heard
    again, other = (Heard(run_table(*run, files, **CHECKPOINTS, seed=seed)) for seed in (3, 4))
    assert torch.equal(first.models, again.models)
    assert first.everything() == again.everything()
    assert not torch.equal(first.models, other.models)


def test_bytes_that_are_counted_are_bytes_of_the_wire_and_no_node_writes_into_what_was_sent(heard):
    (family, kind), run = heard
    assert run.counted.any() != (family == "program" and kind in SILENT)
    if family != "churn":  # A node that leaves takes back what still queued.
        assert [node.bytes_out for node in run.world.nodes] == run.counted.tolist()
    assert all(torch.equal(now, then) for now, then in run.held)


def test_a_synchronous_program_continues_from_a_checkpoint_to_the_bit(heard, files):
    run, whole = heard
    if run[0] in ("churn", "model", *IN_FLEET) or run in ASYNCHRONOUS:
        return
    assert [round for round, _ in whole.written.checkpoints] == [2, 4]
    checkpoint = wire.decode(wire.encode(whole.written.checkpoints[0][1])).payload
    resumed, rewritten = simulate(run_table(*run, files, **CHECKPOINTS), checkpoint=checkpoint)
    assert torch.equal(whole.models, models_of(resumed))
    assert sorted(rewritten.rows) == sorted(row for row in whole.written.rows if row[1] > 2)


@pytest.mark.parametrize(("family", "kind"), IN_A_ROUND)
def test_a_round_sends_the_bytes_that_are_stated(family, kind, files):
    network = {"latency": 0.0, "bandwidth": None}
    made = run_table(family, kind, files, rounds=12, network=network, evaluation={"every": 0})
    world, _ = simulate(made)
    sent = sum(node.bytes_out for node in world.nodes) / NODES / 12
    assert sent == pytest.approx(stated_bytes(world), rel=0.02)


@pytest.mark.parametrize(("family", "kind"), IN_A_ROUND)
def test_identical_models_stay_as_they_are_where_nothing_is_learned(family, kind, files):
    task = {"optimizer": {"kind": "sgd", "lr": 0.0}}
    program = {"lr": 0.0} if kind in ("clique-averaging", "dynsgd") else {}
    made = run_table(family, kind, files, task=task, program=program, evaluation={"every": 0})
    world, _ = simulate(made)
    start = world.task.learner.first_model
    assert kind in SILENT or sum(node.mail.messages_in for node in world.nodes) > 0
    begin = 1 if kind in DISTILS else 0  # A student learns at node 0.
    assert torch.allclose(models_of(world)[begin:], start.expand(NODES - begin, -1), atol=1e-6)


def plain_sgd(world: World, holder: int, steps: int) -> torch.Tensor:
    """The model that torch trains on the data of one node, with all of them in every step."""
    learner = world.task.learner
    module, own = learner._make(0), torch.from_numpy(learner.parts.of(holder))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        split = learner.data.train
        torch.nn.functional.cross_entropy(module(split.inputs[own]), split.targets[own]).backward()
        optimizer.step()
    return learner.layout.flatten(module)


ALONE = {
    "gossip": ({"topology": "complete"}, 1),
    "clique-averaging": ({"topology": "random-cliques", "lr": 0.3}, 1),
    "push-sum": ({"topology": "complete"}, 1),
    "ad-psgd": ({"topology": "complete"}, 1),
    "shatter": ({"virtual_nodes": 2, "degree": 1}, 1),
    "shatter-apart": ({"virtual_nodes": 2, "degree": 1}, 1),
    "d2": ({"topology": "complete"}, 1),
    "gradient-tracking": ({"topology": "complete"}, 1),
    "quasi-global-momentum": ({"topology": "complete", "beta": 0.0}, 1),
    "relay-sgd": ({"topology": "complete"}, 1),
    **{kind: ({}, 2) for kind in (*FEDERATED, *SILENT, "fedavg-1", "ensemble", "fens", "robust-inference")},
    "fedasync": ({"alpha": 1.0}, 2),
    "fedbuff": ({"buffer": 1}, 2),
    "dynsgd": ({"lr": 0.3}, 2),
    "cpfl": ({"cohorts": 1, "max_rounds": 3, "result": "last"}, 2),
    "fleet": ({"profiler": {"kind": "constant", "samples": 1000}, "steps": 2, "lr": 0.6}, 2),
    # A node trains what it is sent; here it has itself alone to talk to.
    "gossip-learning": ({"topology": "complete"}, 1),
    "swift": ({"topology": "complete"}, 1),
    "swarm": ({}, 1),
    "swarm-non-blocking": ({}, 1),
    # These need a peer, which is too far to be heard here.
    **{kind: ({"fanout": 1}, 2) for kind in ("ad-psgd-queued", "asynchronous-epidemic", "divshare", "swift-push")},
}
"""The smallest network of each program, with one node that holds data."""


@pytest.mark.parametrize("kind", [kind for kind in LEARNING if kind not in ("fedkd", "feddf")])
def test_one_node_alone_trains_as_plain_sgd_does(kind):
    parameters, nodes = ALONE[kind]
    task = {**BLOBS, "batch_size": 1000, "local_steps": 2, "validation": 0.2}
    network = {"nodes": nodes, "latency": "1s" if kind in FEDERATED else "1h"}
    tables = table(program={"kind": kind, **parameters}, network=network, task=task, rounds=3)
    world, _ = simulate(tables)
    # The server of an ensemble, of FENS or of inference keeps its own model, and the mean of one shot is of one training.
    other = {
        "gossip-learning": 0,
        "swarm": 0,
        "ensemble": 0,
        "fens": 0,
        "robust-inference": 0,
        "local": 0,
        "clique-averaging": 3,
        "dynsgd": 3,
        "fedavg-1": 2,
        "fedsgd": 3,
    }
    steps = other.get(kind, 6)
    assert torch.allclose(world.nodes[0].model, plain_sgd(world, 0, steps), atol=1e-5)


@pytest.mark.parametrize("schedule", kinds.built_in()["schedule"])
@pytest.mark.parametrize("overlap", [False, True])
def test_the_parts_of_gossip_leave_one_node_alone_to_plain_sgd(schedule, overlap, files):
    program = {
        "kind": "gossip",
        "topology": "complete",
        "overlap": overlap,
        "schedule": part_table("schedule", schedule, files),
    }
    task = {**BLOBS, "batch_size": 1000}
    world, _ = simulate(table(program=program, network={"nodes": 1}, task=task, rounds=5))
    assert torch.allclose(world.nodes[0].model, plain_sgd(world, 0, TRAINED[schedule]), atol=1e-5)


@pytest.mark.parametrize("sharing", [kind for kind in kinds.built_in()["sharing"] if kind not in NEVER_WHOLE])
@pytest.mark.parametrize("aggregation", ["mean", "metropolis-hastings"])
def test_on_the_complete_graph_gossip_is_an_all_reduce(aggregation, sharing, files):
    program = {
        "kind": "gossip",
        "topology": "complete",
        "aggregation": aggregation,
        "sharing": {**part_table("sharing", sharing, files), **WHOLE.get(("sharing", sharing), {})},
    }
    task = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
    world, _ = simulate(table(program=program, task=task, rounds=1))
    starts = torch.stack([world.task.learner.initial(id) for id in range(NODES)])
    assert torch.allclose(models_of(world), starts.mean(0).expand(NODES, -1), atol=1e-6)
