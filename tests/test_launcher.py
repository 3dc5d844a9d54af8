"""The launcher against hosts that the test plays: its orders, its records, and its end."""

import asyncio
import os
import signal
import subprocess
import threading
from functools import wraps
from types import SimpleNamespace

import pytest
import torch

from covey.learning.average import Average
from covey.parts.errors import RunError
from covey.runtime.emulation.host.reporter import Reporter
from covey.runtime.emulation.host.stage import HostStage
from covey.runtime.emulation.launcher import launcher, recovery
from covey.runtime.experiment import Experiment
from covey.runtime.mailbox import Mailbox
from covey.runtime.prepared import prepare
from covey.runtime.running_node import RunningNode
from tests.conftest import Written, table
from tests.puppets import PARAMETERS, PATIENT, READY, row, share, snapshots, soon, stage
from tests.snapshots import Learned, Snapshot, packed


def kill(host, at="150ms", back="100ms", of=2):
    return {"kind": "kill", "host": host, "of": of, "at": at, **({"back": back} if back else {})}


def in_loop(test):
    """Run a test in an event loop of its own."""

    @wraps(test)
    def run(*arguments, **named):
        asyncio.run(test(*arguments, **named))

    return run


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


# ---------------------------------------------------------------------- rows of who comes back


@in_loop
async def test_however_many_rounds_are_done_again_each_is_recorded_once(tmp_path):
    async with stage(tmp_path, faults=[kill(1)]) as on:
        _, right = on.puppets
        right.rows([row(2, t, 0.1) for t in range(1, 10)], [(2, t, "mine", 1.0) for t in range(1, 11)])
        right.say("snapshots", snapshots([2, 3], 5))
        await right.receives("die")
        right.vanish()
        await right.get_ready(calls=2)
        for t in range(6, 12):
            right.rows(figures=[(2, t, "mine", 2.0)])
            right.rows([row(2, t, 0.3)])
        await on.ends()
        assert on.commits() == [(2, t, 0.1 if t < 6 else 0.3) for t in range(1, 12)]
        assert on.figures(2) == [(t, "mine", 1.0 if t < 6 else 2.0) for t in range(1, 12)]


@in_loop
async def test_no_committed_row_is_lost_where_who_comes_back_skips_its_round(tmp_path):
    async with stage(tmp_path, faults=[kill(1)]) as on:
        _, right = on.puppets
        right.rows([row(2, t, 0.1) for t in range(1, 5)], [(2, t, "mine", 1.0) for t in range(1, 6)])
        right.say("snapshots", snapshots([2, 3], 2))
        await right.receives("die")
        right.vanish()
        await right.get_ready(calls=2)
        right.rows([row(2, 9, 0.3)], [(2, 9, "mine", 2.0)])
        await on.ends()
        assert on.commits() == [*((2, t, 0.1) for t in range(1, 5)), (2, 9, 0.3)]
        # Of the round that was open when the host died there is no row.
        assert on.figures(2) == [*((t, "mine", 1.0) for t in range(1, 5)), (9, "mine", 2.0)]


@in_loop
async def test_drops_are_summed_over_all_times_that_a_host_was_there(tmp_path):
    async with stage(tmp_path, faults=[kill(1)]) as on:
        _, right = on.puppets
        right.heartbeat(dropped__cut=3.0, memory=10.0)
        right.heartbeat(dropped__cut=5.0, memory=20.0)
        await right.receives("die")
        right.vanish()
        await right.get_ready(calls=2)
        right.heartbeat(dropped__cut=2.0, memory=7.0)
        await on.ends()
        assert on.rows("SELECT rowid, value FROM hosts WHERE name = 'dropped/cut'") == [(1, 3.0), (3, 5.0), (5, 7.0)]
        assert on.rows("SELECT rowid, value FROM hosts WHERE name = 'memory'")[-1][1] == 7.0


# ---------------------------------------------------------------------- averages


def distance(models):
    mean = sum(models) / len(models)
    return PARAMETERS * sum((model - mean) ** 2 for model in models) / len(models)


@in_loop
async def test_what_a_host_reports_again_of_an_average_replaces_its_first_report(tmp_path):
    async with stage(tmp_path, faults=[kill(1, at="300ms")]) as on:
        left, right = on.puppets
        left.say("average", share(2, [1.0, 2.0]))
        for completed in (2, 4):
            right.say("average", share(completed, [3.0, 4.0]))
        await right.receives("die")
        right.vanish()
        await right.get_ready(calls=2)
        right.say("average", share(2, [30.0, 40.0]))
        right.say("average", share(4, [5.0, 6.0]))
        left.say("average", share(4, [1.0, 2.0]))
        await on.ends()
        spread = [(t, value) for t, name, value in on.figures() if name == "consensus_distance"]
        assert spread == [(2, pytest.approx(distance([1, 2, 3, 4]))), (4, pytest.approx(distance([1, 2, 5, 6])))]
        assert len(on.figures()) == 6


