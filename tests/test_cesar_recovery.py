"""Masked sharings with recovery in whole networks: sums that survive lost messages, and refusals."""

import itertools
import re

import pytest
import torch

from covey.decentralized.sharing.agreeing import Agreeing
from covey.decentralized.sharing.deposits import Depositor
from covey.messages import wire
from covey.messages.crypto import KeyPair
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.runtime.experiment import Experiment
from covey.runtime.mailbox import Mailbox
from covey.runtime.node import Message
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World
from tests.conftest import models_of, simulate
from tests.examples import BLOBS, EPIDEMIC
from tests.hosts import emulate
from tests.masked import PHASES, RANDOM, REGULAR, STILL, close, figures, tables

SECURE = {"kind": "secure-aggregation", "recovery": "shamir"}
SPARSE = {"kind": "cesar", "subset": RANDOM, "recovery": "shamir"}
TOP_K = {"kind": "cesar", "subset": {"kind": "top-k", "budget": 0.5}, "recovery": "shamir"}
LOSSY = {"latency": "10ms", "loss": 0.05, "compute": 1e9, "bandwidth": None, "nodes": 16}


def expected(world, seen, t, node, missing, masks=1):
    """The model of a node after a round, by the rule itself, if some members of its sum are missing."""
    graph, own = world.program.topology.at(t), seen.models[t, node].double()
    weights = world.program._aggregation.weights(NodeId(node), graph)
    weight_of = dict(zip(graph.senders(node), weights, strict=True))
    # A node that was gone before the round has chosen nothing in it, and was to send everything.
    held = {k: seen.held.get((t, k), torch.ones(len(own), dtype=torch.bool)) for k in seen.members[t, node]}
    holders = sum((indices.int() for indices in held.values()), torch.zeros(len(own)))
    merged = own.clone()
    for k, indices in held.items():
        if k not in missing:
            kept = indices & (holders > masks + len(missing))
            merged = merged + kept * weight_of[k] * (seen.models[t, k].double() - own)
    return merged


@pytest.fixture
def drop(monkeypatch):
    """Lose what a test wants: a function of a message and the id of its receiver."""
    wanted, of = [], {}
    deliver, begin = Mailbox.deliver, World.begin

    def lossy(mail, message):
        if not any(lost(message, of[id(mail)]) for lost in wanted):
            deliver(mail, message)

    def known(world):
        of.update({id(node.mail): node.id for node in world.nodes})
        begin(world)

    monkeypatch.setattr(Mailbox, "deliver", lossy)
    monkeypatch.setattr(World, "begin", known)
    return wanted.append


def patient(sharing, topology=REGULAR, rounds=3, **changes):
    changes = {"task": STILL, "network": {**PHASES, "nodes": 5}, **changes}
    made = tables(sharing, topology, rounds=rounds, **changes)
    made["program"]["patience"] = "10s"
    return made


# ---------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("sharing", [SECURE, SPARSE, TOP_K, {**SPARSE, "masking": False}], ids=str)
@pytest.mark.parametrize("degree", [3, 7])
def test_where_nothing_is_lost_it_is_the_same_to_the_bit(sharing, degree):
    topology = {"kind": "random-regular", "degree": degree}
    ours, written = simulate(tables(sharing, topology, task=BLOBS, rounds=4))
    plain, _ = simulate(tables({**sharing, "recovery": "none"}, topology, task=BLOBS, rounds=4))
    assert torch.equal(models_of(ours), models_of(plain))
    assert not figures(written, "discarded")
    assert not figures(written, "recovered")
    assert not written.happened


@pytest.mark.parametrize("sharing", [SECURE, SPARSE], ids=str)
@pytest.mark.parametrize("lost", [lost for size in (1, 2) for lost in itertools.combinations((0, 1, 2, 3), size)])
def test_whichever_masked_messages_a_receiver_misses_it_has_the_others_sum_or_none(sharing, lost, seen, drop):
    # Of four neighbours of node 4, one may be missing.
    drop(lambda message, to: (message.tag, message.round, to) == ("", 1, 4) and message.sender in lost)
    world, written = simulate(patient(sharing, "complete"))
    assert figures(written, "recovered") == ([(4, 2, 1.0)] if len(lost) == 1 else [])
    assert [row[:2] for row in figures(written, "discarded")] == ([] if len(lost) == 1 else [(4, 2)])
    merged = seen.merged[1, 4]
    if len(lost) == 1:
        assert close(merged, expected(world, seen, 1, 4, lost))
        assert not torch.equal(merged, seen.models[1, 4])
    else:
        assert torch.equal(merged, seen.models[1, 4])
    for node in range(4):
        assert close(seen.merged[1, node], expected(world, seen, 1, node, ()))


