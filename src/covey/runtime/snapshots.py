"""Snapshots at which nodes resume after a crash or an interruption, and their form in checkpoints."""

import math
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from covey.messages import wire
from covey.messages.payloads import is_tensor, private
from covey.parts.errors import ProgramError, RunError, WireError
from covey.parts.parameters import Setting
from covey.runtime.mailbox import REASONS
from covey.runtime.node import Entries
from covey.runtime.runs.schema import COMMIT_COLUMNS, COUNTED, SPENT
from covey.runtime.task import LoadedTask

if TYPE_CHECKING:
    from covey.runtime.running_node import RunningNode


_NO_DROPS = (0,) * len(REASONS)


@dataclass(slots=True, eq=False)
class Snapshot:
    """The resumable state of one node at the end of a round."""

    completed: int
    """The number of completed rounds."""
    state: Entries
    learned: Any
    """The resumable state of a node that learns, beside `state`."""
    loss: SupportsFloat | None
    counters: list[int]
    drops: Sequence[int] = _NO_DROPS
    """The number of dropped messages by reason, in the order of `covey.runtime.mailbox.REASONS`."""
    spent: Sequence[float] = (0.0,) * len(SPENT)
    """Seconds by activity, in the order of SPENT."""
    busy: float = 0.0
    """The seconds that its work should have taken, as the network says."""
    evaluated: int = 0
    """The number of samples of evaluations that took time."""
    clock: float = 0.0
    order: int = 0
    """The count of its events, for ties of virtual time."""
    uplink: float = 0.0
    """The time at which its last message leaves it."""
    posted: int = 0
    """The number of messages that it has sent, including withdrawn ones."""
    ended: bool = False
    """True if its program has returned."""
    away: bool = False


def snapshot_of(node: "RunningNode", uplink: float = 0.0) -> Snapshot:
    """A snapshot at which a node can resume.

    Args:
        node: the node.
        uplink: the time at which its last message leaves it.
    """
    mail = node.mail
    return Snapshot(
        completed=mail.round,
        state=_copied(node, node.state),
        learned=node.learned(),
        loss=node.loss,
        counters=counters_of(node),
        drops=[mail.drops[reason] for reason in REASONS] if mail.drops else _NO_DROPS,
        spent=node.seconds.copy(),
        busy=node.busy,
        evaluated=node.evaluated,
        clock=node.now,
        order=node.order,
        uplink=uplink,
        posted=node.posted,
        ended=mail.ended and not node.serves_on,
        away=mail.ended and mail.away,
    )


def counters_of(node: "RunningNode") -> list[int]:
    """The counters of a node, without messages that it has not taken and that arrive again after a resumption."""
    mail = node.mail
    early = mail.early() if node.stage.mail is None else mail.unfinished()
    return [
        node.bytes_out,
        mail.bytes_in - sum(message.size for message in early),
        node.messages_out,
        mail.messages_in - len(early),
        mail.dropped,
        node.value_bytes_out,
        node.index_bytes_out,
        node.steps,
        node.samples_used,
    ]


def restore_node(node: "RunningNode", snapshot: Snapshot, *, counters: bool) -> None:
    """Restore the snapshot of a node, with the counters only if the whole network is restored."""
    node.in_round = node.acted = False
    node.restore_learned(snapshot.learned)
    node.state, node.typed = _copied(node, snapshot.state), {}
    mail = node.mail
    mail.round = snapshot.completed
    node.calls = 0
    if counters:
        node.loss = snapshot.loss
        node.order, node.posted = snapshot.order, snapshot.posted
        node.evaluated = snapshot.evaluated
        node.seconds, node.busy = list(snapshot.spent), snapshot.busy
        (
            node.bytes_out,
            mail.bytes_in,
            node.messages_out,
            mail.messages_in,
            mail.dropped,
            node.value_bytes_out,
            node.index_bytes_out,
            node.steps,
            node.samples_used,
        ) = snapshot.counters
        mail.drops = Counter(dict(zip(REASONS, snapshot.drops, strict=True)))


def _copied(node: "RunningNode", state: Entries) -> Entries:
    """An independent copy of a state."""
    return {name: private(value) for name, value in state.items()} if node.careful else dict(state)


def refuse_state(node: "RunningNode") -> None:
    """Refuse the state of a node that a checkpoint cannot hold.

    Raises:
        ProgramError: an entry has a wrong type.
    """
    for name, value in node.state.items():
        try:
            wire.size({name: value})
        except WireError as error:
            shown = " ".join(reprlib.repr(value).split())
            raise ProgramError(
                f"The '{name}' in the state of node {node.id} must be a tensor, an int, float, str, bool, "
                f"bytes, None or a list of these, as in messages. Got {shown} instead: {error.detail}."
            ) from error


