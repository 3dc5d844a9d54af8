"""The virtual nodes of a host: their names, their messages to other hosts, and the messages that the host relays."""

import asyncio
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from covey.messages import wire
from covey.messages.crypto import derive, lock, unlock
from covey.messages.payloads import Payload, not_finite_entry
from covey.parts.errors import WireError
from covey.parts.nodes import NodeId
from covey.runtime.emulation.shares import HostShare, Passage, Relayed
from covey.runtime.mail import received
from covey.runtime.node import Message
from covey.runtime.sampler import Share, share
from covey.runtime.stage import named

if TYPE_CHECKING:
    from covey.runtime.emulation.host.stage import HostStage

WORD: Final = "named"
"""The tag of a frame of one host to another that holds a message between names."""
_KEPT = 64
"""The number of rounds whose shares are kept."""
_MOST_OF_A_NAME = 1 << 20
"""The bound of the running numbers of messages from one name to another."""


class _Round:
    """The share of a round, by ticket and by name."""

    def __init__(self, found: HostShare) -> None:
        self.virtual: dict[int, list[Share]] = {}
        self.nodes: dict[int, int] = {}
        """The node behind each name of this host."""
        for one in found.virtual:
            self.virtual.setdefault(one.node, []).append(share(one.number, one.id, one.peers))
            self.nodes[one.id] = one.node
        self.outgoing = {(passage.sender, passage.receiver): passage for passage in found.outgoing}
        self.incoming = {passage.ticket: passage for passage in found.incoming}
        self.relayed = {passage.ticket: passage for passage in found.relayed}
        self.sent: Counter[int] = Counter()
        """The number of messages that were sent by each ticket."""


class Names:
    """The names of a host's virtual nodes.

    Args:
        stage: the nodes.
    """

    def __init__(self, stage: "HostStage") -> None:
        self._stage = stage
        self._rounds: OrderedDict[int, _Round] = OrderedDict()
        self._asked: dict[int, asyncio.Event] = {}
        self._early: list[tuple[int, int, Payload]] = []
        """The frames of rounds whose shares have not come: round, host and frame."""
        self._early_bytes = 0

    async def shares(self, node: int, t: int) -> list[Share]:
        """The virtual nodes of a node in round t, which the launcher sends."""
        if t not in self._rounds:
            asked = self._asked.get(t)
            if asked is None:
                asked = self._asked[t] = asyncio.Event()
                self._stage.say("sample", {"round": t})
            await asked.wait()
        return self._rounds[t].virtual.get(node, [])

    def take(self, packed: Any) -> None:
        """Take the share of a round from the launcher."""
        found = msgspec.msgpack.decode(np.asarray(packed, np.uint8).tobytes(), type=HostShare)
        self._rounds[found.round] = _Round(found)
        if len(self._rounds) > _KEPT:
            self._rounds.popitem(last=False)
        asked = self._asked.pop(found.round, None)
        if asked is not None:
            asked.set()
        early, self._early, self._early_bytes = self._early, [], 0
        for t, host, payload in early:
            self._read(t, host, payload)

    # ------------------------------------------------------------------ sending

    def emit(self, message: Message) -> None:
        """Send a message to the host of its receiver, or to a relay, or give it to a node of this host."""
        assert message.round is not None
        assert message.name is not None
        of = self._rounds.get(message.round)
        if of is None:
            self._stage.refuse("late")
            return
        way = of.outgoing[message.sender, message.name]
        if way.via == self._stage.me:
            self._stage.traffic.arrive(of.nodes[message.name], message)
            return
        number = of.sent[way.ticket]
        of.sent[way.ticket] += 1
        frame = wire.encode(
            message.shared, tag=message.tag, sender=message.sender, receiver=message.name, round=message.round
        )
        box = np.frombuffer(lock(_key(way, number), frame), np.uint8)
        self._pass(way.via, {"round": message.round, "ticket": way.ticket, "number": number, "box": box})

    def _pass(self, host: int, payload: Payload) -> None:
        assert self._stage.peers is not None
        self._stage.peers.send_word(host, WORD, payload)

    # ------------------------------------------------------------------ receiving

    def take_word(self, host: int, payload: Payload) -> None:
        """Take a frame of another host with a message between names."""
        t, box = payload.get("round"), payload.get("box")
        if type(t) is not int or not 0 <= t < self._stage.rounds or not isinstance(box, np.ndarray):
            self._stage.refuse("wrong-ticket")
        elif t in self._rounds:
            self._read(t, host, payload)
        elif self._rounds and t < min(self._rounds):
            self._stage.refuse("late")
        elif self._early_bytes + box.nbytes > self._stage.most:
            self._stage.refuse("queue-full")
        else:
            self._early.append((t, host, payload))
            self._early_bytes += box.nbytes

    def _read(self, t: int, host: int, payload: Payload) -> None:
        """Pass a frame on, or deliver its message."""
        of, ticket = self._rounds.get(t), payload.get("ticket")
        if of is None:
            self.take_word(host, payload)  # The share of its round has not come yet.
            return
        relayed = of.relayed.get(ticket) if type(ticket) is int else None
        incoming = of.incoming.get(ticket) if type(ticket) is int else None
        if isinstance(relayed, Relayed) and relayed.source == host:
            self._pass(relayed.target, payload)
        elif incoming is not None and incoming.via == host:
            self._deliver(of, t, incoming, payload)
        else:
            self._stage.refuse("wrong-ticket")

    def _deliver(self, of: _Round, t: int, way: Passage, payload: Payload) -> None:
        stage, frame = self._stage, self._opened(t, way, payload)
        if frame is None:
            stage.refuse("wrong-box")
            return
        node = stage.nodes[of.nodes[way.receiver]]
        problem = not_finite_entry(frame.payload)
        if problem is not None:
            stage.reject(node, frame.sender, f"'{problem}' is not finite", "not-finite")
            return
        message = received(frame)
        message.name, message.key = NodeId(way.receiver), (named(message.tag, way.receiver), t)
        stage.traffic.arrive(node.id, message)

    def _opened(self, t: int, way: Passage, payload: Payload) -> wire.Frame | None:
        """The frame in a box; None if it is not one from this sender to this receiver in this round."""
        number, box = payload.get("number"), np.asarray(payload["box"])
        if type(number) is not int or not 0 <= number < _MOST_OF_A_NAME:
            return None
        opened = unlock(_key(way, number), box.tobytes())
        if opened is None:
            return None
        try:
            frame = wire.decode(opened, self._stage.limits)
        except WireError:
            return None
        right = (frame.sender, frame.receiver, frame.round) == (way.sender, way.receiver, t)
        return frame if right else None


def _key(way: Passage, number: int) -> bytes:
    """The key of one message."""
    return derive(way.key, "named", number, context=b"")
