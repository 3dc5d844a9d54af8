"""Cuts by the launcher: the reports of hosts are checked, and an incomplete cut is no checkpoint."""

import asyncio

import msgspec
import pytest

from covey.messages import wire
from covey.parts.errors import RunError
from covey.runtime import mail
from covey.runtime.emulation.launcher import launcher
from covey.runtime.mail import Held, Kept
from covey.runtime.runs import latest_checkpoint
from tests.puppets import row, snapshots, soon, stage
from tests.test_launcher import in_loop, interrupt

ASYNCHRONOUS = {"kind": "ad-psgd", "topology": "ring"}
TOLERANT = {"kind": "gossip-learning", "topology": "complete"}


def message(receiver=0, sender=2, number=0, *, counted=False, **entries):
    frame = wire.encode(entries or {"x": 1}, tag="t", sender=sender, receiver=receiver, number=number)
    return Kept(receiver, sender, number, 0.5, counted, frame)


def part(puppet, cut, completed, messages=(), taken=(), *, ended=False, posted=1):
    """Let a host report its part of a cut."""
    each = snapshots(puppet.nodes, completed, ended=ended)
    each["posted"][:] = posted
    puppet.say("snapshots", {**each, "cut": cut})
    puppet.say("mail", {"cut": cut, "held": msgspec.msgpack.encode(Held([*messages], [*taken]))})
    puppet.say("part", {"cut": cut, "full": False})


async def ordered(puppet, count=1):
    """The last order to cut, of so many."""
    await soon(lambda: puppet.tags.count("cut") == count)
    return puppet.said("cut")


def held_by(on):
    """The mail of the latest checkpoint."""
    found = latest_checkpoint(on.folder)
    return mail.unpack(found[1])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(launcher, "_ASK", 0.01)


@in_loop
async def test_a_cut_is_ordered_when_nodes_have_completed_as_many_rounds_and_holds_what_hosts_report(tmp_path):
    async with stage(tmp_path, every=2, program=ASYNCHRONOUS) as on:
        left, right = on.puppets
        left.rows([row(node, t) for node in (0, 1) for t in (1, 2, 3)])
        await asyncio.sleep(0.1)
        assert "cut" not in left.tags
        right.rows([row(2, t) for t in (1, 2)])
        assert await ordered(left) == await ordered(right) == {"cut": 1, "hosts": [0, 1]}
        # A message that was sent after a commit is sent again; one that was taken before it is not taken again.
        part(left, 1, 3, [message(number=0), message(number=1)], [(0, 3, 1), (0, 3, 0)])
        await asyncio.sleep(0.05)
        assert latest_checkpoint(on.folder) is None
        part(right, 1, 2, [message(1, 3), message(2, 1)])
        await soon(lambda: latest_checkpoint(on.folder))
        assert on.checkpoint() == [3, 3, 2, 2]
        held = held_by(on)
        assert [(kept.receiver, kept.sender, kept.number) for kept in held.messages] == [
            (0, 2, 0),
            (1, 3, 0),
            (2, 1, 0),
        ]
        assert held.taken == [(0, 3, 1)]
        await on.ends()


@in_loop
async def test_hosts_continue_from_the_last_cut_and_get_its_mail_when_one_is_lost(tmp_path):
    async with stage(tmp_path, every=1, program=ASYNCHRONOUS) as on:
        left, right = on.puppets
        left.rows([row(node, t) for node in (0, 1) for t in (1, 2)])
        await ordered(left)
        part(left, 1, 2, [message()], [(0, 3, 1)])
        part(right, 1, 1, [message(1, 3)])
        await soon(lambda: latest_checkpoint(on.folder))
        right.vanish()
        await asyncio.gather(*(puppet.get_ready(calls=2) for puppet in on.puppets))
        assert left.said("go")["posted"] == [1] * 4
        (known,) = [msgspec.msgpack.decode(f.payload["held"], type=Held) for f in left.frames if f.tag == "mail"]
        assert [(kept.receiver, kept.sender) for kept in known.messages] == [(0, 2), (1, 3)]
        assert known.taken == [(0, 3, 1)]
        assert msgspec.msgpack.decode(right.said("mail")["held"], type=Held) == Held([], [])
        assert on.events("rolled back") == [(-1, "rolled back")]
        await on.ends()


