"""Synchronous programs in which a node waits in one long phase: checkpoints are taken meanwhile, and resume the run."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from covey.messages import wire
from covey.runtime.emulation.launcher import launcher
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World
from covey.runtime.snapshots import counters_of
from tests.conftest import Written, models_of, simulate, table
from tests.hosts import emulate
from tests.programs.phases import Phases, Taught

NETWORKS = [
    {"latency": 0.003},
    {"latency": {"kind": "uniform", "low": 0.001, "high": 0.02}},
    {"latency": 0.001, "bandwidth": "40kbit/s"},
]
ROUNDS = 24


def phases(seed=3, network=NETWORKS[0], every=4):
    return {
        "seed": seed,
        "rounds": ROUNDS,
        "program": Phases(),
        "network": {"nodes": 5, **network},
        "checkpoint": {"every": every, "keep": 99},
    }


def states(world):
    return [dict(node.state) for node in world.nodes]


def stored(payload):
    return wire.decode(wire.encode(payload)).payload


def counted(*written):
    """The rows of commits but for times, and what arrived by then, which may come a little earlier."""
    return sorted((node, completed, *row[6:7], *row[8:9]) for one in written for node, completed, *row in one.rows)


@pytest.mark.parametrize("network", NETWORKS)
def test_checkpoints_are_taken_while_a_node_waits(network):
    _, written = simulate(phases(network=network))
    completed = [payload["completed"].tolist() for _, payload in written.checkpoints]
    assert [min(clients) for server, *clients in completed if server == 0] == [8, 12, 16, 20]
    assert [server for server, *_ in completed if server] == [4, 6]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 9999), st.sampled_from(NETWORKS), st.integers(1, 5), st.floats(0, 1), st.floats(0, 1))
def test_from_each_of_them_a_run_ends_as_the_undisturbed_one(seed, network, every, first, second):
    tables = phases(seed, network, every)
    whole, written = simulate(tables)
    for index in (first, second):
        _, payload = written.checkpoints[int(index * (len(written.checkpoints) - 1))]
        before = Written()
        before.rows = [row for row in written.rows if row[1] <= payload["completed"][row[0]]]
        again, rewritten = simulate(tables, checkpoint=stored(payload))
        assert states(again) == states(whole)
        assert counted(before, rewritten) == counted(written)
        assert [*map(counters_of, again.nodes)] == [*map(counters_of, whole.nodes)]
        written = rewritten
        if not written.checkpoints:
            break
        written.rows = [*before.rows, *rewritten.rows]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(NETWORKS), st.floats(0.0, 0.6), st.sampled_from([4, 100]))
@example(NETWORKS[2], 0.5625, 4)  # The downlink of the server is full, and clients send on.
def test_a_run_that_is_stopped_while_a_node_waits_is_saved(network, at, every):
    tables = phases(network=network, every=every)
    whole, _ = simulate(tables)
    written = Written()
    world = World(prepare(Experiment.from_table(tables)), written)
    world.begin()
    world.at(at * whole.now, world.nodes[0], lambda _: world.interrupt())
    world.nodes[0].order -= 1
    world.run()
    assert world.stopped_early
    again, _ = simulate(tables, checkpoint=stored(written.checkpoints[-1][1]))
    assert states(again) == states(whole)


def test_an_emulation_takes_them_too(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_ASK", 0.01)
    tables = {**phases(), "program": {"kind": "tests.programs.phases:Phases"}}
    whole, _ = simulate(tables)
    outcome, written = emulate(tables, tmp_path)
    assert outcome.states == states(whole)
    payloads = [stored(payload) for _, payload in written.checkpoints]
    assert any(server == 0 < min(clients) < ROUNDS for server, *clients in (p["completed"].tolist() for p in payloads))
    for payload in (payloads[0], payloads[len(payloads) // 2]):
        assert emulate(tables, tmp_path, checkpoint=payload)[0].states == states(whole)
        assert states(simulate(tables, checkpoint=payload)[0]) == states(whole)


def test_figures_of_evaluated_nodes_stay_while_another_one_waits():
    tables = table(program=Taught(), rounds=12, network={"nodes": 4}, checkpoint={"every": 2, "keep": 99})
    whole, written = simulate(tables)
    (_, payload), *_ = written.checkpoints[2:]
    assert payload["completed"].tolist()[0] == 0
    done = int(payload["completed"][1:].min())
    assert 0 < done < 12
    again, rewritten = simulate(tables, checkpoint=stored(payload))
    assert torch.equal(models_of(again), models_of(whole))
    before = [row for row in written.figures if row[1] <= (payload["completed"][row[0]] if row[0] >= 0 else done)]
    found, wanted = sorted([*before, *rewritten.figures]), sorted(written.figures)
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    assert [row[3] for row in found] == pytest.approx([row[3] for row in wanted], rel=1e-9)