@in_loop
async def test_rounds_to_which_nobody_adds_any_more_are_closed_before_the_end(tmp_path):
    async with stage(tmp_path, faults=[kill(1, back=None)]) as on:
        left, right = on.puppets
        right.say("average", share(2, [3.0, 4.0]))
        await right.receives("die")
        right.vanish()
        await left.receives("gone")
        left.say("average", share(2, [1.0, 2.0]))
        left.say("average", share(4, [1.0]))
        left.say("passed", {"round": 4})
        await soon(lambda: len(on.figures()) == 6)
        spread = {t: value for t, name, value in on.figures() if name == "consensus_distance"}
        assert spread == {2: pytest.approx(distance([1, 2, 3, 4])), 4: 0.0}
        await on.ends()


@in_loop
async def test_averages_are_evaluated_beside_the_event_loop_and_before_the_checkpoint_of_their_round(
    tmp_path, monkeypatch
):
    threads, released, splits = [], threading.Event(), []
    figures = Average.figures

    def slow(average):
        threads.append(threading.current_thread())
        splits.append(average._split())
        assert released.wait(10)
        return figures(average)

    monkeypatch.setattr(Average, "figures", slow)
    async with stage(tmp_path, every=2) as on:
        for puppet in on.puppets:
            puppet.say("average", share(2, [1.0, 2.0]))
            puppet.say("average", share(4, [1.0, 2.0]))
            puppet.say("snapshots", snapshots(puppet.nodes, 2))
            puppet.rows([row(puppet.nodes[0], 5)])
        # While the average is evaluated, the launcher goes on reception.
        await soon(lambda: len(on.commits()) == 2)
        assert not list((on.folder / "checkpoints").iterdir())
        released.set()
        await soon(lambda: len(on.figures()) == 6)
        await soon(lambda: list((on.folder / "checkpoints").iterdir()))
        assert on.checkpoint() == [2] * 4
        assert threading.main_thread() not in threads
        assert splits[0] is splits[1]
        await on.ends()


def test_a_host_sends_averages_that_nodes_have_passed_and_says_so(monkeypatch):
    said = []
    monkeypatch.setattr(
        "covey.runtime.emulation.host.reporter.say", lambda _, tag, payload: said.append((tag, payload["round"]))
    )
    nodes = {
        id: SimpleNamespace(id=id, round=round, mail=SimpleNamespace(ended=id == 2))
        for id, round in enumerate([4, 6, 1])
    }
    prepared, network = SimpleNamespace(evaluated=[0, 1, 2]), SimpleNamespace(energy=None)
    site = SimpleNamespace(nodes=nodes, here=nodes, rounds=9, prepared=prepared, network=network)
    reporter = Reporter(site, None)
    average = SimpleNamespace(freeze=dict)
    reporter.summaries = {2: average, 4: average, 6: average}
    reporter._send_averages()
    reporter._send_averages()
    assert said == [("average", 2), ("average", 4), ("passed", 4)]
    reporter.pending = [(1, 6, None)]
    nodes[0].round = 9
    reporter._send_averages()
    assert said[3:] == [("passed", 5)]


# ---------------------------------------------------------------------- orders


@in_loop
async def test_two_hosts_that_are_away_at_once_both_come_back_and_learn_who_is_gone(tmp_path):
    faults = [kill(1, of=3, back="400ms"), kill(2, of=3, at="250ms", back="100ms")]
    async with stage(tmp_path, 3, faults=faults) as on:
        first, second, third = on.puppets
        assert [puppet.said("go")["gone"] for puppet in on.puppets] == [[], [], []]
        for puppet in (second, third):
            await puppet.receives("die")
            puppet.vanish()
        await soon(lambda: third.calls == 2)
        await third.receives("orders")
        await soon(lambda: second.calls == 2)
        await second.receives("orders")
        # Both make ready now, and take no other orders.
        third.say("ready", READY)
        await third.receives("go")
        await asyncio.sleep(0.05)
        assert second.tags == ["orders"]
        assert third.said("go")["gone"] == [1]
        second.say("ready", READY)
        await second.receives("go")
        await soon(lambda: "here" in third.tags)
        assert second.tags == ["orders", "restore", "restore", "go"]
        assert second.said("go")["gone"] == []
        reported = [(frame.tag, frame.payload["host"]) for frame in first.frames if frame.tag in ("gone", "here")]
        assert reported == [("gone", 1), ("gone", 2), ("here", 2), ("here", 1)]
        assert (await on.ends()).finished


