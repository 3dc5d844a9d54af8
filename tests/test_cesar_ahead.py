"""Introductions for a masked round in the round before, and the messages that they save."""

from typing import ClassVar

import pytest
import torch

from covey.decentralized.topology import RandomRegular, Topology
from covey.messages import wire
from tests.conftest import models_of, simulate
from tests.examples import BLOBS, EPIDEMIC
from tests.hosts import emulate
from tests.masked import PHASES, RANDOM, REGULAR, close, figures, tables

SECURE = {"kind": "secure-aggregation"}
TOP_K = {"subset": {"kind": "top-k", "budget": 0.5}}
GRAPHS = {
    "static": REGULAR,
    "another one every round": {"kind": "redrawn", "topology": EPIDEMIC, "every": 1},
    "another one every other round": {"kind": "redrawn", "topology": EPIDEMIC, "every": 2},
}


class Secret(RandomRegular):
    """A graph of which nobody knows beforehand."""

    foreseen: ClassVar[bool] = False
    degree: int = 4


SECRET = {"kind": "tests.test_cesar_ahead:Secret"}


def latencies(sharing, topology, rounds=5, **changes):
    """The seconds of a run in which messages take one second and nothing else takes time."""
    world, _ = simulate(tables(sharing, topology, task=BLOBS, network=PHASES, rounds=rounds, **changes))
    return world.now


@pytest.mark.parametrize("topology", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("sharing", [{}, {"subset": {**RANDOM, "common": True}}, SECURE], ids=str)
def test_a_round_takes_two_latencies_after_the_first(sharing, topology):
    assert latencies(sharing, topology) == pytest.approx(3 + 4 * 2, abs=0.01)


def test_a_round_takes_three_where_indices_or_graph_are_not_known_beforehand():
    assert latencies(TOP_K, REGULAR) == pytest.approx(5 * 3, abs=0.01)
    assert latencies({}, SECRET) == pytest.approx(5 * 3, abs=0.01)
    assert latencies({"subset": {"kind": "top-k", "budget": 1.0}}, REGULAR) == pytest.approx(3 + 4 * 2, abs=0.01)


@pytest.mark.parametrize("topology", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize(
    "sharing", [{}, pytest.param({"masks": 2, "keys": "fresh"}, marks=pytest.mark.slow), SECURE], ids=str
)
def test_sums_are_the_same_whether_a_round_is_introduced_before_or_not(sharing, topology, monkeypatch, overheard):
    made = tables(sharing, topology, task=BLOBS, rounds=6)
    ahead, written = simulate(made)
    assert {message.round for message in overheard if message.tag == "indices"} == {0}
    overheard.clear()
    monkeypatch.setattr(Topology, "foreseen", False)
    after, rewritten = simulate(made)
    assert {message.round for message in overheard if message.tag == "indices"} == set(range(6))
    assert not any(message.tag == "next" for message in overheard)
    assert torch.equal(models_of(ahead), models_of(after))
    assert not figures(written, "discarded")
    assert not figures(rewritten, "discarded")
    assert sum(node.bytes_out for node in ahead.nodes) < sum(node.bytes_out for node in after.nodes)


@pytest.mark.parametrize("topology", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("sharing", [{}, pytest.param({"masking": False}, marks=pytest.mark.slow), SECURE], ids=str)
def test_a_resumed_run_has_the_models_and_times_of_the_whole_one(sharing, topology):
    made = tables(sharing, topology, task=BLOBS, rounds=7, checkpoint={"every": 2})
    whole, written = simulate(made)
    assert [t for t, _ in written.checkpoints] == [2, 4, 6]
    for t, payload in written.checkpoints:
        resumed, rewritten = simulate(made, checkpoint=wire.decode(wire.encode(payload)).payload)
        assert torch.equal(models_of(whole), models_of(resumed))
        assert resumed.now == whole.now
        assert rewritten.rows == [row for row in written.rows if row[1] > t]


@pytest.mark.parametrize("topology", GRAPHS.values(), ids=GRAPHS)
def test_with_other_keys_a_resumed_run_tells_anew_who_is_here(topology, overheard):
    made = tables({"keys": "fresh"}, topology, task=BLOBS, rounds=7, checkpoint={"every": 3})
    whole, written = simulate(made)
    overheard.clear()
    resumed, rewritten = simulate(made, checkpoint=wire.decode(wire.encode(written.checkpoints[0][1])).payload)
    assert {message.round for message in overheard if message.tag == "indices"} == {3}
    assert torch.equal(models_of(whole), models_of(resumed))
    assert not figures(rewritten, "discarded")


@pytest.mark.parametrize(("left", "lost"), [(0.5, 1), (2.5, 2), (4.5, 3)])
def test_who_vanishes_after_its_introduction_to_a_round_costs_its_neighbours_that_one(left, lost, seen, tmp_path):
    trace = tmp_path / "churn.csv"
    trace.write_text(f"node,event,time\n3,leave,{left}\n")
    network = {**PHASES, "churn": {"kind": "trace", "file": str(trace)}}
    world, written = simulate(tables(network=network, program={"patience": "5s"}, rounds=4))
    near = set(world.program.topology.at(0).senders(3))
    # Masked messages leave after 2 and 4 seconds, and tell of the next round.
    assert sorted(figures(written, "discarded")) == [(node, lost, 1.0) for node in sorted(near)]
    for node, model in seen.clear(world, 3).items():
        assert 3 not in seen.members[3, node]
        assert close(seen.merged[3, node], model)


def test_what_a_neighbour_tells_of_the_next_round_can_be_wrong(monkeypatch, overheard):
    from covey.decentralized.sharing.agreeing import Agreeing

    introduce = Agreeing._introduce

    def lying(self, round, now):
        introductions = introduce(self, round, now)
        for introduction in introductions.values() if (round.node.id, now.t) == (3, 1) else ():
            introduction.key = bytes(32)
        return introductions

    monkeypatch.setattr(Agreeing, "_introduce", lying)
    world, written = simulate(tables(task=BLOBS, rounds=5))
    near = set(world.program.topology.at(0).senders(3))
    assert {node for _, node, kind, _ in written.happened if kind == "rejected"} == near
    assert all("its entry for the key of node 3 is no key" in detail for *_, detail in written.happened)
    assert not figures(written, "discarded")
    members = {(m.round, m.sender): m.payload["members"] for m in overheard if m.tag == "others"}
    assert all((3 in members[t, node]) == (t != 2) for t in range(5) for node in near)


@pytest.mark.parametrize("topology", [REGULAR, GRAPHS["another one every round"]], ids=str)
def test_in_real_time_it_is_the_same(topology, tmp_path):
    made = tables({}, topology, task=BLOBS, rounds=5, network={"latency": "1ms", "bandwidth": None, "compute": 1e5})
    outcome, written = emulate(made, tmp_path)
    simulated, _ = simulate(made)
    assert not figures(written, "discarded")
    assert torch.allclose(outcome.models, models_of(simulated), atol=1e-5)
