"""The network's latency, bandwidth and loss in real time.

A copy of a message waits for its sender's uplink, takes bits / uplink seconds to leave, and then the latency. At that
time it is written to the socket, or delivered within the host. At the receiver it occupies the downlink for bits /
downlink seconds after its first bit arrived. Times follow the schedule of these rates, not the moments at which timers
fired, so that lateness does not accumulate. The lateness of timers is measured.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from covey.runtime.emulation.host.inbox import _memory
from covey.runtime.emulation.transport.connection import Parts
from covey.runtime.node import Message

_COPY = 512
"""The memory of a waiting copy in bytes, beside the message that all copies share."""


@dataclass(slots=True)
class Lateness:
    """The delay of real times behind scheduled ones."""

    count: int = 0
    total: float = 0.0
    most: float = 0.0

    def add(self, seconds: float) -> None:
        """Add a delay."""
        self.count += 1
        self.total += seconds
        self.most = max(self.most, seconds)


@dataclass(slots=True)
class Throughput:
    """The throughput of links while they were busy."""

    bits: float = 0.0
    asked_seconds: float = 0.0
    """The seconds that it should have taken at the rates of the network."""
    real_seconds: float = 0.0
    """The seconds that it took."""


@dataclass(slots=True, eq=False)
class Copy:
    """A copy of a message in transit to one receiver."""

    message: Message
    receiver: int
    latency: float
    sending: "Departure"
    extra: float = 1.0
    """The factor by which a fault slows the link."""
    garbled: bool = False
    """True if a fault corrupts its bytes."""


class Departure:
    """A message to some receivers, whose copies can be withdrawn while they wait for the uplink."""

    __slots__ = ("frame", "uplink", "waiting")

    def __init__(self, uplink: "Uplink") -> None:
        self.uplink = uplink
        self.frame: Parts | None = None
        """The encoded frame, once it was needed."""
        self.waiting = 0
        """The number of copies that have not left."""

    def cancel(self) -> int:
        return self.uplink.withdraw(lambda copy: copy.sending is self)


class Uplink:
    """The uplink of one node, which sends one copy after the other.

    Args:
        rate: bits per second; inf for no limit.
        emit: called with every copy when its time has come.
        withdrawn: called with every withdrawn copy.
        late: collects lateness.
        carried: collects throughput.
        most: the limit of memory for waiting copies, in bytes.
        refused: called with the reason of every copy for which there is no room.
    """

    def __init__(
        self,
        rate: float,
        emit: Callable[[Copy], None],
        withdrawn: Callable[[Copy], None],
        late: Lateness,
        carried: Throughput,
        most: int,
        refused: Callable[[str], None],
    ) -> None:
        self.rate = rate
        self.held = 0
        """The approximate memory of waiting copies. Copies of a message share it."""
        self._emit, self._withdrawn, self._late, self._carried = emit, withdrawn, late, carried
        self._most, self._refused = most, refused
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Copy] = deque()
        self._free = 0.0
        self._leaving = False
        self._first: tuple[asyncio.TimerHandle, Copy, float] | None = None
        """The timer, the copy and the seconds of the copy that leaves, or was the last to leave."""
        self._since = 0.0
        """The time up to which its busy time is recorded."""

    def add(self, copy: Copy) -> bool:
        """Queue a copy. False if there is no room for it."""
        if self.rate == float("inf"):
            self._delay(copy, self._loop.time())
        elif self._has_room(copy):
            self._take(copy)
        else:
            return False
        return True

    def _take(self, copy: Copy) -> None:
        self._waiting.append(copy)
        if not self._leaving:
            self._since = self._loop.time()
            self._free = max(self._free, self._since)
            self._next()

    def _has_room(self, copy: Copy) -> bool:
        """Reserve room for a copy. False if there is none."""
        needed = _COPY + (0 if copy.sending.waiting else _memory(copy.message))
        if self.held + needed > self._most:
            self._refused("queue-full")
            return False
        self.held += needed
        copy.sending.waiting += 1
        return True

    def _give_room(self, copy: Copy) -> None:
        copy.sending.waiting -= 1
        self.held -= _COPY + (0 if copy.sending.waiting else _memory(copy.message))

    def _was_busy(self) -> None:
        """Record the time for which it was busy until now."""
        now = self._loop.time()
        self._carried.real_seconds += now - self._since
        self._since = now

    @property
    def waiting_bytes(self) -> int:
        """The bytes that have not begun to leave."""
        return sum(copy.message.size for copy in self._waiting)

    def _next(self) -> None:
        self._leaving = bool(self._waiting)
        if self._leaving:
            copy = self._waiting.popleft()
            seconds = copy.message.size * 8.0 / self.rate * copy.extra
            self._free += seconds
            timer = self._loop.call_at(self._free, self._left, copy, seconds, self._free)
            self._first = timer, copy, seconds

    def _catch_up(self) -> None:
        """Complete the copies that have left by now, although their timers are late."""
        now = self._loop.time()
        while self._leaving and self._free <= now and self._first is not None:
            timer, copy, seconds = self._first
            timer.cancel()
            self._left(copy, seconds, self._free)

    def _left(self, copy: Copy, seconds: float, due: float) -> None:
        self._carried.bits += copy.message.size * 8.0
        self._carried.asked_seconds += seconds
        self._was_busy()
        self._give_room(copy)
        self._delay(copy, due)
        self._next()

    def _delay(self, copy: Copy, left: float) -> None:
        if copy.latency > 0 or left > self._loop.time():
            due = left + copy.latency
            self._loop.call_at(due, self._arrive, copy, due)
        else:
            self._emit(copy)

    def _arrive(self, copy: Copy, due: float) -> None:
        self._late.add(self._loop.time() - due)
        self._emit(copy)

    def withdraw(self, wanted: Callable[[Copy], bool]) -> int:
        """Withdraw the wanted copies that have not begun to leave, and return their number."""
        self._catch_up()
        gone = [copy for copy in self._waiting if wanted(copy)]
        if gone:
            self._waiting = deque(copy for copy in self._waiting if not wanted(copy))
        for copy in gone:
            self._give_room(copy)
            self._withdrawn(copy)
        return len(gone)


class SharedUplink(Uplink):
    """An uplink that sends all copies at once, each with an equal share of the rate."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._left_of: dict[Copy, float] = {}
        """The unsent bits of each copy at `_free`."""
        self._timer: asyncio.TimerHandle | None = None

    def _take(self, copy: Copy) -> None:
        if not self._left_of:
            self._since = self._loop.time()
        self._advance(self._loop.time())
        self._left_of[copy] = copy.message.size * 8.0 * copy.extra
        self._plan()

    def _advance(self, now: float) -> None:
        """Subtract the bits that have left by now."""
        if self._left_of:
            each = (now - self._free) * self.rate / len(self._left_of)
            self._carried.asked_seconds += now - self._free
            for copy in self._left_of:
                self._left_of[copy] -= each
                self._carried.bits += each / copy.extra
        self._free = now

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._left_of:
            due = self._due()
            self._timer = self._loop.call_at(due, self._complete, due)

    def _due(self) -> float:
        """The time at which the copy with the fewest bits has left."""
        return self._free + min(self._left_of.values()) * len(self._left_of) / self.rate

    def _catch_up(self) -> None:
        while self._left_of and (due := self._due()) <= self._loop.time():
            self._complete(due)

    def _complete(self, due: float) -> None:
        """Complete the copy with the fewest bits, which has left at the planned time."""
        self._advance(due)
        self._was_busy()
        least = min(self._left_of.values())
        for copy in [copy for copy, left in self._left_of.items() if left <= least]:
            del self._left_of[copy]
            self._give_room(copy)
            self._delay(copy, due)
        self._plan()

    @property
    def waiting_bytes(self) -> int:
        return sum(copy.message.size for copy in self._left_of)

    def withdraw(self, wanted: Callable[[Copy], bool]) -> int:
        """Withdraw the wanted copies that have not left, and return their number."""
        self._catch_up()
        if self._left_of:
            self._advance(self._loop.time())
            self._was_busy()
        gone = [copy for copy in self._left_of if wanted(copy)]
        for copy in gone:
            del self._left_of[copy]
        self._plan()
        for copy in gone:
            self._give_room(copy)
            self._withdrawn(copy)
        return len(gone)


