"""All hosts return to the last cut after the loss of one for which the others would wait for ever."""

import asyncio
import os
import signal
import threading
from time import monotonic, sleep

import numpy as np
import pytest
import torch

from covey import api
from covey.parts.errors import RunError
from covey.runtime.runs.schema import NETWORK
from tests.conftest import models_of, simulate, table
from tests.hosts import hosts, launch, processes_of
from tests.puppets import READY, row, share, snapshots, soon, stage
from tests.test_faults_in_emulation import REAL, rows_of, sound
from tests.test_launcher import in_loop, interrupt


async def have_completed(on, completed):
    """All hosts report rows, figures and snapshots up to a round, of which there is a checkpoint then."""
    for puppet in on.puppets:
        puppet.rows([row(n, t) for n in puppet.nodes for t in range(1, completed + 1)])
        puppet.say("average", share(completed, [1.0, 2.0]))
        puppet.say("snapshots", snapshots(puppet.nodes, completed))
    await soon(lambda: list((on.folder / "checkpoints").iterdir()))


async def all_begin_again(on, calls=2):
    await asyncio.gather(*(puppet.get_ready(calls=calls) for puppet in on.puppets))


@in_loop
async def test_all_hosts_go_back_to_the_last_cut_and_what_followed_it_is_replaced(tmp_path):
    async with stage(tmp_path, every=2) as on:
        left, right = on.puppets
        await have_completed(on, 2)
        left.rows([row(0, t) for t in (3, 4)], [(0, 3, "mine", 1.0)], [(0.3, 0, "rejected", "x")])
        left.say("average", share(4, [5.0, 6.0]))
        left.say("snapshots", snapshots([0, 1], 4))
        await soon(lambda: len(on.commits()) == 10)
        first, name = left.connection, on.launcher.run_name
        right.vanish()
        await all_begin_again(on)
        assert on.launcher.run_name != name
        assert first.lost.done()
        for puppet in on.puppets:
            assert puppet.tags[:4] == ["orders", "restore", "restore", "go"]
            assert [frame.payload["completed"].tolist() for frame in puppet.frames[1:3]] == [[2], [2]]
            assert not puppet.said("go")["returning"]
        assert [commit[:2] for commit in on.commits()] == [(n, t) for n in range(4) for t in (1, 2)]
        assert on.figures(0) == []
        for puppet in on.puppets:
            puppet.rows([row(n, t, 0.5) for n in puppet.nodes for t in (3, 4)])
            puppet.say("average", share(4, [1.0, 1.0]))
            puppet.say("snapshots", snapshots(puppet.nodes, 4))
        await soon(lambda: on.checkpoint() == [4] * 4)
        assert (await on.ends()).finished
        assert on.commits() == [(n, t, 0.1 if t < 3 else 0.5) for n in range(4) for t in range(1, 5)]
        assert [value for t, name, value in on.figures() if (t, name) == (4, "consensus_distance")] == [0.0]
        kinds = [kind for _, kind in on.rows("SELECT rowid, kind FROM events")]
        assert kinds == ["host lost", "rolled back"]
        assert any(notice.startswith("Host 1 at 127.") for notice in on.notices)


@in_loop
async def test_without_a_cut_all_begin_anew(tmp_path):
    async with stage(tmp_path) as on:
        left, right = on.puppets
        left.rows([row(0, t) for t in range(1, 9)])
        left.say("snapshots", snapshots([0, 1], 8))
        await soon(lambda: len(on.commits()) == 8)
        right.vanish()
        await all_begin_again(on)
        assert [puppet.tags[:2] for puppet in on.puppets] == [["orders", "go"]] * 2
        assert on.commits() == []
        assert (await on.ends()).finished


@in_loop
async def test_a_connection_between_hosts_that_breaks_is_no_different(tmp_path):
    async with stage(tmp_path, every=2) as on:
        left, right = on.puppets
        await have_completed(on, 2)
        left.say("broken", {"host": 1})
        right.say("broken", {"host": 0})
        await all_begin_again(on)
        assert "restore" in left.tags
        assert [kind for _, kind in on.rows("SELECT rowid, kind FROM events")] == ["rolled back"]
        assert any("The connection between hosts 0 and 1 has ended. All nodes are rolled back" in n for n in on.notices)
        assert (await on.ends()).finished


@in_loop
async def test_nothing_counts_of_what_follows_a_lost_message(tmp_path):
    async with stage(tmp_path, every=2) as on:
        left, right = on.puppets
        await have_completed(on, 2)
        # Nodes that hear a later message know that the one before is lost, and go on without it.
        left.say("broken", {"host": 1})
        for completed in (4, 6):
            for puppet in on.puppets:
                puppet.rows([row(n, t) for n in puppet.nodes for t in (completed - 1, completed)])
                puppet.say("snapshots", snapshots(puppet.nodes, completed, ended=completed == 6))
        for puppet in on.puppets:
            puppet.done()
        await all_begin_again(on)
        assert on.checkpoint() == [2] * 4
        assert [frame.payload["completed"].tolist() for frame in left.frames[1:3]] == [[2], [2]]
        left.say("broken", {"host": 1})
        right.say("snapshots", snapshots([2, 3], 4))
        left.say("snapshots", snapshots([0, 1], 4))
        await soon(lambda: on.launcher.records.checkpoints.is_void)
        interrupt()
        for puppet in on.puppets:
            await puppet.receives("stop")
            puppet.say("snapshots", snapshots(puppet.nodes, 4))
            puppet.done()
        assert not (await on.running).finished
        assert on.checkpoint() == [2] * 4


