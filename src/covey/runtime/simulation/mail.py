"""The mail of nodes that go on from different moments: a resume loses no message and delivers none twice.

A node goes on from its last commit, and does again what came after it. Of what it has received it needs again what it
had not taken then, and what came later. Of what is under way it needs what was sent before its sender's commit: the
sender sends the rest again. What it had taken then and its sender sends again must not come a second time. A message is
known by its sender and by how many that had sent before.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts.errors import RunError, WireError
from covey.parts.nodes import NodeId
from covey.runtime.node import Message
from covey.runtime.recorder import framed

if TYPE_CHECKING:
    from covey.runtime.running_node import RunningNode
    from covey.runtime.simulation.world import World

_MOST = 1 << 30
"""Bytes of mail that a checkpoint holds; with more, nodes go on without theirs."""

Known = tuple[int, int]
"""A message: its sender, and how many that had sent before."""


class _Kept(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What a checkpoint says of mail, beside the messages themselves."""

    posted: list[int]
    """How many messages each node had sent when it committed."""
    mail: list[tuple[int, float, int, bool]]
    """The receiver of each message, when it comes, how many its sender had sent before, and whether the receiver had it
    when it committed, so that it has been counted."""
    taken: list[tuple[int, int, int]]
    """The receiver, sender and number of what is not to come a second time."""


class Mail:
    """What has been sent and not been taken, as of each node's last commit.

    Args:
        world: the nodes'.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self._under_way: dict[tuple[int, Known], Message] = {}
        """By receiver."""
        self._came: list[list[tuple[float, Message, bool]]] = [[] for _ in world.nodes]
        """What came to each node since its last commit, or before and lies there: when, what, and whether before."""
        self._taken: list[set[Known]] = [set() for _ in world.nodes]
        """What each node had taken when it committed, and its sender may send again."""
        self._known: list[set[Known]] = [set() for _ in world.nodes]
        """What was taken before the checkpoint that the run goes on from: it is not to come again."""

    def post(self, receivers: Iterable[int], message: Message) -> None:
        """A message is put onto the links to some nodes."""
        known = (message.sender, message.number)
        for receiver in receivers:
            self._under_way[receiver, known] = message

    def withdraw(self, receivers: Iterable[int], message: Message) -> None:
        """A message will not come to some nodes."""
        for receiver in receivers:
            self._under_way.pop((receiver, (message.sender, message.number)), None)

    def comes(self, node: "RunningNode", message: Message) -> bool:
        """A message has arrived at a node; whether it gets it."""
        known = (message.sender, message.number)
        self._under_way.pop((node.id, known), None)
        if known in self._known[node.id]:
            self._known[node.id].discard(known)
            self._taken[node.id].add(known)
            return False
        if not (node.mail.away and node.held is None):
            self._came[node.id].append((self._world.now, message, False))
        return True

    def commit(self, node: "RunningNode") -> None:
        """A node goes on from here: what it has taken it needs no more."""
        lying = {id(message) for message in node.mail.lying()}
        taken = self._taken[node.id]
        taken.update((m.sender, m.number) for _, m, _ in self._came[node.id] if id(m) not in lying)
        self._came[node.id] = [(time, m, True) for time, m, _ in self._came[node.id] if id(m) in lying]
        posted = [self._posted(sender) for sender, _ in taken]
        self._taken[node.id] = {known for known, before in zip(taken, posted, strict=True) if known[1] >= before}

    def _posted(self, node: int) -> int:
        committed = self._world.nodes[node].committed
        return 0 if committed is None else committed.posted

    def freeze(self) -> Payload:
        """All of it, as the entries of a checkpoint."""
        world = self._world
        posted = [self._posted(node.id) for node in world.nodes]
        mail: list[tuple[int, float, Message, bool]] = []
        for receiver, came in enumerate(self._came):
            mail += [(receiver, time, m, counted) for time, m, counted in came if m.number < posted[m.sender]]
        for (receiver, (sender, number)), message in self._under_way.items():
            if number < posted[sender]:
                mail.append((receiver, world.now, message, False))
        if sum(message.size for _, _, message, _ in mail) > _MOST:
            return {}
        taken = [
            (receiver, sender, number)
            for receiver, (one, other) in enumerate(zip(self._taken, self._known, strict=True))
            for sender, number in one | other
            if number >= posted[sender]
        ]
        kept = _Kept(posted, [(receiver, time, m.number, counted) for receiver, time, m, counted in mail], taken)
        frames = {
            f"mail/{index}": np.frombuffer(framed(message, receiver), np.uint8)
            for index, (receiver, _, message, _) in enumerate(mail)
        }
        return {"mail": msgspec.msgpack.encode(kept), **frames}

    def thaw(self, checkpoint: Payload) -> None:
        """Bring back what `freeze` gave, once all nodes have been restored."""
        if "mail" not in checkpoint:
            return
        world, kept = self._world, _kept(checkpoint)
        for node, posted in zip(world.nodes, kept.posted, strict=True):
            node.posted = posted
            if node.committed is not None:
                node.committed.posted = posted
        for receiver, sender, number in kept.taken:
            self._known[receiver].add((sender, number))
        for index, (receiver, time, number, counted) in enumerate(kept.mail):
            node, frame = world.nodes[receiver], wire.decode(_frame(checkpoint, index), wire.FILES)
            if node.mail.ended or node.committed is None:
                continue
            message = Message(NodeId(frame.sender), frame.tag, frame.round, frame.payload, frame.size)
            message.number = number
            if counted and message.round is None:
                # It is counted again when it comes again.
                node.mail.messages_in -= 1
                node.mail.bytes_in -= message.size
            # Before the node itself goes on.
            world.agenda.put(max(time, node.committed.clock), index - (1 << 40), world.deliver[receiver], message)


def _kept(checkpoint: Payload) -> _Kept:
    found: Any = checkpoint["mail"]
    return msgspec.msgpack.decode(found, type=_Kept)


def _frame(checkpoint: Payload, index: int) -> bytes:
    found: Any = checkpoint[f"mail/{index}"]
    return bytes(found.tobytes())


def check(payload: Payload, nodes: int) -> None:
    """See whether a payload from the disk holds the mail of so many nodes, where it holds any.

    Raises:
        RunError: it does not.
    """
    if "mail" not in payload:
        return
    try:
        kept = _kept(payload)
        frames: Sequence[wire.Frame] = [
            wire.decode(_frame(payload, index), wire.FILES) for index in range(len(kept.mail))
        ]
    except (KeyError, AttributeError, TypeError, msgspec.MsgspecError, WireError) as error:
        raise RunError(f"'mail' is not that of nodes: {error}") from error
    ids = [receiver for receiver, *_ in [*kept.mail, *kept.taken]]
    ids += [sender for _, sender, _ in kept.taken] + [frame.sender for frame in frames]
    numbers = [*kept.posted, *(number for _, _, number, _ in kept.mail), *(number for *_, number in kept.taken)]
    right = len(kept.posted) == nodes and all(0 <= id < nodes for id in ids) and all(n >= 0 for n in numbers)
    if not right or not all(0 <= time < float("inf") for _, time, _, _ in kept.mail):
        raise RunError("'mail' is not that of nodes of the run")
