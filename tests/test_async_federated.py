"""FedAsync, FedBuff and DynSGD: oracles from the papers, limit cases, wrong answers, losses, resumption, both engines."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.federated.staleness import Hinge, Inverse, Polynomial
from covey.learning.views import Adversary, Arrived
from covey.messages import wire
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.runtime.simulation.world import World
from tests.conftest import begun, simulate, table
from tests.examples import BLOBS
from tests.hosts import emulate

UNEQUAL = {
    "nodes": 8,
    "latency": "5ms",
    "bandwidth": None,
    "compute": {"kind": "log-normal", "median": 300, "sigma": 0.8},
}
TASK = {**BLOBS, "batch_size": 8}


def asynchronous(kind, *, rounds=12, network=None, task=None, **parts):
    """The tables of a small federation of clients with unequal speeds."""
    changes = {name: parts.pop(name) for name in ("checkpoint", "observer") if name in parts}
    parts = {**({"buffer": 3} if kind == "fedbuff" else {}), **parts}
    network, task = {**UNEQUAL, **(network or {})}, {**TASK, **(task or {})}
    return table(program={"kind": kind, **parts}, rounds=rounds, network=network, task=task, **changes)


# ---------------------------------------------------------------------- the papers


def polynomial(s):
    return (1.0 + s) ** -0.5


def fedasync(x, answers, t):
    ((vector, s),) = answers
    weight = (0.6 if t < 6 else 0.3) * (1.0 if s <= 4 else 1.0 / (1.0 + 10.0 * (s - 4)))
    return (1 - weight) * x + weight * vector


def fedbuff(x, answers, t):
    return x + 0.7 * sum(polynomial(s) * change for change, s in answers) / len(answers)


def dynsgd(x, answers, t):
    ((gradient, s),) = answers
    return x - 0.2 * gradient / (s + 1)


PAPERS = {
    "fedasync": (fedasync, {"staleness": "hinge", "decay_at": 6}, 1),
    "fedbuff": (fedbuff, {"buffer": 3, "server_optimizer": 0.7}, 3),
    "dynsgd": (dynsgd, {"lr": 0.2}, 1),
}


@pytest.mark.parametrize("kind", PAPERS)
@pytest.mark.parametrize("concurrency", [None, 3])
def test_every_version_is_that_of_the_paper_from_the_log_of_clients_and_versions(kind, concurrency, overheard):
    step, parts, size = PAPERS[kind]
    simulate(asynchronous(kind, concurrency=concurrency, **parts))
    versions = {m.payload["version"]: m.payload["model"].double() for m in overheard if "model" in m.payload}
    # Links have one latency, so answers arrive in the order in which they were sent.
    answers = [m.payload for m in sorted((m for m in overheard if m.tag == "update"), key=lambda m: m.time)]
    x, stale = versions[0], []
    for t in range(12):
        assert torch.allclose(versions.get(t, x), x, atol=1e-5)
        taken = [(answer["vector"].double(), t - answer["version"]) for answer in answers[t * size : (t + 1) * size]]
        x = step(x, taken, t)
        stale += [s for _, s in taken]
    assert min(stale) >= 0
    assert max(stale) > (1 if concurrency is None else 0)
    assert len(versions) == 12


def test_no_more_clients_are_at_work_than_the_concurrency_and_all_have_their_turn(overheard):
    simulate(asynchronous("fedasync", concurrency=2, rounds=60))
    working, most, seen = set(), 0, set()
    for message in overheard:
        if message.tag == "update":
            working.discard(message.sender)
        elif "model" in message.payload:
            working |= set(message.receivers)
            seen |= set(message.receivers)
        most = max(most, len(working))
    assert most == 2
    assert seen == set(range(1, 8))


# ---------------------------------------------------------------------- limit cases


@pytest.mark.parametrize("model", ["logistic", {"kind": "mlp", "hidden": [5]}])
def test_a_buffer_of_all_clients_is_fedavg_with_equal_weights(model):
    task = {"model": model, "partition": {"kind": "quantity", "alpha": 5.0}}
    buffered, written = simulate(asynchronous("fedbuff", buffer=7, task=task))
    plain, _ = simulate(asynchronous("fedavg", aggregation="mean", task=task))
    assert torch.allclose(buffered.nodes[0].model, plain.nodes[0].model, atol=1e-6)
    assert {value for _, _, name, value in written.figures if name == "staleness"} == {0.0}
    assert [node.round for node in buffered.nodes] == [12] * 8


def test_one_client_at_a_time_makes_a_buffer_of_one_fedasync():
    buffered, _ = simulate(asynchronous("fedbuff", buffer=1, server_optimizer=0.6, concurrency=1))
    plain, _ = simulate(asynchronous("fedasync", concurrency=1))
    assert torch.allclose(buffered.nodes[0].model, plain.nodes[0].model, atol=1e-6)


def test_gradients_of_one_client_at_a_time_are_not_weighted():
    first, _ = simulate(asynchronous("dynsgd", concurrency=1))
    second, _ = simulate(asynchronous("dynsgd", concurrency=1, staleness="constant"))
    assert torch.equal(first.nodes[0].model, second.nodes[0].model)


# ---------------------------------------------------------------------- wrong answers, losses


def lying(monkeypatch, change):
    """Let node 2 send other answers."""
    post = World.post

    def sent(world, node, receivers, payload, tag, round):
        if node.id == 2 and tag == "update":
            payload = {**payload, **change(payload)}
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", sent)


@pytest.mark.parametrize("kind", PAPERS)
@pytest.mark.parametrize("version", [7, 10_000])
def test_an_answer_for_another_version_is_dropped_counted_and_named(kind, version, monkeypatch):
    lying(monkeypatch, lambda payload: {"version": payload["version"] + version})
    world, written = simulate(asynchronous(kind, patience="500ms", network={"compute": 300}))
    assert world.nodes[0].round == 12
    assert world.nodes[0].mail.drops["unusable"] >= 1
    events = [detail for _, _, what, detail in written.happened if what == "rejected"]
    assert f"message of node 2: it answers for version {version}, and its sender has version 0" in events


@pytest.mark.parametrize("kind", PAPERS)
def test_a_change_that_is_not_finite_names_the_client_and_never_touches_the_model(kind, monkeypatch):
    lying(monkeypatch, lambda payload: {"vector": payload["vector"] * torch.nan})
    world, written = simulate(asynchronous(kind, patience="500ms", network={"compute": 300}))
    assert world.nodes[0].round == 12
    assert bool(torch.isfinite(world.nodes[0].model).all())
    assert (2, "rejected") in {(node, what) for _, node, what, _ in written.happened}
    assert world.nodes[0].mail.drops["not-finite"] >= 1


@pytest.mark.parametrize("kind", PAPERS)
def test_an_honest_answer_that_is_late_is_counted_and_accuses_nobody(kind):
    slow = {"compute": {"kind": "stragglers", "samples_per_second": 400, "fraction": 0.3, "slowdown": 8}}
    tables = asynchronous(kind, patience="60ms", network=slow, rounds=60, checkpoint={"every": 1, "keep": 99})
    world, written = simulate(tables)
    again, more = simulate(tables, checkpoint=written.checkpoints[len(written.checkpoints) // 2][1])
    for found, events in ((world, written.happened), (again, more.happened)):
        assert found.nodes[0].round == 60
        assert found.nodes[0].mail.drops["late"] > 2
        assert not found.nodes[0].mail.drops["unusable"]
        assert "rejected" not in {what for _, _, what, _ in events}


@pytest.mark.parametrize("kind", PAPERS)
@pytest.mark.parametrize(
    "network", [{"loss": 0.2}, {"churn": {"kind": "rate", "mean_up": "500ms", "mean_down": "200ms"}}]
)
def test_losses_and_absences_do_not_stop_the_server(kind, network):
    world, written = simulate(asynchronous(kind, patience="200ms", concurrency=4, rounds=40, network=network))
    assert world.nodes[0].round == 40
    assert all(node.mail.ended for node in world.nodes)
    stale = [value for _, _, name, value in written.figures if name == "staleness"]
    assert len(stale) > 20


def test_a_server_without_clients_makes_its_versions_all_the_same():
    faults = [{"kind": "kill", "nodes": [1, 2, 3, 4, 5, 6, 7], "at": "50ms"}]
    tables = asynchronous("fedbuff", patience="100ms", buffer=3)
    world, _ = simulate({**tables, "faults": faults})
    assert world.nodes[0].round == 12


# ---------------------------------------------------------------------- resumption


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([*PAPERS]), st.floats(0, 1), st.integers(0, 100), st.sampled_from([None, 3]))
def test_a_run_that_is_resumed_at_any_commit_loses_only_what_was_in_flight(kind, cut, seed, concurrency):
    tables = {
        **asynchronous(kind, concurrency=concurrency, checkpoint={"every": 1, "keep": 99}),
        "seed": seed,
    }
    whole, written = simulate(tables)
    _, checkpoint = written.checkpoints[int(cut * (len(written.checkpoints) - 1))]
    again, more = simulate(tables, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
    assert again.nodes[0].round == whole.nodes[0].round == 12
    assert all(node.mail.ended for node in again.nodes)
    assert sum(node.mail.drops["unusable"] for node in again.nodes) <= 7
    updates = [sum(node.round for node in world.nodes[1:]) for world in (whole, again)]
    assert abs(updates[0] - updates[1]) <= 7
    assert all(value >= 0.0 for _, _, name, value in more.figures if name == "staleness")


@pytest.mark.parametrize("kind", PAPERS)
def test_hosts_make_as_many_updates_as_the_simulation(kind, tmp_path):
    tables = asynchronous(kind, rounds=20)
    outcome, written = emulate(tables, tmp_path)
    world, _ = simulate(tables)
    assert outcome.finished
    real = {node: max((row[1] for row in written.rows if row[0] == node), default=0) for node in range(8)}
    assert real[0] == world.nodes[0].round == 20
    updates = sum(real.values()) - real[0]
    assert abs(updates - sum(node.round for node in world.nodes[1:])) <= 0.1 * updates + 1


# ---------------------------------------------------------------------- attacks, bad input


@pytest.mark.parametrize("kind", PAPERS)
def test_the_server_sees_what_clients_computed_and_clients_see_its_model(kind, overheard):
    world, _ = simulate(asynchronous(kind))
    first = world.task.learner.first_model
    heard = [Arrived(m.time, NodeId(m.sender), m.tag, m.round, m.payload, 0) for m in overheard]
    versions = {m.payload["version"]: m.payload["model"] for m in overheard if "model" in m.payload}
    seen = [*world.program.views(Adversary(0, 8, first, versions), [m for m in heard if m.tag == "update"])]
    answers = [m.payload for m in overheard if m.tag == "update"]
    assert len(seen) == len(answers) >= 12
    for view, answer in zip(seen, answers, strict=True):
        start = versions[answer["version"]]
        assert torch.equal(view.start, start)
        assert view.gradient == (kind == "dynsgd")
        expected = start + answer["vector"] if kind == "fedbuff" else answer["vector"]
        assert torch.allclose(view.values, expected)
    models = [*world.program.views(Adversary(3, 8, first), [m for m in heard if m.tag == "model"])]
    assert {view.round for view in models} == {version for version in versions if version}


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ({"kind": "fedbuff", "buffer": 8}, "The 'buffer' of the program fedbuff must be an int in [1, nodes)"),
        ({"kind": "fedasync", "alpha": 1.5}, "The 'alpha' of the program fedasync must be a number in (0, 1]. Got 1.5"),
        ({"kind": "dynsgd", "concurrency": 0}, "The 'concurrency' of the program dynsgd must be an int in [1, nodes)"),
        ({"kind": "fedasync", "staleness": "linear"}, "Unknown staleness"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(program, message):
    with pytest.raises(ConfigurationError) as refused:
        begun(table(program=program, network=UNEQUAL))
    assert message.lower() in str(refused.value).lower()


def test_patience_is_needed_where_messages_can_be_lost():
    with pytest.raises(ConfigurationError, match="The 'patience' of the program fedbuff must be given"):
        begun(asynchronous("fedbuff", buffer=3, network={"loss": 0.1}))


def test_the_rules_of_staleness_are_told_apart_by_the_run():
    rules = ["constant", "polynomial", "inverse", {"kind": "exponential", "beta": 1.0}, {"kind": "hinge", "b": 0}]
    models = [simulate(asynchronous("fedasync", staleness=rule))[0].nodes[0].model.numpy() for rule in rules]
    assert not any(np.array_equal(a, b) for i, a in enumerate(models) for b in models[:i])
    assert Polynomial().weight(3) > Inverse().weight(3) > Hinge(b=0).weight(3)