@pytest.mark.parametrize(("tag", "costs"), [("others", [4]), ("arrived", []), ("shares", [])])
def test_what_else_a_receiver_misses_costs_no_sum(tag, costs, seen, drop):
    drop(lambda message, to: (message.tag, message.round, to) == (tag, 1, 2) and message.sender == 4)
    world, written = simulate(patient(SECURE, "complete"))
    # A node that lacks the members of node 4's sum sends it nothing; three of its neighbours help it.
    assert [node for node, _, _ in figures(written, "recovered")] == costs
    assert not figures(written, "discarded")
    assert close(seen.merged[1, 4], expected(world, seen, 1, 4, [2] if costs else []))


@pytest.mark.parametrize("tag", ["arrived", "shares"])
def test_who_is_helped_by_too_few_discards_its_sum(tag, seen, drop):
    def lost(message, to):
        between = (message.sender, to) if tag == "shares" else (to, message.sender)
        return (message.tag, message.round) == (tag, 1) and between in ((0, 4), (1, 4))

    drop(lost)
    _, written = simulate(patient(SECURE, "complete"))
    assert [row[:2] for row in figures(written, "discarded")] == [(4, 2)]
    assert torch.equal(seen.merged[1, 4], seen.models[1, 4])


@pytest.mark.parametrize(
    "sharing",
    [SECURE, pytest.param(SPARSE, marks=pytest.mark.slow), {**SPARSE, "keys": "fresh", "masks": 2}, TOP_K],
    ids=str,
)
def test_with_losses_every_sum_is_exact_or_none(sharing, seen, monkeypatch):
    missing, keep = {}, Agreeing._keep

    def watched(self, round, now):
        missing[now.t, int(round.node.id)] = sorted(set(now.sum.members) - set(now.arrived))
        keep(self, round, now)

    monkeypatch.setattr(Agreeing, "_keep", watched)
    made = tables(sharing, {"kind": "random-regular", "degree": 6}, task=BLOBS, rounds=12, network=LOSSY)
    made["program"]["patience"] = "200ms"
    world, written = simulate(made)
    discarded = {(t - 1, node) for node, t, _ in figures(written, "discarded")}
    recovered = {(t - 1, node) for node, t, _ in figures(written, "recovered")}
    assert len(recovered) > 10
    assert not discarded & recovered
    masks = sharing.get("masks", 1)
    for (t, node), merged in seen.merged.items():
        if (t, node) in discarded:
            assert torch.equal(merged, seen.models[t, node])
        else:
            assert close(merged, expected(world, seen, t, node, missing[t, node], masks))
            assert bool(missing[t, node]) == ((t, node) in recovered)
    assert not written.happened


@pytest.mark.slow
@pytest.mark.parametrize("degree", [4, 8])
def test_with_five_percent_lost_most_sums_are_saved(degree):
    shares = []
    for recovery in ("none", "shamir"):
        sharing = {"kind": "secure-aggregation", "recovery": recovery, "masking": False}
        topology = {"kind": "random-regular", "degree": degree}
        made = tables(sharing, topology, task=BLOBS, rounds=25, network={**LOSSY, "nodes": 24})
        made["program"]["patience"] = "200ms"
        _, written = simulate(made)
        shares.append(len(figures(written, "discarded")) / (24 * 25))
    assert shares[1] < 0.18 < 0.28 < shares[0]


def test_a_node_that_dies_costs_no_sum(seen, tmp_path):
    trace = tmp_path / "churn.csv"
    trace.write_text("node,event,time\n3,leave,8.5\n")
    network = {**PHASES, "nodes": 6, "churn": {"kind": "trace", "file": str(trace)}}
    world, written = simulate(patient(SECURE, "complete", rounds=5, network=network))
    # Its masked message of round 1, sent after 6 seconds, has introduced it to round 2, in which it is missing everywhere.
    assert sorted(figures(written, "recovered")) == [(node, 3, 1.0) for node in (0, 1, 2, 4, 5)]
    assert not figures(written, "discarded")
    for node in (0, 1, 2, 4, 5):
        assert close(seen.merged[2, node], expected(world, seen, 2, node, [3]))
        assert 3 not in seen.members[4, node]


