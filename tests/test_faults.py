"""Faults: their times, their targets, their errors, and their effects in the simulation."""

import re
import tomllib
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch

from covey.aggregation.linear import Mean, MetropolisHastings
from covey.messages import wire
from covey.network.faults import Fault, strikes
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.parameters import Setting, build
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import check
from covey.runtime.runs.schema import NETWORK
from covey.runtime.snapshots import counters_of
from tests.conftest import models_of, simulate, table
from tests.examples import IMPATIENT, PROGRAMS
from tests.programs.own import Muted

ROOT = Path(__file__).parent.parent

PATIENT = {"kind": "gossip", "topology": "ring", "patience": "50ms"}
EPIDEMIC = {"kind": "gossip", "topology": {"kind": "epidemic-oracle", "degree": 3}, "patience": "50ms"}
KINDS = {
    "kill": {"kind": "kill", "nodes": [3, 4], "at": "100ms", "back": "200ms"},
    "pause": {"kind": "pause", "nodes": [3, 4], "at": "100ms", "lasts": "200ms"},
    "cut": {"kind": "cut", "fraction": 0.5, "at": "100ms", "lasts": "200ms"},
    "slow": {"kind": "slow", "nodes": [3], "at": "100ms", "lasts": "200ms", "compute": 5, "uplink": 20},
    "corrupt": {"kind": "corrupt", "fraction": 1, "at": 0, "probability": 0.2},
}


def struck(*faults, rounds=30, program=PATIENT, **changes):
    """An experiment with faults."""
    return table(program=program, rounds=rounds, faults=list(faults), **changes)


def schedule(fault, seed=3, nodes=12, count=5):
    setting = Setting(nodes, seed)
    part = build(Fault, fault)
    part.ready(setting)
    return [(strike.start, strike.end, strike.nodes) for strike in islice(strikes([part], setting), count)]


# ---------------------------------------------------------------------- when and whom


def test_a_fault_at_a_time_strikes_once_whom_it_names():
    assert schedule(KINDS["kill"]) == [(0.1, pytest.approx(0.3), frozenset({3, 4}))]
    assert schedule({"kind": "kill", "host": 1, "of": 3, "at": 2}) == [(2.0, float("inf"), frozenset(range(4, 8)))]
    assert schedule({"kind": "kill", "host": 0, "of": 5, "at": 2})[0][2] == frozenset({0, 1, 2})


def test_a_fault_at_a_rate_strikes_at_times_and_nodes_that_the_seed_alone_decides():
    fault = {"kind": "pause", "fraction": 0.25, "rate": 2, "lasts": "1s"}
    found = schedule(fault, count=400)
    assert found == schedule(fault, count=400) != schedule(fault, seed=4, count=400)
    assert all(len(nodes) == 3 and end == start + 1 for start, end, nodes in found)
    assert len({nodes for _, _, nodes in found}) > 50
    assert 400 / found[-1][0] == pytest.approx(2, rel=0.15)


