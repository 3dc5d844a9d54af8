"""The mail of nodes that go on from different moments: a resume loses no message and delivers none twice.

A node goes on from its last commit, and does again what came after it. Of what it has received it needs again what it
had not taken then, and what came later. Of what is under way it needs what was sent before its sender's commit: the
sender sends the rest again. What it had taken then and its sender sends again must not come a second time. A message is
known by its sender and by how many that had sent before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from covey.messages import wire
from covey.messages.payloads import KEPT, Payload, is_tensor
from covey.parts.errors import RunError, WireError
from covey.parts.nodes import NodeId
from covey.runtime.node import Message
from covey.runtime.recorder import framed
from covey.runtime.running_node import RunningNode, not_finite_entry

MOST = 1 << 30
"""Bytes of mail that a checkpoint holds; with more, nodes go on without theirs."""
_ENTRY = 200
"""Bytes of memory that a message takes here beside its own, about."""

Known = tuple[int, int]
"""A message: its sender, and how many that had sent before."""


class Kept(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A message that a checkpoint holds."""

    receiver: int
    time: float
    """When it came, or was under way."""
    counted: bool
    """Whether the receiver had it when it committed, so that it has been counted."""
    frame: bytes
    """The message itself, with its sender and its number."""


class Held(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The mail of nodes in a checkpoint."""

    messages: list[Kept]
    taken: list[tuple[int, int, int]]
    """The receiver, sender and number of what is not to come a second time."""

    @property
    def size(self) -> int:
        """The bytes of all messages."""
        return sum(len(kept.frame) for kept in self.messages)


@dataclass
class Content:
    """The mail of some nodes at a moment, before it is known which of it is sent again."""

    messages: list[tuple[int, float, Message, bool]]
    """The receiver, time, message and whether it was counted, as in `Kept`."""
    taken: list[tuple[int, int, int]]

    def held(self, posted: Sequence[int]) -> Held:
        """The part of it that a checkpoint holds.

        Args:
            posted: how many messages each node had sent at the commit that it goes on from.
        """
        return Held(
            [
                Kept(receiver, time, counted, framed(message, receiver))
                for receiver, time, message, counted in self.messages
                if message.number < posted[message.sender]
            ],
            [known for known in self.taken if known[2] >= posted[known[1]]],
        )


class Mail:
    """What nodes of this process have sent and received since their last commits.

    Args:
        nodes: the nodes, by their ids.
        size: how many nodes the network has.
        most: how many bytes of memory it may take, about; with more nothing is kept any longer.
    """

    def __init__(self, nodes: Mapping[int, RunningNode], size: int, most: float = float("inf")) -> None:
        self._nodes, self._most = nodes, most
        self.posted = [0] * size
        """How many messages each node had sent when it last committed, as far as is known here."""
        self.is_full = False
        """Whether there was more than it may keep."""
        self._memory = 0
        self._memory_of = dict.fromkeys(nodes, 0)
        self._under_way: dict[tuple[int, Known], Message] = {}
        """By receiver."""
        self._came: dict[int, list[tuple[float, Message, bool]]] = {id: [] for id in nodes}
        """What came to each node since its last commit, or before and lies there: when, what, and whether before."""
        self._taken: dict[int, set[Known]] = {id: set() for id in nodes}
        """What each node had taken when it committed, and its sender may send again."""
        self._known: dict[int, set[Known]] = {id: set() for id in nodes}
        """What was taken before the checkpoint that the run goes on from: it is not to come again."""

    def post(self, receivers: Sequence[int], message: Message) -> None:
        """A message is on its way to some nodes."""
        if not self.is_full:
            known = (message.sender, message.number)
            for receiver in receivers:
                self._under_way[receiver, known] = message

    def withdraw(self, receivers: Sequence[int], message: Message) -> None:
        """A message is not on its way to some nodes any more, and has not come."""
        for receiver in receivers:
            self._under_way.pop((receiver, (message.sender, message.number)), None)

    def comes(self, node: RunningNode, message: Message, now: float) -> bool:
        """A message has arrived at a node; whether it gets it."""
        known = (message.sender, message.number)
        self._under_way.pop((node.id, known), None)
        if known in self._known[node.id]:
            self._known[node.id].discard(known)
            self._taken[node.id].add(known)
            return False
        if not (self.is_full or node.mail.ended or (node.mail.away and node.held is None)):
            self._came[node.id].append((now, message, False))
            self._count(node.id, message.size + _ENTRY)
        return True

    def _count(self, node: int, more: int) -> None:
        self._memory_of[node] += more
        self._memory += more
        if self._memory > self._most:
            self.is_full = True
            self._under_way.clear()
            for id in self._nodes:
                self._came[id], self._taken[id] = [], set()

    def commit(self, node: RunningNode) -> None:
        """A node goes on from here: what it has taken it needs no more."""
        posted = self.posted
        posted[node.id] = node.posted
        if self.is_full:
            return
        lying = {id(message) for message in node.mail.lying()}
        came, taken = self._came[node.id], self._taken[node.id]
        taken.update((m.sender, m.number) for _, m, _ in came if id(m) not in lying)
        self._came[node.id] = came = [(time, m, True) for time, m, _ in came if id(m) in lying]
        self._taken[node.id] = taken = {known for known in taken if known[1] >= posted[known[0]]}
        memory = sum(message.size for _, message, _ in came) + _ENTRY * (len(came) + len(taken))
        self._count(node.id, memory - self._memory_of[node.id])

    def content(self, now: float) -> Content:
        """All of it."""
        messages = [(id, time, message, counted) for id, came in self._came.items() for time, message, counted in came]
        messages += [(receiver, now, message, False) for (receiver, _), message in self._under_way.items()]
        taken = [(id, sender, number) for id in self._nodes for sender, number in self._taken[id] | self._known[id]]
        return Content(messages, taken)

    def restore(self, held: Held, posted: Sequence[int]) -> Iterator[tuple[RunningNode, Kept, Message]]:
        """Go on with what a checkpoint holds, once all nodes have been restored; the messages are still to come.

        Args:
            held: its mail.
            posted: how many messages each node of the network had sent when it committed.
        """
        self.posted = list(posted)
        for receiver, sender, number in held.taken:
            self._known[receiver].add((sender, number))
        for kept in held.messages:
            node = self._nodes[kept.receiver]
            if node.mail.ended:
                continue
            message = received(wire.decode(kept.frame, wire.DEFAULT))
            if kept.counted and message.round is None:
                # It is counted again when it comes again.
                node.mail.messages_in -= 1
                node.mail.bytes_in -= message.size
                if node.committed is not None:
                    node.committed.counters = node.counters()
            yield node, kept, message


def received(frame: wire.Frame) -> Message:
    """The message of a frame that nobody else has."""
    for value in frame.payload.values():
        if is_tensor(value):
            setattr(value, KEPT, True)
        elif isinstance(value, np.ndarray):
            value.setflags(write=False)
    message = Message(NodeId(frame.sender), frame.tag, frame.round, frame.payload, frame.size)
    message.number = frame.number
    return message


# ---------------------------------------------------------------------- on the disk


class _Entry(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What a checkpoint says of mail, beside the messages themselves."""

    messages: list[tuple[int, float, bool]]
    taken: list[tuple[int, int, int]]


def pack(held: Held) -> dict[str, Any]:
    """Mail as entries of a checkpoint; none where it is too much."""
    if held.size > MOST:
        return {}
    entry = _Entry([(kept.receiver, kept.time, kept.counted) for kept in held.messages], held.taken)
    frames = {f"mail/{index}": np.frombuffer(kept.frame, np.uint8) for index, kept in enumerate(held.messages)}
    return {"mail": msgspec.msgpack.encode(entry), **frames}


def unpack(payload: Payload) -> Held:
    """The mail of a checkpoint that `check` found right."""
    if "mail" not in payload:
        return Held([], [])
    found: Any = payload["mail"]
    entry = msgspec.msgpack.decode(found, type=_Entry)
    kept = [Kept(*fields, frame=_frame(payload, index)) for index, fields in enumerate(entry.messages)]
    return Held(kept, entry.taken)


def _frame(payload: Payload, index: int) -> bytes:
    found: Any = payload[f"mail/{index}"]
    return bytes(found.tobytes())


def check(payload: Payload, nodes: int) -> None:
    """See whether a payload from the disk holds mail of so many nodes, where it holds any.

    Raises:
        RunError: it does not.
    """
    try:
        check_held(unpack(payload), nodes)
    except (KeyError, AttributeError, TypeError, msgspec.MsgspecError, RunError) as error:
        raise RunError(f"'mail' is not that of nodes: {error}") from error


def check_held(held: Held, nodes: int) -> None:
    """See whether mail is that of so many nodes.

    Raises:
        RunError: it is not.
    """
    for kept in held.messages:
        check_kept(kept, nodes)
    for receiver, sender, number in held.taken:
        if not (0 <= receiver < nodes and 0 <= sender < nodes and number >= 0):
            raise RunError(f"node {receiver} cannot have taken message {number} of node {sender}")


def check_kept(kept: Kept, nodes: int) -> wire.Frame:
    """The frame of a message that a checkpoint holds.

    Raises:
        RunError: it is none of so many nodes.
    """
    try:
        frame = wire.decode(kept.frame, wire.DEFAULT)
    except WireError as error:
        raise RunError(f"a message is no frame: {error.detail}") from error
    if not (0 <= kept.receiver < nodes and frame.receiver == kept.receiver and frame.sender < nodes):
        raise RunError(f"a message goes from node {frame.sender} to node {kept.receiver}, and there are {nodes}")
    if not 0 <= kept.time < float("inf"):
        raise RunError(f"a message comes at {kept.time}")
    problem = not_finite_entry(frame.payload)
    if problem is not None:
        raise RunError(f"the '{problem}' of a message is not finite")
    return frame
