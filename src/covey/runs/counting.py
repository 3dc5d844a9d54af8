"""Counts the rows that a checkpoint counts on: those that stay when a run is resumed from it."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import msgspec

from covey.runs.schema import NETWORK

LAST = {"commits": "round", "metrics": "round", "events": "time"}
"""The tables whose rows a resume repeats, and by which column it knows them."""


class Counted(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The rows of a table that a checkpoint counts on."""

    until: int
    """The last row of the table then, counted on or not; later rows have higher numbers."""
    rows: int
    digest: int
    """A sum over the rows, so that it does not depend on their order."""

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(other.until, self.rows + other.rows, (self.digest + other.digest) % 2**63)


_NONE = Counted(0, 0, 0)


class _Digest:
    """The sum of the checksums of rows, as a function of SQL."""

    def __init__(self) -> None:
        self._sum = 0

    def step(self, *values: Any) -> None:
        self._sum += crc32(_encode(values))

    def finalize(self) -> int:
        return self._sum % 2**63


_encode = msgspec.msgpack.Encoder().encode


@contextmanager
def keeping(database: sqlite3.Connection, completed: Sequence[int], clocks: Sequence[float]) -> Iterator[None]:
    """A table `kept` while something is done: of each node, the last round and time that stay."""
    # Who goes on from the very beginning repeats that, too.
    times = [clock if clock > 0 else -1.0 for clock in clocks]
    kept = [*zip(range(len(times)), completed, times, strict=True), (NETWORK, min(completed), min(times))]
    database.execute("CREATE TEMP TABLE kept (node INTEGER PRIMARY KEY, round INTEGER NOT NULL, time REAL NOT NULL)")
    database.executemany("INSERT INTO kept VALUES (?,?,?)", kept)
    try:
        yield
    finally:
        database.execute("DROP TABLE kept")


class Counting:
    """Counts rows for one checkpoint after the other, most of them once.

    Args:
        database: the run's.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.create_aggregate("digest", -1, _Digest)
        self.begin_again()

    def begin_again(self) -> None:
        """Count all rows again the next time: some that were counted are gone."""
        self._below = dict.fromkeys(LAST, _NONE)
        """Up to which row all that there is stays, whatever checkpoint comes next."""

    def count(
        self, completed: Sequence[int], clocks: Sequence[float], until: dict[str, int] | None = None
    ) -> dict[str, Counted]:
        """Count the rows that stay.

        Args:
            completed: the last round of each node that stays.
            clocks: up to when its events stay.
            until: the last row of each table to look at; all by default.
        """
        with keeping(self._database, completed, clocks):
            return {table: self._count(table, (until or {}).get(table)) for table in LAST}

    def _count(self, table: str, until: int | None) -> Counted:
        below = self._below[table]
        (last,) = self._one(f"SELECT IFNULL(MAX(rowid), 0) FROM {table}")
        last = last if until is None else until
        later = f"FROM {table} AS t LEFT JOIN kept USING (node) WHERE t.rowid > ? AND t.rowid <= ?"
        stays = f"t.{LAST[table]} <= kept.{LAST[table]}"
        (first_to_go,) = self._one(f"SELECT MIN(t.rowid) {later} AND ({stays}) IS NOT TRUE", below.until, last)
        end = last if first_to_go is None else first_to_go - 1
        columns = ", ".join(f"t.{name}" for _, name, *_ in self._database.execute(f"PRAGMA table_info({table})"))
        query = f"SELECT COUNT(*), IFNULL(digest({columns}), 0) {later} AND {stays}"
        self._below[table] = below = below + Counted(end, *self._one(query, below.until, end))
        return below + Counted(last, *self._one(query, end, last))

    def _one(self, query: str, *values: int) -> Any:
        return self._database.execute(query, values).fetchone()