def test_two_faults_of_a_kind_strike_at_different_times_in_the_order_of_time():
    setting = Setting(12, 3)
    parts = [build(Fault, {"kind": "pause", "nodes": [1], "rate": 1, "lasts": 1}) for _ in range(2)]
    for part in parts:
        part.ready(setting)
    times = [strike.start for strike in islice(strikes(parts, setting), 50)]
    assert times == sorted(set(times))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "kill", "at": 1}, "Exactly one of 'nodes', 'host', 'fraction' of the fault kill must be given, as its target. Got none of them instead."),
        ({"kind": "cut", "at": 1, "nodes": [1], "links": [[0, 1]]}, "Exactly one of 'nodes', 'host', 'fraction', 'links' of the fault cut must be given, as its target. Got 'nodes', 'links' instead."),
        ({"kind": "kill", "nodes": [1]}, "Exactly one of 'at', 'rate' of the fault kill must be given, as its time. Got none of them instead."),
        ({"kind": "kill", "nodes": [12], "at": 1}, "The 'nodes' of the fault kill must be a list of different ints in [0, nodes). Got [12] instead (nodes is 12)."),
        ({"kind": "kill", "nodes": [], "at": 1}, "The 'nodes' of the fault kill must be a list of different ints in [0, nodes). Got [] instead (nodes is 12)."),
        ({"kind": "kill", "host": 1, "at": 1}, "The 'of' of the fault kill is missing: 'host' needs it."),
        ({"kind": "kill", "host": 2, "of": 2, "at": 1}, "The 'host' of the fault kill must be an int in [0, of). Got 2 instead (of is 2)."),
        ({"kind": "cut", "links": [[0, 0]], "at": 1}, "The 'links' of the fault cut must be pairs of different ints in [0, nodes), such as [[0, 1]]. Got [0, 0] instead (nodes is 12)."),
        ({"kind": "slow", "nodes": [0], "at": 1}, "The 'compute' or the 'uplink' of the fault slow must be more than 1. Got 1 and 1 instead."),
        ({"kind": "slow", "links": [[0, 1]], "at": 1, "compute": 2}, "The 'compute' of the fault slow must be 1 where 'links' are given. Got 2 instead."),
        ({"kind": "kil"}, "Unknown fault 'kil'; did you mean 'kill'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(fault, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        check(Experiment.from_table(struck(fault)))


def test_an_uplink_that_has_no_rate_cannot_be_slow():
    tables = struck({"kind": "slow", "nodes": [0], "at": 1, "uplink": 2})
    tables["network"].pop("bandwidth")
    with pytest.raises(ConfigurationError, match="The 'uplink' of the fault slow must be 1 in a network without"):
        check(Experiment.from_table(tables))


@pytest.mark.parametrize("kind", KINDS)
def test_check_says_what_will_happen_and_the_resolved_file_says_it_again(kind, covey, in_folder):
    import tomli_w

    (in_folder / "e.toml").write_text(tomli_w.dumps(struck(KINDS[kind])))
    code, out, err = covey("check", "e.toml")
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("fault ")]
    expected = {
        "kill": "at 0.1 s: nodes 3, 4 killed, back after 0.2 s",
        "pause": "at 0.1 s: nodes 3, 4 paused for 0.2 s",
        "cut": "at 0.1 s: 50% of the nodes at random cut off from the others for 0.2 s",
        "slow": "at 0.1 s: training at node 3 takes 5 times longer and sending by node 3 takes 20 times longer for 0.2 s",
        "corrupt": "at 0 s: each message sent by all nodes corrupted with probability 0.2",
    }
    assert line == f"fault       {expected[kind]}"
    resolved = out[: out.index("\n\nmodel ")]
    (in_folder / "again.toml").write_text(resolved)
    assert Experiment.from_file("again.toml") == Experiment.from_file("e.toml")
    assert f'faults = [{{ kind = "{kind}", ' in covey("list", "fault", kind)[1]


# ---------------------------------------------------------------------- in the simulation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queue", ["fifo", pytest.param("fair", marks=pytest.mark.slow)])
def test_runs_with_faults_are_the_same_to_the_bit_and_all_come_to_their_end(kind, queue):
    tables = struck(KINDS[kind], network={"queue": queue})
    (first, written), (second, rewritten) = simulate(tables), simulate(tables)
    assert torch.equal(models_of(first), models_of(second))
    assert (written.rows, written.happened, written.of_hosts) == (
        rewritten.rows,
        rewritten.happened,
        rewritten.of_hosts,
    )
    assert [node.round for node in first.nodes] == [30] * 12
    without, _ = simulate({**tables, "faults": []})
    assert not torch.equal(models_of(first), models_of(without))


def test_a_fault_that_never_strikes_changes_nothing():
    never = {**KINDS["cut"], "at": "1h"}
    (with_it, written), (without, rewritten) = simulate(struck(never)), simulate(struck())
    assert torch.equal(models_of(with_it), models_of(without))
    assert written.rows == rewritten.rows
    assert not written.happened
    assert with_it.now == without.now


def test_killed_nodes_come_back_and_catch_up():
    _, written = simulate(struck(KINDS["kill"]))
    happened = [(round(time, 9), node, kind) for time, node, kind, _ in written.happened]
    assert [event for event in happened if event[2] != "caught up"] == [
        (0.1, 3, "left"), (0.1, 4, "left"), (0.3, 3, "returned"), (0.3, 4, "returned"),
    ]  # fmt: skip
    assert {node for _, node, kind in happened if kind == "caught up"} == {3, 4}
    assert len([row for row in written.rows if row[0] == 3]) < 30