def pack(snapshots: Sequence[Snapshot], task: LoadedTask) -> dict[str, Any]:
    """The snapshots of all nodes as named tensors and plain values."""
    payload: dict[str, Any] = {
        **task.pack([s.learned for s in snapshots]),
        "completed": np.array([s.completed for s in snapshots], dtype=np.int64),
        "clocks": np.array([s.clock for s in snapshots], dtype=np.float64),
        "uplinks": np.array([s.uplink for s in snapshots], dtype=np.float64),
        "orders": np.array([s.order for s in snapshots], dtype=np.int64),
        "losses": np.array([math.nan if s.loss is None else float(s.loss) for s in snapshots], dtype=np.float64),
        "counters": np.array([s.counters for s in snapshots], dtype=np.int64),
        "drops": np.array([s.drops for s in snapshots], dtype=np.int64),
        "spent": np.array([tuple(s.spent) for s in snapshots], dtype=np.float64),
        "busy": np.array([s.busy for s in snapshots], dtype=np.float64),
        "evaluated": np.array([s.evaluated for s in snapshots], dtype=np.int64),
        "posted": np.array([s.posted for s in snapshots], dtype=np.int64),
        "ended": np.array([s.ended for s in snapshots], dtype=np.bool_),
        "away": np.array([s.away for s in snapshots], dtype=np.bool_),
    }
    for index, snapshot in enumerate(snapshots):
        for name, value in snapshot.state.items():
            payload[f"state/{index}/{name}"] = value
    return payload


COUNTERS = len(COMMIT_COLUMNS[COUNTED])
"""The number of counters of a snapshot."""
_KINDS: dict[str, str] = {
    "completed": "int64",
    "clocks": "float64",
    "uplinks": "float64",
    "orders": "int64",
    "losses": "float64",
    "counters": "int64",
    "drops": "int64",
    "spent": "float64",
    "busy": "float64",
    "evaluated": "int64",
    "posted": "int64",
    "ended": "bool",
    "away": "bool",
}
"""The dtypes of the columns of a payload."""
_MAY_BE_NEGATIVE = ("losses",)


def check(payload: Mapping[str, Any], setting: Setting, task: LoadedTask) -> None:
    """Refuse a payload from the disk that is not a result of `pack` for the nodes of an experiment.

    Raises:
        RunError: an entry is missing or wrong.
    """
    task.check(payload, setting.nodes)
    columns = {
        "counters": COUNTERS,
        "drops": len(REASONS),
        "spent": len(SPENT),
    }
    sides = {name: (setting.nodes, count) for name, count in columns.items()}
    for name, dtype in _KINDS.items():
        column, shape = payload.get(name), sides.get(name, (setting.nodes,))
        if not isinstance(column, np.ndarray) or column.dtype != dtype:
            raise RunError(f"'{name}' is missing, or not an array of its dtype")
        if column.shape != shape:
            raise RunError(f"'{name}' has the shape {_sides(column.shape)}, not {_sides(shape)}")
        if name not in _MAY_BE_NEGATIVE and not bool((column >= 0).all()):
            raise RunError(f"'{name}' holds negative numbers or NaN")
    if int(payload["completed"].max()) > setting.rounds:
        raise RunError(f"'completed' has more than the {setting.rounds} rounds of the run")
    for name in payload:
        family, _, rest = name.partition("/")
        index, _, entry = rest.partition("/")
        if family == "state" and not (entry and index.isdecimal() and int(index) < setting.nodes):
            raise RunError(f"'{name}' does not belong to a node")


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def unpack(payload: Mapping[str, Any], task: LoadedTask) -> list[Snapshot]:
    """The snapshots of a payload of `pack`. Other entries are ignored.

    Args:
        payload: the payload, from the disk or another process.
        task: the loaded task. Tensors of states are moved to its device.
    """
    count = len(payload["completed"])
    states: list[Entries] = [{} for _ in range(count)]
    for key, value in payload.items():
        family, _, rest = key.partition("/")
        index, _, name = rest.partition("/")
        if family == "state":
            states[int(index)][name] = value.to(task.device) if is_tensor(value) else value
    learned = task.unpack(payload, count)
    columns = {
        name: payload[name].tolist() for name in ("completed", "clocks", "orders", "losses", "counters", "drops")
    }
    columns |= {
        name: payload[name].tolist() for name in ("uplinks", "ended", "away", "evaluated", "spent", "busy", "posted")
    }
    return [
        Snapshot(
            completed=columns["completed"][index],
            state=states[index],
            learned=learned[index],
            loss=None if math.isnan(columns["losses"][index]) else columns["losses"][index],
            counters=columns["counters"][index],
            drops=columns["drops"][index],
            spent=columns["spent"][index],
            busy=columns["busy"][index],
            evaluated=columns["evaluated"][index],
            posted=columns["posted"][index],
            clock=columns["clocks"][index],
            order=columns["orders"][index],
            uplink=columns["uplinks"][index],
            ended=columns["ended"][index],
            away=columns["away"][index],
        )
        for index in range(count)
    ]
