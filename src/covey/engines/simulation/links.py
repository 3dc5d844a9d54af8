"""How long messages take: latency, uplinks that queue, downlinks that queue, or fair shares of both.

A message of b bits to several receivers is one transfer to each, in the order in which they are named. With queues, a
transfer occupies its sender's uplink for b / uplink seconds; its first bit reaches the receiver after the latency and
then waits for the downlink, which it occupies for b / downlink seconds; it is delivered when its last bit has passed
both. With fair shares, all transfers flow at once at max-min fair rates and are delivered a latency after they end.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from heapq import heappush
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.network.fair import FairShare
from covey.node import Message, Sending

if TYPE_CHECKING:
    from covey.engines.simulation.node import SimulatedNode
    from covey.engines.simulation.world import Event, World

Ghost = tuple[float, int, float, int, int, float]
"""Traffic of the past that still takes capacity after a resume, but delivers nothing:
(time, order of the event, time of the last bit, sender, receiver, bits)."""


class _Sent:
    """A message of which nothing queues any more."""

    def cancel(self) -> int:
        return 0


SENT = _Sent()


class Links(ABC):
    """Carries messages through virtual time."""

    def __init__(self, world: "World") -> None:
        self.world = world

    @abstractmethod
    def post(self, node: "SimulatedNode", receivers: Sequence[int], message: Message) -> Sending:
        """Send a message to each of several nodes."""

    def uplink_busy_until(self, node: int) -> float:
        """When all that a node has sent so far will have left it."""
        return 0.0

    def restore_uplink(self, node: int, busy_until: float) -> None:
        """Go back to what `uplink_busy_until` said."""

    def withdraw_all(self, node: int) -> None:
        """Forget what still queues at a node that went away."""

    def freeze(self) -> tuple[np.ndarray, list[Any]]:
        """(state of every downlink, transfers under way), to begin a checkpoint with."""
        return np.zeros(0), []

    def ghosts(self, transfers: Sequence[Any]) -> list[Ghost]:
        """What transfers that were under way or sent later mean for capacity."""
        return []

    def thaw(self, downlinks: np.ndarray, ghosts: Sequence[Ghost]) -> None:
        """Bring back the state of a checkpoint."""


class Unlimited(Links):
    """Latency alone."""

    def post(self, node: "SimulatedNode", receivers: Sequence[int], message: Message) -> Sending:
        world = self.world
        network, heap, deliver, now, order = world.network, world.heap, world.deliver, world.now, node.order
        uniform = network.latency.uniform_value()
        for receiver in receivers:
            delay = uniform if uniform is not None else network.latency.between(node.id, receiver)
            order += 1
            heappush(heap, (now + delay, order, deliver[receiver], message))
        node.order = order
        return SENT


class Transfer:
    """One message on its way to one receiver through queues."""

    __slots__ = ("bits", "cancelled", "delay", "due", "message", "order", "receiver", "sender", "start")
    due: float
    """When the event that comes next happens; an event of another time is void."""
    order: int

    def __init__(self, sender: int, receiver: int, message: Message, bits: float, start: float, delay: float) -> None:
        self.sender = sender
        self.receiver = receiver
        self.message = message
        self.bits = bits
        self.start = start
        self.delay = delay
        self.cancelled = False


class Queued(Links):
    """First come, first served, at the sender's uplink and at the receiver's downlink."""

    def __init__(self, world: "World", uplinks: np.ndarray | None, downlinks: np.ndarray | None) -> None:
        super().__init__(world)
        self.up: list[float] = (np.full(world.size, np.inf) if uplinks is None else uplinks).tolist()
        self.down: list[float] | None = None if downlinks is None else downlinks.tolist()
        self.up_free = [0.0] * world.size
        self.down_free = [0.0] * world.size
        self.waiting: list[deque[Transfer]] = [deque() for _ in range(world.size)]
        """What had not left a node when somebody last looked."""

    def post(self, node: "SimulatedNode", receivers: Sequence[int], message: Message) -> Sending:
        world, sender, bits = self.world, node.id, message.size * 8.0
        latency, heap, now, waiting = world.network.latency, world.heap, world.now, self.waiting[sender]
        uniform, speed = latency.uniform_value(), self.up[sender]
        while waiting and waiting[0].start + waiting[0].bits / speed <= now:
            waiting.popleft()
        free = max(now, self.up_free[sender])
        seconds = bits / speed
        # What happens next to a transfer: with downlinks its first bit arrives, without them its last.
        action, until = (self._arrive, seconds) if self.down is None else (self._reach, 0.0)
        transfers, order = [], node.order
        for receiver in receivers:
            delay = uniform if uniform is not None else latency.between(sender, receiver)
            transfer = Transfer(sender, receiver, message, bits, free, delay)
            order += 1
            transfer.order = order
            transfer.due = due = free + until + delay
            heappush(heap, (due, order, action, transfer))
            free += seconds
            transfers.append(transfer)
        node.order = order
        self.up_free[sender] = free
        waiting.extend(transfers)
        if world.cuts:
            world.note_transfers(node, transfers)
        return _Queueing(self, transfers)

    def _move(self, transfer: Transfer, start: float) -> None:
        """Let a transfer begin at another time; the event that was made for it will find that it is not due."""
        node = self.world.nodes[transfer.sender]
        node.order += 1
        transfer.start, transfer.order = start, node.order
        action, until = self._reach, 0.0
        if self.down is None:
            action, until = self._arrive, transfer.bits / self.up[transfer.sender]
        transfer.due = start + until + transfer.delay
        heappush(self.world.heap, (transfer.due, transfer.order, action, transfer))

    def _arrive(self, transfer: Transfer) -> None:
        if transfer.due == self.world.now and not transfer.cancelled:
            self.world.deliver[transfer.receiver](transfer.message)

    def _reach(self, transfer: Transfer) -> None:
        """The first bit is at the receiver."""
        world = self.world
        if transfer.due != world.now or transfer.cancelled:
            return
        last_bit = transfer.start + transfer.bits / self.up[transfer.sender] + transfer.delay
        delivered = self._occupy(transfer.receiver, transfer.bits, last_bit)
        heappush(world.heap, (delivered, transfer.order, world.deliver[transfer.receiver], transfer.message))

    def _occupy(self, receiver: int, bits: float, last_bit: float) -> float:
        """Take a downlink for a message; when it has passed."""
        assert self.down is not None
        free = max(self.world.now, self.down_free[receiver])
        self.down_free[receiver] = done = max(free + bits / self.down[receiver], last_bit)
        return done

    def uplink_busy_until(self, node: int) -> float:
        return self.up_free[node]

    def restore_uplink(self, node: int, busy_until: float) -> None:
        self.up_free[node] = busy_until

    def withdraw(self, transfers: Sequence[Transfer]) -> int:
        """Take back those that have not left their sender; the ones behind them move up."""
        now = self.world.now
        gone = [t for t in transfers if t.start > now and not t.cancelled]
        for transfer in gone:
            transfer.cancelled = True
        if gone:
            node = self.world.nodes[gone[0].sender]
            node.messages_out -= len(gone)
            node.bytes_out -= sum(transfer.message.size for transfer in gone)
            queue = self.waiting[node.id]
            begun = [t for t in queue if t.start <= now and not t.cancelled]
            left = [t for t in queue if t.start > now and not t.cancelled]
            speed = self.up[node.id]
            free = max([now] + [t.start + t.bits / speed for t in begun])
            for transfer in left:
                if transfer.start != free:
                    self._move(transfer, free)
                free += transfer.bits / speed
            self.up_free[node.id] = free
            self.waiting[node.id] = deque([*begun, *left])
        return len(gone)

    def withdraw_all(self, node: int) -> None:
        self.withdraw(list(self.waiting[node]))

    def freeze(self) -> tuple[np.ndarray, list[Any]]:
        if self.down is None:
            return np.zeros(0), []
        under_way = [event[3] for event in self.world.heap if event[2] == self._reach]
        return np.array(self.down_free), under_way

    def ghosts(self, transfers: Sequence[Any]) -> list[Ghost]:
        if self.down is None:
            return []
        return [
            (t.start + t.delay, t.order, t.start + t.bits / self.up[t.sender] + t.delay, t.sender, t.receiver, t.bits)
            for t in transfers
            if not t.cancelled
        ]

    def thaw(self, downlinks: np.ndarray, ghosts: Sequence[Ghost]) -> None:
        if len(downlinks):
            self.down_free = downlinks.tolist()
        for first_bit, order, last_bit, _, receiver, bits in ghosts:
            heappush(self.world.heap, (first_bit, order, self._haunt, (receiver, bits, last_bit)))

    def _haunt(self, event: tuple[int, float, float]) -> None:
        self._occupy(*event)


class _Queueing:
    """A message of which some copies may still queue."""

    def __init__(self, links: Queued, transfers: Sequence[Transfer]) -> None:
        self.links = links
        self.transfers = transfers

    def cancel(self) -> int:
        return self.links.withdraw(self.transfers)


class Fair(Links):
    """All transfers at once, at max-min fair rates."""

    def __init__(self, world: "World", uplinks: np.ndarray | None, downlinks: np.ndarray | None) -> None:
        super().__init__(world)
        free = np.full(world.size, np.inf)
        self.share = FairShare(free if uplinks is None else uplinks, free if downlinks is None else downlinks)
        self.flows: dict[int, tuple[int, int, Message | None]] = {}
        self.version = 0
        self.due = False

    def post(self, node: "SimulatedNode", receivers: Sequence[int], message: Message) -> Sending:
        now, bits = self.world.now, message.size * 8.0
        started = []
        for receiver in receivers:
            flow = self.share.add(now, node.id, receiver, bits)
            self.flows[flow] = (node.id, receiver, message)
            started.append((now, flow, 0.0, node.id, receiver, bits))
        self.world.note_transfers(node, started)
        self._soon()
        return SENT

    def _soon(self) -> None:
        """Look for the next completion once everything of this instant has happened."""
        if not self.due:
            self.due = True
            event: Event = (self.world.now, 1 << 62, self._plan, None)
            heappush(self.world.heap, event)

    def _plan(self, _: None) -> None:
        self.due = False
        self.version += 1
        completion = self.share.next_completion()
        if completion is not None:
            heappush(self.world.heap, (completion[0], (1 << 62) + self.version, self._complete, self.version))

    def _complete(self, version: int) -> None:
        if version != self.version:
            return
        world = self.world
        for flow in self.share.complete(world.now):
            sender, receiver, message = self.flows.pop(flow)
            if message is not None:
                node = world.nodes[sender]
                node.order += 1
                delay = world.network.latency.between(sender, receiver)
                heappush(world.heap, (world.now + delay, node.order, world.deliver[receiver], message))
        self._soon()

    def freeze(self) -> tuple[np.ndarray, list[Any]]:
        now = self.world.now
        return np.zeros(0), [(now, flow, 0.0, s, r, bits) for flow, s, r, bits in self.share.remaining(now)]

    def ghosts(self, transfers: Sequence[Any]) -> list[Ghost]:
        return list(transfers)

    def thaw(self, downlinks: np.ndarray, ghosts: Sequence[Ghost]) -> None:
        for number, (time, _, _, sender, receiver, bits) in enumerate(ghosts):
            heappush(self.world.heap, (time, number - (1 << 40), self._haunt, (sender, receiver, bits)))

    def _haunt(self, event: tuple[int, int, float]) -> None:
        sender, receiver, bits = event
        flow = self.share.add(self.world.now, sender, receiver, bits)
        self.flows[flow] = (sender, receiver, None)
        self._soon()
