"""The sharings cesar and secure-aggregation in whole networks: their results, messages and rejections."""

import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from covey.decentralized.sharing.masked import Masked
from covey.messages import wire
from covey.messages.codecs import decode_indices, encode_indices
from covey.messages.crypto import KeyPair
from covey.parts.errors import ModelError
from covey.runtime.mailbox import Mailbox
from covey.runtime.node import Message
from tests.conftest import models_of, simulate
from tests.examples import BLOBS, EPIDEMIC
from tests.hosts import emulate
from tests.masked import PHASES, RANDOM, REGULAR, assert_all_or_nothing, close, figures, tables

PAIR = KeyPair(bytes(range(32)))
# ---------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("sharing", [{"subset": {"kind": "random", "budget": 1.0}}, {"kind": "secure-aggregation"}])
@pytest.mark.parametrize(("ring", "step"), [(64, 2.0**-32), (32, 2.0**-24)])
@pytest.mark.parametrize("topology", ["ring", REGULAR])
def test_with_all_indices_it_is_d_psgd_up_to_quantisation(sharing, ring, step, topology, seen):
    secure, _ = simulate(tables({**sharing, "ring": ring}, topology))
    plain, _ = simulate(tables({"kind": "full"}, topology))
    models, exact = models_of(secure), seen.clear(secure, 0)
    rounding = 2.0**-24 * float(models.abs().max())
    for node in range(12):
        assert (models[node].double() - exact[node]).abs().max() <= 4 * step + rounding
    assert torch.allclose(models, models_of(plain), atol=1e-6)


SUBSETS = [RANDOM, {**RANDOM, "common": True}, {"kind": "top-k", "budget": 0.5}]


@pytest.mark.parametrize("masks", [1, 2])
@pytest.mark.parametrize("subset", SUBSETS, ids=["random", "common", "top-k"])
@pytest.mark.parametrize("topology", ["torus", REGULAR, {"kind": "redrawn", "topology": EPIDEMIC, "every": 2}])
def test_it_is_partial_sharing_of_what_enough_neighbours_have_in_common(masks, subset, topology, seen):
    task = {**BLOBS, "same_start": False}
    world, written = simulate(tables({"subset": subset, "masks": masks}, topology, task=task, rounds=5))
    for t in range(5):
        expected = seen.clear(world, t, masks)
        assert len(expected) == 12
        for node, model in expected.items():
            assert close(seen.merged[t, node], model)
            assert not torch.equal(seen.merged[t, node], seen.models[t, node])
        if subset.get("common"):
            assert all(torch.equal(seen.held[t, node], seen.held[t, 0]) for node in range(12))
    assert not figures(written, "discarded")


@pytest.mark.parametrize("kind", ["erdos-renyi", "ring"])
def test_weights_are_those_of_the_receiver(kind, seen):
    topology = {"kind": kind, "probability": 0.6} if kind == "erdos-renyi" else kind
    world, _ = simulate(tables({"too_few": "keep"}, topology, program={"aggregation": "mean"}))
    for node, model in seen.clear(world, 0).items():
        assert close(seen.merged[0, node], model)


@pytest.mark.parametrize("sharing", ["cesar", {"kind": "secure-aggregation"}])
def test_it_trains_before_or_while_it_sends(sharing):
    for overlap in (False, True):
        _, written = simulate(tables(sharing, task=BLOBS, rounds=10, program={"overlap": overlap}))
        last = [value for _, t, value in figures(written, "accuracy") if t == 10]
        assert min(last) > 0.8


# ---------------------------------------------------------------------- what is sent


def sent(overheard, tag=""):
    return [message for message in overheard if message.tag == tag]


