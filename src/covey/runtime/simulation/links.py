"""Simulated links: latency, and queues or fair shares of uplinks and downlinks.

A message of b bits to several receivers is one transfer to each, in their order. With queues, a transfer occupies the
sender's uplink for b / uplink seconds. Its first bit reaches the receiver after the latency and then waits for the
downlink, which it occupies for b / downlink seconds. It is delivered when its last bit has passed both. With fair
shares, all transfers flow at once at max-min fair rates, and are delivered a latency after they end.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.messages import wire
from covey.network.fair import FairShare
from covey.runtime.mail import Copy, Due
from covey.runtime.node import Message, Sending
from covey.runtime.running_node import SENT, RunningNode

if TYPE_CHECKING:
    from covey.runtime.simulation.world import World

Ghost = tuple[float, int, float, int, int, float]
"""Earlier traffic that still takes capacity after a resumption, but delivers nothing:
(time, order of the event, time of the last bit, sender, receiver, bits)."""


class _Several:
    """A message that was sent in several parts."""

    def __init__(self, parts: Sequence[Sending]) -> None:
        self.parts = parts

    def cancel(self) -> int:
        return sum(part.cancel() for part in self.parts)


def several(parts: Sequence[Sending]) -> Sending:
    """One sending of those to several groups of receivers."""
    return parts[0] if len(parts) == 1 else _Several(parts)


class Links(ABC):
    """Links that carry messages through virtual time."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self._delays: dict[int, tuple[Sequence[int], list[float]]] = {}

    def delays(self, sender: int, receivers: Sequence[int]) -> list[float]:
        """The latency to each of several nodes, from a cache of the last ones of each sender."""
        known = self._delays.get(sender)
        if known is not None and known[0] == receivers:
            return known[1]
        between = self.world.network.latency.between
        delays = [between(sender, receiver) for receiver in receivers]
        self._delays[sender] = receivers, delays
        return delays

    @abstractmethod
    def post(self, node: RunningNode, receivers: Sequence[int], message: Message, slower: float = 1.0) -> Sending:
        """Send a message to several nodes. Sending takes `slower` times longer."""

    def uplink_busy_until(self, node: int) -> float:
        """The time at which the last message of a node has left it."""
        return 0.0

    def restore_uplink(self, node: int, busy_until: float) -> None:
        """Restore a result of `uplink_busy_until`."""

    def withdraw_of(self, node: int, tag: str | None) -> int:
        """Withdraw the messages of one tag, or all, that have not left a node. Return the number of copies."""
        return 0

    def under_way(self) -> dict[Copy, Due]:
        """The copies that arrive after this moment."""
        receivers = {action: node for node, action in enumerate(self.world.deliver)}
        return {
            (receivers[action], message.sender, message.number): Due(time)
            for time, (_, action, message) in self.world.agenda.later()
            if action in receivers
        }

    def carry_again(self, message: Message, receiver: int, due: Due, order: int) -> None:
        """Carry a copy that a checkpoint holds."""
        self.world.agenda.put(due.time, order, self.world.deliver[receiver], message)

    def freeze(self) -> tuple[np.ndarray, list[Any]]:
        """The state of every downlink and the active transfers, at the start of a checkpoint."""
        return np.zeros(0), []

    def ghosts(self, transfers: Sequence[Any]) -> list[Ghost]:
        """The ghosts of transfers that were active or sent later."""
        return []

    def thaw(self, downlinks: np.ndarray, ghosts: Sequence[Ghost]) -> None:
        """Restore the state of a checkpoint."""


class Unlimited(Links):
    """Links with latency only."""

    def post(self, node: RunningNode, receivers: Sequence[int], message: Message, slower: float = 1.0) -> Sending:
        world = self.world
        latency, deliver, now = world.network.latency, world.deliver, world.now
        uniform = latency.uniform_value()
        if uniform is not None:
            world.at(now + uniform * message.legs, node, self._deliver, (receivers, message))
            return SENT
        order = node.order
        for receiver, delay in zip(receivers, self.delays(node.id, receivers), strict=True):
            order += 1
            world.agenda.put(now + delay * message.legs, order, deliver[receiver], message)
        node.order = order
        return SENT

    def under_way(self) -> dict[Copy, Due]:
        found = super().under_way()
        for time, (_, action, sent) in self.world.agenda.later():
            if action == self._deliver:
                receivers, message = sent
                found |= {(receiver, message.sender, message.number): Due(time) for receiver in receivers}
        return found

    def _deliver(self, sent: tuple[Sequence[int], Message]) -> None:
        receivers, message = sent
        deliver = self.world.deliver
        for receiver in receivers:
            deliver[receiver](message)


