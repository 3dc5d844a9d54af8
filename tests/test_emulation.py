"""The emulation against the simulation: the same graphs, the same bytes, the same models."""

import asyncio

import pytest
import torch

from covey.learning.node import LearningNode, LearningProgram
from covey.parts import kinds
from covey.parts.errors import ModelError, ProgramError
from covey.parts.parameters import param
from covey.runtime.emulation.launcher import sampling
from covey.runtime.emulation.transport.connection import FRAMING_BYTES
from covey.runtime.sampler import simulated_secret
from tests.conftest import Written, begun, models_of, simulate, table
from tests.examples import IN_FLEET, IN_NETWORK, IN_PROGRAM, PROGRAMS, RUNS, SYNCHRONOUS, run_table
from tests.hosts import emulate, hosts, launch

QUICK = {"latency": 0.0, "bandwidth": None, "compute": 1e6}


@pytest.fixture(autouse=True)
def sampler_of_the_simulation(monkeypatch):
    """Launchers draw names with the secret of the simulation of seed 3, so that both engines have the same graphs."""
    monkeypatch.setattr(sampling.secrets, "randbits", lambda bits: simulated_secret(3))


def assert_agree(tables, folder, count):
    world, simulated = simulate(tables)
    outcome, emulated = emulate(tables, folder, count)
    expected = models_of(world)
    assert outcome.finished
    assert torch.allclose(outcome.models, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))

    def counted(rows):
        # All but times, losses, and messages that came early, which real time may bring in another round.
        return sorted((row[0], row[1], row[4], row[5], row[6], row[8]) for row in rows)

    assert counted(emulated.rows) == counted(simulated.rows)
    totals = [{row[0]: (row[7], row[9]) for row in sorted(written.rows)} for written in (simulated, emulated)]
    assert totals[0] == totals[1]
    figures = [{(n, t, name): v for n, t, name, v in written.figures} for written in (simulated, emulated)]
    assert figures[0].keys() == figures[1].keys()
    for key, value in figures[0].items():
        assert figures[1][key] == pytest.approx(value, rel=1e-3, abs=1e-3), key


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_the_engines_agree(name, count, tmp_path):
    assert_agree(table(program=PROGRAMS[name], network=QUICK), tmp_path, count)


GOSSIP = [run for run in RUNS if run[0] in IN_PROGRAM]
REST = [
    (family, kind)
    for family, kind in RUNS
    if family not in (*IN_PROGRAM, *IN_NETWORK, *IN_FLEET)
    and (family != "program" or kinds.load(family, kind).synchronous)
]


@pytest.mark.parametrize(("family", "kind"), GOSSIP)
def test_the_engines_agree_on_every_part_of_gossip(family, kind, files, tmp_path):
    # With more hosts, more of what nodes exchange leaves its process.
    assert_agree(run_table(family, kind, files, network=QUICK, rounds=3), tmp_path, 4 if family == "sharing" else 2)


@pytest.mark.parametrize(("family", "kind"), REST)
def test_the_engines_agree_on_every_task_and_program(family, kind, files, tmp_path):
    # A relay is neither end's host.
    count = 3 if kind == "shatter-apart" else 2
    assert_agree(run_table(family, kind, files, network=QUICK, rounds=3), tmp_path, count)


def test_the_engines_agree_where_messages_pass_relays(tmp_path):
    program = {"kind": "shatter", "virtual_nodes": 3, "degree": 2, "permutation": "every-round", "exclude_own": True}
    assert_agree(table(program=program, network=QUICK, rounds=3), tmp_path, 4)


@pytest.mark.parametrize("family", ["latency", "bandwidth", "compute"])
def test_the_engines_agree_whatever_the_network(family, files, tmp_path):
    for kind in [kind for of, kind in RUNS if of == family]:
        assert_agree(run_table(family, kind, files, rounds=2), tmp_path, 2)


@pytest.mark.parametrize("queue", ["fifo", "fair"])
def test_the_engines_agree_where_links_are_slow(queue, tmp_path):
    network = {"latency": "2ms", "bandwidth": "2Mbit/s", "compute": 1e5, "queue": queue}
    assert_agree(table(program=PROGRAMS["ring"], network=network, rounds=3), tmp_path, 2)