def test_nodes_that_are_killed_for_good_do_not_end_the_run():
    world, _ = simulate(struck({"kind": "kill", "host": 1, "of": 4, "at": "100ms"}))
    assert [node.round == 30 for node in world.nodes] == [node.id not in (3, 4, 5) for node in world.nodes]


def test_a_node_that_two_faults_keep_away_is_back_when_both_are_over():
    first = {"kind": "kill", "nodes": [3], "at": 0.1, "back": 0.2}
    second = {"kind": "kill", "nodes": [3, 4], "at": 0.2, "back": 0.3}
    paused = {"kind": "pause", "nodes": [3], "at": 0.15, "lasts": 0.5}
    world, written = simulate(struck(first, second, paused))
    of_3 = [(round(time, 9), kind) for time, node, kind, _ in written.happened if node == 3]
    assert of_3[:3] == [(0.1, "left"), (0.5, "returned"), (0.65, "continued")]
    assert [node.round for node in world.nodes] == [30] * 12


def test_what_a_paused_node_misses_waits_for_it():
    network = {"compute": 1000.0, "bandwidth": None}
    world, written = simulate(struck(KINDS["pause"], program={"kind": "gossip", "topology": "ring"}, network=network))
    plain, unstruck = simulate(table(rounds=30, network=network))
    assert torch.equal(models_of(world), models_of(plain))
    assert [row[:2] + row[4:7] for row in sorted(written.rows)] == [row[:2] + row[4:7] for row in sorted(unstruck.rows)]
    assert [*map(counters_of, world.nodes)] == [*map(counters_of, plain.nodes)]
    assert not any(0.1 < row[2] < 0.3 for row in written.rows if row[0] in (3, 4))
    assert world.now == pytest.approx(plain.now + 0.2, abs=0.05)


def test_halves_that_are_cut_apart_continue_and_join_again():
    cut = {"kind": "cut", "nodes": list(range(6)), "at": "200ms", "lasts": "1s"}
    task = {"partition": {"kind": "shards", "per_node": 1}}
    tables = struck(cut, rounds=80, program=EPIDEMIC, task=task, evaluation={"every": 1})
    world, written = simulate(tables)
    assert [node.round for node in world.nodes] == [80] * 12
    assert world.refused["cut"] > 0
    dropped = {name: value for _, _, name, value in written.of_hosts}
    assert dropped.pop("dropped/cut") == world.refused["cut"]
    assert sum(dropped.values()) == sum(node.mail.dropped for node in world.nodes)
    times = {completed: max(row[2] for row in written.rows if row[1] == completed) for completed in range(1, 81)}
    distance = {t: value for _, t, name, value in written.figures if name == "consensus_distance"}
    during = max(value for t, value in distance.items() if 0.8 < times[t] < 1.2)
    after = distance[80]
    assert after < 0.7 * during
    assert ("cut", "nodes 0, 1, 2, 3, 4, 5 cut off from the others for 1 s") in {
        event[2:] for event in written.happened
    }


def test_single_links_are_cut_in_both_directions(overheard):
    world, _ = simulate(struck({"kind": "cut", "links": [[3, 4], [7, 6]], "at": 0}, rounds=5))
    sent = [(message.sender, to, message.tag) for message in overheard for to in message.receivers]
    cut = [tag for sender, to, tag in sent if {sender, to} in ({3, 4}, {6, 7})]
    assert cut.count("") == 4 * 5
    assert world.refused["cut"] == len(cut)
    assert {node.id for node in world.nodes if node.mail.messages_in < 10} == {3, 4, 6, 7}


def test_slow_nodes_are_slow_while_the_fault_lasts():
    slow = {"kind": "slow", "nodes": [3], "at": 0.1, "lasts": 0.4, "compute": 4}
    tables = struck(slow, program={"kind": "gossip-learning", "topology": "ring", "period": "20ms"}, rounds=30)
    world, _ = simulate(tables)
    assert world.speeds == [world.speeds[0]] * 12

    network = {"compute": 1000.0, "bandwidth": None, "latency": 0.0}
    _, written = simulate(struck(slow, program={"kind": "gossip", "topology": "ring"}, network=network))
    times = sorted(row[2] for row in written.rows if row[0] == 3)
    took = {round(after - before, 3) for before, after in zip([0.0, *times], times, strict=False)}
    assert {0.016, 0.064} <= took


