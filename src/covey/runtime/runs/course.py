"""The course of a run: aggregates over nodes of its rounds, extended by the rows that were added since.

Tables are read once, in pieces by number of row, and never as a whole. An old row that disappears, as when a host is
lost or a run is resumed, shows in the number of rows; then everything is read again.

Shapes: N nodes, R rounds.
"""

import math
import sqlite3
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from covey.parts.errors import RunError
from covey.runtime.runs.database import Database
from covey.runtime.runs.rounds import Figure, Rounds
from covey.runtime.runs.schema import COMMIT_COLUMNS, COUNTED, NETWORK

_ROWS = 100_000
"""The rows of a piece."""
_MOST_NAMES = 100
"""The greatest number of figures of a run. Others are left out."""
_MOST_NODES = 20_000
"""With more nodes than this, the latest rows of each node are not kept."""
_MOST_READ = 2_000_000
"""The greatest number of rows that are read for the quantiles of one answer."""
_RECOUNT = 20
"""Rows are counted again after this many times the seconds that counting took."""
SENT, TRAINING_LOSS = "bytes_out", "train_loss"
"""The figures that commits have."""
_LATEST = ("accuracy", "loss")
"""The figures whose latest value is kept for each node."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

_PIECE = "rowid > ? AND rowid <= ? AND typeof(node) = 'integer' AND typeof(round) = 'integer'"
_FIGURES = f"""
SELECT node = {NETWORK}, SUBSTR(name, 1, 200), round, COUNT(value), TOTAL(value), MIN(value + 0.0), MAX(value + 0.0),
    MIN(rowid), MAX(rowid), COUNT(*)
FROM metrics WHERE {_PIECE} AND typeof(name) = 'text' AND typeof(value) IN ('real', 'null') GROUP BY 1, 2, 3 ORDER BY 3
"""
_OF_COMMITS = """COUNT({0}), TOTAL({0}), MIN({0} + 0.0), MAX({0} + 0.0)"""
_COMMITS = f"""
SELECT round, {", ".join(_OF_COMMITS.format(name) for name in ("time", SENT, TRAINING_LOSS))},
    MIN(rowid), MAX(rowid), COUNT(*)
FROM commits WHERE {_PIECE} AND typeof(time) = 'real' AND typeof({TRAINING_LOSS}) IN ('real', 'null')
    AND typeof({SENT}) = 'integer' GROUP BY round ORDER BY round
"""
_LAST_VALUES = f"""
SELECT node, MAX(round), value FROM metrics WHERE {_PIECE} AND name = ? AND typeof(value) IN ('real', 'null')
    AND node >= 0 AND node < ? GROUP BY node
"""
_VALUES_OF_NODES = """
SELECT value FROM metrics WHERE rowid >= ? AND rowid <= ? AND round = ? AND name = ? AND node >= 0
    AND typeof(value) = 'real'
