"""The database of a run, opened for reading; its content is not trusted."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.parts.errors import RunError, one_line
from covey.runtime.runs import lock
from covey.runtime.runs.schema import EARLIER_TABLES, METRICS, TABLES

if TYPE_CHECKING:
    import pandas as pd

_STEPS = 100_000
_LEAST_STEPS, _STEPS_OF_A_BYTE = 20_000_000, 10
"""The limit of SQLite's instructions on an open database. A query of `Run` takes 0.7 per byte of the file (over a
million commits). A malicious file, whose tree of pages refers to one page repeatedly, has endless rows."""

_MAY_BE_NULL = ("train_loss", "value")
_MOST_FIGURES = 1000


class Database:
    """The database of a run, for queries. Its values are checked before the first one.

    Args:
        folder: the folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._has_checked_values = False

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with reading(self._folder) as database:
            if not self._has_checked_values:
                check_values(database, self._folder)
                self._has_checked_values = True
            yield database

    def frame(self, query: str) -> "pd.DataFrame":
        """The rows of a query as a table.

        Raises:
            RunError: the database cannot be read.
        """
        import pandas as pd

        with self._opened() as database:
            try:
                return pd.read_sql_query(query, database)
            except (sqlite3.Error, pd.errors.DatabaseError) as error:
                raise unreadable(self._folder, error.__cause__ or error) from error

    def rows(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The names of columns and the rows of a query, without pandas: importing it takes longer than most queries.

        Raises:
            RunError: the database cannot be read.
        """
        with self._opened() as database:
            try:
                cursor = database.execute(query)
                return [name for name, *_ in cursor.description], cursor.fetchall()
            except sqlite3.Error as error:
                raise unreadable(self._folder, error) from error

    @contextmanager
    def unchecked(self) -> Iterator[sqlite3.Connection]:
        """A connection whose rows are not checked before, for queries that look at the types of values themselves.

        All queries of the context see the database at one moment.

        Raises:
            RunError: the database cannot be read.
        """
        with reading(self._folder) as database:
            database.execute("BEGIN")
            yield database

    def check_names(self, count: int) -> None:
        """Refuse so many names of figures that a table of them would not fit into memory.

        Raises:
            RunError: there are too many.
        """
        if count > _MOST_FIGURES:
            raise RunError(f"The run {self._folder} has {count} names of figures, which are too many for a table.")


@contextmanager
def reading(folder: Path, *, alone: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the database of a run, after a check that it has only the tables of a run.

    Args:
        folder: the folder of the run.
        alone: True if the caller holds the lock; by default, it is checked whether any process does.

    Raises:
        RunError: the database cannot be read, or is not one of a run.
    """
    try:
        with closing(_connected(folder / METRICS, folder, alone)) as database:
            yield database
    except (sqlite3.Error, OSError) as error:
        log = folder / f"{METRICS}-wal"
        if log.exists() and not os.access(folder, os.W_OK):
            why = f"its last rows are in {log.name}, and SQLite needs to write beside it. "
            raise unreadable(folder, f"{why}Copy the folder to where that is possible") from error
        raise unreadable(folder, error) from error


def unreadable(folder: Path, why: object) -> RunError:
    """The error of a database that cannot be read."""
    if str(why) == "interrupted":
        why = "it has more rows than its size allows"
    return RunError(f"The metrics of {folder} cannot be read: {one_line(why)}.")


def _connected(file: Path, folder: Path, alone: bool) -> sqlite3.Connection:
    if not file.stat().st_size:
        # SQLite deletes the log beside an empty database even if it opens the database for reading only.
        raise unreadable(folder, "it is empty")
    uri = file.absolute().as_uri()
    if _is_at_rest(file) and (alone or not lock.is_held(folder)):
        return _guarded(sqlite3.connect(f"{uri}?immutable=1", uri=True), file, folder)
    return _guarded(sqlite3.connect(f"{uri}?mode=ro", uri=True), file, folder)


def _is_at_rest(file: Path) -> bool:
    """True if a database in WAL mode has no log, or an empty one. If no process writes, it can be read without one."""
    with open(file, "rb") as opened:
        keeps_log = opened.read(20)[18:] == b"\x02\x02"
    log = file.with_name(file.name + "-wal")
    return keeps_log and not (log.exists() and log.stat().st_size)


def _guarded(database: sqlite3.Connection, file: Path, folder: Path) -> sqlite3.Connection:
    """Forbid a connection to run code of the file, and limit its instructions."""
    left = _LEAST_STEPS + _STEPS_OF_A_BYTE * file.stat().st_size

    def count() -> int:
        nonlocal left
        left -= _STEPS
        return left < 0

    try:
        database.set_progress_handler(count, _STEPS)
        for setting in ("trusted_schema=OFF", "query_only=ON", "cell_size_check=ON"):
            database.execute(f"PRAGMA {setting}")
        _check_tables(database, folder)
    except BaseException:
        database.close()
        raise
    return database


def _check_tables(database: sqlite3.Connection, folder: Path) -> None:
    """Refuse a database with anything but the tables of a run: a view may have endless rows.

    Raises:
        RunError: the database has something else.
    """
    for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "table" and name not in _tables() and not str(sql).upper().startswith("CREATE VIRTUAL"):
            continue
        if kind not in ("table", "index") or (kind == "table" and sql not in _tables().get(name, ())):
            raise unreadable(folder, f"its {kind} {name!r} does not belong to a run")


@cache
def _tables() -> dict[str, set[str]]:
    """The SQL of each table of a run, in this and in earlier formats."""
    found: dict[str, set[str]] = {}
    for tables in (TABLES, EARLIER_TABLES):
        with closing(sqlite3.connect(":memory:")) as empty:
            empty.executescript(tables)
            for name, sql in empty.execute("SELECT name, sql FROM sqlite_master"):
                found.setdefault(name, set()).add(sql)
    return found


_PAGE = 4096


def has_rows(folder: Path, *, begun: bool = False) -> bool:
    """True if anything may be recorded.

    Args:
        folder: the folder of the run.
        begun: True if the database has its tables. If not, an unreadable database of at most one page has no rows.
    """
    try:
        with reading(folder) as database:
            made = {name for (name,) in database.execute("SELECT name FROM sqlite_master")} & _tables().keys()
            return any(database.execute(f"SELECT EXISTS (SELECT 1 FROM {name})").fetchone()[0] for name in made)
    except RunError:
        return begun or (folder / METRICS).stat().st_size > _PAGE


def check_values(database: sqlite3.Connection, folder: Path) -> None:
    """Check that every value is of its column's type, which SQLite does not enforce.

    Raises:
        RunError: a value is of another type.
    """
    for table in [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]:
        if table not in _tables():
            continue
        wrong = [
            f"typeof({column}) NOT IN ('{type.lower()}', '{'null' if column in _MAY_BE_NULL else type.lower()}')"
            for _, column, type, *_ in database.execute(f"PRAGMA table_info({table})")
        ]
        (found,) = database.execute(f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {' OR '.join(wrong)})").fetchone()
        if found:
            raise unreadable(folder, f"the table {table} holds a value of a wrong type")