@pytest.mark.parametrize(("degree", "budget", "masks"), [(3, 0.3, 1), (3, 0.7, 1), (5, 0.4, 2)])
def test_as_much_is_kept_as_independent_choices_let_expect(degree, budget, masks, overheard):
    sharing = {"subset": {"kind": "random", "budget": budget}, "masks": masks, "masking": False}
    topology = {"kind": "random-regular", "degree": degree}
    task = {"optimizer": {"kind": "sgd", "lr": 0.0}}
    world, _ = simulate(tables(sharing, topology, task=task, network={"nodes": 24}, rounds=10))
    size = world.task.learner.first_model.shape[0]
    share = world.program.sharing.subset.count / size
    enough = sum(math.comb(degree - 1, k) * share**k * (1 - share) ** (degree - 1 - k) for k in range(masks, degree))
    kept = {}
    for message in sent(overheard):
        # The neighbours of one receiver in one round meet in the same choices: they are one sample.
        kept.setdefault((message.round, *message.receivers), []).append(len(message.payload["values"]) / size)
    samples = np.array([np.mean(values) for values in kept.values()])
    assert len(samples) == 240
    assert abs(samples.mean() - share * enough) < 3 * samples.std() / math.sqrt(len(samples))


@pytest.mark.parametrize("sharing", [{"subset": RANDOM}, {"subset": SUBSETS[2]}, {"kind": "secure-aggregation"}])
def test_without_masks_models_and_bytes_are_the_same_and_values_are_open(sharing, overheard):
    outcomes = []
    for masking in (True, False):
        overheard.clear()
        world, written = simulate(tables({**sharing, "masking": masking}, task=BLOBS, rounds=3))
        values = torch.cat([message.payload["values"] for message in sent(overheard)]).double()
        assert (float(values.abs().median()) > 2.0**60) == masking
        outcomes.append((models_of(world), written.rows, written.figures, world.now))
    (models, *rest), (models_without, *rest_without) = outcomes
    assert torch.equal(models, models_without)
    assert rest == rest_without


def test_keys_are_sent_once_and_again_where_graphs_change(overheard):
    simulate(tables(rounds=4))
    with_keys = {m.round for m in overheard if any("key" in name for name in m.payload)}
    assert with_keys == {0}
    overheard.clear()
    world, _ = simulate(tables("cesar", {"kind": "redrawn", "topology": EPIDEMIC, "every": 2}, rounds=6))
    with_keys = {(m.tag, m.round) for m in overheard if "key" in m.payload}
    # In the first round of a graph, neighbours ask for the keys of those whom they know of by each other alone.
    assert with_keys == {("indices", 0), ("others", 0), ("next", 1), ("others", 2), ("next", 3), ("others", 4)}
    assert len(world.nodes[0].state["sharing.keys"]) == 32 * len(world.nodes[0].state["sharing.peers"])


def test_what_is_sent_beforehand_does_not_grow_with_the_model_where_indices_are_random(overheard):
    sizes = []
    for model in ("logistic", "mlp"):
        overheard.clear()
        simulate(tables(task={"model": model}, rounds=3))
        sizes.append([(m.round, wire.size(m.payload, m.tag)) for m in overheard if m.tag])
    assert sizes[0] == sizes[1]
    assert max(size for t, size in sizes[0] if t) < 100
    assert len([t for t, _ in sizes[0] if t]) == 2 * 48


@pytest.mark.parametrize("keys", ["seeded", "fresh"])
def test_private_keys_are_neither_sent_nor_written_down(keys, overheard, monkeypatch):
    private = []
    made = KeyPair.__init__

    def make(self, secret=None):
        made(self, secret)
        private.append(self._private.private_bytes_raw())

    monkeypatch.setattr(KeyPair, "__init__", make)
    _, written = simulate(tables({"keys": keys}, rounds=3, checkpoint={"every": 1}))
    public = b"".join(m.encoded for m in overheard) + b"".join(wire.encode(c) for _, c in written.checkpoints)
    assert len(private) == 12
    assert not any(key in public for key in private)


