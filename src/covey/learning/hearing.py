"""How the nodes of programs with rounds wait for each other."""

from collections.abc import Sequence

from covey.errors import ConfigurationError
from covey.node import Inbox, Message, Node, NodeId, Program
from covey.parameters import Setting
from covey.sharing import Hear

PATIENCE = (
    "How long a node waits for its neighbours in a round; for ever by default. "
    "Whom it waited for in vain it waits for again only after 1, 2, 4 ... rounds, until it is heard."
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
_HEARTBEAT = "~"
"""How the tags of heartbeats begin."""


def hearing(
    node: Node,
    senders: Sequence[NodeId],
    t: int,
    patience: float | None,
    *,
    receivers: Sequence[NodeId] | None = None,
    before: Sequence[str] = (),
) -> Hear:
    """What waits for the messages of the senders of a round, one tag after the other.

    Args:
        node: who waits.
        senders: for whom, by default.
        t: the round.
        patience: for how many seconds; for ever where it is None.
        receivers: who waits for this node, where a round has several messages over an edge and all send them in the
            order in which they are heard here. Then a later message shows that an earlier one is lost, and who waits
            for long sends heartbeats, which show the same.
        before: how the tags of messages begin that all have sent in the round before these.
    """
    if patience is None:
        return lambda tag, some=None: node.receive(tag=tag, round=t, senders=senders if some is None else some)
    deadline = 0.0
    earlier: list[str] = [*before, *(f"{_HEARTBEAT}{tag}" for tag in before)]

    async def hear(tag: str, some: Sequence[NodeId] | None = None) -> Inbox:
        # Whom a sender waited for in vain made it late: who waits for several messages has patience for that too.
        nonlocal deadline
        deadline = max(deadline, node.now) + patience
        awaited = senders if some is None else some
        inbox = await _hear(node, awaited, t, tag, deadline - node.now, earlier, receivers)
        earlier.extend((tag, f"{_HEARTBEAT}{tag} "))
        return inbox

    return hear


async def _hear(
    node: Node,
    senders: Sequence[NodeId],
    t: int,
    tag: str,
    timeout: float,
    earlier: Sequence[str],
    receivers: Sequence[NodeId] | None,
) -> Inbox:
    """What the senders of a round sent.

    Who waits for a dead neighbour is late for the others, who then miss its message: so nobody waits every round.
    """
    # In threes: a silent neighbour, the round from which it is waited for again, and the next pause.
    kept: list[int] = node.state.get("silent", [])  # type: ignore[assignment]
    silent = {peer: (again, pause) for peer, again, pause in zip(kept[::3], kept[1::3], kept[2::3], strict=True)}
    for message in (late for before in earlier for late in node.arrived(tag=before, round=t)):
        silent.pop(message.sender, None)  # It was too late with its message before, and is here.
    # Who is waiting for nobody would hurry on alone, and be ahead of all that it might hear again.
    awaited = [peer for peer in senders if peer not in silent or silent[peer][0] <= t] or senders
    if receivers is None:
        inbox = await node.receive(tag=tag, round=t, senders=awaited, timeout=timeout)
    else:
        inbox = await _received(node, awaited, t, tag, timeout, earlier, receivers)
    for peer in set(inbox.missing) - set(inbox.lost):
        again, pause = silent.get(peer, (t, 1))
        if again <= t:
            silent[peer] = t + 1 + pause, 2 * pause
    heard = list(inbox)
    for message in node.arrived(tag=tag, round=t):
        if message.sender in senders:
            heard.append(message)
        else:
            node.reject(message, f"nobody sends to node {node.id} from there in round {t}")
    heard.sort(key=lambda message: message.sender)
    for message in heard:
        silent.pop(message.sender, None)
    node.state["silent"] = [number for peer, times in silent.items() for number in (peer, *times)]
    return Inbox(heard, inbox.missing, inbox.lost)


async def _received(
    node: Node,
    senders: Sequence[NodeId],
    t: int,
    tag: str,
    timeout: float,
    earlier: Sequence[str],
    receivers: Sequence[NodeId],
) -> Inbox:
    """What senders sent of what all send in turn.

    Who waits for a message that is lost is waited for by others, and they may each wait for the other: so who waits for
    long says that it has sent its own.
    """
    heard: list[Message] = []
    lost: set[int] = set()
    left, end = list(senders), node.now + timeout
    for beat in range(1, _BEATS + 1):
        until = end - timeout * (_BEATS - beat) / _BEATS
        inbox = await node.receive(tag=tag, round=t, senders=left, timeout=max(until - node.now, 0.0), after=earlier)
        heard.extend(inbox)
        lost.update(inbox.lost)
        left = [NodeId(peer) for peer in inbox.missing if peer not in lost]
        if not left or beat == _BEATS:
            break
        node.send(receivers, {}, tag=f"{_HEARTBEAT}{tag} {beat}", round=t)
    return Inbox(heard, sorted({*left, *lost}), sorted(lost))