class Convoy:
    """The copies of one message, which leave the sender one after the other.

    Only the next copy has an event. Its successor gets one when that has happened.
    """

    __slots__ = (
        "bits",
        "kept",
        "links",
        "message",
        "offsets",
        "order",
        "positions",
        "receivers",
        "seconds",
        "sender",
        "start",
        "turn",
    )

    def __init__(
        self,
        links: "Queued",
        sender: int,
        message: Message,
        receivers: Sequence[int],
        start: float,
        order: int,
        uniform: float | None,
        slower: float,
    ) -> None:
        self.links = links
        self.message: Message | None = message
        """The message; None after the last copy has arrived, because its model may be large."""
        self.sender = sender
        self.bits = message.size * 8.0
        self.seconds = seconds = slower * message.load * self.bits / links.up[sender]
        """The seconds that one copy takes to leave."""
        self.start = start
        """The time at which the first copy begins to leave."""
        self.order = order
        self.kept = count = len(receivers)
        """The number of copies, from the first, that were not withdrawn."""
        self.turn = 0
        """The number of copies that have arrived or, with downlink queues, begun to arrive."""
        self.positions: Sequence[int] = range(count)
        """The positions of copies in the uplink, in order of arrival, like `receivers` and `offsets`."""
        if uniform is not None:
            self.receivers = receivers
            delay = uniform * message.legs
            self.offsets = [position * seconds + delay for position in self.positions]
            """The time of arrival of the first bit of each copy, after `start`."""
        else:
            delays = links.delays(sender, receivers)
            offsets = [position * seconds + delay * message.legs for position, delay in enumerate(delays)]
            self.positions = sorted(self.positions, key=offsets.__getitem__)
            self.receivers = [receivers[position] for position in self.positions]
            self.offsets = [offsets[position] for position in self.positions]

    @property
    def end(self) -> float:
        """The time at which the last copy has left."""
        return self.start + self.kept * self.seconds

    def dues(self, since: int, until: int) -> dict[int, Due]:
        """The moments of copies of some positions in the uplink that have not reached their downlink, by receiver."""
        return {
            self.receivers[turn]: Due(self.start + self.positions[turn] * self.seconds, queues=True)
            for turn in range(self.turn, len(self.positions))
            if since <= self.positions[turn] < until
        }

    def begun(self, now: float) -> int:
        """The number of copies that have left or are leaving."""
        return sum(self.start + position * self.seconds <= now for position in range(self.kept))

    def cancel(self) -> int:
        return self.links.withdraw([self])


