"""The messages of observed nodes: alike in both engines, bounded, kept through crashes, and apart from the truth."""

import sqlite3

import numpy as np
import pytest
import torch

import covey
from covey.messages import wire
from covey.parts.errors import ConfigurationError, RunError
from covey.runtime.observers import OWN
from covey.runtime.runs import Run, read_truth
from tests.conftest import simulate, table
from tests.hosts import emulate
from tests.programs.long import KINDS

QUICK = {"latency": 0.0, "bandwidth": None, "compute": 1e6}


def seen(written):
    """(receiver, sender, round, tag, payload's bytes) of each message that was kept."""
    frames = [(node, wire.decode(frame)) for _, node, frame in written.seen]
    return sorted((node, f.sender, f.round, f.tag, wire.encode(f.payload)) for node, f in frames)


def received(written):
    """The same of messages of others alone, without the node's own models."""
    return [row for row in seen(written) if row[3] != OWN]


OBSERVED = {
    "gossip": {"program": {"kind": "gossip", "topology": "ring"}},
    "fedavg": {"program": {"kind": "fedavg", "clients": 4}},
    "compressed": {"program": {"kind": "gossip", "topology": "ring", "sharing": {"kind": "top-k", "budget": 0.2}}},
    "several tags": {
        "program": {"kind": "clique-averaging", "topology": {"kind": "random-cliques", "size": 4}, "lr": 0.1}
    },
    "questions": {"program": {"kind": "tests.programs.router:Router"}, "task": None},
    "entries of many kinds": {
        "program": {"kind": "tests.programs.long:Long", "kinds": [*KINDS], "sizes": [0, 3, 2000]},
        "task": None,
        "observer": {"nodes": [1]},
        "network": {**QUICK, "nodes": 2},
    },
}


def near(left, right):
    """Whether two entries are the same; the two engines sum in different orders."""
    if isinstance(left, torch.Tensor | np.ndarray):
        return type(left) is type(right) and np.allclose(left, right, atol=1e-5)
    return left == (pytest.approx(right, abs=1e-9) if isinstance(left, float) else right)


@pytest.mark.parametrize("case", OBSERVED)
def test_observers_see_the_same_in_both_engines(case, tmp_path):
    tables = table(rounds=3, **{"network": QUICK, "observer": {"nodes": [0, 5]}, **OBSERVED[case]})
    if tables["task"] is None:
        del tables["task"], tables["evaluation"]
    _, simulated = simulate(tables)
    _, emulated = emulate(tables, tmp_path)
    assert simulated.seen
    here, there = seen(simulated), seen(emulated)
    assert [row[:4] for row in here] == [row[:4] for row in there]
    for (*_, left), (*_, right) in zip(here, there, strict=True):
        found = wire.decode(right).payload
        assert all(near(value, found[name]) for name, value in wire.decode(left).payload.items())


def test_all_that_an_observed_node_receives_is_kept_and_nothing_else(overheard):
    world, written = simulate(table(rounds=2, observer={"nodes": [3]}))
    to_3 = [message for message in overheard if 3 in message.receivers]
    assert received(written) == sorted(
        (3, m.sender, m.round, m.tag, wire.encode(m.payload)) for m in to_3 if m.round is None or m.round < 2
    )
    assert len(received(written)) == world.nodes[3].mail.messages_in == 4
    own = [wire.decode(frame) for _, _, frame in written.seen if wire.decode(frame).tag == OWN]
    assert [(frame.sender, frame.round) for frame in own] == [(3, 1), (3, 2)]
    assert torch.allclose(own[-1].payload["model"], world.nodes[3].model, atol=1e-6)
    times = [time for time, _, _ in written.seen]
    assert times == sorted(times)
    assert times[0] > 0


def test_tags_are_chosen():
    program = {"kind": "clique-averaging", "topology": {"kind": "random-cliques", "size": 4}, "lr": 0.1}
    _, all_of_them = simulate(table(rounds=2, program=program, observer={"nodes": [3]}))
    _, gradients = simulate(table(rounds=2, program=program, observer={"nodes": [3], "tags": ["gradient"]}))
    wanted = [row for row in seen(all_of_them) if row[3] == "gradient"]
    assert 0 < len(wanted) < len(all_of_them.seen)
    assert received(gradients) == wanted
    _, without = simulate(table(rounds=2, program=program, observer={"nodes": [3], "models": False}))
    assert seen(without) == received(all_of_them)


def test_a_run_keeps_what_was_observed_and_the_truth_apart(tmp_path):
    run = covey.run(table(rounds=2, observer={"nodes": [0, 1]}), out=tmp_path / "run")
    messages = list(run.observed)
    assert {message.receiver for message in messages} == {0, 1}
    assert all(message.bytes == len(wire.encode(message.payload, tag=message.tag)) for message in messages)
    assert [m.round for m in run.observed.models(1)] == [1, 2]
    assert torch.allclose([*run.observed.models(1)][-1].payload["model"], run.models[1], atol=1e-6)
    assert [m.time for m in run.observed.messages(receiver=1)] == [m.time for m in messages if m.receiver == 1]
    truth = read_truth(run.folder)
    held = np.concatenate([truth[f"samples_of/{node}"] for node in range(12)])
    assert len(held) == len(set(held.tolist())) == run.holdings.sum()
    assert covey.run(table(rounds=2), out=tmp_path / "other").observed is None
    with pytest.raises(RunError, match=r"has no readable observed/truth\.npz"):
        read_truth(tmp_path / "other")


def test_no_more_is_kept_than_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("covey.runtime.runs.writer._MEGABYTE", 6000)
    run = covey.run(table(rounds=6, observer={"nodes": [0], "megabytes": 1}), out=tmp_path / "run")
    messages = list(run.observed)
    assert len(messages) == 2
    assert sum(len(wire.encode(m.payload, tag=m.tag)) for m in messages) <= 6000
    (event,) = run.events[run.events["kind"] == "observer full"]["detail"]
    assert "are not kept" in event


def test_a_resumed_run_has_each_message_once(tmp_path):
    tables = table(rounds=6, observer={"nodes": [2]}, checkpoint={"every": 2, "keep": 9})
    whole = covey.run(tables, out=tmp_path / "whole")
    stopped = covey.run(tables, out=tmp_path / "stopped")
    for file in sorted((stopped.folder / "checkpoints").glob("*.covey"))[1:]:
        file.unlink()
    facts = stopped.folder / "facts.json"
    facts.write_text(facts.read_text().replace('"finished"', '"running"'))
    again = covey.resume(stopped.folder)
    assert [(m.time, m.sender, m.round) for m in again.observed] == [
        (m.time, m.sender, m.round) for m in whole.observed
    ]
    assert all(
        torch.equal(a.payload["model"], b.payload["model"]) for a, b in zip(again.observed, whole.observed, strict=True)
    )


@pytest.mark.parametrize("nodes", [[], [12], [0, 99]])
def test_an_observer_of_nobody_is_refused(nodes):
    with pytest.raises(ConfigurationError, match=r"The 'nodes' of the observer must be at least one id in \[0, 12\)"):
        simulate(table(observer={"nodes": nodes}))


def test_a_damaged_record_is_one_line(tmp_path):
    run = covey.run(table(rounds=1, observer={"nodes": [0]}), out=tmp_path / "run")
    with sqlite3.connect(run.folder / "observed" / "messages.sqlite") as database:
        database.execute("UPDATE messages SET frame = x'00'")
    with pytest.raises(RunError, match=r"has no readable observed/messages\.sqlite"):
        list(Run(run.folder).observed)