class Downlink:
    """The downlink of one node, which receives one message after the other.

    Args:
        rate: bits per second; inf for no limit.
        deliver: called with every message when its last bit has arrived.
        late: collects lateness.
        most: the limit of memory for waiting messages, in bytes.
        refused: called with the reason of every message for which there is no room.
    """

    def __init__(
        self,
        rate: float,
        deliver: Callable[[Message], None],
        late: Lateness,
        most: int,
        refused: Callable[[str], None],
    ) -> None:
        self.rate = rate
        self._most, self._refused, self._held = most, refused, 0
        self._deliver, self._late = deliver, late
        self._loop = asyncio.get_running_loop()
        self._free = 0.0

    def add(self, message: Message, uplink_rate: float) -> bool:
        """Queue a message whose last bit arrives now, and which left at a rate. False if there is no room for it."""
        if self.rate == float("inf"):
            self._deliver(message)
            return True
        needed = _memory(message)
        if self._held + needed > self._most:
            self._refused("downlink-full")
            return False
        now, bits = self._loop.time(), message.size * 8.0
        first_bit = now - bits / uplink_rate
        self._free = passed = max(max(self._free, first_bit) + bits / self.rate, now)
        if passed > now:
            self._held += needed
            self._loop.call_at(passed, self._in, message, needed, passed)
        else:
            self._deliver(message)
        return True

    def _in(self, message: Message, needed: int, due: float) -> None:
        self._held -= needed
        self._late.add(self._loop.time() - due)
        self._deliver(message)
