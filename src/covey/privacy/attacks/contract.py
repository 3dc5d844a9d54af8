"""The interface of attacks: from what an adversary knows to evidence, and from that, with the truth, to figures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from covey.parts.errors import RunError
from covey.parts.parameters import Part
from covey.privacy.attacks.knowledge import Knowledge

T = TypeVar("T")
Cell: TypeAlias = str | float | int | None
Tracked: TypeAlias = Callable[[Iterable[T], str, int], Iterable[T]]
"""Shows the progress of an iteration: (items, what they are, how many)."""


def untracked(items: Iterable[T], what: str, count: int) -> Iterable[T]:
    """The items, without a display."""
    return items


@dataclass
class Pictures:
    """Rows of pictures, S x H x W x channels in [0, 1], by the caption of each row."""

    rows: dict[str, np.ndarray]
    title: str


@dataclass
class Result:
    """The figures of one attack on a run."""

    kind: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    meaning: str
    """One line in words."""
    headline: dict[str, float]
    """The figures of the strongest attacker."""
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """ROC curves: rates of false and of true alarms, by name."""
    pictures: Pictures | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """Further figures, as plain values."""
    remarks: list[str] = field(default_factory=list)

    def table(self) -> dict[str, Any]:
        """The figures as plain values, for JSON."""
        rows = [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]
        headline = {name: _plain(value) for name, value in self.headline.items()}
        return {
            "kind": self.kind,
            "meaning": self.meaning,
            "headline": headline,
            "rows": rows,
            "remarks": self.remarks,
            "details": self.details,
            "curves": {name: [x.tolist(), y.tolist()] for name, (x, y) in self.curves.items()},
        }


def _plain(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


class Attack(Part):
    """A way in which a curious node uses what it received.

    `observe` computes the evidence from what the adversary knows alone. `score` compares it with the truth.
    """

    family: ClassVar[str] = "attack"

    def observe(self, known: Knowledge, tracked: Tracked[Any] = untracked) -> Any:
        """Attack: the evidence, without the ground truth.

        Raises:
            ConfigurationError: the attack is not possible on such a run.
        """
        raise NotImplementedError

    def score(self, known: Knowledge, evidence: Any, truth: "Truth") -> Result:
        """The figures of the evidence."""
        raise NotImplementedError


class Truth:
    """The ground truth of a run: the training samples of each node.

    Args:
        known: the attacked run.
        arrays: the arrays of `read_truth`.

    Raises:
        RunError: it lacks the samples of nodes.
    """

    def __init__(self, known: Knowledge, arrays: Mapping[str, Any]) -> None:
        self._known, self._arrays = known, arrays
        prefix = "samples_of/"
        size = len(known.learner.data.train)
        self.samples: dict[int, np.ndarray] = {}
        for name, found in arrays.items():
            node = name.removeprefix(prefix)
            if name.startswith(prefix) and node.isdecimal():
                fits = isinstance(found, np.ndarray) and found.ndim == 1 and found.dtype.kind in "iu"
                if not fits or (len(found) and not 0 <= int(found.min()) <= int(found.max()) < size):
                    raise RunError(f"The run {known.run.folder} has no readable observed/truth.npz: {name} is wrong.")
                self.samples[int(node)] = found.astype(np.int64)
        if not self.samples:
            raise RunError(
                f"The run {known.run.folder} has no truth to score attacks with: observed/truth.npz has no samples of "
                "nodes, as where data come in streams or stay with hosts."
            )

    def owners(self, view: Any) -> tuple[int, ...]:
        """The nodes whose models are in a view."""
        return tuple(owner for owner in self._known.program.owners(view, self._arrays) if owner in self.samples)

    def members(self, owners: Sequence[int]) -> np.ndarray:
        """The training samples of nodes."""
        return np.concatenate([self.samples[owner] for owner in owners]) if owners else np.empty(0, dtype=np.int64)


def strongest(rows: Sequence[Mapping[str, Any]], by: str) -> Mapping[str, Any]:
    """The row with the highest figure; of rows without it, the first."""
    return max(rows, key=lambda row: -math.inf if math.isnan(row[by]) else row[by])