@pytest.mark.parametrize("queue", ["fifo", "fair"])
def test_slow_uplinks_take_longer_for_what_they_send(queue):
    # A message takes 1.05 ms of its uplink.
    network = {"queue": queue, "latency": 0.0, "compute": 1e9}
    ring = {"kind": "gossip", "topology": "ring"}
    plain, _ = simulate(table(program=ring, network=network, rounds=10))
    for fault in ({"nodes": [3]}, {"links": [[3, 4], [4, 5]]}):
        world, _ = simulate(
            struck({"kind": "slow", **fault, "at": 0, "uplink": 10}, program=ring, network=network, rounds=10)
        )
        assert world.now > 3 * plain.now
        assert [node.bytes_out for node in world.nodes] == [node.bytes_out for node in plain.nodes]


def test_corrupt_messages_are_dropped_and_counted():
    world, _ = simulate(struck({"kind": "corrupt", "nodes": [3], "at": 0, "probability": 0.3}, rounds=100))
    sent, arrived = (sum(getattr(part, name) for part in parts) for parts, name in (
        (world.nodes, "messages_out"), ([node.mail for node in world.nodes], "messages_in")))  # fmt: skip
    assert world.refused["corrupt"] == sent - arrived
    assert 0.15 < world.refused["corrupt"] / world.nodes[3].messages_out < 0.45


def test_whoever_waits_for_ever_is_refused_without_patience():
    for fault in ({**KINDS["kill"], "rate": 5}, {**KINDS["cut"], "rate": 5}):
        fault.pop("at")
        with pytest.raises(
            ProgramError, match=r"wait for messages that cannot arrive.* give the program some 'patience'"
        ):
            simulate(struck(fault, program=IMPATIENT, rounds=500))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_faults_continues_from_its_checkpoints(kind):
    tables = struck(KINDS[kind], checkpoint={"every": 5})
    _, written = simulate(tables)
    assert len(written.checkpoints) > 2
    for _, payload in written.checkpoints:
        resumed, rewritten = simulate(tables, checkpoint=wire.decode(wire.encode(payload)).payload)
        assert [node.round for node in resumed.nodes] == [30] * 12
        for node in resumed.nodes:
            rows = sorted(row[1] for row in rewritten.rows if row[0] == node.id)
            assert rows == sorted(set(rows))
            assert all(round > int(payload["completed"][node.id]) for round in rows)
        clocks = payload["clocks"].tolist()
        for name in ("returned", "continued"):
            found = [(node, round(time, 9)) for time, node, what, _ in rewritten.happened if what == name]
            expected = [
                (node, round(time, 9))
                for time, node, what, _ in written.happened
                if what == name and clocks[node] < 0.1
            ]
            assert found == expected


def test_who_is_slow_is_still_slow_after_a_resume():
    slow = {"kind": "slow", "nodes": [3], "at": 0.1, "compute": 5}
    tables = struck(slow, program={"kind": "gossip", "topology": "ring"}, checkpoint={"every": 10})
    whole, written = simulate(tables)
    _, payload = written.checkpoints[0]
    resumed, rewritten = simulate(tables, checkpoint=wire.decode(wire.encode(payload)).payload)
    assert resumed.now == pytest.approx(whole.now, rel=0.1)
    assert [event for event in rewritten.happened if event[2] == "slow"] == [
        (0.1, -1, "slow", "training at node 3 takes 5 times longer")
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("program", ["fedavg", "ad-psgd", "gossip-learning"])
def test_other_programs_live_through_faults_too(program, kind):
    patience = {} if program == "gossip-learning" else {"patience": "50ms"}
    world, _ = simulate(struck(KINDS[kind], program={**PROGRAMS[program], **patience}, rounds=20))
    assert [node.round for node in world.nodes] == [20] * 12
    assert all(node.mail.ended for node in world.nodes)


def test_who_is_missed_leaves_its_weight_as_the_aggregation_says(monkeypatch):
    weights = {}
    for kind, cls in (("mean", Mean), ("metropolis-hastings", MetropolisHastings)):
        merge = cls.merge

        def watched(self, node, graph, own, contributions, merge=merge, kind=kind):
            mixture = merge(self, node, graph, own, contributions)
            weights[kind, len(contributions)] = mixture.weights
            return mixture

        monkeypatch.setattr(cls, "merge", watched)
        cut = {"kind": "cut", "links": [[3, 4]], "at": 0}
        simulate(struck(cut, program={**PATIENT, "aggregation": kind}, rounds=3))
    for (kind, heard), found in weights.items():
        expected = [1 / (heard + 1)] * (heard + 1) if kind == "mean" else [1 - heard / 3, *[1 / 3] * heard]
        assert found == pytest.approx(expected)
    assert {heard for _, heard in weights} == {1, 2}


def test_the_faults_that_the_documentation_shows_are_valid():
    shown = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "faults.md").read_text(), flags=re.M | re.S)
    assert shown
    for text in shown:
        check(Experiment.from_table(struck(*tomllib.loads(text)["faults"])))


