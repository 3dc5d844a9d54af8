"""What a node goes on from after a crash or a resume, and how checkpoints hold it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from covey.messages.payloads import is_tensor
from covey.parts.errors import RunError
from covey.parts.parameters import Setting
from covey.runtime.mailbox import REASONS
from covey.runtime.node import Entries
from covey.runtime.runs.schema import COMMIT_COLUMNS, COUNTED, SPENT
from covey.runtime.task import LoadedTask


@dataclass(slots=True, eq=False)
class Snapshot:
    """One node at the end of a round."""

    completed: int
    """Rounds."""
    state: Entries
    learned: Any
    """What else it goes on from, where it learns."""
    loss: float | None
    counters: list[int]
    drops: Sequence[int] = (0,) * len(REASONS)
    """Messages that were dropped, by reason, as `engines.mailbox.REASONS` has them."""
    spent: Sequence[float] = (0.0,) * len(SPENT)
    """Seconds, in the order of SPENT."""
    evaluated: int = 0
    """On how many samples it has evaluated, where that took time."""
    clock: float = 0.0
    order: int = 0
    """How many events it has caused, for ties of virtual time."""
    uplink: float = 0.0
    """When all that it had sent will have left it."""
    posted: int = 0
    """How many messages it has sent, those withdrawn among them."""
    ended: bool = False
    """Whether its program has returned."""
    away: bool = False


def pack(snapshots: Sequence[Snapshot], task: LoadedTask) -> dict[str, Any]:
    """Named tensors and plain values that hold snapshots of nodes that have a task."""
    payload: dict[str, Any] = {
        **task.pack([s.learned for s in snapshots]),
        "completed": np.array([s.completed for s in snapshots], dtype=np.int64),
        "clocks": np.array([s.clock for s in snapshots], dtype=np.float64),
        "uplinks": np.array([s.uplink for s in snapshots], dtype=np.float64),
        "orders": np.array([s.order for s in snapshots], dtype=np.int64),
        "losses": np.array([math.nan if s.loss is None else s.loss for s in snapshots], dtype=np.float64),
        "counters": np.array([s.counters for s in snapshots], dtype=np.int64),
        "drops": np.array([s.drops for s in snapshots], dtype=np.int64),
        "spent": np.array([tuple(s.spent) for s in snapshots], dtype=np.float64),
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
"""How many counters a snapshot has."""
_KINDS: dict[str, str] = {
    "completed": "int64",
    "clocks": "float64",
    "uplinks": "float64",
    "orders": "int64",
    "losses": "float64",
    "counters": "int64",
    "drops": "int64",
    "spent": "float64",
    "evaluated": "int64",
    "posted": "int64",
    "ended": "bool",
    "away": "bool",
}
"""The columns of a payload, and of what numbers they are."""
_MAY_BE_NEGATIVE = ("losses",)


def check(payload: Mapping[str, Any], setting: Setting, task: LoadedTask) -> None:
    """See whether a payload from the disk holds what `pack` makes of the nodes of an experiment.

    Raises:
        RunError: it does not.
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
    """The snapshots that `pack` put into a payload; other entries are left alone.

    Args:
        payload: what `pack` made, as it comes from the disk or another process.
        task: what the nodes learn; the tensors of their states go where it computes.
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
    columns |= {name: payload[name].tolist() for name in ("uplinks", "ended", "away", "evaluated", "spent", "posted")}
    return [
        Snapshot(
            completed=columns["completed"][index],
            state=states[index],
            learned=learned[index],
            loss=None if math.isnan(columns["losses"][index]) else columns["losses"][index],
            counters=columns["counters"][index],
            drops=columns["drops"][index],
            spent=columns["spent"][index],
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