class Queued(Links):
    """Links with first-in-first-out queues at the sender's uplink and the receiver's downlink."""

    def __init__(self, world: "World", uplinks: np.ndarray | None, downlinks: np.ndarray | None) -> None:
        super().__init__(world)
        free = np.full(world.size, np.inf)
        self.up: list[float] = (free if uplinks is None else uplinks).tolist()
        self.down: list[float] = (free if downlinks is None else downlinks).tolist()
        self.up_free = [0.0] * world.size
        self.down_free = [0.0] * world.size
        self.waiting: list[deque[Convoy]] = [deque() for _ in range(world.size)]
        """The convoys of each node that had not left it at the last check."""

    def post(self, node: RunningNode, receivers: Sequence[int], message: Message, slower: float = 1.0) -> Sending:
        world, sender = self.world, node.id
        now, waiting = world.now, self.waiting[sender]
        while waiting and waiting[0].end <= now:
            waiting.popleft()
        start = max(now, self.up_free[sender])
        uniform = world.network.latency.uniform_value()
        convoy = Convoy(self, sender, message, receivers, start, node.order + 1, uniform, slower)
        node.order += convoy.kept
        self.up_free[sender] = convoy.end
        waiting.append(convoy)
        self._schedule(convoy)
        if world.checkpoints.cuts:
            world.checkpoints.note_transfers(node, [(convoy, 0)])
        return convoy

    def _schedule(self, convoy: Convoy) -> None:
        """Schedule the arrival of the first bit of the next copy."""
        turn = convoy.turn
        due, order = convoy.start + convoy.offsets[turn], convoy.order + convoy.positions[turn]
        self.world.agenda.put(due, order, self._reach, (convoy, turn))

    def _reach(self, event: tuple[Convoy, int]) -> None:
        """Handle the arrival of a copy's first bit: the copy takes the downlink when that is free."""
        convoy, turn = event
        if turn != convoy.turn:
            return  # The copy moved up and has arrived earlier.
        world, positions, message = self.world, convoy.positions, convoy.message
        position, convoy.turn = positions[turn], turn + 1
        if turn + 1 < len(positions):
            self._schedule(convoy)
        else:
            convoy.message = None
        if position < convoy.kept:
            receiver = convoy.receivers[turn]
            delivered = self._occupy(receiver, convoy.bits, world.now + convoy.seconds)
            world.agenda.put(delivered, convoy.order + position, world.deliver[receiver], message)

    def _occupy(self, receiver: int, bits: float, last_bit: float) -> float:
        """Occupy a downlink for a message, and return the time at which its last bit has passed."""
        free, now = self.down_free[receiver], self.world.now
        passed = (free if free > now else now) + bits / self.down[receiver]
        self.down_free[receiver] = passed = passed if passed > last_bit else last_bit
        return passed

    def uplink_busy_until(self, node: int) -> float:
        return self.up_free[node]

    def restore_uplink(self, node: int, busy_until: float) -> None:
        self.up_free[node] = busy_until

    def withdraw(self, convoys: Sequence[Convoy]) -> int:
        """Withdraw the copies of one sender that have not begun to leave. Later ones move up."""
        now, gone = self.world.now, 0
        if not convoys:
            return 0
        sender = convoys[0].sender
        # In a resumed run, what leaves now may be none of those that wait. The first of these begins after it.
        free = next((max(now, other.start) for other in self.waiting[sender] if other.kept), now)
        for convoy in convoys:
            left = convoy.begun(now)
            copies = convoy.kept - left
            if copies:
                convoy.kept = left
                gone += copies
                assert convoy.message is not None  # Its last copy has not arrived.
                if self.world.mail is not None:
                    self.world.mail.withdraw_again(convoy.dues(left, left + copies), convoy.message)
                lengths = wire.lengths(convoy.message.shared, convoy.message.tag)
                self.world.nodes[sender].count_sent(lengths, -copies)
        if gone:
            for other in self.waiting[sender]:
                if not other.kept:
                    continue
                if other.start > now and other.start != free:
                    other.start = free
                    self._schedule(other)
                free = max(free, other.end)
            self.up_free[sender] = free
        return gone

    def withdraw_of(self, node: int, tag: str | None) -> int:
        waiting = [c for c in self.waiting[node] if c.message is not None and tag in (None, c.message.tag)]
        return self.withdraw(waiting)

    def under_way(self) -> dict[Copy, Due]:
        found = super().under_way()
        for convoy in self._coming():
            assert convoy.message is not None  # Its last copy has not arrived.
            for receiver, due in convoy.dues(0, convoy.kept).items():
                found[receiver, convoy.sender, convoy.message.number] = due
        return found

    def carry_again(self, message: Message, receiver: int, due: Due, order: int) -> None:
        if due.queues:
            uniform, waiting = self.world.network.latency.uniform_value(), self.waiting[message.sender]
            start = max(due.time, waiting[-1].end) if waiting else due.time
            waiting.append(Convoy(self, message.sender, message, [receiver], start, order, uniform, 1.0))
            self._schedule(waiting[-1])
        else:
            self.down_free[receiver] = max(self.down_free[receiver], due.time)
            super().carry_again(message, receiver, due, order)

    def freeze(self) -> tuple[np.ndarray, list[Any]]:
        return np.array(self.down_free), [(convoy, convoy.turn) for convoy in self._coming()]

    def _coming(self) -> Iterable[Convoy]:
        """The convoys of which not all copies have reached their downlinks."""
        pending = self.world.agenda.pending()
        return {argument[0]: None for _, action, argument in pending if action == self._reach}

    def ghosts(self, transfers: Sequence[Any]) -> list[Ghost]:
        return [
            (
                c.start + c.offsets[turn],
                c.order + position,
                c.start + c.offsets[turn] + c.seconds,
                c.sender,
                c.receivers[turn],
                c.bits,
            )
            for c, since in transfers
            for turn, position in enumerate(c.positions)
            if turn >= since and position < c.kept
        ]

    def thaw(self, downlinks: np.ndarray, ghosts: Sequence[Ghost]) -> None:
        self.down_free = downlinks.tolist()
        for first_bit, order, last_bit, _, receiver, bits in ghosts:
            self.world.agenda.put(first_bit, order, self._haunt, (receiver, bits, last_bit))

    def _haunt(self, event: tuple[int, float, float]) -> None:
        self._occupy(*event)


class _Flows:
    """The transfers of one message."""

    __slots__ = ("flows", "links")

    def __init__(self, links: "Fair", flows: Sequence[int]) -> None:
        self.links, self.flows = links, flows

    def cancel(self) -> int:
        return self.links.withdraw(self.flows)