@in_loop
async def test_a_host_that_ends_again_while_all_make_ready_lets_all_go_back_again(tmp_path):
    async with stage(tmp_path, every=2) as on:
        left, right = on.puppets
        await have_completed(on, 2)
        right.vanish()
        await soon(lambda: left.calls == right.calls == 2)
        await right.receives("orders")
        left.say("ready", READY)
        right.vanish()
        await soon(lambda: left.calls == right.calls == 3)
        # One that was ready and waits for the other may end as well.
        await left.receives("orders")
        left.say("ready", READY)
        await asyncio.sleep(0.05)
        left.vanish()
        await all_begin_again(on, calls=4)
        assert (await on.ends()).finished


@in_loop
async def test_a_run_that_cannot_continue_says_how_it_can_be_resumed(tmp_path):
    async with stage(tmp_path, engine={"restarts": 1}) as on:
        left, right = on.puppets
        right.vanish()
        await all_begin_again(on)
        left.rows([row(0, 1)])
        left.say("snapshots", snapshots([0, 1], 8))
        await soon(lambda: len(on.commits()) == 1)
        right.vanish()
        with pytest.raises(RunError) as failure:
            await on.running
        said = (
            f"is gone. Hosts were started again 1 times within 600 seconds. Resume with: covey run --resume {on.folder}"
        )
        assert str(failure.value).endswith(said)
        assert on.checkpoint() == [0] * 4


@in_loop
async def test_nobody_goes_back_to_one_checkpoint_for_ever(tmp_path):
    async with stage(tmp_path, every=2, engine={"restarts": 2, "restarts_within": "10ms"}) as on:
        for completed, calls in ((2, 2), (2, 3), (4, 4), (4, 5)):
            if calls % 2 == 0:
                await have_completed(on, completed)
                await soon(lambda completed=completed: on.checkpoint() == [completed] * 4)
            await asyncio.sleep(0.02)
            on.puppets[1].vanish()
            await all_begin_again(on, calls)
        await asyncio.sleep(0.02)
        on.puppets[1].vanish()
        with pytest.raises(RunError, match="Hosts were started again 2 times from the same checkpoint"):
            await on.running
        assert on.checkpoint() == [4] * 4


@in_loop
async def test_a_host_that_does_not_come_back_leaves_the_last_cut(tmp_path):
    async with stage(tmp_path, every=2, engine={"wait": "300ms"}) as on:
        left, right = on.puppets
        await have_completed(on, 2)
        right.vanish()
        await soon(lambda: left.calls == right.calls == 2)
        await left.receives("orders")
        left.say("ready", READY)
        with pytest.raises(
            RunError, match=r"^1 of 2 hosts are missing after 0\.3 seconds: 1 at .*\. Resume with: covey"
        ):
            await on.running
        assert on.checkpoint() == [2] * 4


@in_loop
async def test_ctrl_c_while_all_go_back_leaves_the_last_cut(tmp_path):
    async with stage(tmp_path, every=2) as on:
        left, right = on.puppets
        await have_completed(on, 2)
        left.say("snapshots", snapshots([0, 1], 4))
        right.vanish()
        await soon(lambda: left.calls == right.calls == 2)
        interrupt()
        async with asyncio.timeout(2):
            assert not (await on.running).finished
        assert on.checkpoint() == [2] * 4


# ---------------------------------------------------------------------- real hosts


@pytest.mark.parametrize("every", [0, 4])
def test_a_run_that_lost_a_host_ends_as_if_it_had_not(every, tmp_path):
    tables = table(rounds=25, checkpoint={"every": every}, network={"compute": 2e3}, evaluation={"every": 5})
    with hosts(3) as running:
        host = running[1][0]

        def cut(true):
            late = monotonic() + 30
            while monotonic() < late:
                sleep(0.002)
                run = host._run
                if run is not None and run.stage is not None and true(run):
                    connections = [run.control, *(route.connection for route in run.peers._routes.values())]
                    run.task.get_loop().call_soon_threadsafe(connections[0 if every else 1].abort)
                    return

        cutter = threading.Thread(target=cut, args=[lambda run: run.stage.nodes[5].round > 10])
        cutter.start()
        outcome, written = launch(tables, tmp_path, [address for _, address in running])
        cutter.join()
    world, simulated = simulate(tables)
    assert outcome.finished
    assert torch.allclose(outcome.models, models_of(world), atol=1e-5)
    assert "rolled back" in [kind for _, node, kind, _ in written.happened if node == NETWORK]
    counted = [sorted((*row[:2], *row[4:7], row[8]) for row in part.rows) for part in (written, simulated)]
    assert counted[0] == counted[1]
    figures = [sorted(figure[:3] for figure in part.figures) for part in (written, simulated)]
    assert figures[0] == figures[1]


def test_the_kill_of_a_process_is_made_good_by_the_run_itself(in_folder):
    killed = []

    def kill():
        late = monotonic() + 60
        while monotonic() < late:
            sleep(0.02)
            if (in_folder / "out" / "metrics.sqlite").exists() and len(rows_of(in_folder / "out")) > 12 * 8:
                killed.append(processes_of(os.getpid())[-1])
                os.kill(killed[0], signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    tables = table(rounds=40, checkpoint={"every": 4}, network={"compute": 1e3})
    run = api.run({**tables, "engine": REAL}, out=in_folder / "out")
    killer.join()
    assert killed
    assert run.status == "finished"
    assert sound(run.folder)
    assert sorted(map(tuple, run.commits[["node", "round"]].to_numpy().tolist())) == [
        (node, t) for node in range(12) for t in range(1, 41)
    ]
    assert "rolled back" in set(run.events["kind"])
    lost = run.events[run.events["kind"] == "host lost"]
    assert lost["detail"].tolist() in (["host 0: killed by signal 9"], ["host 1: killed by signal 9"])
    world, _ = simulate(tables)
    assert np.allclose(run.models, models_of(world), atol=1e-5)