def test_fresh_keys_are_of_no_seed_and_a_resumed_run_makes_new_ones_and_the_same_models(overheard):
    made = tables({"keys": "fresh"}, task=BLOBS, rounds=5, checkpoint={"every": 2})
    whole, written = simulate(made)
    first = {m.sender: m.payload["key"] for m in overheard if "key" in m.payload and m.tag == "indices"}
    overheard.clear()
    resumed, _ = simulate(made, checkpoint=wire.decode(wire.encode(written.checkpoints[0][1])).payload)
    again = {(m.round, m.sender): m.payload["key"] for m in overheard if "key" in m.payload and m.tag == "indices"}
    assert {t for t, _ in again} == {2}
    assert len({*first.values(), *again.values()}) == 24
    assert torch.equal(models_of(whole), models_of(resumed))


@pytest.mark.parametrize(("keys", "differ"), [("seeded", False), ("fresh", True)])
def test_a_round_that_is_tried_again_has_fresh_keys(keys, differ):
    world, _ = simulate(tables({"keys": keys}, rounds=3))
    sharing, node = world.program.sharing, world.nodes[0]
    last = sharing._keys[0][1].public
    assert sharing._own_keys(node, 3).public == last
    assert (sharing._own_keys(node, 3).public != last) == differ


# ---------------------------------------------------------------------- what is refused


def deliver_instead(monkeypatch, change):
    """Let `change` replace messages, by what it returns, before they arrive; None leaves them."""
    deliver = Mailbox.deliver

    def changed(mail, message):
        payload = change(message, mail)
        if payload is not None:
            message = Message(message.sender, message.tag, message.round, payload, message.size)
        deliver(mail, message)

    monkeypatch.setattr(Mailbox, "deliver", changed)


def flipped(payload):
    values = payload["values"].clone()
    values[0] += 1
    return {**payload, "values": values}


TAMPERED = {
    "a changed value": (lambda now, before: flipped(now), "its seal is broken"),
    "another seal": (lambda now, before: {**now, "seal": bytes(16)}, "its seal is broken"),
    "no seal": (lambda now, before: {**now, "seal": 3}, "its 'seal' is not 16 bytes"),
    "the message of the round before": (lambda now, before: before, "its 'agreed' is not the digest of the members"),
    "its values under the new digest": (lambda now, before: {**before, "agreed": now["agreed"]}, "its seal is broken"),
    "other values": (
        lambda now, before: {**now, "values": now["values"].float()},
        "its 'values' is not 44 int64 numbers",
    ),
    "too few values": (
        lambda now, before: {**now, "values": now["values"][1:]},
        "its 'values' is not 44 int64 numbers",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_masked_message_that_is_not_as_it_was_sent_is_refused_and_its_sum_discarded(what, monkeypatch, seen):
    change, reason = TAMPERED[what]
    kept, struck = {}, []

    def strike(message, mail):
        if message.tag or message.sender != 3:
            return None
        before = kept.get(id(mail))
        kept[id(mail)] = message.payload
        if message.round != 1 or struck:
            return None
        struck.append(mail)
        return change(message.payload, before)

    deliver_instead(monkeypatch, strike)
    world, written = simulate(tables({"kind": "secure-aggregation"}, rounds=2))
    (node,) = [node.id for node in world.nodes if node.mail is struck[0]]
    assert figures(written, "discarded") == [(node, 2, 1.0)]
    ((_, at, kind, detail),) = written.happened
    assert (at, kind) == (node, "rejected")
    assert detail.startswith(f"message of node 3: {reason}" if reason[:3] == "its" else "message of node 3: ")
    assert reason in detail
    assert torch.equal(seen.merged[1, node], seen.models[1, node])
    for other, model in seen.clear(world, 1).items():
        assert other == node or close(seen.merged[1, other], model)


def test_a_message_to_another_receiver_or_of_another_sender_is_refused(monkeypatch):
    kept, swapped = {}, []

    def swap(message, mail):
        if message.tag or message.round != 1:
            return None
        kept.setdefault(id(mail), message.payload)
        other = next((payload for index, payload in kept.items() if index != id(mail)), None)
        if other is None or swapped:
            return None
        swapped.append(mail)
        return {**other, "agreed": message.payload["agreed"]}

    deliver_instead(monkeypatch, swap)
    world, written = simulate(tables({"kind": "secure-aggregation"}, rounds=2))
    (node,) = [node.id for node in world.nodes if node.mail is swapped[0]]
    assert [row[:2] for row in figures(written, "discarded")] == [(node, 2)]
    assert "its seal is broken, or of another round, sender or receiver" in written.happened[0][3]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("0 indices", "another set", "its 'agreed' is not the digest of the members, keys and indices"),
        ("1 key", PAIR.public, "its 'agreed' is not the digest of the members, keys and indices"),
        ("0 indices", torch.zeros(3), "the indices are not bytes"),
        ("0 indices", None, "it has no indices"),
        ("1 key", bytes(32), "its entry for the key of node"),
        ("members", [0, 0], "its 'members' is not a list of some of the ids "),
        ("members", [[1]], "its 'members' is not a list of some of the ids "),
        ("members", [0.0], "its 'members' is not a list of some of the ids "),
        ("members", None, "it has no 'members'"),
    ],
)
def test_who_receives_wrong_indices_or_keys_spoils_one_sum_and_is_never_averaged(
    name, value, reason, monkeypatch, seen
):
    struck = []

    def strike(message, mail):
        if message.tag != "others" or message.round != 0 or struck or name not in message.payload:
            return None
        struck.append(message.sender)
        changed = value
        if value == "another set":
            right = decode_indices(message.payload[name], 44, 22)
            held = torch.ones(44, dtype=torch.bool).index_fill_(0, right, False)
            changed = encode_indices(held.nonzero().flatten(), 44)
        return {key: entry for key, entry in {**message.payload, name: changed}.items() if entry is not None}

    deliver_instead(monkeypatch, strike)
    # On the ring a partner is no neighbour, so that its key comes from the receiver alone.
    world, written = simulate(tables({"subset": SUBSETS[2]}, "ring"))
    (receiver,) = struck
    assert [row[0] for row in figures(written, "discarded")] == [receiver]
    assert all(kind == "rejected" for _, _, kind, _ in written.happened)
    assert any(reason in detail for *_, detail in written.happened)
    assert torch.equal(seen.merged[0, receiver], seen.models[0, receiver])
    for other, model in seen.clear(world, 0).items():
        assert other == receiver or close(seen.merged[0, other], model)


