"""The mail of nodes in a checkpoint at different moments. A resumption loses no message and delivers none twice.

A node resumes at its last commit and repeats what followed. The checkpoint holds the messages that it had not taken at
its commit or received later, and the messages in transit that were sent before their sender's commit. The sender sends
the rest again. A message that the node had taken before its commit, and whose sender sends it again, must be dropped. A
message is identified by its sender and by the number of messages that this had sent before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from covey.messages import wire
from covey.messages.payloads import KEPT, Payload, is_tensor, not_finite_entry
from covey.parts.errors import RunError, WireError
from covey.parts.nodes import NodeId
from covey.runtime.node import Message
from covey.runtime.recorder import framed
from covey.runtime.running_node import RunningNode

MOST = 1 << 30
"""The greatest size of mail in a checkpoint. With more, nodes resume without their mail."""
_ENTRY = 200
"""The approximate memory of a message's record, in bytes."""

_PIECE = 1 << 20
"""Bytes of messages that are sent together."""

Known = tuple[int, int]
"""The identity of a message: its sender, and the number of messages that this had sent before."""

Copy = tuple[int, int, int]
"""A copy of a message: its receiver, its sender, and the number of messages that this had sent before."""


class Due(NamedTuple):
    """The moment of a copy of a message."""

    time: float
    """The time at which it arrived or arrives; if it queues, at which it begins to leave its sender."""
    queues: bool = False
    """True if other messages still decide when it arrives."""


