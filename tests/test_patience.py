"""Patience with sharings that need several messages a round, when neighbours are dead for a while."""

import itertools
from collections import defaultdict

import pytest
import torch

from covey.runtime import patience
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
    network = {"latency": "5ms", "compute": 2000}
    made = {"task": TASK, "rounds": ROUNDS, "network": network, "evaluation": {"every": 0}, **changes}
    return table(program={**program, "patience": "50ms"}, faults=[fault], **made)


@pytest.fixture
def missed(monkeypatch):
    """The number of messages of all tags that each node missed in each round."""
    missed = defaultdict(int)
    receive = patience._receive

    async def counting(node, senders, t, *rest):
        inbox = await receive(node, senders, t, *rest)
        missed[t, node.id] += len(senders) - len(inbox)
        return inbox

    monkeypatch.setattr(patience, "_receive", counting)
    return missed


AWAY = [
    {"kind": "kill", "back": "40ms"},
    {"kind": "kill", "back": "200ms"},
    {"kind": "pause", "lasts": "200ms"},
]


@pytest.mark.parametrize(
    ("sharing", "fault"),
    [
        *(pytest.param(*each, marks=pytest.mark.slow) for each in itertools.product(SHARINGS[::2], AWAY[1:])),
        *itertools.product(SHARINGS[::2], AWAY[:1]),
        (SHARINGS[1], AWAY[1]),
    ],
    ids=str,
)
def test_who_was_away_for_some_rounds_is_soon_received_by_all_in_every_exchange(sharing, fault, missed):
    world, written = simulate(tables(sharing, {**fault, "nodes": DEAD, "at": "103ms"}))
    assert {node.round for node in world.nodes} == {ROUNDS}
    went = {"left", "returned", "caught up", "paused", "continued"}
    assert {kind for _, _, kind, _ in written.happened} <= went
    assert any(missed.values())
    assert not any(missed[t, node.id] for t in range(ROUNDS - LAST, ROUNDS) for node in world.nodes)
    assert not any(node.state.get("patience.silent") or node.state.get("sharing.doubtful") for node in world.nodes)
    discarded = [t for _, t, name, _ in written.figures if name == "discarded"]
    assert all(t <= ROUNDS - LAST for t in discarded)
    models = models_of(world)
    assert torch.isfinite(models).all()
    # The absent node has returned to the round of the others.
    assert float((models - models.mean(0)).norm()) < 0.05 * float(models.norm())


def test_who_missed_one_exchange_of_a_round_keeps_pace_with_the_others(missed):
    # It is back before the others lose patience, but without their messages meanwhile: it misses all, again and again.
    fault = {"kind": "kill", "nodes": [5], "at": 9.05, "back": 3.0}
    made = tables(SHARINGS[0], fault, network={"latency": "1s", "compute": 1e9}, rounds=30)
    made["program"]["patience"] = "5s"
    world, _ = simulate(made)
    assert any(missed.values())
    assert not any(missed[t, node.id] for t in range(20, 30) for node in world.nodes)
    assert not any(node.state.get("patience.silent") or node.state.get("sharing.doubtful") for node in world.nodes)


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_who_never_comes_back_is_waited_for_ever_less(sharing, missed):
    world, _ = simulate(tables(sharing, {"kind": "kill", "nodes": [3], "at": "103ms"}))
    living = [node for node in world.nodes if node.id != 3]
    assert {node.round for node in living} == {ROUNDS}
    near = set(world.program.topology.at(0).senders(3))
    silent = {node.id: node.state["patience.silent"][::3] for node in living if node.state.get("patience.silent")}
    assert silent == {id: [3] for id in near}
    assert torch.isfinite(models_of(world)).all()