@in_loop
async def test_a_pause_that_strikes_a_host_that_makes_ready_follows_when_it_goes(tmp_path):
    pause = {"kind": "pause", "host": 1, "of": 2, "at": "250ms", "lasts": "60s"}
    async with stage(tmp_path, faults=[kill(1, back="10ms"), pause]) as on:
        _, right = on.puppets
        await right.receives("die")
        right.vanish()
        await soon(lambda: right.calls == 2)
        await right.receives("orders")
        await asyncio.sleep(0.3)
        assert right.tags == ["orders"]
        right.say("ready", READY)
        assert 20 < (await right.receives("pause"))["seconds"] < 60
        assert right.tags == ["orders", "restore", "restore", "go", "pause"]


@in_loop
async def test_a_second_kill_while_a_host_makes_ready_lets_it_come_back_after_both(tmp_path):
    async with stage(tmp_path, faults=[kill(1, back="10ms"), kill(1, at="300ms", back="100ms")]) as on:
        _, right = on.puppets
        await right.receives("die")
        right.vanish()
        await soon(lambda: right.calls == 2)
        await right.get_ready(calls=3)
        assert (await on.ends()).finished
        assert on.events("returned") == [(2, "returned"), (3, "returned")]


@in_loop
async def test_a_host_that_ends_between_ready_and_go_is_named(tmp_path):
    async with stage(tmp_path, begun=False) as on:
        _, right = on.puppets
        await right.receives("orders")
        right.say("ready", READY)
        await asyncio.sleep(0.1)
        right.vanish()
        with pytest.raises(RunError, match=r"^Host 1 ended before it was ready\.$"):
            await on.running


# ---------------------------------------------------------------------- who is gone without a fault


@in_loop
async def test_a_host_of_others_that_is_lost_is_called_again(tmp_path):
    async with stage(tmp_path, program=PATIENT) as on:
        left, right = on.puppets
        right.vanish()
        await right.get_ready(calls=2)
        assert right.said("go")["returning"]
        assert [frame.tag for frame in left.frames if frame.tag in ("gone", "here")] == ["gone", "here"]
        assert any("is gone. The launcher calls it for 5 seconds" in notice for notice in on.notices)
        assert (await on.ends()).finished


@in_loop
async def test_a_host_that_is_not_to_be_called_again_is_gone(tmp_path):
    async with stage(tmp_path, program=PATIENT, engine={"restarts": 0}) as on:
        _, right = on.puppets
        right.say("snapshots", snapshots([2, 3], 5))
        await soon(lambda: on.launcher.records.checkpoints.came == 2)
        right.vanish()
        with pytest.raises(
            RunError, match=r"^Host 1 at 127\.0\.0\.1:\d+ is gone\. Resume with: covey run --resume .*/run$"
        ):
            await on.running
        assert on.checkpoint() == [0, 0, 5, 5]


@in_loop
async def test_a_host_is_called_again_so_many_times_within_so_many_seconds(tmp_path):
    async with stage(tmp_path, program=PATIENT, engine={"restarts": 2, "restarts_within": "600ms"}) as on:
        _, right = on.puppets
        for calls in (2, 3, 4, 5):
            await asyncio.sleep(0.35)
            right.vanish()
            await right.get_ready(calls=calls)
        right.vanish()
        with pytest.raises(
            RunError, match=r"is gone\. Hosts were started again 2 times within 0\.6 seconds\. Resume with"
        ):
            await on.running


@in_loop
async def test_a_host_that_ends_while_it_makes_ready_to_return_is_called_again(tmp_path):
    async with stage(tmp_path, program=PATIENT) as on:
        _, right = on.puppets
        right.vanish()
        await soon(lambda: right.calls == 2)
        await right.receives("orders")
        right.vanish()
        await right.get_ready(calls=3)
        assert (await on.ends()).finished


@in_loop
async def test_a_host_that_says_nothing_is_taken_for_gone_but_not_while_a_fault_pauses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "_SILENCE", 0.4)
    monkeypatch.setattr(recovery, "_LOOK", 0.05)
    pause = {"kind": "pause", "host": 0, "of": 2, "at": 0, "lasts": "5s"}
    async with stage(tmp_path, faults=[pause]) as on:
        left, right = on.puppets
        for _ in range(6):
            await asyncio.sleep(0.1)
            right.heartbeat()
        assert right.calls == 1
        await soon(lambda: right.calls == 2)
        assert left.calls == 1


