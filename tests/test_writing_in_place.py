"""A write in place to a tensor that a node handed out or took changes nothing at other nodes."""

import importlib.util

import pytest
import torch

from covey.decentralized.gossip import Gossip
from covey.decentralized.topology import Ring, Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, LearningProgram
from covey.messages import wire
from covey.parts.errors import ProgramError
from covey.parts.parameters import param
from covey.runtime.prepared import Prepared
from tests.conftest import begun, models_of, simulate, table
from tests.examples import RUNS, Recorded, run_program, run_table
from tests.hosts import emulate
from tests.programs.careless import HARMLESS, HIDDEN, OPS, Careless, Hands
from tests.programs.own import Doubtful, Mirror, Slower

SMALL = {"task": {"dataset": "digits", "model": "logistic", "batch_size": 8}, "network": {"nodes": 4}, "rounds": 4}


def careless(what, op="add"):
    return table(program=Careless(what=what, op=op), **SMALL)


@pytest.fixture(scope="module")
def untouched():
    world, written = simulate(careless([]))
    return models_of(world), written.figures


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("what", HARMLESS)
def test_what_a_node_writes_in_place_is_its_own(what, op, untouched):
    models, figures = untouched
    world, written = simulate(careless([what], op))
    assert torch.equal(models_of(world), models)
    assert written.figures == figures


@pytest.mark.parametrize("op", HIDDEN)
def test_what_a_node_writes_in_any_other_way_is_its_own(op, untouched):
    models, figures = untouched
    world, written = simulate(careless(HARMLESS, op))
    assert torch.equal(models_of(world), models)
    assert written.figures == figures


@pytest.mark.parametrize("op", OPS)
def test_what_a_node_of_a_host_writes_in_place_is_its_own(op, untouched, tmp_path):
    outcome, _ = emulate(careless(HARMLESS, op), tmp_path)
    assert torch.allclose(outcome.models, untouched[0], atol=1e-5)


@pytest.mark.parametrize("op", [*OPS, *HIDDEN])
def test_a_model_that_is_written_in_place_is_reported(op):
    with pytest.raises(ProgramError) as caught:
        simulate(careless(["model"], op))
    assert str(caught.value) == (
        "Node 0 wrote to its model in place in round 1, which has no effect: "
        "assign the new model, as in `node.model = node.model + 1`."
    )


@pytest.mark.parametrize("op", ["add", "numpy", "inference"])
def test_a_model_that_is_written_in_place_is_reported_by_hosts_too(op, tmp_path):
    with pytest.raises(ProgramError, match=r"^Node 0 wrote to its model in place in round 1, which has no effect: "):
        emulate(careless(["model"], op), tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        "node.model.add_(1); await node.train()",
        "node.model.add_(1); await node.gradient()",
        "node.model.add_(1); await node.evaluate(split='test')",
        "node.model.add_(1)",
        "m = node.model + 1; node.model = m; m.zero_()",
        "m = node.model.numpy().copy(); node.model = torch.from_numpy(m); m += 1",
        "m = node.model; await node.train(); m.add_(1); await node.sleep(0.1)",
    ],
)
def test_it_is_reported_wherever_the_model_is_used_next(body):
    names = {"torch": torch}
    exec(f"async def run(self, node):\n    async for t in node.rounds():\n        {body}", names)
    wrong = type("Wrong", (Recorded,), {"run": names["run"]})
    with pytest.raises(ProgramError, match=r"^Node 0 wrote to its model in place in round 0, which has no effect: "):
        run_program(wrong(), network={"nodes": 2}, rounds=1)


@pytest.mark.parametrize(
    "body",
    [
        "node.model += 1",
        "m = node.model; m += 1; node.model = m",
        "m = node.model; m.numpy()[:] += 1; node.model = m",
        "m = node.model; m += 1; node.model = Mixture([m], [1.0])",
        "m = node.model; m *= 2; node.model = (m + 2) / 2",
        "m = node.model; m.numpy(); node.model = m + 1",
        "m = node.model.numpy().copy(); m += 1; node.model = torch.from_numpy(m)",
        "with torch.inference_mode(): m = node.model + 1\n        node.model = m",
        "m = torch.nn.Parameter(node.model); node.model = m + 1",
    ],
)
def test_what_is_assigned_counts(body):
    names = {"Mixture": Mixture, "torch": torch}
    exec(f"async def run(self, node):\n    async for t in node.rounds():\n        {body}", names)
    right = type("Right", (Recorded,), {"run": names["run"]})
    world, _, _ = run_program(right(), network={"nodes": 3}, rounds=2)
    change = models_of(world).detach() - world.task.learner.first_model
    assert torch.allclose(change, torch.full_like(change, 2.0), atol=1e-5)


def test_a_function_that_writes_to_what_it_is_given_changes_nothing_else(tmp_path):
    tables = table(program=Hands(), task=SMALL["task"], network={"nodes": 4, "compute": 1e6}, rounds=2)
    world, written = simulate(tables)
    outcome, there = emulate(tables, tmp_path)
    first = torch.stack([world.task.learner.initial(node) for node in range(4)])
    assert torch.equal(models_of(world), first)
    assert torch.equal(outcome.models, first)
    for figures in (written.figures, there.figures):
        assert sorted({value for _, _, name, value in figures if name == "same"}) == [1.0]
        assert len({value for _, _, name, value in figures if name == "results"}) == 1


