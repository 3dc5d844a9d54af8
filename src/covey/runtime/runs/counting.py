"""The rows that a checkpoint relies on: those that stay when a run is resumed from it."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self
from zlib import crc32

import msgspec

from covey.runtime.runs.schema import NETWORK

LAST = {"commits": "round", "metrics": "round", "events": "time", "records": "time"}
"""The tables whose rows a resumption repeats, and the column that decides which."""
KEPT = {**LAST, "records": "recorded"}
"""The column of `kept` with the last value of each table that stays."""


class Counted(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The rows of a table that a checkpoint relies on."""

    until: int
    """The last row of the table at that time. Later rows have higher numbers."""
    rows: int
    digest: int
    """A sum over the rows, which does not depend on their order."""

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(other.until, self.rows + other.rows, (self.digest + other.digest) % 2**63)


_NONE = Counted(0, 0, 0)


class _Digest:
    """The SQL function that sums the checksums of rows."""

    def __init__(self) -> None:
        self._sum = 0

    def step(self, *values: Any) -> None:
        self._sum += crc32(_encode(values))

    def finalize(self) -> int:
        return self._sum % 2**63


_encode = msgspec.msgpack.Encoder().encode


class Moment(NamedTuple):
    """The progress of each node at a checkpoint."""

    completed: Sequence[int]
    clocks: Sequence[float]
    ended: Sequence[bool] = ()
    """True for nodes whose program has returned; empty if there are none."""
    judged: Sequence[bool] = ()
    """True for nodes that are evaluated; empty if all are."""

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> Self:
        """The moment of a checkpoint."""
        columns = (checkpoint.get(name) for name in cls._fields)
        return cls(*([] if column is None else column.tolist() for column in columns))

    @property
    def of_network(self) -> int:
        """The last round whose network figures stay: evaluated nodes whose programs run repeat later ones."""
        nodes = len(self.completed)
        each = zip(self.completed, self.ended or [False] * nodes, self.judged or [True] * nodes, strict=True)
        return min(
            (completed for completed, ended, judged in each if judged and not ended), default=max(self.completed)
        )


@contextmanager
def keeping(database: sqlite3.Connection, moment: Moment) -> Iterator[None]:
    """A temporary table `kept` within the context, with the last round and time of each node that stay."""
    # A node that resumes at the very beginning repeats that, too.
    times = [clock if clock > 0 else -1.0 for clock in moment.clocks]
    rounds = [completed or -1 for completed in moment.completed]  # Rows of round 0 are written at the end.
    # Evaluations of all nodes at a moment are not repeated, however early some nodes resume.
    kept = [
        *zip(range(len(times)), rounds, times, times, strict=True),
        (NETWORK, moment.of_network, min(times), max(times)),
    ]
    database.execute(
        "CREATE TEMP TABLE kept "
        "(node INTEGER PRIMARY KEY, round INTEGER NOT NULL, time REAL NOT NULL, recorded REAL NOT NULL)"
    )
    database.executemany("INSERT INTO kept VALUES (?,?,?,?)", kept)
    try:
        yield
    finally:
        database.execute("DROP TABLE kept")


class Counting:
    """Counts rows for successive checkpoints, most of them only once.

    Args:
        database: the database of the run.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.create_aggregate("digest", -1, _Digest)
        self.begin_again()

    def begin_again(self) -> None:
        """Count all rows again at the next checkpoint, because some were deleted."""
        self._below = dict.fromkeys(LAST, _NONE)
        """The row of each table up to which all rows stay at every later checkpoint."""

    def count(self, moment: Moment, until: dict[str, int] | None = None) -> dict[str, Counted]:
        """Count the rows that stay.

        Args:
            moment: the progress of each node.
            until: the last row of each table to count; by default, all.
        """
        with keeping(self._database, moment):
            return {table: self._count(table, (until or {}).get(table)) for table in LAST}

    def _count(self, table: str, until: int | None) -> Counted:
        below = self._below[table]
        (last,) = self._one(f"SELECT IFNULL(MAX(rowid), 0) FROM {table}")
        last = last if until is None else until
        later = f"FROM {table} AS t LEFT JOIN kept USING (node) WHERE t.rowid > ? AND t.rowid <= ?"
        stays = f"t.{LAST[table]} <= kept.{KEPT[table]}"
        (first_to_go,) = self._one(f"SELECT MIN(t.rowid) {later} AND ({stays}) IS NOT TRUE", below.until, last)
        end = last if first_to_go is None else first_to_go - 1
        columns = ", ".join(f"t.{name}" for _, name, *_ in self._database.execute(f"PRAGMA table_info({table})"))
        query = f"SELECT COUNT(*), IFNULL(digest({columns}), 0) {later} AND {stays}"
        self._below[table] = below = below + Counted(end, *self._one(query, below.until, end))
        return below + Counted(last, *self._one(query, end, last))

    def _one(self, query: str, *values: int) -> Any:
        return self._database.execute(query, values).fetchone()