@in_loop
async def test_what_nodes_wait_for_is_reported_when_nobody_makes_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "_QUIET", 0.4)
    monkeypatch.setattr(recovery, "_LOOK", 0.05)
    async with stage(tmp_path) as on:
        left, right = on.puppets
        left.heartbeat(waits=["node 0 in round 3 for messages of round 3 of [2]"])
        right.heartbeat(idle=False)
        await asyncio.sleep(0.6)
        assert not on.notices  # Somebody still computes.
        right.heartbeat(waits=["node 2 in round 3 for messages of round 3 of [1]"])
        await soon(lambda: on.notices)
        assert "and 4 nodes wait: node 0 in round 3 for messages of round 3 of [2]; node 2 in" in on.notices[0]
        assert on.events("stuck") == [(-1, "stuck")]
        right.rows([row(2, 4)])
        await on.ends()


# ---------------------------------------------------------------------- resuming


@in_loop
async def test_a_resumed_run_notes_what_was_forgotten_of_the_faults_and_strikes_nobody_twice(tmp_path):
    each = [
        Snapshot(5, {}, Learned(torch.zeros(PARAMETERS), None), None, [0] * 9, clock=clock)
        for clock in (10.0, 10.0, 20.0, 20.0)
    ]
    cut = {"kind": "cut", "nodes": [0]}
    faults = [
        {**cut, "at": 3, "lasts": 1},  # Over.
        {**cut, "at": 5, "lasts": 1000},  # Under way, and noted.
        {**cut, "at": 15, "lasts": 1},  # Over, and noted after the moment from which the run goes on.
        {**cut, "at": 20.1, "lasts": 1},
        kill(1, at=12, back="1s"),  # Over.
    ]
    async with stage(tmp_path, checkpoint={"round": 5, **packed(each)}, faults=faults) as on:
        assert on.puppets[0].said("go")["elapsed"] == pytest.approx(20, abs=1)
        await soon(lambda: len(on.events("cut")) == 2)
        await asyncio.sleep(0.1)
        assert [time for (time,) in on.rows("SELECT time FROM events WHERE kind = 'cut'")] == [15, 20.1]
        assert "die" not in on.puppets[1].tags
        await on.ends()


@in_loop
async def test_hosts_hear_that_the_launcher_is_there_from_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_HEARTBEAT", 0.02)
    async with stage(tmp_path, begun=False) as on:
        for puppet in on.puppets:
            await soon(lambda puppet=puppet: puppet.calls == 1 and puppet.tags.count("heartbeat") > 2)
            assert puppet.tags[0] == "orders"
            assert "go" not in puppet.tags
        await asyncio.gather(*(puppet.get_ready() for puppet in on.puppets))
        for puppet in on.puppets:
            before = puppet.tags.count("heartbeat")
            await soon(lambda puppet=puppet, before=before: puppet.tags.count("heartbeat") > before)
        await on.ends()


# ---------------------------------------------------------------------- what fails beside the main course


def test_a_process_that_cannot_be_started_ends_the_run_with_one_line(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(Written, "logs", lambda written: tmp_path, raising=False)
    experiment = Experiment.from_table(table(engine={"kind": "emulation", "nodes_per_process": 6}))
    prepared = prepare(experiment, **experiment.engine.compute_settings())
    with pytest.raises(
        RunError, match=r"^The process of host 0 cannot be started: Resource temporarily unavailable\.$"
    ):
        experiment.engine.execute(prepared, Written())
    prepared.task.close()


@in_loop
async def test_what_fails_while_a_host_comes_back_ends_the_run(tmp_path, monkeypatch):
    def fail(records, host, nodes):
        raise ValueError("something is wrong")

    monkeypatch.setattr("covey.runtime.emulation.launcher.records.Records.begin_again", fail)
    async with stage(tmp_path, program=PATIENT) as on:
        _, right = on.puppets
        right.vanish()
        await soon(lambda: right.calls == 2)
        await right.receives("orders")
        right.say("ready", READY)
        with pytest.raises(RunError, match=r"^The launcher failed: ValueError: something is wrong"):
            await on.running


@in_loop
async def test_an_activity_that_ends_while_its_node_stands_still_is_not_woken():
    node = RunningNode.__new__(RunningNode)
    node.held, node.mail = [], Mailbox()
    waiting = asyncio.create_task(HostStage._awake(HostStage.__new__(HostStage), node))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    node.release()
    assert node.held is None