class Summing(LearningProgram):
    """Adds up in place in its state what training changed, and the rounds in a list."""

    async def run(self, node: LearningNode) -> None:
        node.state.setdefault("sum", torch.zeros_like(node.model))
        node.state.setdefault("rounds", [])
        async for t in node.rounds():
            update = await node.train()
            node.state["sum"].add_(update.delta)
            node.state["rounds"].append(t)
            node.model = update.model
            others = [other for other in range(node.nodes) if other != node.id]
            node.send(others, {"model": node.model}, round=t)
            await node.receive(round=t, senders=others, timeout=0.05)


SLOW = {"compute": {"kind": "stragglers", "samples_per_second": 500, "fraction": 0.25, "slowdown": 4}}


def test_a_checkpoint_has_the_state_as_it_was_at_its_round():
    tables = table(program=Summing(), network={"nodes": 4, **SLOW}, rounds=5, checkpoint={"every": 2})
    whole, written = simulate(tables)
    for round, checkpoint in written.checkpoints:
        assert [checkpoint[f"state/{node}/rounds"] for node in range(4)] == [[*range(round)]] * 4
        resumed, _ = simulate(tables, checkpoint=checkpoint)
        for node, other in zip(whole.nodes, resumed.nodes, strict=True):
            assert torch.equal(node.state["sum"], other.state["sum"])


def test_a_node_that_comes_back_has_the_state_of_its_last_commit():
    kill = {"kind": "kill", "nodes": [0], "at": "100ms", "back": "50ms"}
    again = {**kill, "at": "240ms"}
    network = {"nodes": 4, "compute": 400, "latency": "1ms"}
    world, written = simulate(table(program=Summing(), network=network, rounds=12, faults=[kill, again]))
    assert [kind for _, node, kind, _ in written.happened if node == 0].count("returned") == 2
    rounds = world.nodes[0].state["rounds"]
    assert len(rounds) == len(set(rounds)) < 13
    assert torch.allclose(world.nodes[0].state["sum"], world.nodes[0].model - world.task.learner.first_model, atol=1e-5)


IN_INDEX = [(family, kind) for family, kind in RUNS if family in ("program", "sharing", "schedule", "aggregation")]


@pytest.mark.parametrize(("family", "kind"), IN_INDEX)
def test_programs_of_our_own_write_to_no_tensor_that_is_anothers(family, kind, files, monkeypatch):
    # They are handed the tensors themselves: with copies they must come to the same.
    tables = run_table(family, kind, files, checkpoint={"every": 2})
    found = []
    for trusted in (True, False):
        monkeypatch.setattr(Prepared, "is_trusted", trusted)
        world, written = simulate(tables)
        assert world.nodes[0].careful != trusted
        found.append((models_of(world), written))
    (models, written), (copied, rewritten) = found
    assert torch.equal(models, copied)
    assert written.figures == rewritten.figures
    assert written.rows == rewritten.rows
    encoded = [wire.encode(checkpoint) for _, checkpoint in written.checkpoints]
    assert encoded == [wire.encode(checkpoint) for _, checkpoint in rewritten.checkpoints]


@pytest.mark.parametrize(
    ("program", "trusted"),
    [
        (Gossip(topology="ring"), True),
        (Gossip(topology=Mirror()), True),
        (Slower(topology="ring"), False),
        (Gossip(topology="ring", sharing=Doubtful()), False),
    ],
)
def test_programs_with_a_part_of_the_users_own_get_copies(program, trusted):
    world = begun(table(program=program, network={"nodes": 4}))
    assert world.nodes[0].careful != trusted


def test_graphs_and_labels_cannot_be_written():
    class Greedy(Recorded):
        topology: Topology = param("A graph.", factory=Ring)

        async def run(self, node: LearningNode) -> None:
            graph = self.topology.at(0)
            for write in (
                lambda: graph.senders(0).append(3),
                lambda: graph.receivers(0).clear(),
                lambda: graph.metropolis(0).pop(),
                lambda: graph.sources.fill(0),
                lambda: node.data.label_counts.fill(0),
            ):
                try:
                    write()
                except (AttributeError, ValueError):
                    self.seen.append("refused")

    assert run_program(Greedy(), network={"nodes": 4})[2] == ["refused"] * 20


@pytest.mark.parametrize("hidden", ["torch._lazy_clone", "torch._C._is_cow_tensor"])
def test_without_torchs_late_copies_tensors_are_copied_at_once(hidden, monkeypatch):
    monkeypatch.delattr(hidden)
    spec = importlib.util.find_spec("covey.messages.ownership")
    assert spec is not None
    assert spec.loader is not None
    ownership = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ownership)
    given = torch.arange(4.0)
    copy = ownership.own(given)
    assert not ownership.is_shared(copy)
    assert ownership.readable(copy) is copy
    assert not ownership.is_written(copy, given)
    copy.numpy()[0] = 7.0
    assert given.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert ownership.is_written(copy, given)
