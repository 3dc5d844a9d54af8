"""Patience with sharings that need several messages a round, when neighbours are dead for a while."""

from collections import defaultdict

import pytest
import torch

from covey.learning.gossip import Gossip
from tests.conftest import models_of, simulate, table

BLOBS = {"dataset": {"kind": "gaussian-blobs", "samples": 240, "test_samples": 60}, "batch_size": 8}
TASK = {**BLOBS, "model": {"kind": "mlp", "hidden": [8]}}
SHARINGS = [
    {"kind": "cesar", "subset": {"kind": "random", "budget": 0.5}},
    {"kind": "power-gossip"},
    {"kind": "power-gossip", "iterations": 3},
]
ROUNDS, LAST = 60, 15
DEAD = [3, 4]


def tables(sharing, fault, **changes):
    """Rounds of a few milliseconds each, and more patience than one takes."""
    program = {"kind": "gossip", "topology": {"kind": "random-regular", "degree": 4}, "sharing": sharing}
    made = {"task": TASK, "rounds": ROUNDS, "network": {"latency": "5ms", "compute": 2000}, **changes}
    return table(program={**program, "patience": "50ms"}, faults=[fault], **made)


@pytest.fixture
def missed(monkeypatch):
    """How many messages each node missed in each round, of all tags."""
    missed = defaultdict(int)
    hear = Gossip._hear

    async def _hear(self, node, senders, t, *rest):
        inbox = await hear(self, node, senders, t, *rest)
        missed[t, node.id] += len(senders) - len(inbox)
        return inbox

    monkeypatch.setattr(Gossip, "_hear", _hear)
    return missed


@pytest.mark.parametrize("back", ["40ms", "200ms"])
@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_who_was_dead_for_some_rounds_is_soon_heard_by_all_in_every_exchange(sharing, back, missed):
    world, written = simulate(tables(sharing, {"kind": "kill", "nodes": DEAD, "at": "103ms", "back": back}))
    assert {node.round for node in world.nodes} == {ROUNDS}
    assert {kind for _, _, kind, _ in written.happened} <= {"left", "returned", "caught up"}
    assert any(missed.values())
    assert not any(missed[t, node.id] for t in range(ROUNDS - LAST, ROUNDS) for node in world.nodes)
    assert not any(node.state.get("silent") or node.state.get("doubtful") for node in world.nodes)
    discarded = [t for _, t, name, _ in written.figures if name == "discarded"]
    assert all(t <= ROUNDS - LAST for t in discarded)
    models = models_of(world)
    assert torch.isfinite(models).all()
    # Who was away has come back to where all are.
    assert float((models - models.mean(0)).norm()) < 0.05 * float(models.norm())


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_who_never_comes_back_is_waited_for_ever_less(sharing, missed):
    world, _ = simulate(tables(sharing, {"kind": "kill", "nodes": [3], "at": "103ms"}))
    living = [node for node in world.nodes if node.id != 3]
    assert {node.round for node in living} == {ROUNDS}
    near = set(world.program.topology.at(0).senders(3))
    silent = {node.id: node.state["silent"][::3] for node in living if node.state.get("silent")}
    assert silent == {id: [3] for id in near}
    assert torch.isfinite(models_of(world)).all()