@in_loop
async def test_a_run_continues_from_a_checkpoint_with_its_mail(tmp_path):
    held = Held([message(3, 1)], [(2, 0, 5)])
    checkpoint = {"round": 4, **snapshots([0, 1, 2, 3], 4), **mail.pack(held)}
    checkpoint["posted"][:] = (4, 5, 6, 7)
    async with stage(tmp_path, every=1, program=ASYNCHRONOUS, checkpoint=checkpoint) as on:
        left, right = on.puppets
        assert right.said("go")["posted"] == [4, 5, 6, 7]
        assert msgspec.msgpack.decode(right.said("mail")["held"], type=Held) == held
        assert msgspec.msgpack.decode(left.said("mail")["held"], type=Held) == Held([], [])
        await on.ends()


@in_loop
async def test_nothing_comes_of_a_cut_during_which_a_message_between_hosts_is_lost(tmp_path):
    async with stage(tmp_path, every=1, program=TOLERANT) as on:
        left, right = on.puppets
        left.rows([row(node, t) for node in (0, 1) for t in (1, 2)])
        await ordered(left)
        left.say("broken", {"host": 1})
        assert (await ordered(left, 2))["cut"] == 2
        for puppet in on.puppets:
            part(puppet, 1, 2)
        await asyncio.sleep(0.05)
        assert latest_checkpoint(on.folder) is None
        right.vanish()
        # Whoever is not there takes no part.
        assert (await ordered(left, 3))["hosts"] == [0]
        part(left, 3, 2)
        await soon(lambda: latest_checkpoint(on.folder))
        assert on.checkpoint() == [2, 2, 0, 0]
        await right.get_ready(calls=2)
        await on.ends()


@in_loop
async def test_a_run_that_is_stopped_is_cut_first_and_continues_from_there(tmp_path):
    async with stage(tmp_path, every=100, program=ASYNCHRONOUS) as on:
        left, right = on.puppets
        interrupt()
        await ordered(left)
        part(left, 1, 3, [message()])
        await asyncio.sleep(0.05)
        assert "stop" not in left.tags
        part(right, 1, 4)
        for puppet in on.puppets:
            await puppet.receives("stop")
            puppet.say("snapshots", snapshots(puppet.nodes, 9))
            puppet.done()
        assert not (await on.running).finished
        assert on.checkpoint() == [3, 3, 4, 4]
        assert len(held_by(on).messages) == 1


@in_loop
async def test_where_the_last_cut_does_not_become_whole_the_one_before_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_LAST", 0.2)
    async with stage(tmp_path, every=100, program=ASYNCHRONOUS) as on:
        left, right = on.puppets
        interrupt()
        await ordered(left)
        part(left, 1, 3, [message()])
        for puppet in on.puppets:
            await puppet.receives("stop")
            puppet.done()
        assert not (await on.running).finished
        assert right.tags.count("cut") == 1
        assert on.checkpoint() == [0] * 4
        assert held_by(on) == Held([], [])


WRONG = {
    "mail of others": ([message(3, 2)], [], "reports for node 2, which is not its own."),
    "taken by others": ([], [(3, 1, 0)], "reports for node 3, which is not its own."),
    "no frame": ([Kept(0, 2, 0, 0.5, False, b"nothing")], [], "a message is not a frame"),
    "another sender": ([Kept(0, 3, 0, 0.5, False, message().frame)], [], "message 0 of node 3 to node 0 is another"),
    "no node": ([Kept(0, 9, 0, 0.5, False, message().frame)], [], "from node 9 to node 0, and there are 4"),
    "not finite": ([message(x=float("nan"))], [], "the 'x' of a message is not finite"),
    "no time": ([Kept(0, 2, 0, float("inf"), False, message().frame)], [], "a message comes at inf"),
}


@pytest.mark.parametrize("case", WRONG)
@in_loop
async def test_mail_that_is_none_ends_the_run_in_the_hosts_name(case, tmp_path):
    messages, taken, why = WRONG[case]
    async with stage(tmp_path, every=1, program=ASYNCHRONOUS) as on:
        left, _ = on.puppets
        left.rows([row(node, t) for node in (0, 1) for t in (1, 2)])
        await ordered(left)
        part(left, 1, 2, messages, taken)
        with pytest.raises(RunError, match=rf"^Host 0 .*{why}"):
            await on.running


@pytest.mark.parametrize("held", [b"\xc1", 5, msgspec.msgpack.encode([[[0, 1]], []])])
@in_loop
async def test_bytes_that_are_no_mail_end_the_run_in_the_hosts_name(held, tmp_path):
    async with stage(tmp_path, every=1, program=ASYNCHRONOUS) as on:
        on.puppets[0].say("mail", {"cut": 1, "held": held})
        with pytest.raises(RunError, match="Host 0 sent a malformed report"):
            await on.running