def test_without_masks_models_and_bytes_are_the_same(overheard):
    outcomes = []
    for masking in (True, False):
        made = tables({**SPARSE, "masking": masking}, task=BLOBS, rounds=8, network=LOSSY)
        made["program"]["patience"] = "200ms"
        world, written = simulate(made)
        outcomes.append((models_of(world), written.rows, written.figures, world.now))
    (models, *rest), (models_without, *rest_without) = outcomes
    assert torch.equal(models, models_without)
    assert rest == rest_without
    assert any(name == "recovered" for *_, name, _ in written.figures)


# ---------------------------------------------------------------------- what is sent and kept


@pytest.mark.parametrize(("sharing", "first", "later"), [(SECURE, 5, 4), (TOP_K, 5, 5)], ids=["secure", "top-k"])
def test_a_round_has_two_messages_more(sharing, first, later):
    world, _ = simulate(tables(sharing, task=BLOBS, network=PHASES, rounds=4))
    assert world.now == pytest.approx(first + 3 * later, abs=0.01)


@pytest.mark.parametrize("sharing", [SECURE, TOP_K, {**SPARSE, "keys": "seeded"}], ids=str)
def test_a_run_continues_from_a_checkpoint_to_the_bit(sharing):
    made = tables(sharing, task=BLOBS, rounds=8, network=LOSSY, checkpoint={"every": 3})
    made["program"]["patience"] = "200ms"
    whole, written = simulate(made)
    for _, payload in written.checkpoints:
        resumed, _ = simulate(made, checkpoint=wire.decode(wire.encode(payload)).payload)
        assert torch.equal(models_of(whole), models_of(resumed))
        assert resumed.now == whole.now


def test_fresh_keys_after_a_resume_lose_no_sum():
    made = tables({**SECURE, "keys": "fresh"}, task=BLOBS, rounds=6, checkpoint={"every": 3})
    whole, written = simulate(made)
    resumed, rewritten = simulate(made, checkpoint=wire.decode(wire.encode(written.checkpoints[0][1])).payload)
    assert torch.equal(models_of(whole), models_of(resumed))
    assert not figures(rewritten, "discarded")
    assert not rewritten.happened


@pytest.mark.parametrize("keys", ["seeded", "fresh"])
def test_secrets_are_neither_sent_nor_written_down_but_as_shares(keys, overheard, monkeypatch):
    secrets = set()
    made_keys, shares = KeyPair.__init__, Depositor.shares

    def make(self, private=None):
        made_keys(self, private)
        secrets.update((self.own, self._private.private_bytes_raw()))

    def watched(self):
        secrets.update((self.seed, self._root))
        found = shares(self)
        secrets.update(share for of_holder in found for share in of_holder)
        return found

    monkeypatch.setattr(KeyPair, "__init__", make)
    monkeypatch.setattr(Depositor, "shares", watched)
    made = tables({**SPARSE, "keys": keys}, rounds=3, network={**LOSSY, "loss": 0.1}, checkpoint={"every": 1})
    made["program"]["patience"] = "200ms"
    _, written = simulate(made)
    public = b"".join(m.encoded for m in overheard) + b"".join(wire.encode(c) for _, c in written.checkpoints)
    assert len(secrets) > 500
    # Shares, too, are in boxes only.
    assert not any(secret in public for secret in secrets)


def test_in_real_time_sums_outlive_losses(tmp_path):
    network = {"nodes": 8, "latency": "2ms", "bandwidth": None, "compute": 1e5, "loss": 0.05}
    made = tables(SECURE, {"kind": "random-regular", "degree": 4}, task=BLOBS, rounds=12, network=network)
    made["program"]["patience"] = "150ms"
    outcome, written = emulate(made, tmp_path)
    assert outcome.finished
    assert figures(written, "recovered")
    assert not [event for event in written.happened if event[2] == "rejected"]
    assert torch.isfinite(outcome.models).all()


# ---------------------------------------------------------------------- who lies