def test_the_bytes_that_are_counted_go_through_the_sockets(tmp_path):
    outcome, written = emulate(table(program=PROGRAMS["ring"], network=QUICK, rounds=4), tmp_path)
    figures = {(host, name): value for _, host, name, value in written.of_hosts}
    assert outcome.finished
    sent = sum(row[6] for row in written.rows if row[1] == 4)
    # On a ring of twelve in two halves, two of each half's twelve directed edges lead to the other half.
    crossing = sent * 4 // 24
    payload = sum(value for (_, name), value in figures.items() if name == "payload_bytes_out")
    frames = sum(value for (_, name), value in figures.items() if name == "frames_out")
    through = sum(value for (_, name), value in figures.items() if name == "socket_bytes_out")
    assert payload == crossing
    handshake = through - payload - frames * FRAMING_BYTES
    assert 0 < handshake < 1000


def test_ad_psgd_keeps_the_sum_of_the_models_where_nothing_is_learned(tmp_path):
    task = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
    tables = table(program=PROGRAMS["ad-psgd"], task=task, network=QUICK, rounds=6)
    before = torch.stack([node.model for node in begun(tables).nodes]).double().sum(0)
    outcome, written = emulate(tables, tmp_path, 3)
    assert torch.allclose(outcome.models.double().sum(0), before, atol=1e-4)
    assert not torch.allclose(outcome.models[0], outcome.models[5], atol=1e-3)
    assert sorted(row[:2] for row in written.rows) == [(n, t) for n in range(12) for t in range(1, 7)]


def test_gossip_learning_sends_as_many_models_as_in_simulation(tmp_path):
    tables = table(program=PROGRAMS["gossip-learning"], network={**QUICK, "compute": 1e4}, rounds=5)
    _, simulated = simulate(tables)
    outcome, emulated = emulate(tables, tmp_path, 2)
    assert outcome.finished
    ours, theirs = (sum(row[8] for row in written.rows if row[1] == 5) for written in (emulated, simulated))
    assert ours == theirs


def test_real_time_passes_as_the_network_asks(tmp_path):
    network = {"latency": "100ms", "bandwidth": "1Mbit/s", "compute": 160.0}
    tables = table(program=PROGRAMS["ring"], network=network, rounds=3)
    world, _ = simulate(tables)
    outcome, written = emulate(tables, tmp_path, 2)
    assert world.now <= outcome.time + 1e-3
    assert outcome.time < 2 * world.now + 2.0
    late = {name: value for _, _, name, value in written.of_hosts if name.endswith("_late")}
    assert {"send_late"} <= late.keys()
    assert max(late.values()) < 1.0
    rates = {(host, name): value for _, host, name, value in written.of_hosts if name.startswith("uplink_a")}
    for host in range(2):
        assert rates[host, "uplink_asked"] == pytest.approx(1e6)
        assert 0.05e6 < rates[host, "uplink_achieved"] <= 1e6 + 1


def test_lost_messages_are_counted(tmp_path):
    program = {"kind": "gossip", "topology": "ring", "patience": "20ms"}
    _, written = emulate(table(program=program, network={**QUICK, "loss": 0.3}), tmp_path)
    sent, came = (sum(row[index] for row in written.rows if row[1] == 6) for index in (8, 9))
    lost = {host: value for _, host, name, value in written.of_hosts if name == "dropped/lost"}
    assert 0.1 < sum(lost.values()) / sent < 0.5
    assert came <= sent - sum(lost.values())


class Overruns(LearningProgram):
    """Sends more in a round than its uplink carries until the next."""

    async def run(self, node: LearningNode) -> None:
        async for _ in node.rounds():
            if node.id == 0:
                node.send([1], {"x": torch.zeros(75_000)})


def test_a_node_that_sends_more_than_its_uplink_carries_waits_for_it(tmp_path):
    network = {"nodes": 2, "latency": 0.0, "bandwidth": None, "uplink": "20Mbit/s"}
    tables = table(program={"kind": "tests.test_emulation:Overruns"}, network=network, rounds=6)
    with hosts(2) as running:
        outcome, written = launch(tables, tmp_path, [address for _, address in running], buffer=1)
    assert outcome.finished
    assert "dropped/queue-full" not in {name for _, _, name, _ in written.of_hosts}
    ends = {row[1]: row[2] for row in written.rows if row[0] == 0}
    assert ends[6] > 0.4


@pytest.mark.parametrize("name", ["ring", "epidemic-oracle", "fedavg"])
def test_either_engine_continues_from_a_checkpoint_of_the_other(name, tmp_path):
    tables = table(program=PROGRAMS[name], network=QUICK, rounds=6, checkpoint={"every": 3})
    whole, simulated = simulate(tables)
    expected = models_of(whole)
    _, emulated = emulate(tables, tmp_path)
    assert [round for round, _ in emulated.checkpoints] == [3]
    for checkpoint in (simulated.checkpoints[0][1], emulated.checkpoints[0][1]):
        resumed, rewritten = emulate(tables, tmp_path, checkpoint=checkpoint)
        assert torch.allclose(resumed.models, expected, atol=1e-5)
        assert sorted({row[1] for row in rewritten.rows}) == [4, 5, 6]
    resumed_world, _ = simulate(tables, checkpoint=emulated.checkpoints[0][1])
    assert torch.allclose(models_of(resumed_world), expected, atol=1e-5)