"""
_COMMITS_OF_NODES = """
SELECT {0} + 0.0 FROM commits WHERE rowid >= ? AND rowid <= ? AND round = ? AND typeof({0}) IN ('real', 'integer')
"""


class Point(NamedTuple):
    """A figure in a round, over nodes. Values that are not finite are None."""

    round: int
    nodes: int
    mean: float | None
    least: float | None
    most: float | None
    quantiles: tuple[float, ...] | None
    """The QUANTILES over nodes; None if they would take too long."""
    time: float | None
    """The mean over nodes of the time at which they completed the round."""
    bytes: float | None
    """The mean over nodes of the bytes that they have sent."""
    energy: float | None
    """The mean over nodes of the joules that they have spent."""


class Course:
    """The course of a run.

    Args:
        database: the run's.
        nodes: the number of its nodes.
    """

    def __init__(self, database: Database, nodes: int) -> None:
        self._database = database
        self.nodes = nodes if 0 < nodes <= _MOST_NODES else 0
        """The number of nodes whose latest rows are kept; 0 for none."""
        self.generation = 0
        """The number of times that everything was read again."""
        self._begin()

    def _begin(self) -> None:
        self.last = {"commits": 0, "metrics": 0}
        """The last row of each table that was read."""
        self.of = dict(self.last)
        """The last row of each table."""
        self._counted = dict(self.last)
        self._recount = dict.fromkeys(self.last, 0.0)
        self.is_partial = False
        """True if rows were left out because a value had another type."""
        self.commits = 0
        """The sum of the nodes' completed rounds."""
        self.time = 0.0
        """The time of the last commit."""
        self._of_nodes: dict[str, Rounds] = {}
        self._of_network: dict[str, Rounds] = {}
        self._times = Rounds()
        self._rounds_N = np.full(self.nodes, -1, dtype=np.int64)
        self._totals_N: dict[str, np.ndarray] = {}
        self._latest_N = {name: (self._rounds_N.copy(), np.full(self.nodes, np.nan)) for name in _LATEST}
        self._quantiles: dict[tuple[str, int, int], tuple[float, ...]] = {}

    def advance(self, seconds: float = math.inf) -> bool:
        """Read added rows for about so many seconds, and return True if some were read or disappeared.

        Raises:
            RunError: the database cannot be read.
        """
        end, before = monotonic() + seconds, (self.generation, *self.last.values())
        for table in self.last:
            while self._read(table) and monotonic() < end:
                pass
        return before != (self.generation, *self.last.values())

    @property
    def read(self) -> float:
        """The share of all rows that was read."""
        every = sum(self.of.values())
        return sum(self.last.values()) / every if every else 1.0

    def _read(self, table: str) -> bool:
        """Read a piece of a table, and return True if there are more."""
        with self._database.unchecked() as database:
            (most,) = database.execute(f"SELECT IFNULL(MAX(rowid), 0) FROM {table}").fetchone()
            begin, end = self.last[table], min(self.last[table] + _ROWS, most)
            if end > begin:
                piece = (begin, end)
                (rows,) = database.execute(
                    f"SELECT COUNT(*) FROM {table} WHERE rowid > ? AND rowid <= ?", piece
                ).fetchone()
                taken = (self._take_commits if table == "commits" else self._take_figures)(database, piece)
                self.is_partial |= taken < rows
                self._counted[table] += rows
            self.last[table], self.of[table] = max(begin, end), most
            if most < begin or (end == most and self._lacks_rows(database, table)):
                self.generation += 1
                self._begin()
                return True
            return bool(end < most)

    def _lacks_rows(self, database: sqlite3.Connection, table: str) -> bool:
        """True if rows that were read have disappeared. Counting reads every page, so that it is not always done."""
        began = monotonic()
        if began < self._recount[table]:
            return False
        (count,) = database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
        self._recount[table] = monotonic() + _RECOUNT * (monotonic() - began)
        return bool(count != self._counted[table])

    def _take_figures(self, database: sqlite3.Connection, piece: tuple[int, int]) -> int:
        taken = 0
        for of_network, name, round, *found, rows in database.execute(_FIGURES, piece):
            kept, taken = self._of_network if of_network else self._of_nodes, taken + rows
            if name in kept or len(kept) < _MOST_NAMES:
                kept.setdefault(name, Rounds()).add(round, Figure(*found))
        for name, (rounds_N, values_N) in self._latest_N.items() if self.nodes else ():
            for node, round, value in database.execute(_LAST_VALUES, (*piece, name, self.nodes)):
                if round >= rounds_N[node]:
                    rounds_N[node], values_N[node] = round, math.nan if value is None else value
        return taken

    def _take_commits(self, database: sqlite3.Connection, piece: tuple[int, int]) -> int:
        taken = 0
        for round, *found, first, last, rows in database.execute(_COMMITS, piece):
            times, sent, losses = (Figure._make((*found[k : k + 4], first, last)) for k in (0, 4, 8))
            self._times.add(round, times)
            self._of_nodes.setdefault(SENT, Rounds()).add(round, sent)
            if losses.nodes:
                self._of_nodes.setdefault(TRAINING_LOSS, Rounds()).add(round, losses)
            self.commits += rows
            self.time, taken = max(self.time, times.most or 0.0), taken + rows
        if self.nodes:
            self._take_totals(database, piece)
        return taken

    def _take_totals(self, database: sqlite3.Connection, piece: tuple[int, int]) -> None:
        known = {name for _, name, *_ in database.execute("PRAGMA table_info(commits)")}
        names = [name for name in COMMIT_COLUMNS[COUNTED] if name in known]
        query = f"SELECT node, MAX(round), {', '.join(names)} FROM commits WHERE {_PIECE} AND node >= 0 AND node < ? "
        for node, round, *values in database.execute(f"{query} GROUP BY node", (*piece, self.nodes)):
            if round >= self._rounds_N[node]:
                self._rounds_N[node] = round
                for name, value in zip(names, values, strict=True):
                    column_N = self._totals_N.setdefault(name, np.zeros(self.nodes, dtype=np.int64))
                    column_N[node] = value if isinstance(value, int) else 0

    # ---------------------------------------------------------------------- the state of nodes

    @property
    def completed(self) -> int:
        """The last round that a node has completed."""
        return self._times.latest

    @property
    def done(self) -> float | None:
        """The mean over nodes of their last completed rounds; None if there are too many nodes."""
        return float(np.maximum(self._rounds_N, 0).mean()) if self.nodes else None

    @property
    def totals(self) -> dict[str, int] | None:
        """The sums over nodes of the counters of their last commits; None if there are too many nodes."""
        return {name: int(column_N.sum()) for name, column_N in self._totals_N.items()} if self.nodes else None

    def latest(self, name: str) -> np.ndarray | None:
        """The latest value of each node, N, NaN where there is none; None if it is not kept."""
        found = self._latest_N.get(name)
        return found[1] if found is not None and self.nodes else None

    def now(self, name: str) -> float | None:
        """The mean over nodes of their latest values; for many nodes, that of the last round."""
        values_N = self.latest(name)
        if values_N is not None:
            known = values_N[~np.isnan(values_N)]
            return _finite(known.mean()) if len(known) else None
        rounds = self._of_nodes.get(name) or self._of_network.get(name)
        return None if rounds is None or not rounds.entries else _finite(rounds.entries[rounds.latest].mean)

    # ---------------------------------------------------------------------- figures over rounds

    @property
    def figures(self) -> dict[str, str]:
        """The names of all figures, with "nodes" or "network"."""
        return dict.fromkeys(self._of_network, "network") | dict.fromkeys(self._of_nodes, "nodes")

    def means(self, name: str, against: str = "rounds") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rounds of a figure, the positions on an axis, and the means over nodes, R each, in order of rounds."""
        entries = self._rounds(name).entries
        rounds_R = np.array(sorted(entries), dtype=np.int64)
        x_R = [self._position(int(round), against) for round in rounds_R]
        means_R = [entries[round].mean for round in rounds_R.tolist()]
        return rounds_R, np.array(x_R, dtype=float), np.array(means_R, dtype=float)

    def changed(self, name: str, since: dict[str, int]) -> list[int]:
        """The rounds of a figure with rows after some last rows of the tables."""
        last = since["commits" if name in (SENT, TRAINING_LOSS) else "metrics"]
        return sorted(round for round, entry in self._rounds(name).entries.items() if entry.last > last)

    def points(self, name: str, rounds: Sequence[int]) -> list[Point]:
        """A figure in some rounds.

        Raises:
            RunError: the database cannot be read, or has no such figure.
        """
        entries = self._rounds(name).entries
        found = [(round, entries[round]) for round in rounds if round in entries]
        quantiles = self._quantiles_of(name, found)
        return [
            Point(
                round,
                entry.nodes,
                _finite(entry.mean),
                _finite(entry.least),
                _finite(entry.most),
                quantiles.get(round),
                *(_finite(self._position(round, against)) for against in ("time", "bytes", "energy")),
            )
            for round, entry in found
        ]

    def _rounds(self, name: str) -> Rounds:
        found = self._of_nodes.get(name) or self._of_network.get(name)
        if found is None:
            raise RunError(f"The run has no figure {name!r}.")
        return found

    def _position(self, round: int, against: str) -> float:
        if against == "rounds":
            return round
        kept = {"time": self._times, "bytes": self._of_nodes.get(SENT), "energy": self._of_nodes.get("energy")}[against]
        entry = None if kept is None else kept.entries.get(round)
        return math.nan if entry is None or entry.mean is None else entry.mean

    def _quantiles_of(self, name: str, found: Sequence[tuple[int, Figure]]) -> dict[int, tuple[float, ...]]:
        """The quantiles over nodes in some rounds, read from the rows between the first and the last of each round."""
        if name not in self._of_nodes:
            return {}
        known = {round: self._quantiles.get((name, round, entry.last)) for round, entry in found}
        missing = [(round, entry) for round, entry in found if known[round] is None and entry.nodes]
        if missing and sum(entry.last - entry.first for _, entry in missing) <= _MOST_READ:
            of_commits = name in (SENT, TRAINING_LOSS)
            query = _COMMITS_OF_NODES.format(name) if of_commits else _VALUES_OF_NODES
            more = () if of_commits else (name,)
            if len(self._quantiles) > 100 * len(found) + 10_000:
                self._quantiles.clear()
            with self._database.unchecked() as database:
                for round, entry in missing:
                    rows = database.execute(query, (entry.first, entry.last, round, *more)).fetchall()
                    known[round] = self._quantiles[name, round, entry.last] = _quantiles([value for (value,) in rows])
        return {round: values for round, values in known.items() if values}


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    finite = np.array([value for value in values if math.isfinite(value)])
    return tuple(np.quantile(finite, QUANTILES).tolist()) if len(finite) else ()


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
