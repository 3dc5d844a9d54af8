"""The quantiles of the rows of all nodes in a round, which are kept where the rows of some nodes are.

Shapes: N nodes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covey.runtime.runs.schema import COMMIT_COLUMNS, NETWORK, QUANTILES

Record = tuple[float, int, str, Mapping[str, Any]]
_MEASURED = COMMIT_COLUMNS[2:]
"""The columns of a commit that have quantiles."""
_PLACES = {"least": 0.0, "lower": 0.25, "median": 0.5, "upper": 0.75, "greatest": 1.0}


class Quantiles:
    """The rows of some nodes, and the quantiles of all.

    Args:
        kept: the ids of the nodes whose rows are kept.
        nodes: N.
    """

    def __init__(self, kept: Sequence[int], nodes: int) -> None:
        self._kept, self._nodes = np.array(kept, dtype=np.int64), nodes
        self._ids = frozenset(kept)
        self._open: dict[int, dict[int, tuple[Any, ...]]] = {}
        """The rows by node of rounds that not all nodes have completed."""
        self._done: set[int] = set()

    def take(self, rows: Iterable[tuple[Any, ...]]) -> tuple[list[tuple[Any, ...]], list[Record]]:
        """The rows that are kept of some rows, and the quantiles of rounds of which they are the last."""
        kept, complete = [], []
        for row in rows:
            node, round = row[:2]
            if node in self._ids:
                kept.append(row)
            if round not in self._done:
                self._open.setdefault(round, {})[node] = row
                if len(self._open[round]) == self._nodes:
                    complete.append(round)
        return kept, [record for round in complete for record in self._close(round)]

    def take_columns(
        self, round: int, columns: Sequence[NDArray[Any]]
    ) -> tuple[NDArray[np.int64], list[NDArray[Any]], list[Record]]:
        """The same for the rows of all nodes in a round, as columns from the time on: ids, columns and quantiles."""
        self._done.add(round)
        return self._kept, [column[self._kept] for column in columns], _records(round, columns)

    def begin_again(self) -> None:
        """Forget the rounds that not all nodes have completed, because they are repeated."""
        self._open, self._done = {}, set()

    def rest(self) -> list[Record]:
        """The quantiles of rounds that not all nodes have completed, at the end of a run."""
        return [record for round in sorted(self._open) for record in self._close(round)]

    def _close(self, round: int) -> list[Record]:
        rows = self._open.pop(round)
        self._done.add(round)
        columns = list(zip(*(rows[node] for node in sorted(rows)), strict=True))[2:]
        return _records(round, [np.array(column, dtype=np.float64) for column in columns])


def _records(round: int, columns: Sequence[NDArray[Any]]) -> list[Record]:
    """The quantiles of each column, as rows of the table."""
    time = float(columns[0].max())
    found: list[Record] = []
    for name, column in zip(_MEASURED, columns, strict=True):
        known = column[~np.isnan(column)]
        figures: dict[str, float | None] = dict.fromkeys(("mean", *_PLACES))
        if len(known):
            figures = {"mean": float(known.mean()), **_quantiles(known)}
        found.append((time, NETWORK, QUANTILES, {"round": round, "column": name, "nodes": len(known), **figures}))
    return found


def _quantiles(column: NDArray[Any]) -> dict[str, float]:
    return dict(zip(_PLACES, np.quantile(column, [*_PLACES.values()]).tolist(), strict=True))