def test_a_neighbour_sends_its_key_itself_and_no_other_node_does(monkeypatch, seen):
    def forge(message, mail):
        if message.tag != "others":
            return None
        return {name: PAIR.public if name.endswith(" key") else entry for name, entry in message.payload.items()}

    deliver_instead(monkeypatch, forge)
    # Where everybody is everybody's neighbour no key is taken from who passes it on, and all masks cancel.
    world, written = simulate(tables(topology="complete", network={"nodes": 5}))
    assert not figures(written, "discarded")
    for node, model in seen.clear(world, 0).items():
        assert close(seen.merged[0, node], model)


# ---------------------------------------------------------------------- who is gone


@pytest.mark.parametrize("left", [0.0, 0.5, 1.5, 2.5])
def test_a_neighbour_that_vanishes_between_the_messages_costs_its_neighbours_one_round(left, seen, tmp_path):
    trace = tmp_path / "churn.csv"
    trace.write_text(f"node,event,time\n3,leave,{left}\n")
    network = {**PHASES, "churn": {"kind": "trace", "file": str(trace)}}
    world, written = simulate(tables(network=network, program={"patience": "5s"}))
    near = set(world.program.topology.at(0).senders(3))
    # Until it has said what it sends it is as if it were not there; then its masks are in others' sums.
    spoilt = near if left in (0.5, 1.5) else set()
    assert {node for node, _, _ in figures(written, "discarded")} == spoilt
    assert all((3 in seen.members[0, node]) == (left > 0.0) for node in near)
    for node, model in seen.clear(world, 0).items():
        if node in spoilt:
            assert torch.equal(seen.merged[0, node], seen.models[0, node])
        elif node != 3:
            assert close(seen.merged[0, node], model)


