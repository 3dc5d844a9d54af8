"""How the nodes of programs with rounds wait for each other."""

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
    """Waits for messages of the round, as patiently as the program does."""

    def __call__(self, tag: str, senders: Sequence[NodeId] | None = None, /) -> Awaitable[Inbox]:
        """What some have sent under a tag; by default all senders of the round."""


PATIENCE = (
    "How long a node waits for its neighbours in a round; for ever by default. "
    "For a neighbour that showed no sign of life it waits again only after 1, 2, 4 ... rounds, until a message comes."
)
"""What the parameter of that name means."""


def check_patience(program: Program, setting: Setting, patience: float | None) -> None:
    """Raise ConfigurationError where a program waits for ever and messages can be lost."""
    if patience is None and setting.losses:
        raise ConfigurationError(
            f"The 'patience' of {program.named()} must be given where messages can be lost, or nodes wait for them for "
            f"ever. Got none, and the experiment has {' and '.join(setting.losses)}. Set it to more than a round takes."
        )


_BEATS = 4
"""Into how many parts patience is cut, of which all but the last end with a heartbeat."""
_LATE = f"{HEARTBEAT}late"
"""The tag of the heartbeat that a node sends in a round which it begins late."""
TIMES = 2
"""How often a node says that it has sent what it had to: each such word may be lost, too."""


@dataclass(frozen=True)
class Heartbeats:
    """What a node says of itself by heartbeats, which are empty messages."""

    sent: bool = False
    """That it has sent the message of a round."""
    late: bool = True
    """That it begins a round late."""
    several: bool = False
    """That it still waits, in a round of several messages over an edge, which all send in the order in which they hear
    them. Then a later message shows that an earlier one is lost."""

    @classmethod
    def where(cls, setting: Setting, *, several: bool, static: bool) -> Self:
        """What it says in an experiment.

        Args:
            setting: the experiment.
            several: whether a round has several messages over an edge.
            static: whether the graph stays: then the next of several messages says that this one was sent.
        """
        # Where messages overtake each other, a heartbeat shows nothing. Most of those who are late are so for one that
        # is lost, and who waits for them only becomes late itself.
        sent = setting.lossy and setting.ordered and not (several and static)
        return cls(sent, late=setting.ordered or not setting.lossy, several=several)


LATE = Heartbeats()
"""What nodes say where nothing else is known of the experiment."""


def _words_of(tag: str) -> list[str]:
    """The tags of the heartbeats by which a node says that it has sent the message of a tag."""
    return [f"{HEARTBEAT}{tag} sent {time}" for time in range(TIMES)]


class Waited(State):
    """How a node that has patience has waited in earlier rounds."""

    late: bool = False
    """Whether it waited for so long in the last round that it is late in this one."""
    silent: list[int] = []
    """Who was silent, in threes: a neighbour, in how many rounds it was missed, and in how many it will not be."""


