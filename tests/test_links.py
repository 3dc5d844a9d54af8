"""Links in real time: the times at which messages leave, full queues, and withdrawn messages."""

import asyncio
import time

import pytest

from covey.parts.nodes import NodeId
from covey.runtime.emulation.host.links import Copy, Departure, Downlink, Lateness, SharedUplink, Throughput, Uplink
from covey.runtime.node import Message


class Line:
    """An uplink, and what came of it."""

    def __init__(self, kind: type[Uplink], rate: float, most: int = 1 << 20) -> None:
        self.out: list[Copy] = []
        self.withdrawn: list[Copy] = []
        self.refused: list[str] = []
        self.carried = Throughput()
        self.link = kind(
            rate, self.out.append, self.withdrawn.append, Lateness(), self.carried, most, self.refused.append
        )

    def send(self, size: int, copies: int = 1, *, latency: float = 0.0) -> Departure:
        message = Message(NodeId(0), "", None, {}, size)
        departure = Departure(self.link)
        for receiver in range(1, copies + 1):
            self.link.add(Copy(message, receiver, latency, departure))
        return departure


def on_a_loop(test):
    """Run a coroutine; what a callback raises fails the test."""
    raised = []

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        await test()

    asyncio.run(watched())
    assert not raised


KINDS = pytest.mark.parametrize("kind", [Uplink, SharedUplink])


@KINDS
def test_what_sends_faster_than_its_uplink_holds_no_more_than_there_is_room_for(kind):
    async def test():
        line = Line(kind, 8e3, most=50_000)
        for _ in range(100):
            line.send(10_000)
        assert line.refused == ["queue-full"] * 96
        assert 40_000 < line.link.held <= 50_000
        assert line.link.withdraw(lambda copy: True) == (3 if kind is Uplink else 4)
        line.send(10_000)
        assert line.refused == ["queue-full"] * 96

    on_a_loop(test)


@KINDS
def test_copies_of_a_message_share_its_room_until_the_last_has_left(kind):
    async def test():
        line = Line(kind, 8e6, most=50_000)
        line.send(10_000, copies=3)
        assert line.refused == []
        assert line.link.held < 20_000
        while len(line.out) < 3:
            assert line.link.held > 10_000
            await asyncio.sleep(0.002)
        assert line.link.held == 0

    on_a_loop(test)


def test_nothing_is_due_any_more_when_a_node_has_taken_everything_back():
    async def test():
        line = Line(SharedUplink, 8e5)
        line.send(10_000, copies=2)
        await asyncio.sleep(0.002)
        assert line.link.withdraw(lambda copy: True) == 2
        assert [copy.message.size for copy in line.withdrawn] == [10_000, 10_000]
        await asyncio.sleep(0.03)
        assert line.out == []
        line.send(1000)
        while line.link.held:
            await asyncio.sleep(0.001)
        assert len(line.out) == 1

    on_a_loop(test)


@KINDS
def test_a_busy_host_does_not_withdraw_the_messages_that_should_have_left(kind):
    async def test():
        line = Line(kind, 8e6)
        line.send(10_000, copies=10)
        time.sleep(0.15)  # They take 0.1 seconds. No timer can fire.
        assert line.link.withdraw(lambda copy: True) == 0
        assert len(line.out) == 10
        line.send(10_000)
        assert line.link.withdraw(lambda copy: True) == (0 if kind is Uplink else 1)

    on_a_loop(test)


@KINDS
def test_the_achieved_bandwidth_is_shown_beside_the_asked_one(kind):
    async def test():
        line = Line(kind, 8e6)
        for _ in range(2):
            line.send(10_000, copies=3)
            while line.link.held:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.3)  # While nothing waits, a link is not slow.
        carried = line.carried
        assert carried.bits == pytest.approx(6 * 80_000)
        assert carried.asked_seconds == pytest.approx(0.06, rel=0.02)
        assert 0.058 < carried.real_seconds < 0.3
        line.send(1000)
        time.sleep(0.05)  # The host is busy with something else.
        while line.link.held:
            await asyncio.sleep(0.001)
        assert carried.real_seconds > carried.asked_seconds + 0.04

    on_a_loop(test)


def test_what_waits_before_a_downlink_counts_as_the_memory_that_it_takes():
    async def test():
        refused = []
        downlink = Downlink(8e3, print, Lateness(), 100_000, refused.append)
        for _ in range(1000):
            downlink.add(Message(NodeId(0), "", None, {"n": 1}, 60), float("inf"))
        assert 900 < len(refused) < 1000
        assert set(refused) == {"downlink-full"}

    on_a_loop(test)