class Fair(Links):
    """Links that all transfers share at once, at max-min fair rates."""

    def __init__(self, world: "World", uplinks: np.ndarray | None, downlinks: np.ndarray | None) -> None:
        super().__init__(world)
        free = np.full(world.size, np.inf)
        self.share = FairShare(free if uplinks is None else uplinks, free if downlinks is None else downlinks)
        self.flows: dict[int, tuple[int, int, Message | None, float]] = {}
        """The sender, receiver, message and slowdown of each transfer."""
        self.version = 0
        self.due = False

    def post(self, node: RunningNode, receivers: Sequence[int], message: Message, slower: float = 1.0) -> Sending:
        slower *= message.load
        now, bits = self.world.now, message.size * 8.0 * slower
        started = []
        for receiver in receivers:
            flow = self.share.add(now, node.id, receiver, bits)
            self.flows[flow] = (node.id, receiver, message, slower)
            started.append((now, flow, 0.0, node.id, receiver, bits))
        self.world.checkpoints.note_transfers(node, started)
        self._soon()
        return _Flows(self, [flow for _, flow, *_ in started])

    def withdraw_of(self, node: int, tag: str | None) -> int:
        return self.withdraw(
            [
                flow
                for flow, (source, _, message, _) in self.flows.items()
                if source == node and (tag is None or (message is not None and message.tag == tag))
            ]
        )

    def withdraw(self, flows: Iterable[int]) -> int:
        """End active transfers. Their unsent bits are never sent."""
        gone = 0
        for flow in flows:
            if flow not in self.flows:
                continue
            source, receiver, message, slower = self.flows.pop(flow)
            sender = self.world.nodes[source]
            if self.world.mail is not None and message is not None:
                self.world.mail.withdraw_again({receiver: Due(0.0, queues=True)}, message)
            left = int(self.share.cancel(self.world.now, flow) / slower / 8)
            gone += 1
            sender.bytes_out -= left
            sender.messages_out -= 1
            if message is not None:
                length, values, indices = wire.lengths(message.shared, message.tag)
                sender.value_bytes_out -= left * values // length
                sender.index_bytes_out -= left * indices // length
        if gone:
            self._soon()
        return gone

    def _soon(self) -> None:
        """Schedule the search for the next completion at the end of this instant."""
        if not self.due:
            self.due = True
            self.world.agenda.put(self.world.now, 1 << 62, self._plan)

    def _plan(self, _: None) -> None:
        self.due = False
        self.version += 1
        completion = self.share.next_completion()
        if completion is not None:
            self.world.agenda.put(completion[0], (1 << 62) + self.version, self._complete, self.version)

    def _complete(self, version: int) -> None:
        if version != self.version:
            return
        world = self.world
        for flow in self.share.complete(world.now):
            sender, receiver, message, _ = self.flows.pop(flow)
            if message is not None:
                node = world.nodes[sender]
                node.order += 1
                delay = world.network.latency.between(sender, receiver) * message.legs
                world.agenda.put(world.now + delay, node.order, world.deliver[receiver], message)
        self._soon()

    def under_way(self) -> dict[Copy, Due]:
        flows = [(to, sender, message) for sender, to, message, _ in self.flows.values() if message is not None]
        again = [event[2] for event in self.world.agenda.pending() if event[1] == self._begin_again]
        due = Due(0.0, queues=True)
        return super().under_way() | {(to, sender, message.number): due for to, sender, message in [*flows, *again]}

    def carry_again(self, message: Message, receiver: int, due: Due, order: int) -> None:
        sender = self.world.nodes[message.sender]
        if due.queues and sender.committed is not None:
            event = receiver, sender.id, message
            self.world.agenda.put(sender.committed.clock, order, self._begin_again, event)
        else:
            super().carry_again(message, receiver, due, order)

    def _begin_again(self, event: tuple[int, int, Message]) -> None:
        receiver, sender, message = event
        self.post(self.world.nodes[sender], [receiver], message)

    def freeze(self) -> tuple[np.ndarray, list[Any]]:
        now = self.world.now
        return np.zeros(0), [(now, flow, 0.0, s, r, bits) for flow, s, r, bits in self.share.remaining(now)]

    def ghosts(self, transfers: Sequence[Any]) -> list[Ghost]:
        return list(transfers)

    def thaw(self, downlinks: np.ndarray, ghosts: Sequence[Ghost]) -> None:
        for number, (time, _, _, sender, receiver, bits) in enumerate(ghosts):
            self.world.agenda.put(time, number - (1 << 40), self._haunt, (sender, receiver, bits))

    def _haunt(self, event: tuple[int, int, float]) -> None:
        sender, receiver, bits = event
        flow = self.share.add(self.world.now, sender, receiver, bits)
        self.flows[flow] = (sender, receiver, None, 1.0)
        self._soon()