@dataclass
class Reception:
    """How a node waits for the messages of one round, one tag after the other, and what it then knows of the others.

    A message that does not come is lost, or its sender is late or dead. Heartbeats tell which.
    """

    node: Node
    graph: Graph
    """Who hears whom in the round."""
    t: int
    patience: float | None
    """For how many seconds the node waits; for ever where it is None."""
    says: Heartbeats = LATE
    """What the node says of itself."""
    longest: float = 0.0
    """Until when the node waits for those who are late: they may have waited in vain for each message before, too."""
    earlier: list[str] = field(default_factory=lambda: [_LATE])
    """How the tags begin of what senders send before what is awaited."""
    late_words: list[str] = field(default_factory=lambda: [_LATE])
    """The tags of the heartbeats by which others say that they are late with what is awaited."""
    late: set[int] = field(default_factory=set)
    """Who has said so."""
    alive: set[int] = field(default_factory=set)
    """Who has shown in this round that it lives."""
    ignored: set[int] = field(default_factory=set)
    """For whom the node does not wait in this round any more."""
    waited: float = 0.0
    """For how many seconds the node has waited at most for a message."""

    def __post_init__(self) -> None:
        self.receivers = self.graph.receivers(self.node.id)
        """Who waits for the node in the round."""
        if self.patience is not None and self.says.late and self.receivers and self.kept.late:
            self.node.send(self.receivers, {}, tag=_LATE, round=self.t)

    @property
    def kept(self) -> Waited:
        """What the node has kept of earlier rounds."""
        return self.node.keep(Waited, "patience")

    def over(self, graph: Graph, says: Heartbeats) -> Receive:
        """What waits for messages over a graph from now on.

        Args:
            graph: that of the round, or a part of it.
            says: what the node says of itself there.
        """
        node, t, patience, senders = self.node, self.t, self.patience, graph.senders(self.node.id)
        if patience is None:
            return lambda tag, some=None: node.receive(tag=tag, round=t, senders=senders if some is None else some)
        self.says = says

        async def receive(tag: str, some: Sequence[NodeId] | None = None) -> Inbox:
            began = node.now
            self.longest = max(self.longest, began) + patience
            if says.sent and some is None:
                for word in _words_of(tag):
                    node.send(graph.receivers(node.id), {}, tag=word, round=t)
            inbox = await _receive(node, senders if some is None else some, t, tag, patience, self)
            self.note_wait(tag, node.now - began, patience)
            return inbox

        return receive

    def look(self, tag: str) -> None:
        """Take in who has shown that it lives, by what came too late or by heartbeats."""
        for said in self.late_words:
            self.late.update(message.sender for message in self.node.arrived(tag=said, round=self.t))
        self.alive |= self.late
        for said in (*self.earlier, *_words_of(tag)):
            self.alive.update(message.sender for message in self.node.arrived(tag=said, round=self.t))

    def note_wait(self, tag: str, seconds: float, patience: float) -> None:
        """The messages of a tag were waited for, for so long."""
        self.earlier += [tag, f"{HEARTBEAT}{tag} "]
        self.late_words.append(f"{HEARTBEAT}{tag} {_BEATS // 2}")
        self.waited = max(self.waited, seconds)
        self.kept.late = self.waited > patience / 2


async def _receive(
    node: Node, senders: Sequence[NodeId], t: int, tag: str, timeout: float, reception: Reception
) -> Inbox:
    """What the senders of a round sent.

    A silent neighbour is one that was waited for in vain and gave no sign of life. Nobody waits for it every round: who
    waits is late for the others.
    """
    kept = reception.kept.silent
    silent = {peer: (misses, left) for peer, misses, left in zip(kept[::3], kept[1::3], kept[2::3], strict=True)}
    for peer in senders:
        misses, left = silent.get(peer, (0, 0))
        if left > 0 and peer not in reception.ignored:
            silent[peer] = misses, left - 1
            reception.ignored.add(peer)
    # Who is waiting for nobody would hurry on alone, and be ahead of all that it might hear again.
    awaited = [peer for peer in senders if peer not in reception.ignored] or senders
    inbox = await _received(node, awaited, t, tag, timeout, reception)
    received, lost = list(inbox), {*inbox.lost}
    reception.look(tag)
    late = [NodeId(peer) for peer in inbox.missing if peer in reception.late - lost]
    if late:
        # They come too late by as much as they waited in vain: who waits longer would be too late for others itself.
        longer = max(timeout / 2, reception.longest - node.now)
        more = await _received(node, late, t, tag, longer, reception)
        received += more
        lost.update(more.lost)
    for message in node.arrived(tag=tag, round=t):
        if message.sender in senders:
            received.append(message)
        else:
            node.reject(message, f"nobody sends to node {node.id} from there in round {t}")
    received.sort(key=lambda message: message.sender)
    reception.alive.update(lost, (message.sender for message in received))
    for alive in reception.alive:
        silent.pop(alive, None)
        reception.ignored.discard(alive)
    for peer in awaited:
        if peer in reception.alive or peer in reception.ignored:
            continue
        misses, _ = silent.get(peer, (0, 0))
        # Where nothing tells who is dead from whose message is lost, one message must not cost the next.
        silent[peer] = misses + 1, 2**misses if reception.says.late else 2**misses // 2
        reception.ignored.add(peer)
    reception.kept.silent = [number for peer, times in silent.items() for number in (peer, *times)]
    missing = {*awaited} - {message.sender for message in received}
    return Inbox(received, sorted(missing), sorted(lost & missing))


async def _received(
    node: Node, senders: Sequence[NodeId], t: int, tag: str, timeout: float, reception: Reception
) -> Inbox:
    """What comes within some time.

    Where a round has several messages, who waits for one that is lost is waited for by others, and they may each wait
    for the other: so who waits for long says that it has sent its own.
    """
    if not reception.says.several:
        if not reception.says.sent:
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
