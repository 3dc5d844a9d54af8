"""The end of a run by the launcher: its orders to hosts, and the checkpoint that is left."""

import asyncio

import pytest

from covey.runtime.emulation.launcher import launcher
from tests.puppets import PATIENT, READY, snapshots, soon, stage
from tests.test_launcher import in_loop, interrupt, kill


@in_loop
async def test_ctrl_c_while_a_host_comes_back_leaves_a_checkpoint(tmp_path):
    async with stage(tmp_path, faults=[kill(1)]) as on:
        left, right = on.puppets
        right.say("snapshots", snapshots([2, 3], 5))
        await right.receives("die")
        right.vanish()
        await soon(lambda: right.calls == 2)
        await right.receives("orders")
        interrupt()
        await left.receives("stop")
        right.say("ready", READY)
        left.say("snapshots", snapshots([0, 1], 7))
        left.done()
        assert not (await on.running).finished
        assert on.checkpoint() == [7, 7, 5, 5]
        assert right.tags == ["orders"]


@in_loop
async def test_ctrl_c_leaves_the_start_at_once(tmp_path):
    async with stage(tmp_path, begun=False) as on:
        await on.puppets[0].receives("orders")
        interrupt()
        async with asyncio.timeout(10):
            assert not (await on.running).finished
        assert on.checkpoint() == [0] * 4


@in_loop
async def test_nodes_that_are_stuck_do_not_keep_a_run_from_stopping(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_STUCK", 0.3)
    async with stage(tmp_path, program=PATIENT) as on:
        left, right = on.puppets
        interrupt()
        for puppet, round in ((left, 3), (right, 2)):
            await puppet.receives("hold")
            puppet.say("holds", {"round": round})
        for _ in range(5):
            assert (await right.receives("park"))["round"] == 3
            right.heartbeat(idle=False)
            await asyncio.sleep(0.1)
        assert "stop" not in right.tags  # It still computes.
        left.say("snapshots", snapshots([0, 1], 3))
        left.done()
        right.heartbeat()
        await right.receives("stop")
        right.say("snapshots", snapshots([2, 3], 1))
        right.done()
        assert not (await on.running).finished
        assert on.checkpoint() == [3, 3, 1, 1]


@in_loop
async def test_what_cannot_be_resumed_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_STUCK", 0.1)
    async with stage(tmp_path) as on:
        interrupt()
        for puppet, completed in zip(on.puppets, (5, 4), strict=True):
            await puppet.receives("stop")
            puppet.say("snapshots", snapshots(puppet.nodes, completed))
            puppet.done()
        assert not (await on.running).finished
        # Nodes without patience would wait for ever for the messages that others have taken before.
        assert on.checkpoint() == [0] * 4


@pytest.mark.parametrize("keep", [1, 2])
@in_loop
async def test_the_loss_of_a_host_displaces_no_checkpoint_of_one_round(keep, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_STUCK", 0.1)
    async with stage(tmp_path, every=2, keep=keep) as on:
        left, right = on.puppets
        for puppet in on.puppets:
            puppet.say("snapshots", snapshots(puppet.nodes, 2))
        await soon(lambda: list((on.folder / "checkpoints").iterdir()))
        right.vanish()
        await asyncio.gather(*(puppet.get_ready(calls=2) for puppet in on.puppets))
        for completed in (4, 6, 8):
            left.say("snapshots", snapshots(left.nodes, completed))
        await asyncio.sleep(0.1)
        assert on.checkpoint() == [2] * 4
        interrupt()
        for puppet, completed in zip(on.puppets, (8, 3), strict=True):
            await puppet.receives("stop")
            puppet.say("snapshots", snapshots(puppet.nodes, completed))
            puppet.done()
        assert not (await on.running).finished
        assert on.checkpoint() == [2] * 4


@in_loop
async def test_a_checkpoint_of_one_round_is_not_replaced_by_one_of_stuck_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_STUCK", 0.1)
    async with stage(tmp_path, every=2) as on:
        for puppet in on.puppets:
            puppet.say("snapshots", snapshots(puppet.nodes, 2))
        await soon(lambda: list((on.folder / "checkpoints").iterdir()))
        interrupt()
        for puppet, completed in zip(on.puppets, (5, 4), strict=True):
            await puppet.receives("stop")
            puppet.say("snapshots", snapshots(puppet.nodes, completed))
            puppet.done()
        assert not (await on.running).finished
        assert on.checkpoint() == [2] * 4


@in_loop
async def test_asked_twice_a_run_stops_where_it_is_and_keeps_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_LAST", 0.2)
    async with stage(tmp_path, program=PATIENT) as on:
        left, right = on.puppets
        interrupt()
        for puppet in on.puppets:
            await puppet.receives("hold")
            puppet.say("holds", {"round": 3})
        await left.receives("park")
        left.say("snapshots", snapshots([0, 1], 3))
        left.done()
        await asyncio.sleep(0.05)
        interrupt()
        await right.receives("stop")
        # It does not answer any more.
        assert not (await on.running).finished
        assert on.checkpoint() == [3, 3, 0, 0]


@in_loop
async def test_a_host_that_dies_while_the_run_stops_is_not_called_again(tmp_path):
    async with stage(tmp_path) as on:
        left, right = on.puppets
        interrupt()
        await right.receives("hold")
        left.say("holds", {"round": 3})
        right.vanish()
        await left.receives("park")
        left.say("snapshots", snapshots([0, 1], 3))
        left.done()
        assert not (await on.running).finished
        assert right.calls == 1