OWN = "tests.programs.own"


def test_a_fault_of_ones_own_decides_on_messages():
    muted = {"kind": f"{OWN}:Muted", "nodes": [3, 4], "at": 0}
    world, written = simulate(struck(muted))
    assert world.refused["muted"] == sum(world.nodes[node].messages_out for node in (3, 4)) > 0
    assert world.refused["cut"] == 0
    (event,) = written.happened
    assert event[1:] == (NETWORK, f"{OWN}:Muted", f"nodes 3, 4 struck by the fault {OWN}:Muted")
    cut, _ = simulate(struck({**muted, "kind": "cut"}))
    assert cut.refused["cut"] > 0
    assert not torch.equal(models_of(world), models_of(cut))


def test_a_fault_of_ones_own_strikes_nodes_until_it_is_over():
    tired = {"kind": f"{OWN}:Tired", "nodes": [3], "at": 0.1}
    _, written = simulate(struck(tired, program={"kind": "gossip", "topology": "ring"}))
    assert [(round(time, 9), node, kind) for time, node, kind, _ in written.happened if node == 3] == [
        (0.1, 3, "paused"), (0.4, 3, "continued"),
    ]  # fmt: skip
    assert not any(0.1 < row[2] < 0.4 for row in written.rows if row[0] == 3)


def test_a_fault_of_ones_own_slows_nodes_while_it_lasts():
    weary = {"kind": f"{OWN}:Weary", "nodes": [3, 9], "at": 0.1}
    network = {"compute": 1000.0, "bandwidth": None, "latency": 0.0}
    world, written = simulate(struck(weary, program={"kind": "gossip", "topology": "ring"}, network=network))
    assert world.speeds == [world.speeds[0]] * 12
    for node, slower in ((3, 5), (9, 11)):
        times = sorted(row[2] for row in written.rows if row[0] == node)
        took = {round(after - before, 3) for before, after in pairwise(times)}
        assert {0.016, round(0.016 * slower, 3)} <= took


@pytest.mark.parametrize("fate", [0.0, None, True, float("nan")])
def test_a_fate_that_cannot_be_is_reported_as_the_faults(fate):
    class Odd(Muted):
        def fate(self, sender, receiver, chance):
            return fate

    with pytest.raises(ConfigurationError, match=r"The fate of a message by the fault .*Odd must be a positive number"):
        simulate(struck(Odd(nodes=[3], at=0.0)))


def test_a_slowdown_that_cannot_be_is_reported_as_the_faults():
    class Odd(Muted):
        def slowdown(self, node):
            return "much"

    with pytest.raises(
        ConfigurationError, match=r"The slowdown of node 3 by .*Odd must be a positive number\. Got 'much'"
    ):
        simulate(struck(Odd(nodes=[3], at=0.0)))


def test_a_fault_that_may_lose_messages_needs_patience():
    experiment = Experiment.from_table(
        struck({"kind": f"{OWN}:Muted", "nodes": [3], "at": 0}, program={"kind": "gossip", "topology": "ring"})
    )
    with pytest.raises(ConfigurationError, match="patience"):
        check(experiment)
