"""What a node goes on from after a crash or a resume, and how checkpoints hold it.

Shapes: N nodes, P parameters.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from covey.learning.optimizers import Slots
from covey.parts.errors import RunError
from covey.parts.parameters import Setting
from covey.runtime.mailbox import REASONS
from covey.runtime.node import Mixture, State
from covey.runtime.runs.schema import COMMIT_COLUMNS, COUNTED, SPENT


@dataclass(slots=True, eq=False)
class Snapshot:
    """One node at the end of a round."""

    model: Tensor | Mixture
    completed: int
    """Rounds."""
    state: State
    slots: Slots | None
    """What its optimiser remembers."""
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
    ended: bool = False
    """Whether its program has returned."""
    away: bool = False


def pack(snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Named tensors and plain values that hold snapshots."""
    payload: dict[str, Any] = {
        "models": torch.stack([computed(s.model) for s in snapshots]).cpu(),
        "completed": torch.tensor([s.completed for s in snapshots]),
        "clocks": torch.tensor([s.clock for s in snapshots], dtype=torch.float64),
        "uplinks": torch.tensor([s.uplink for s in snapshots], dtype=torch.float64),
        "orders": torch.tensor([s.order for s in snapshots]),
        "losses": torch.tensor([math.nan if s.loss is None else s.loss for s in snapshots], dtype=torch.float64),
        "counters": torch.tensor([s.counters for s in snapshots]),
        "drops": torch.tensor([s.drops for s in snapshots]),
        "spent": torch.tensor([tuple(s.spent) for s in snapshots], dtype=torch.float64),
        "evaluated": torch.tensor([s.evaluated for s in snapshots]),
        "ended": torch.tensor([s.ended for s in snapshots]),
        "away": torch.tensor([s.away for s in snapshots]),
    }
    for place, snapshot in enumerate(snapshots):
        for name, value in snapshot.state.items():
            payload[f"state/{place}/{name}"] = value
        for name, slot in (snapshot.slots or {}).items():
            payload[f"slots/{place}/{name}"] = slot
    return payload


COUNTERS = len(COMMIT_COLUMNS[COUNTED])
"""How many counters a snapshot has."""
_KINDS: dict[str, tuple[torch.dtype, ...]] = {
    "models": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "completed": (torch.int64,),
    "clocks": (torch.float64,),
    "uplinks": (torch.float64,),
    "orders": (torch.int64,),
    "losses": (torch.float64,),
    "counters": (torch.int64,),
    "drops": (torch.int64,),
    "spent": (torch.float64,),
    "evaluated": (torch.int64,),
    "ended": (torch.bool,),
    "away": (torch.bool,),
}
"""The columns of a payload, and of what numbers they are."""
_MAY_BE_NEGATIVE = ("models", "losses")


def check(payload: Mapping[str, Any], setting: Setting) -> None:
    """See whether a payload from the disk holds what `pack` makes of the nodes of an experiment.

    Raises:
        RunError: it does not.
    """
    columns = {
        "models": setting.parameters,
        "counters": COUNTERS,
        "drops": len(REASONS),
        "spent": len(SPENT),
    }
    sides = {name: (setting.nodes, count) for name, count in columns.items()}
    for name, dtypes in _KINDS.items():
        column, shape = payload.get(name), sides.get(name, (setting.nodes,))
        if not isinstance(column, Tensor) or column.dtype not in dtypes:
            raise RunError(f"'{name}' is missing, or no tensor of such numbers")
        if column.shape != shape:
            raise RunError(f"'{name}' has the shape {_sides(column.shape)}, not {_sides(shape)}")
        if name not in _MAY_BE_NEGATIVE and not bool((column >= 0).all()):
            raise RunError(f"'{name}' holds what is negative, or no number")
    if int(payload["completed"].max()) > setting.rounds:
        raise RunError(f"'completed' has more than the {setting.rounds} rounds of the run")
    for name, value in payload.items():
        family, _, rest = name.partition("/")
        place, _, entry = rest.partition("/")
        if family in ("state", "slots"):
            if not (entry and place.isdecimal() and int(place) < setting.nodes):
                raise RunError(f"'{name}' belongs to no node")
            if family == "slots" and not isinstance(value, Tensor):
                raise RunError(f"'{name}' is no tensor")


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def unpack(payload: Mapping[str, Any], device: torch.device | str = "cpu") -> list[Snapshot]:
    """The snapshots that `pack` put into a payload; other entries are left alone.

    Args:
        payload: what `pack` made, as it comes from the disk or another process.
        device: where models are computed; what meets a model goes there too: the tensors of its
            node's state, and what its optimiser remembers.
    """
    count = len(payload["completed"])
    states: list[State] = [{} for _ in range(count)]
    slots: list[Slots] = [{} for _ in range(count)]
    for key, value in payload.items():
        family, _, rest = key.partition("/")
        place, _, name = rest.partition("/")
        if family == "state":
            states[int(place)][name] = value.to(device) if isinstance(value, Tensor) else value
        elif family == "slots":
            slots[int(place)][name] = value.to(device)
    columns = {
        name: payload[name].tolist() for name in ("completed", "clocks", "orders", "losses", "counters", "drops")
    }
    columns |= {name: payload[name].tolist() for name in ("uplinks", "ended", "away", "evaluated", "spent")}
    return [
        Snapshot(
            model=payload["models"][place].to(device, copy=True),
            completed=columns["completed"][place],
            state=states[place],
            slots=slots[place] or None,
            loss=None if math.isnan(columns["losses"][place]) else columns["losses"][place],
            counters=columns["counters"][place],
            drops=columns["drops"][place],
            spent=columns["spent"][place],
            evaluated=columns["evaluated"][place],
            clock=columns["clocks"][place],
            order=columns["orders"][place],
            uplink=columns["uplinks"][place],
            ended=columns["ended"][place],
            away=columns["away"][place],
        )
        for place in range(count)
    ]


def computed(model: Any) -> Tensor:
    """A model, or the value of a mixture."""
    return model.tensor() if isinstance(model, Mixture) else model
