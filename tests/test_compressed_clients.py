"""Compressed outcomes of clients without common rounds, and of the members of cohorts: oracles, limits, liars."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.federated.feedback import Feedback
from covey.learning.views import Adversary, Arrived
from covey.messages import wire
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.runtime.simulation.world import World
from tests.conftest import begun, simulate
from tests.hosts import emulate
from tests.test_async_federated import asynchronous
from tests.test_fleet import fleet
from tests.untrained import MIXED, SIZES

HALF = {"kind": "top-k", "budget": 0.5}
FEW = {"kind": "top-k", "budget": 0.1}
ALL = {"kind": "top-k", "budget": 1.0}
KINDS = ["fedasync", "fedbuff", "dynsgd"]


def tables_of(kind, up=None, **changes):
    parts = {} if up is None else {"up": up}
    if kind == "fleet":
        return fleet({**parts, **changes.pop("program", {}), "delays": {"mean": "700ms"}}, **changes)
    return asynchronous(kind, **parts, **changes)


def server(tables):
    return simulate(tables)[0].nodes[0].model


@pytest.mark.parametrize("kind", [*KINDS, "fleet"])
def test_who_sends_all_does_what_is_done_without_compression(kind):
    assert torch.allclose(server(tables_of(kind, ALL)), server(tables_of(kind)), atol=1e-5)


STEPS = {
    "fedasync": lambda x, start, sent, weight: x + 0.6 * weight * (start + sent - x),
    "fedbuff": lambda x, start, sent, weight: x + weight * sent,
    "dynsgd": lambda x, start, sent, weight: x - 0.1 * weight * sent,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_steps_by_what_was_sent_and_no_change_is_lost_for_good(kind, overheard, monkeypatch):
    computed = record_outcomes(monkeypatch)
    parts = {"buffer": 1} if kind == "fedbuff" else {}
    world, _ = simulate(asynchronous(kind, up=HALF, rounds=15, **parts))
    versions = {m.payload["version"]: m.payload["model"].double() for m in overheard if "model" in m.payload}
    answers = sorted((m for m in overheard if m.tag == "update"), key=lambda m: m.time)
    x, told = versions[0], {}
    for t, answer in enumerate(answers[:15]):
        assert torch.allclose(versions.get(t, x), x, atol=1e-5)
        sent, version = decompressed(world, answer), answer.payload["version"]
        weight = (1.0 + t - version) ** (-1.0 if kind == "dynsgd" else -0.5)
        x = STEPS[kind](x, versions[version], sent, weight)
    for message in answers:
        told[message.sender] = told.get(message.sender, 0.0) + decompressed(world, message)
    for client, total in told.items():
        residual = world.nodes[client].state["up.residual"].double()
        changes = torch.stack([vector for sender, vector in computed if sender == client])
        assert torch.allclose(total + residual, changes.sum(0), atol=1e-5)
        assert residual.abs().max() > 0


def record_outcomes(monkeypatch):
    payload, found = Feedback.payload, []

    def recorded(self, node, vector, moment):
        found.append((node.id, vector.double().clone()))
        return payload(self, node, vector, moment)

    monkeypatch.setattr(Feedback, "payload", recorded)
    return found


def decompressed(world, message):
    """The dense vector in a message."""
    payload = {name: value for name, value in message.payload.items() if name not in ("version", "last")}
    sent = world.program._answers._feedback.read(payload, message.sender, message.payload["version"])
    return sent.dense(len(world.nodes[0].model)).double()


@pytest.mark.parametrize("kind", [*KINDS, "fleet"])
def test_a_message_has_the_bytes_of_its_values(kind, overheard):
    simulate(tables_of(kind, FEW))
    updates = [m for m in overheard if m.tag in ("update", "result")]
    few = np.mean([len(m.encoded) for m in updates])
    overheard.clear()
    simulate(tables_of(kind))
    whole = np.mean([len(m.encoded) for m in overheard if m.tag in ("update", "result")])
    assert few < whole
    assert sum(len(m.payload["values"]) for m in updates) == len(updates) * max(1, round(0.1 * 44))


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([*KINDS, "fleet"]), st.floats(0, 1), st.integers(0, 100))
def test_a_resumed_run_keeps_what_was_not_sent(kind, cut, seed):
    tables = {**tables_of(kind, HALF, checkpoint={"every": 1, "keep": 99}), "seed": seed}
    whole, written = simulate(tables)
    _, checkpoint = written.checkpoints[int(cut * (len(written.checkpoints) - 1))]
    again, _ = simulate(tables, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
    assert again.nodes[0].round == whole.nodes[0].round
    assert torch.isfinite(again.nodes[0].model).all()
    assert sum(node.mail.drops["unusable"] for node in again.nodes) <= 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("up", ["int8", {"kind": "random", "budget": 0.3}, {"kind": "ternary", "budget": 0.3}])
def test_other_compressors_learn(kind, up):
    _, written = simulate(asynchronous(kind, up=up, rounds=60))
    assert [value for node, _, name, value in written.figures if (node, name) == (0, "accuracy")][-1] > 0.8


@pytest.mark.parametrize("kind", [*KINDS, "fleet"])
def test_statistics_are_sent_as_they_are_and_frozen_tensors_stay(kind, overheard):
    task = {**MIXED, "same_start": True}
    (plain, _), count = simulate(tables_of(kind, task=task)), len(answers_in(overheard))
    overheard.clear()
    world, _ = simulate(tables_of(kind, ALL, task=task))
    assert torch.allclose(world.nodes[0].model, plain.nodes[0].model, atol=1e-5)
    answers = answers_in(overheard)
    assert {m.payload["buffers"].numel() for m in answers} == {SIZES["buffers"]}
    models = {m.payload.get("version", 0): m.payload["model"] for m in overheard if "model" in m.payload}
    first = world.task.learner.first_model
    known = {version: world.program.selection.put(first, model).tensor() for version, model in models.items()}
    seen = [*world.program.views(Adversary(0, 8, first, known), arrived(answers))]
    assert len(seen) == len(answers) == count
    assert {len(view.values) for view in seen} == {sum(SIZES[name] for name in ("norm", "body", "head"))}


def answers_in(overheard):
    return [m for m in overheard if m.tag in ("update", "result")]


def arrived(messages):
    return [Arrived(m.time, NodeId(m.sender), m.tag, m.round, m.payload, 0) for m in messages]


@pytest.mark.parametrize("kind", [*KINDS, "fleet"])
def test_what_is_no_compressed_vector_is_rejected(kind, monkeypatch):
    post = World.post
    wrong = iter([{"indices": torch.zeros(2, 2)}, {"values": torch.full((9,), 3e38)}, {"values": None}, {"x": 1}] * 99)

    def lying(world, node, receivers, payload, tag, round):
        if node.id == 2 and tag in ("update", "result"):
            payload = {**payload, **next(wrong)}
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", lying)
    patient = {"program": {"patience": "5s"}} if kind == "fleet" else {"patience": "500ms"}
    world, written = simulate(tables_of(kind, HALF, **patient))
    rejected = [detail for _, node, what, detail in written.happened if (node, what) == (0, "rejected")]
    assert rejected
    assert all(detail.startswith("message of node 2: ") for detail in rejected)
    assert world.nodes[0].model.abs().max() < 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_sees_the_values_that_were_sent(kind, overheard):
    world, _ = simulate(asynchronous(kind, up=HALF))
    versions = {m.payload["version"]: m.payload["model"] for m in overheard if "model" in m.payload}
    server = Adversary(0, 8, world.task.learner.first_model, versions)
    updates = answers_in(overheard)
    seen = [*world.program.views(server, arrived(updates))]
    assert len(seen) == len(updates) >= 12
    for view, message in zip(seen, updates, strict=True):
        said = decompressed(world, message)
        start = 0.0 if kind == "dynsgd" else versions[message.payload["version"]].double()
        assert torch.allclose(view.values.double(), (start + said)[view.places], atol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, "fleet"])
def test_what_is_no_contraction_is_refused(kind):
    wrong = {"kind": "random", "budget": 0.1, "unbiased": True}
    with pytest.raises(ConfigurationError, match=f"The 'up' of the program {kind} must be a contraction"):
        begun(tables_of(kind, wrong))


@pytest.mark.parametrize("kind", ["fedasync"])
def test_hosts_send_compressed_changes(kind, tmp_path):
    tables = asynchronous(kind, rounds=20, up=HALF)
    outcome, written = emulate(tables, tmp_path)
    assert outcome.finished
    assert max(row[1] for row in written.rows if row[0] == 0) == 20
    assert not [detail for _, _, what, detail in written.happened if what == "rejected"]