class Kept(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A message in a checkpoint."""

    receiver: int
    sender: int
    number: int
    """The number of messages that its sender had sent before."""
    time: float
    """The time at which it arrived or arrives, or was in transit in real time, or begins to leave its sender."""
    counted: bool
    """True if it had arrived before the receiver's commit, so that it has been observed."""
    frame: bytes
    queues: bool = False
    """True if its time is that at which it begins to leave its sender, in virtual time."""


class Held(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The mail of nodes in a checkpoint."""

    messages: list[Kept]
    taken: list[tuple[int, int, int]]
    """The receiver, sender and number of messages that must not be delivered again."""

    @property
    def size(self) -> int:
        """The bytes of all frames."""
        return sum(len(kept.frame) for kept in self.messages)

    def __add__(self, other: "Held") -> "Held":
        return Held(self.messages + other.messages, self.taken + other.taken)

    def reduced(self, posted: Sequence[int]) -> "Held":
        """The same without what is sent again, or was taken before and is under way a second time.

        Args:
            posted: the number of messages that each node had sent at the commit from which it resumes.
        """
        had = set(self.taken)
        return Held(
            [
                kept
                for kept in self.messages
                if kept.number < posted[kept.sender] and (kept.receiver, kept.sender, kept.number) not in had
            ],
            [known for known in self.taken if known[2] >= posted[known[1]]],
        )

    def in_order(self) -> "Held":
        """The same by time, with the messages of one node to another in the order in which they were sent."""
        latest: dict[tuple[int, int], float] = {}
        messages = []
        for kept in sorted(self.messages, key=attrgetter("number")):
            pair = kept.receiver, kept.sender
            latest[pair] = time = max(kept.time, latest.get(pair, 0.0))
            messages.append(msgspec.structs.replace(kept, time=time))
        return Held(sorted(messages, key=attrgetter("time")), self.taken)


@dataclass
class Content:
    """The mail of some nodes at a moment."""

    messages: list[tuple[int, Due, Message, bool]]
    """The receiver, moment, message and `counted`, as in `Kept`."""
    taken: list[Copy]

    def held(self, posted: Sequence[int]) -> Held:
        """The mail for a checkpoint, without messages that are sent again.

        Args:
            posted: the number of messages that each node had sent at the commit at which it resumes.
        """
        kept = [
            Kept(receiver, message.sender, message.number, due.time, counted, framed(message, receiver), due.queues)
            for receiver, due, message, counted in self.messages
            if message.number < posted[message.sender]
        ]
        return Held(kept, self.taken)


class Mail:
    """The messages that nodes of this process have sent and received since their last commits.

    Args:
        nodes: the nodes, by id.
        size: the number of nodes of the network.
        most: the approximate limit of memory in bytes. Beyond it, no messages are kept.
    """

    def __init__(self, nodes: Mapping[int, RunningNode], size: int, most: float = float("inf")) -> None:
        self._nodes, self._most = nodes, most
        self.posted = [0] * size
        """The number of messages that each node had sent at its last known commit."""
        self.is_full = False
        """True if the limit was exceeded."""
        self.has_loose = False
        """True if a message without a round was sent. It may lie in a mailbox or be in transit when a round ends."""
        self._memory = 0
        self._memory_of = dict.fromkeys(nodes, 0)
        self._under_way: dict[tuple[int, Known], Message] = {}
        """The messages in transit, by receiver and identity."""
        self._withdrawn: dict[int, list[tuple[int, Due, Message]]] = {id: [] for id in nodes}
        """The messages that each node sent before its last commit and has withdrawn since: (receiver, moment, message).
        """
        self._came: dict[int, list[tuple[float, Message, bool]]] = {id: [] for id in nodes}
        """The messages of each node that arrived since its last commit, or before and were not taken: (time, message,
        arrived before)."""
        self._taken: dict[int, set[Known]] = {id: set() for id in nodes}
        """The messages that each node had taken before its commit and that its sender may send again."""
        self._known: dict[int, set[Known]] = {id: set() for id in nodes}
        """The messages that were taken before the checkpoint of a resumed run, which must not be delivered again."""

    def post(self, receivers: Sequence[int], message: Message) -> None:
        """Record a message in transit to some nodes."""
        self.has_loose |= message.round is None
        if not self.is_full:
            known = (message.sender, message.number)
            for receiver in receivers:
                self._under_way[receiver, known] = message

    def withdraw(self, receivers: Sequence[int], message: Message) -> None:
        """Remove a message in transit to some nodes, which has not arrived."""
        for receiver in receivers:
            self._under_way.pop((receiver, (message.sender, message.number)), None)

    def withdraw_again(self, dues: Mapping[int, Due], message: Message) -> None:
        """Remove a message in transit that its sender withdraws again if it resumes at its last commit.

        Args:
            dues: the moment of each copy, by receiver.
            message: the message.
        """
        self.withdraw([*dues], message)
        if message.number < self.posted[message.sender] and not self.is_full:
            self._withdrawn[message.sender] += [(receiver, due, message) for receiver, due in dues.items()]

    def comes(self, node: RunningNode, message: Message, now: float, *, again: bool = False) -> bool:
        """Record the arrival of a message at a node. False if the node must not get it again.

        Args:
            node: the node.
            message: the message.
            now: the time.
            again: True if it had arrived before the node's last commit.
        """
        known = (message.sender, message.number)
        self._under_way.pop((node.id, known), None)
        if known in self._known[node.id]:
            self._known[node.id].discard(known)
            self._taken[node.id].add(known)
            return False
        if not (self.is_full or (node.mail.ended and not node.serves_on) or (node.mail.away and node.held is None)):
            self._came[node.id].append((now, message, again))
            self._count(node.id, message.size + _ENTRY)
        return True

    def _count(self, node: int, more: int) -> None:
        self._memory_of[node] += more
        self._memory += more
        if self._memory > self._most:
            self.is_full = True
            self._under_way.clear()
            for id in self._nodes:
                self._came[id], self._taken[id], self._withdrawn[id] = [], set(), []

    def commit(self, node: RunningNode) -> None:
        """Record a commit of a node, and forget the messages that it has taken."""
        posted = self.posted
        posted[node.id] = node.posted
        self._withdrawn[node.id] = []
        if self.is_full:
            return
        lying = {id(message) for message in node.mail.unfinished()}
        came, taken = self._came[node.id], self._taken[node.id]
        taken.update((m.sender, m.number) for _, m, _ in came if id(m) not in lying)
        self._came[node.id] = came = [(time, m, True) for time, m, _ in came if id(m) in lying]
        self._taken[node.id] = taken = {known for known in taken if known[1] >= posted[known[0]]}
        memory = sum(message.size for _, message, _ in came) + _ENTRY * (len(came) + len(taken))
        self._count(node.id, memory - self._memory_of[node.id])

    def content(self, now: float, dues: Mapping[Copy, Due] = MappingProxyType({})) -> Content:
        """The mail at this moment.

        Args:
            now: the time.
            dues: the moments of messages in transit that do not arrive now.
        """
        messages = [
            (id, Due(time), message, counted) for id, came in self._came.items() for time, message, counted in came
        ]
        messages += [
            (receiver, dues.get((receiver, *known), Due(now)), message, False)
            for (receiver, known), message in self._under_way.items()
        ]
        messages += [(to, due, message, False) for gone in self._withdrawn.values() for to, due, message in gone]
        taken = [(id, sender, number) for id in self._nodes for sender, number in self._taken[id] | self._known[id]]
        return Content(messages, taken)

    def restore(self, held: Held, posted: Sequence[int]) -> Iterator[tuple[RunningNode, Kept, Message]]:
        """Restore the mail of a checkpoint after all nodes, and return the messages to deliver.

        Args:
            held: the mail of the checkpoint.
            posted: the number of messages that each node of the network had sent at its commit.
        """
        self.posted = list(posted)
        for receiver, sender, number in held.taken:
            self._known[receiver].add((sender, number))
        for kept in held.messages:
            node = self._nodes[kept.receiver]
            if node.mail.ended:
                continue
            yield node, kept, received(wire.decode(kept.frame, wire.DEFAULT))


def batches(held: Held) -> Iterator[Held]:
    """The same in pieces that are each sent as one frame, at least one."""
    piece, size = Held([], held.taken), 0
    for kept in held.messages:
        if piece.messages and size + len(kept.frame) > _PIECE:
            yield piece
            piece, size = Held([], []), 0
        piece.messages.append(kept)
        size += len(kept.frame)
    yield piece


def received(frame: wire.Frame) -> Message:
    """The message of a frame that has no other owner."""
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
    """The entry of a checkpoint about mail, beside the frames."""

    messages: list[tuple[int, int, int, float, bool, bool]]
    taken: list[tuple[int, int, int]]


def pack(held: Held) -> dict[str, Any]:
    """The entries of a checkpoint for mail; none if it is too large."""
    if held.size > MOST:
        return {}
    entry = _Entry([(k.receiver, k.sender, k.number, k.time, k.counted, k.queues) for k in held.messages], held.taken)
    frames = {f"mail/{index}": np.frombuffer(kept.frame, np.uint8) for index, kept in enumerate(held.messages)}
    return {"mail": msgspec.msgpack.encode(entry), **frames}


def unpack(payload: Payload) -> Held:
    """The mail of a checkpoint that `check` accepted."""
    if "mail" not in payload:
        return Held([], [])
    found: Any = payload["mail"]
    entry = msgspec.msgpack.decode(found, type=_Entry)
    kept = [
        Kept(receiver, sender, number, time, counted, _frame(payload, index), queues)
        for index, (receiver, sender, number, time, counted, queues) in enumerate(entry.messages)
    ]
    return Held(kept, entry.taken)


def _frame(payload: Payload, index: int) -> bytes:
    found: Any = payload[f"mail/{index}"]
    return bytes(found.tobytes())


def check(payload: Payload, nodes: int) -> None:
    """Refuse a checkpoint with mail that is not valid.

    Raises:
        RunError: the mail is malformed, or not that of this number of nodes.
    """
    try:
        check_held(unpack(payload), nodes)
    except (KeyError, AttributeError, TypeError, msgspec.MsgspecError, RunError) as error:
        raise RunError(f"'mail' is not that of nodes: {error}") from error


def check_held(held: Held, nodes: int) -> None:
    """Refuse mail that is not valid.

    Raises:
        RunError: it is not that of this number of nodes.
    """
    for kept in held.messages:
        check_kept(kept, nodes)
    for receiver, sender, number in held.taken:
        if not (0 <= receiver < nodes and 0 <= sender < nodes and number >= 0):
            raise RunError(f"node {receiver} cannot have taken message {number} of node {sender}")


def check_kept(kept: Kept, nodes: int) -> None:
    """Refuse a message of a checkpoint that is not valid.

    Raises:
        RunError: it is not a message between nodes of this number.
    """
    try:
        frame = wire.decode(kept.frame, wire.DEFAULT)
    except WireError as error:
        raise RunError(f"a message is not a frame: {error.detail}") from error
    if not (0 <= kept.receiver < nodes and 0 <= kept.sender < nodes):
        raise RunError(f"a message goes from node {kept.sender} to node {kept.receiver}, and there are {nodes}")
    if (frame.receiver, frame.sender, frame.number) != (kept.receiver, kept.sender, kept.number):
        raise RunError(f"message {kept.number} of node {kept.sender} to node {kept.receiver} is another one")
    if not 0 <= kept.time < float("inf"):
        raise RunError(f"a message comes at {kept.time}")
    problem = not_finite_entry(frame.payload)
    if problem is not None:
        raise RunError(f"the '{problem}' of a message is not finite")
