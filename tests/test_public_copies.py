"""Choco and stc with missed messages: copies are sent again, and averages are over known copies."""

import numpy as np
import pytest
import torch

from covey.decentralized.sharing.followed import Followed
from covey.decentralized.sharing.public_copies import PublicCopies
from covey.learning.learner import Learner
from covey.messages import wire
from covey.messages.compression import FIRST_MARK, next_mark
from covey.runtime.snapshots import unpack
from tests.conftest import models_of, simulate
from tests.examples import BLOBS, NODES, Keeping
from tests.hosts import emulate
from tests.snapshots import untaught
from tests.test_compressed_sharing import CONTRACTIONS, GRID, STILL, choco, gossip, kept, starts_of, weights_of

STC = {"kind": "stc", "budget": 0.3, "gamma": 0.5}
LOSSY = {"network": {"loss": 0.1}, "patience": "50ms"}
SHARINGS = [choco({"kind": "top-k", "budget": 0.3}), choco("sign", order="move-first"), STC]


def task_of(sharing, task=BLOBS):
    return {**task, "same_start": sharing["kind"] == "stc"}


def copies_by_mark(payload, graph):
    """All copies in a checkpoint, of nodes and of those who follow them, by owner and mark."""
    found = {}
    for node, snapshot in enumerate(unpack(payload, untaught())):
        known = Keeping(id=node, state=snapshot.state).keep(Followed, "sharing")
        found.setdefault((node, known.mark), []).append(known.copy)
        for peer in graph.senders(node):
            found.setdefault((peer, known.marks[peer]), []).append(known.copies[peer])
    return found


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_who_knows_a_copy_by_the_same_mark_has_the_same_bits(sharing):
    tables = gossip(sharing, task=task_of(sharing), rounds=20, checkpoint={"every": 1}, **LOSSY)
    world, written = simulate(tables)
    graph, following, all_of_them = world.program.topology.at(0), 0, 0
    for _, payload in written.checkpoints:
        for (owner, mark), copies in copies_by_mark(payload, graph).items():
            assert all(torch.equal(copy, copies[0]) for copy in copies)
            all_of_them += len(copies)
            following += len(copies) * (mark == payload[f"state/{owner}/sharing.mark"])
    assert 0.6 * all_of_them < following < all_of_them


@pytest.mark.parametrize("sharing", [*map(choco, CONTRACTIONS), SHARINGS[1]], ids=str)
def test_with_patience_that_never_ends_it_is_what_it_is_without(sharing):
    sharing = {**sharing, "gamma": 0.3}
    patient, _ = simulate(gossip(sharing, patience="10s"))
    plain, _ = simulate(gossip(sharing))
    assert torch.allclose(models_of(patient), models_of(plain), atol=1e-4)


@pytest.mark.parametrize("order", ["exchange-first", "move-first"])
def test_a_node_moves_by_the_copies_that_it_knows_and_by_no_others(order, monkeypatch):
    rounds, budget, gamma = 12, 0.3, 0.5
    heard = {}
    merge = PublicCopies.merge

    def watched(self, round, inbox):
        merged, node, t = merge(self, round, inbox), round.node, round.t
        heard[t, node.id] = [int(peer) for peer in node.state["sharing.received"]]
        assert set(heard[t, node.id]) <= {message.sender for message in inbox}
        return merged

    monkeypatch.setattr(PublicCopies, "merge", watched)
    sharing = choco({"kind": "top-k", "budget": budget}, gamma=gamma, order=order)
    world, _ = simulate(gossip(sharing, task=STILL, rounds=rounds, **LOSSY))
    missed = sum(len(world.program.topology.at(0).senders(node)) - len(them) for (_, node), them in heard.items())
    assert 0.05 < missed / (rounds * 34) < 0.6
    weights, models = weights_of(world).numpy(), starts_of(world).double().numpy()
    copies = np.zeros_like(models)

    def moved(t):
        pulls = [
            sum((weights[node, peer] * (copies[peer] - copies[node]) for peer in heard.get((t, node), [])), 0.0)
            for node in range(NODES)
        ]
        return models + gamma * np.stack([pull + np.zeros(models.shape[1]) for pull in pulls])

    for t in range(rounds):
        if order == "move-first":
            models = moved(t - 1)
        copies = copies + np.stack([kept(row, round(budget * models.shape[1])) for row in models - copies])
        if order == "exchange-first":
            models = moved(t)
    assert np.allclose(models_of(world).numpy(), models, atol=1e-4)


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_when_nothing_is_lost_any_more_all_copies_are_known_and_none_is_asked_for(sharing, overheard):
    fault = {"kind": "corrupt", "fraction": 1.0, "at": 0, "lasts": "500ms", "probability": 0.2}
    still = task_of(sharing, {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}})
    world, _ = simulate(gossip(sharing, GRID, task=still, faults=[fault], patience="50ms", rounds=40))
    last = [message for message in overheard if message.round >= 34]
    assert last
    assert not any("copy" in message.payload or "ask" in message.payload for message in last)
    lossy = [message for message in overheard if message.time < 0.5]
    resent = sum(len(message.receivers) for message in lossy if "copy" in message.payload)
    assert 0 < resent < 0.5 * sum(len(message.receivers) for message in lossy)
    assert all(node.state["sharing.behind"] == node.state["sharing.asked"] == [] for node in world.nodes)


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_who_was_away_and_who_fell_back_follow_and_are_followed_again(sharing):
    faults = [{"kind": "kill", "nodes": [3, 4], "at": "103ms", "back": "150ms"}]
    world, written = simulate(gossip(sharing, task=task_of(sharing), faults=faults, patience="50ms", rounds=60))
    graph = world.program.topology.at(0)
    assert {kind for _, _, kind, _ in written.happened} == {"left", "returned", "caught up"}
    for node in world.nodes:
        for peer in graph.senders(node.id):
            assert torch.equal(node.state[f"sharing.copies.{peer}"], world.nodes[peer].state["sharing.copy"])
    models = models_of(world)
    assert float((models - models.mean(0)).norm()) < 0.3 * float(models.norm())