def test_nodes_leave_and_come_back_in_real_time(tmp_path):
    trace = tmp_path / "churn.csv"
    trace.write_text("node,event,time\n3,crash,0.1\n3,return,0.5\n5,join,0.2\n7,leave,0.1\n")
    network = {**QUICK, "compute": 800.0, "churn": {"kind": "trace", "file": str(trace)}}
    tables = table(program={**PROGRAMS["ring"], "patience": "50ms"}, network=network, rounds=40)
    outcome, written = emulate(tables, tmp_path)
    assert outcome.finished
    kinds = {(node, kind) for _, node, kind, _ in written.happened}
    assert {(3, "left"), (3, "returned"), (5, "returned"), (7, "left")} <= kinds
    assert (7, "returned") not in kinds
    last = {row[0]: row[1] for row in sorted(written.rows)}
    assert {node for node, completed in last.items() if completed == 40} == set(range(12)) - {7}


def test_a_duration_ends_a_run_in_real_time(tmp_path):
    tables = table(program=PROGRAMS["ring"], network={**QUICK, "compute": 800.0}, rounds=10_000, duration="500ms")
    outcome, written = emulate(tables, tmp_path)
    assert outcome.finished
    assert 1 < max(row[1] for row in written.rows) < 100
    assert max(row[2] for row in written.rows) < 2.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"task": {"optimizer": {"kind": "sgd", "lr": 1e38}, "model": "mlp"}}, ModelError, "is not finite after"),
        (
            {"program": {"kind": "tests.programs.broken:Broken"}},
            ProgramError,
            r"Broken fails at node \d+ in round 1: Val",
        ),
    ],
)
def test_what_goes_wrong_at_a_node_ends_the_run_in_one_line(changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        emulate(table(network=QUICK, **changes), tmp_path)


class Heard(LearningProgram):
    """Hears itself at once, with much patience, and fails if timers of that are left."""

    async def run(self, node: LearningNode) -> None:
        for _ in range(50):
            node.spawn(self.speak(node))
            assert await node.receive(tag="x", count=1, timeout=3600.0)
        loop = asyncio.get_running_loop()
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        # Others may wait just now, each once.
        assert len([timer for timer in timers if timer.when() > loop.time() + 3000.0]) < node.nodes

    async def speak(self, node: LearningNode) -> None:
        """Say something after a moment."""
        await node.sleep(0.001)
        node.send(node.id, {}, tag="x")


class Keeps(LearningProgram):
    """Keeps what no checkpoint can hold."""

    early: bool = param("Whether it does from the first round on.")

    async def run(self, node: LearningNode) -> None:
        async for _ in node.rounds():
            if self.early:
                node.state["x"] = {1}  # type: ignore[assignment]
        node.state["x"] = {1}  # type: ignore[assignment]


def test_a_receive_that_returned_leaves_no_timer_behind(tmp_path):
    outcome, _ = emulate(table(program={"kind": "tests.test_emulation:Heard"}, network=QUICK), tmp_path)
    assert outcome.finished


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("every", [0, 1])
def test_a_state_that_no_checkpoint_can_hold_ends_the_run_in_one_line(early, every, tmp_path):
    program = {"kind": "tests.test_emulation:Keeps", "early": early}
    tables = table(program=program, network=QUICK, rounds=2, checkpoint={"every": every}, evaluation={"nodes": 1})
    with pytest.raises(ProgramError, match=r"^The 'x' in the state of node \d+ must be .* Got \{1\} instead: "):
        emulate(tables, tmp_path)


def test_a_checkpoint_counts_on_no_figure_that_is_not_written(tmp_path, monkeypatch):
    written_by_then = {}

    def checkpoint(written, round, payload, keep):
        written_by_then[round] = {(node, t) for node, t, _, _ in written.figures}

    monkeypatch.setattr(Written, "checkpoint", checkpoint)
    emulate(table(program=PROGRAMS["ring"], network=QUICK, rounds=6, checkpoint={"every": 2}), tmp_path)
    assert written_by_then.keys() == {2, 4}
    for round, figures in written_by_then.items():
        assert figures >= {(node, t) for node in range(-1, 12) for t in range(2, round + 1, 2)}