def test_a_network_continues_without_who_left_and_with_who_returns(seen, tmp_path):
    trace = tmp_path / "churn.csv"
    trace.write_text("node,event,time\n3,leave,7.5\n5,crash,7.5\n5,return,60\n")
    network = {**PHASES, "churn": {"kind": "trace", "file": str(trace)}}
    made = tables({"keys": "fresh"}, task=BLOBS, network=network, program={"patience": "5s"}, rounds=60)
    world, written = simulate(made)
    assert [node.round for node in world.nodes] == [3 if node == 3 else 60 for node in range(12)]
    lost = [t for _, t, _ in figures(written, "discarded")]
    assert 0 < len(lost) < 30
    assert_all_or_nothing(world, seen, written)
    counted_on = [len(seen.members[59, node]) for node in range(12) if node != 3]
    assert np.mean(counted_on) > 2.5
    assert not written.happened or {kind for _, _, kind, _ in written.happened} <= {"left", "returned", "caught up"}


def test_lost_messages_cost_rounds_and_spoil_no_model(seen):
    network = {"latency": "10ms", "loss": 0.02, "compute": 1e9}
    world, written = simulate(tables(task=BLOBS, network=network, program={"patience": "100ms"}, rounds=30))
    assert {node.round for node in world.nodes} == {30}
    assert len(figures(written, "discarded")) > 0
    assert_all_or_nothing(world, seen, written)
    spread = models_of(world) - models_of(world).mean(0)
    assert float(spread.norm()) < 0.5 * float(models_of(world).norm())
    assert min(value for _, t, value in figures(written, "accuracy") if t == 30) > 0.7


def test_a_node_of_too_few_neighbours_keeps_its_model_where_that_is_asked_for(seen):
    with pytest.warns(UserWarning, match="node 0 has 2 of them: 4 of 12 nodes keep their own models"):
        world, _ = simulate(tables({"masks": 2, "too_few": "keep"}, "grid"))
    degrees = world.program.topology.at(0).in_degrees
    assert set(degrees.tolist()) == {2, 3, 4}
    for node, model in seen.clear(world, 0, masks=2).items():
        assert close(seen.merged[0, node], model)
        assert torch.equal(seen.merged[0, node], seen.models[0, node]) == (degrees[node] == 2)


@pytest.mark.parametrize("value", [3e9, math.nan, math.inf])
@pytest.mark.parametrize("sharing", ["cesar", {"kind": "secure-aggregation"}])
def test_values_that_leave_the_ring_end_the_run_and_are_named(sharing, value, monkeypatch):
    choose = Masked.agree

    async def agree(self, round):
        if round.node.id == 7:
            round.node.model = torch.full_like(round.node.model, value)
        await choose(self, round)

    monkeypatch.setattr(Masked, "agree", agree)
    said = f"of node 7 must be finite and at most 2.68435e+09 in size in round 0, .* Got {value:g} instead"
    with pytest.raises(ModelError, match=re.escape(said).replace(r"\.\*", ".*")):
        simulate(tables(sharing))


# ---------------------------------------------------------------------- in real time, and in the documents


def test_in_real_time_keys_are_fresh_and_models_those_of_the_simulation(tmp_path):
    made = tables("cesar", task=BLOBS, rounds=3, network={"latency": 0.0, "bandwidth": None, "compute": 1e6})
    world, _ = simulate(made)
    outcome, written = emulate({**made, "checkpoint": {"every": 2}}, tmp_path)
    assert torch.allclose(outcome.models, models_of(world), atol=1e-5)
    ((_, checkpoint),) = written.checkpoints
    assert all(checkpoint[f"state/{node}/sharing.key"] != world.nodes[node].state["sharing.key"] for node in range(12))


def test_the_document_shows_an_experiment_that_runs():
    text = (Path(__file__).parent.parent / "docs" / "systems" / "cesar.md").read_text()
    shown = re.findall(r"^```toml\n(.*?)^```", text, flags=re.M | re.S)
    whole = [tomllib.loads(block) for block in shown if "[task]" in block]
    assert whole
    for made in whole:
        made = {**made, "rounds": 2}
        _, written = simulate(made)
        assert not figures(written, "discarded")
