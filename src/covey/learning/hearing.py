"""How the nodes of programs with rounds wait for each other."""

from collections.abc import Sequence

from covey.errors import ConfigurationError
from covey.node import Inbox, Node, NodeId, Program
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


def hearing(node: Node, senders: Sequence[NodeId], t: int, patience: float | None) -> Hear:
    """What waits for the messages of the senders of a round, one tag after the other.

    Args:
        patience: for how many seconds; for ever where it is None.
    """
    if patience is None:
        return lambda tag, some=None: node.receive(tag=tag, round=t, senders=senders if some is None else some)
    deadline = 0.0
    earlier: list[str] = []

    async def hear(tag: str, some: Sequence[NodeId] | None = None) -> Inbox:
        # Whom a sender waited for in vain made it late: who waits for several messages has patience for that too.
        nonlocal deadline
        deadline = max(deadline, node.now) + patience
        awaited = senders if some is None else some
        inbox = await _hear(node, awaited, t, tag, deadline - node.now, earlier)
        earlier.append(tag)
        return inbox

    return hear


async def _hear(
    node: Node, senders: Sequence[NodeId], t: int, tag: str, timeout: float, earlier: Sequence[str]
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
    inbox = await node.receive(tag=tag, round=t, senders=awaited, timeout=timeout)
    for peer in inbox.missing:
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
    return Inbox(heard, inbox.missing)
