"""The virtual nodes of a host: their names, their messages to other hosts, and the messages that the host relays."""

import asyncio
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

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
_BESIDE = 512
"""The bytes of memory that a kept frame takes beside its box."""


class _Word(NamedTuple):
    """A frame of one host to another with a message between names."""

    round: int
    ticket: int
    number: int
    """The number of the message among those of its ticket."""
    box: NDArray[Any]
    """The sealed message."""

    @classmethod
    def of(cls, payload: Payload) -> "_Word | None":
        """The entries of a payload; None if one has a wrong type."""
        *numbers, box = (payload.get(name) for name in cls._fields)
        t, ticket, number = (one if type(one) is int else None for one in numbers)
        if t is None or ticket is None or number is None or not isinstance(box, np.ndarray):
            return None
        return cls(t, ticket, number, box)


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
        self._early: list[tuple[int, _Word]] = []
        """The frames of rounds whose shares have not come, with the hosts that sent them."""
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
        for host, word in early:
            self._read(host, word)

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
        self._pass(way.via, _Word(message.round, way.ticket, number, box))

    def _pass(self, host: int, word: _Word) -> None:
        assert self._stage.peers is not None
        self._stage.peers.send_word(host, WORD, word._asdict())

    # ------------------------------------------------------------------ receiving

    def take_word(self, host: int, payload: Payload) -> None:
        """Take a frame of another host with a message between names."""
        word = _Word.of(payload)
        if word is None or not 0 <= word.round < self._stage.rounds:
            self._stage.refuse("wrong-ticket")
        elif word.round in self._rounds:
            self._read(host, word)
        else:
            self._keep(host, word)

    def _keep(self, host: int, word: _Word) -> None:
        """Keep a frame until the share of its round comes. Its box is copied, so that the rest of it is freed."""
        size = word.box.nbytes + _BESIDE
        if self._rounds and word.round < min(self._rounds):
            self._stage.refuse("late")
        elif self._early_bytes + size > self._stage.most:
            self._stage.refuse("queue-full")
        else:
            self._early.append((host, word._replace(box=word.box.copy())))
            self._early_bytes += size

    def _read(self, host: int, word: _Word) -> None:
        """Pass a frame on, or deliver its message."""
        of = self._rounds.get(word.round)
        if of is None:
            self._keep(host, word)
            return
        relayed, incoming = of.relayed.get(word.ticket), of.incoming.get(word.ticket)
        if isinstance(relayed, Relayed) and relayed.source == host:
            self._pass(relayed.target, word)
        elif incoming is not None and incoming.via == host:
            self._deliver(of, incoming, word)
        else:
            self._stage.refuse("wrong-ticket")

    def _deliver(self, of: _Round, way: Passage, word: _Word) -> None:
        stage, frame = self._stage, self._opened(way, word)
        if frame is None:
            stage.refuse("wrong-box")
            return
        node = stage.nodes[of.nodes[way.receiver]]
        problem = not_finite_entry(frame.payload)
        if problem is not None:
            stage.reject(node, frame.sender, f"'{problem}' is not finite", "not-finite")
            return
        message = received(frame)
        message.name, message.key = NodeId(way.receiver), (named(message.tag, way.receiver), word.round)
        stage.traffic.arrive(node.id, message)

    def _opened(self, way: Passage, word: _Word) -> wire.Frame | None:
        """The frame in a box; None if it is not one from this sender to this receiver in this round."""
        if not 0 <= word.number < _MOST_OF_A_NAME:
            return None
        opened = unlock(_key(way, word.number), word.box.tobytes())
        if opened is None:
            return None
        try:
            frame = wire.decode(opened, self._stage.limits)
        except WireError:
            return None
        right = (frame.sender, frame.receiver, frame.round) == (way.sender, way.receiver, word.round)
        return frame if right else None


def _key(way: Passage, number: int) -> bytes:
    """The key of one message."""
    return derive(way.key, "named", number, context=b"")