@pytest.fixture
def change(monkeypatch):
    """Let a test put another payload in the place of a message's: a function of a message and its receiver's id."""
    wanted, of = [], {}
    deliver, begin = Mailbox.deliver, World.begin

    def changed(mail, message):
        for function in wanted:
            payload = function(message, of[id(mail)])
            if payload is not None:
                message = Message(message.sender, message.tag, message.round, payload, message.size)
        deliver(mail, message)

    def known(world):
        of.update({id(node.mail): node.id for node in world.nodes})
        begin(world)

    monkeypatch.setattr(Mailbox, "deliver", changed)
    monkeypatch.setattr(World, "begin", known)
    return wanted.append


CLAIMS = {
    "too many are missing": ({"arrived": [0, 1]}, "2 members of its sum are missing, and at most 1 may be"),
    "a stranger has arrived": (
        {"arrived": [0, 1, 2, 4]},
        "its 'arrived' is not a list of some of the ids 0, 1, 2, 3, in this order",
    ),
    "another order": (
        {"arrived": [1, 0, 2, 3]},
        "its 'arrived' is not a list of some of the ids 0, 1, 2, 3, in this order",
    ),
    "one twice": (
        {"arrived": [0, 0, 1, 2, 3]},
        "its 'arrived' is not a list of some of the ids 0, 1, 2, 3, in this order",
    ),
    "no list": ({"arrived": 7}, "its 'arrived' is not a list of some of the ids 0, 1, 2, 3, in this order"),
    "names": ({"arrived": ["0", "1", "2"]}, "its 'arrived' is not a list of some of the ids 0, 1, 2, 3, in this order"),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_a_claim_that_cannot_be_gets_no_share(what, change, overheard):
    payload, reason = CLAIMS[what]
    change(lambda message, to: payload if (message.tag, message.round, message.sender) == ("arrived", 1, 4) else None)
    _, written = simulate(patient(SECURE, "complete"))
    rejected = [(node, detail) for _, node, kind, detail in written.happened if kind == "rejected"]
    assert [node for node, _ in rejected] == [0, 1, 2, 3]
    assert all(detail.startswith("message of node 4: ") and reason in detail for _, detail in rejected)
    answers = [m for m in overheard if (m.tag, m.round, m.receivers) == ("shares", 1, [4])]
    assert len(answers) == 4
    assert not any(answer.payload for answer in answers)
    assert [row[:2] for row in figures(written, "discarded")] == [(4, 2)]


def test_who_tells_its_neighbours_different_things_opens_nothing(change, seen):
    """Node 4 says to two neighbours that node 0 is missing and to two that it is here: neither secret is joined."""

    def lie(message, to):
        if (message.tag, message.round, message.sender) != ("arrived", 1, 4):
            return None
        return {"arrived": [1, 2, 3]} if to in (0, 1) else {"arrived": [0, 1, 2, 3]}

    change(lie)
    _, written = simulate(patient(SECURE, "complete"))
    # The shares do not join to what was deposited.
    assert [row[:2] for row in figures(written, "discarded")] == [(4, 2)]
    assert torch.equal(seen.merged[1, 4], seen.models[1, 4])


def test_a_node_answers_a_receiver_once_in_a_round(monkeypatch, overheard):
    post = World.post

    def twice(world, node, receivers, payload, tag, round):
        if (tag, round, node.id) == ("arrived", 1, 4):
            post(world, node, receivers, {"arrived": [1, 2, 3]}, tag, round)
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", twice)
    world, _ = simulate(patient(SECURE, "complete"))
    answers = [m.sender for m in overheard if (m.tag, m.round, m.receivers) == ("shares", 1, [4])]
    assert sorted(answers) == [0, 1, 2, 3]
    assert [node.mail.dropped for node in world.nodes] == [1, 1, 1, 1, 0]


def flipped(data):
    return bytes([data[0] ^ 1]) + data[1:]


ANSWERS = {
    "another box": (lambda payload: {**payload, "shares": flipped(payload["shares"])}, "not in a box of its own"),
    "no box": (lambda payload: {**payload, "shares": 3}, "its 'shares' is not a bytes"),
    "too few": (lambda payload: {**payload, "of": payload["of"][1:]}, "not in a box of its own"),
    "of strangers": (lambda payload: {**payload, "of": [7]}, "its 'of' is not a list of some of the ids 0, 1, 2, 3"),
    "of nobody": (lambda payload: {"shares": payload["shares"]}, "it has no 'of'"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_shares_that_are_none_are_refused_and_others_are_enough(what, change, seen):
    made, reason = ANSWERS[what]

    def spoil(message, to):
        right = (message.tag, message.round, message.sender, to) == ("shares", 1, 2, 4)
        return made(dict(message.shared)) if right else None

    change(spoil)
    world, written = simulate(patient(SECURE, "complete"))
    ((_, at, kind, detail),) = written.happened
    assert (at, kind) == (4, "rejected")
    assert detail.startswith("message of node 2: ")
    assert reason in detail
    assert not figures(written, "discarded")
    assert close(seen.merged[1, 4], expected(world, seen, 1, 4, ()))


@pytest.mark.parametrize("lost", [(), (3,)])
def test_shares_of_something_else_open_nothing_and_nothing_is_averaged(lost, monkeypatch, seen, drop):
    shares = Depositor.shares

    def lying(self):
        found = shares(self)
        if self.keys.own == liar and self.receiver == 4:
            found[0] = [bytes(32)] * len(found[0])
        return found

    monkeypatch.setattr(Depositor, "shares", lying)
    liar = None
    drop(lambda message, to: (message.tag, message.round, to) == ("", 1, 4) and message.sender in lost)
    own_keys = Agreeing._own_keys

    def known(self, node, t):
        nonlocal liar
        keys = own_keys(self, node, t)
        liar = keys.own if node.id == 3 else liar
        return keys

    monkeypatch.setattr(Agreeing, "_own_keys", known)
    _, written = simulate(patient(SECURE, "complete"))
    assert (4, 2) in [row[:2] for row in figures(written, "discarded")]
    assert torch.equal(seen.merged[1, 4], seen.models[1, 4])


# ---------------------------------------------------------------------- what is refused beforehand


@pytest.mark.parametrize(
    ("sharing", "topology", "said"),
    [
        (SECURE, {"kind": "redrawn", "topology": EPIDEMIC, "every": 5}, "The 'recovery' of the sharing secure-aggregation must be 'none' over a topology that changes, such as redrawn"),
        (SECURE, "ring", "The 'recovery' of the sharing secure-aggregation needs 3 neighbours of every node where 'masks' is 1, so that one may be missing. Node 0 has 2 instead."),
        ({**SPARSE, "masks": 3}, REGULAR, "The 'recovery' of the sharing cesar needs 5 neighbours of every node where 'masks' is 3"),
        ({**SPARSE, "threshold": 2}, REGULAR, "The 'threshold' of the sharing cesar must be an int in [3, 3] where 'masks' is 1 and a node has 4 neighbours, as node 0. Got 2 instead."),
        ({**SPARSE, "threshold": 4}, REGULAR, "must be an int in [3, 3]"),
        ({**SPARSE, "threshold": 3}, {"kind": "random-regular", "degree": 7}, "must be an int in [4, 6]"),
        ({**SPARSE, "threshold": 1}, REGULAR, "The 'threshold' of the sharing cesar must be an int in [2, inf). Got 1 instead."),
        ({**SPARSE, "recovery": "shares"}, REGULAR, "The 'recovery' of the sharing cesar must be one of 'none', 'shamir'. Got 'shares' instead."),
        ({**SPARSE, "recovery": "none", "threshold": 3}, REGULAR, "The 'threshold' of the sharing cesar must be left out where 'recovery' is 'none'. Got 3 instead."),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_beforehand(sharing, topology, said):
    with pytest.raises(ConfigurationError, match="^" + re.escape(said) if said.startswith("The") else re.escape(said)):
        prepare(Experiment.from_table(tables(sharing, topology)))


def test_nodes_with_few_neighbours_go_without_where_that_is_asked_for(seen):
    world, written = simulate(patient({**SECURE, "too_few": "keep"}, "grid", network={**PHASES, "nodes": 12}))
    graph, sharing = world.program.topology.at(0), world.program.sharing
    assert [sharing.plan(graph, node) is not None for node in range(12)] == (graph.in_degrees > 2).tolist()
    for node in range(12):
        assert close(seen.merged[2, node], expected(world, seen, 2, node, ()))
    assert not figures(written, "discarded")