def test_choco_learns_though_messages_are_lost():
    sharing = choco({"kind": "top-k", "budget": 0.3})
    _, written = simulate(gossip(sharing, rounds=40, **LOSSY))
    assert min(value for _, t, name, value in written.figures if (t, name) == (40, "accuracy")) > 0.8


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_a_run_with_losses_continues_from_its_checkpoints_to_the_bit(sharing):
    tables = gossip(sharing, task=task_of(sharing), checkpoint={"every": 4}, **{**LOSSY, "rounds": 9})
    whole, written = simulate(tables)
    for _, payload in written.checkpoints:
        resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(payload)).payload)
        assert torch.equal(models_of(whole), models_of(resumed))


def test_different_beginnings_are_found_out_and_mended(monkeypatch, overheard):
    monkeypatch.setattr(Learner, "initial", lambda learner, node: learner.first_model + node)
    world, _ = simulate(gossip(STC, task={**BLOBS, "same_start": True}, patience="10s", rounds=5))
    assert {message.round for message in overheard if "copy" in message.payload} == {2}
    graph = world.program.topology.at(0)
    for node in world.nodes:
        for peer in graph.senders(node.id):
            assert torch.equal(node.state[f"sharing.copies.{peer}"], world.nodes[peer].state["sharing.copy"])


def test_copies_are_sent_again_in_real_time(tmp_path):
    fault = {"kind": "kill", "nodes": [3, 8], "at": "150ms", "back": "200ms"}
    network = {"latency": "1ms", "bandwidth": None, "compute": 1e4, "loss": 0.05}
    tables = gossip(SHARINGS[0], network=network, faults=[fault], patience="60ms", rounds=30, checkpoint={"every": 10})
    outcome, written = emulate(tables, tmp_path)
    assert outcome.finished
    assert {row[0] for row in written.rows if row[1] == 30} == set(range(NODES))
    assert not [event for event in written.happened if event[2] == "rejected"]
    models = outcome.models
    assert torch.isfinite(models).all()
    assert float((models - models.mean(0)).norm()) < 0.3 * float(models.norm())


WRONG = {
    "a copy that is too short": {"copy": torch.zeros(3), "mark": FIRST_MARK},
    "a copy of other numbers": {"copy": torch.zeros(44, dtype=torch.float64), "mark": FIRST_MARK},
    "no copy": {"copy": 3, "mark": FIRST_MARK},
    "a copy without a mark": {"copy": torch.zeros(44)},
    "a mark of another length": {"copy": torch.zeros(44), "mark": bytes(3)},
    "a change without a mark": {"values": torch.zeros(13), "indices": torch.zeros(3, dtype=torch.uint8)},
    "a mark alone": {"before": FIRST_MARK},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_peer_sends_that_is_no_copy_is_rejected_and_asked_for_again(what, monkeypatch, overheard):
    to_each = PublicCopies._to_each

    def lying(self, round):
        messages = to_each(self, round)
        return [(peers, WRONG[what]) for peers, _ in messages] if (round.node.id, round.t) == (3, 2) else messages

    monkeypatch.setattr(PublicCopies, "_to_each", lying)
    world, written = simulate(gossip(SHARINGS[0], patience="10s", rounds=6))
    neighbours = world.program.topology.at(0).receivers(3)
    rejected = [event for event in written.happened if event[2] == "rejected"]
    assert sorted(node for _, node, *_ in rejected) == sorted(neighbours)
    asked = {(message.round, message.sender) for message in overheard if "ask" in message.payload}
    assert asked == {(t, node) for t in (3, 4) for node in neighbours}
    assert all(node.state["sharing.behind"] == [] for node in world.nodes)


def test_marks_tell_apart_what_was_added_before_and_in_what_order():
    one, two = {"values": torch.ones(2)}, {"values": torch.full((2,), 2.0)}
    marks = {next_mark(FIRST_MARK, one), next_mark(FIRST_MARK, two)}
    marks |= {next_mark(next_mark(FIRST_MARK, a), b) for a in (one, two) for b in (one, two)}
    assert len(marks) == 6
    assert next_mark(FIRST_MARK, one) == next_mark(FIRST_MARK, {"values": torch.ones(2)})
