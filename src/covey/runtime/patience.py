"""Waiting with a limit, and heartbeats, for programs with rounds."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.node import HEARTBEAT, Inbox, Message, Node, Program
from covey.runtime.state import State


class Receive(Protocol):
    """A function that waits for messages of the round with the program's patience."""

    def __call__(self, tag: str, senders: Sequence[NodeId] | None = None, /) -> Awaitable[Inbox]:
        """Receive the messages of a tag from some senders; by default, from all senders of the round."""


PATIENCE = (
    "The time that a node waits for its neighbours in a round; by default, for ever. For a neighbour without any "
    "sign of life, it waits again only after 1, 2, 4 ... rounds, until a message arrives."
)
"""The description of the parameter `patience`."""


def check_patience(program: Program, setting: Setting, patience: float | None) -> None:
    """Raise ConfigurationError if a program waits for ever and messages can be lost."""
    if patience is None and setting.losses:
        raise ConfigurationError(
            f"The 'patience' of {program.named()} must be given if messages can be lost, or nodes wait for them for "
            f"ever. Got none, and the experiment has {' and '.join(setting.losses)}. Set it to more than a round takes."
        )


_BEATS = 4
"""The number of parts of patience. All but the last end with a heartbeat."""
_LATE = f"{HEARTBEAT}late"
"""The tag of the heartbeat of a node that begins a round late."""
TIMES = 2
"""The number of heartbeats for a message that was sent: a heartbeat may be lost, too."""


@dataclass(frozen=True)
class Heartbeats:
    """The kinds of heartbeats, which are empty messages, that a node sends."""

    sent: bool = False
    """Send a heartbeat after the message of a round."""
    late: bool = True
    """Send a heartbeat at the beginning of a late round."""
    several: bool = False
    """Send a heartbeat while waiting, in a round of several messages per edge. All nodes send these in the order in
    which they receive them, so a later message shows that an earlier one is lost."""

    @classmethod
    def where(cls, setting: Setting, *, several: bool, static: bool) -> Self:
        """The heartbeats of an experiment.

        Args:
            setting: the experiment.
            several: True if a round has several messages per edge.
            static: True if the graph is the same in all rounds: the next of several messages then shows that this one
                was sent.
        """
        # If messages overtake each other, a heartbeat shows nothing. Most late nodes are late because of a lost
        # message, and waiting for them only makes other nodes late.
        sent = setting.lossy and setting.ordered and not (several and static)
        return cls(sent, late=setting.ordered or not setting.lossy, several=several)


LATE = Heartbeats()
"""The default heartbeats."""


def _words_of(tag: str) -> list[str]:
    """The tags of the heartbeats after a message of a tag was sent."""
    return [f"{HEARTBEAT}{tag} sent {time}" for time in range(TIMES)]


class Waited(State):
    """The history of a node's waiting in earlier rounds."""

    late: bool = False
    """True if it waited so long in the last round that it is late in this one."""
    silent: list[int] = []
    """The silent neighbours, in triples: id, rounds in which it was missed, rounds in which it will be ignored."""


@dataclass
class Reception:
    """The waiting of a node for the messages of one round, one tag after the other, and its knowledge of the others.

    A message that does not arrive is lost, or its sender is late or dead. Heartbeats show which.
    """

    node: Node
    graph: Graph
    """The graph of the round."""
    t: int
    patience: float | None
    """The seconds that the node waits for a message; None for ever."""
    heartbeats: Heartbeats = LATE
    """The heartbeats that the node sends."""
    longest: float = 0.0
    """The time until which the node waits for late nodes: each of their earlier messages may have been late, too."""
    earlier: list[str] = field(default_factory=lambda: [_LATE])
    """The beginnings of the tags that senders send before the awaited one."""
    late_words: list[str] = field(default_factory=lambda: [_LATE])
    """The tags of the heartbeats of nodes that are late with the awaited message."""
    late: set[int] = field(default_factory=set)
    """The nodes that have sent such a heartbeat."""
    alive: set[int] = field(default_factory=set)
    """The nodes that have sent anything in this round."""
    ignored: set[int] = field(default_factory=set)
    """The nodes for which the node no longer waits in this round."""
    waited: float = 0.0
    """The longest wait for a message so far, in seconds."""

    def __post_init__(self) -> None:
        self.receivers = self.graph.receivers(self.node.id)
        """The nodes that wait for this one in the round."""
        if self.patience is not None and self.heartbeats.late and self.receivers and self.kept.late:
            self.node.send(self.receivers, {}, tag=_LATE, round=self.t)

    @property
    def kept(self) -> Waited:
        """The history of earlier rounds."""
        return self.node.keep(Waited, "patience")

    def over(self, graph: Graph, heartbeats: Heartbeats) -> Receive:
        """A function that waits for messages over a graph.

        Args:
            graph: the graph of the round, or a part of it.
            heartbeats: the heartbeats that the node sends.
        """
        node, t, patience, senders = self.node, self.t, self.patience, graph.senders(self.node.id)
        if patience is None:
            return lambda tag, some=None: node.receive(tag=tag, round=t, senders=senders if some is None else some)
        self.heartbeats = heartbeats

        async def receive(tag: str, some: Sequence[NodeId] | None = None) -> Inbox:
            began = node.now
            self.longest = max(self.longest, began) + patience
            if heartbeats.sent and some is None:
                for word in _words_of(tag):
                    node.send(graph.receivers(node.id), {}, tag=word, round=t)
            inbox = await _receive(node, senders if some is None else some, t, tag, patience, self)
            self.note_wait(tag, node.now - began, patience)
            return inbox

        return receive

    def look(self, tag: str) -> None:
        """Record the nodes that are alive, by heartbeats or by messages that came too late."""
        for word in self.late_words:
            self.late.update(message.sender for message in self.node.arrived(tag=word, round=self.t))
        self.alive |= self.late
        for word in (*self.earlier, *_words_of(tag)):
            self.alive.update(message.sender for message in self.node.arrived(tag=word, round=self.t))

    def note_wait(self, tag: str, seconds: float, patience: float) -> None:
        """Record the wait for the messages of a tag."""
        self.earlier += [tag, f"{HEARTBEAT}{tag} "]
        self.late_words.append(f"{HEARTBEAT}{tag} {_BEATS // 2}")
        self.waited = max(self.waited, seconds)
        self.kept.late = self.waited > patience / 2


