"""Opens the database of a run for reading, whoever wrote it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from covey.parts.errors import RunError
from covey.runtime.runs import lock
from covey.runtime.runs.schema import EARLIER_TABLES, METRICS, TABLES

_STEPS = 100_000
_LEAST_STEPS, _STEPS_OF_A_BYTE = 20_000_000, 10
"""How many instructions may be taken while a database is open. A query of `Run` takes 0.7 for a byte of the file (over
a million commits); a tree of pages whose branches are one and the same page has rows without end."""

_MAY_BE_NULL = ("train_loss", "value")


@contextmanager
def reading(folder: Path, *, alone: bool = False) -> Iterator[sqlite3.Connection]:
    """The database of a run, which holds its tables and nothing else.

    Args:
        folder: the run's.
        alone: whether whoever asks holds the lock; by default it is seen whether somebody does.

    Raises:
        RunError: it cannot be read, or is not what a run's writer makes.
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
    return RunError(f"The metrics of {folder} cannot be read: {why}.")


def _connected(file: Path, folder: Path, alone: bool) -> sqlite3.Connection:
    if not file.stat().st_size:
        # SQLite deletes the log beside an empty database, also where it opens it for reading alone.
        raise unreadable(folder, "it is empty")
    uri = file.absolute().as_uri()
    if _is_at_rest(file) and (alone or not lock.is_held(folder)):
        return _guarded(sqlite3.connect(f"{uri}?immutable=1", uri=True), file, folder)
    return _guarded(sqlite3.connect(f"{uri}?mode=ro", uri=True), file, folder)


def _is_at_rest(file: Path) -> bool:
    """Whether a database that keeps a write-ahead log has none, or an empty one: where nobody writes, reading it need
    make none."""
    with open(file, "rb") as opened:
        keeps_log = opened.read(20)[18:] == b"\x02\x02"
    log = file.with_name(file.name + "-wal")
    return keeps_log and not (log.exists() and log.stat().st_size)


def _guarded(database: sqlite3.Connection, file: Path, folder: Path) -> sqlite3.Connection:
    """Let a connection run no code of the file, and end what would not end."""
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
    """See whether there are only tables, those of a run being as they are made: a view may have rows without end.

    Raises:
        RunError: there is something else.
    """
    for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "table" and name not in _tables() and not str(sql).upper().startswith("CREATE VIRTUAL"):
            continue
        if kind not in ("table", "index") or (kind == "table" and sql not in _tables().get(name, ())):
            raise unreadable(folder, f"its {kind} {name!r} is none of a run")


@cache
def _tables() -> dict[str, set[str]]:
    """How each table of a run is made, and was in earlier formats, in SQLite's words."""
    found: dict[str, set[str]] = {}
    for tables in (TABLES, EARLIER_TABLES):
        with closing(sqlite3.connect(":memory:")) as empty:
            empty.executescript(tables)
            for name, sql in empty.execute("SELECT name, sql FROM sqlite_master"):
                found.setdefault(name, set()).add(sql)
    return found


_PAGE = 4096


def has_rows(folder: Path, *, begun: bool = False) -> bool:
    """Whether anything is recorded, as far as can be known.

    Args:
        folder: the run's.
        begun: whether it has its tables; before, a database that cannot be read and has no more than one page has none.
    """
    try:
        with reading(folder) as database:
            made = {name for (name,) in database.execute("SELECT name FROM sqlite_master")} & _tables().keys()
            return any(database.execute(f"SELECT EXISTS (SELECT 1 FROM {name})").fetchone()[0] for name in made)
    except RunError:
        return begun or (folder / METRICS).stat().st_size > _PAGE


def check_values(database: sqlite3.Connection, folder: Path) -> None:
    """See whether every value is of its column's type, which SQLite leaves to whoever writes.

    Raises:
        RunError: one is not.
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
            raise unreadable(folder, f"the table {table} holds what is no value of its column")