async def _receive(
    node: Node, senders: Sequence[NodeId], t: int, tag: str, timeout: float, reception: Reception
) -> Inbox:
    """Receive the messages of the senders of a round.

    A neighbour is silent if neither its message nor a heartbeat arrived. A node waits for it only in some rounds,
    because waiting makes it late for the others.
    """
    kept = reception.kept.silent
    silent = {peer: (misses, left) for peer, misses, left in zip(kept[::3], kept[1::3], kept[2::3], strict=True)}
    for peer in senders:
        misses, left = silent.get(peer, (0, 0))
        if left > 0 and peer not in reception.ignored:
            silent[peer] = misses, left - 1
            reception.ignored.add(peer)
    # A node that waits for no other would run ahead of the others, and could not use their messages later.
    awaited = [peer for peer in senders if peer not in reception.ignored] or senders
    inbox = await _received(node, awaited, t, tag, timeout, reception)
    received, lost = list(inbox), {*inbox.lost}
    reception.look(tag)
    late = [NodeId(peer) for peer in inbox.missing if peer in reception.late - lost]
    if late:
        # They are late by the time that they waited for lost messages. A longer wait would make this node late, too.
        longer = max(timeout / 2, reception.longest - node.now)
        more = await _received(node, late, t, tag, longer, reception)
        received += more
        lost.update(more.lost)
    for message in node.arrived(tag=tag, round=t):
        if message.sender in senders:
            received.append(message)
        else:
            node.reject(message, f"its sender does not send to node {node.id} in round {t}")
    received.sort(key=lambda message: message.sender)
    reception.alive.update(lost, (message.sender for message in received))
    for alive in reception.alive:
        silent.pop(alive, None)
        reception.ignored.discard(alive)
    for peer in awaited:
        if peer in reception.alive or peer in reception.ignored:
            continue
        misses, _ = silent.get(peer, (0, 0))
        # Without heartbeats, a dead node looks like a lost message, which must not cost the next message.
        silent[peer] = misses + 1, 2**misses if reception.heartbeats.late else 2**misses // 2
        reception.ignored.add(peer)
    reception.kept.silent = [number for peer, times in silent.items() for number in (peer, *times)]
    missing = {*awaited} - {message.sender for message in received}
    return Inbox(received, sorted(missing), sorted(lost & missing))


async def _received(
    node: Node, senders: Sequence[NodeId], t: int, tag: str, timeout: float, reception: Reception
) -> Inbox:
    """Receive the messages that arrive within a time.

    In a round of several messages, other nodes wait for a node that waits for a lost message, and both may wait for
    each other. So a node that waits for long sends heartbeats, which show that it has sent its own messages.
    """
    if not reception.heartbeats.several:
        if not reception.heartbeats.sent:
            return await node.receive(tag=tag, round=t, senders=senders, timeout=timeout)
        return await node.receive(tag=tag, round=t, senders=senders, timeout=timeout, after=reception.earlier)
    received: list[Message] = []
    lost: set[int] = set()
    left, end = list(senders), node.now + timeout
    for beat in range(1, _BEATS + 1):
        until = end - timeout * (_BEATS - beat) / _BEATS
        seconds = max(until - node.now, 0.0)
        inbox = await node.receive(tag=tag, round=t, senders=left, timeout=seconds, after=reception.earlier)
        received.extend(inbox)
        lost.update(inbox.lost)
        left = [NodeId(peer) for peer in inbox.missing if peer not in lost]
        if not left or beat == _BEATS:
            break
        node.send(reception.receivers, {}, tag=f"{HEARTBEAT}{tag} {beat}", round=t)
    return Inbox(received, sorted({*left, *lost}), sorted(lost))
