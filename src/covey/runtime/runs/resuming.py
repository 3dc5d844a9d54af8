"""The opening of a run for resumption: its lock, and checks of everything that a resumption relies on.

Nothing is changed here: a run that cannot be resumed stays as it is.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from covey.messages.files import read_payload
from covey.messages.payloads import Payload
from covey.parts.errors import RunError
from covey.runtime.runs import lock
from covey.runtime.runs.counting import LAST, Counted, Counting, Moment
from covey.runtime.runs.database import check_values, reading
from covey.runtime.runs.files import refuse_links
from covey.runtime.runs.run import Run
from covey.runtime.runs.schema import CHECKPOINTS, CONFIG, FORMAT, METRICS
from covey.runtime.runs.sums import check_sums

WRITTEN = "written"
"""The entry of a checkpoint that the writer of the run's folder adds."""


class Written(msgspec.Struct, forbid_unknown_fields=True):
    """The facts that the writer of a run's folder adds to a checkpoint."""

    format: int
    config: str
    """The digest of the experiment."""
    counted: dict[str, Counted]
    """The rows of each table that it relies on."""


@dataclass(frozen=True)
class Resumable:
    """A run that can be resumed.

    Attributes:
        run: the run.
        held: the file of its lock.
        round: the round of the checkpoint.
        checkpoint: the checkpoint.
        name: the path of the checkpoint within the folder.
        last: the last row of each table when it was written.
    """

    run: Run
    held: BinaryIO
    round: int
    checkpoint: Payload
    name: str
    last: Mapping[str, int]

    def refused(self, why: object) -> RunError:
        """The error of a checkpoint that does not belong to this run."""
        return refused(self.run.folder, f"its {self.name} does not fit this experiment: {why}")


def refused(folder: Path, why: str) -> RunError:
    """The error of a run that cannot be resumed."""
    return RunError(f"The run {folder} cannot be resumed: {why}.")


@contextmanager
def resuming(folder: Path) -> Iterator[Resumable]:
    """Open a run for resumption. After an error, here or within the context, its lock is released.

    Raises:
        RunError: the run has finished, is being written, was changed or damaged, or has no checkpoint. Nothing is
            changed then.
    """
    run = Run(folder)
    refuse_links(folder, writing=True)
    try:
        held = lock.acquire(folder)
    except OSError as error:
        raise RunError(f"The run folder {folder} cannot be written: {error.strerror}.") from error
    try:
        # Nothing is read before the lock is held, because another writer may have changed it.
        yield _opened(run, held)
    except BaseException:
        held.close()
        raise


def examine(folder: Path) -> tuple[int, int | None]:
    """Check a run that is not being written against its checksums.

    Returns:
        The number of files that were compared, and the round after which a resumption would continue, or None.

    Raises:
        RunError: the run is damaged, is being written, or is of an earlier format without checksums.
    """
    run = Run(folder)
    if lock.is_held(folder):
        raise lock.busy(folder)
    if run.format != FORMAT:
        raise RunError(f"The run {folder} has no checksums: it is of the format {run.format}, not {FORMAT}.")
    has_checkpoint, status = bool(checkpoints(folder)), run.facts.get("status")
    ended = status != "running"
    files = check_sums(folder, ended=ended) if ended or has_checkpoint else 0
    with reading(folder) as database:
        _check_database(database, folder)
        if status == "finished" or not has_checkpoint:
            return files, None
        return files, _with_checkpoint(run, database)[0]


def _opened(run: Run, held: BinaryIO) -> Resumable:
    folder, status = run.folder, run.facts.get("status")
    if status == "finished":
        if run.format == FORMAT:
            check_sums(folder)
        raise RunError(f"The run {folder} has finished: there is nothing to resume.")
    _check_format(folder, run.format)
    if run.is_changed:
        raise refused(
            folder, f"its {CONFIG} has been changed since it began. Begin a new run: covey run {folder / CONFIG}"
        )
    if not checkpoints(folder):
        raise RunError(
            f"The run {folder} has no checkpoint to resume from. Begin a new run: covey run {folder / CONFIG}"
        )
    # Checkpoints have their own checksums, and the previous one replaces a damaged one. Rows are counted instead of
    # compared: a program that had the database open at the end merges the log into the file when it closes it.
    check_sums(folder, ended=status != "running", but=(CHECKPOINTS, METRICS))
    with reading(folder, alone=True) as database:
        _check_database(database, folder)
        return Resumable(run, held, *_with_checkpoint(run, database))


def _check_format(folder: Path, found: int) -> None:
    if found != FORMAT:
        which = "an earlier covey" if found < FORMAT else "a later covey"
        raise refused(
            folder,
            f"{which} wrote it (format {found}, and this one resumes format {FORMAT}). It can be shown. "
            f"Begin a new run: covey run {folder / CONFIG}",
        )


def _check_database(database: sqlite3.Connection, folder: Path) -> None:
    check_values(database, folder)
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found != FORMAT:
        raise refused(folder, f"its {METRICS} has the format {found}, not {FORMAT}")
    (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise refused(folder, f"its {METRICS} is damaged: {result}")


def _with_checkpoint(run: Run, database: sqlite3.Connection) -> tuple[int, Payload, str, dict[str, int]]:
    """The latest checkpoint that is intact and whose rows exist: its round, content, name and last rows."""
    problems = []
    for round, file in checkpoints(run.folder):
        name = str(file.relative_to(run.folder))
        try:
            checkpoint = dict(read_payload(file))
        except RunError:
            problems.append(f"its {name} is damaged")
            continue
        written = _written(run, name, checkpoint)
        if _count(database, checkpoint, written) == written.counted:
            last = {table: counted.until for table, counted in written.counted.items()}
            return round, checkpoint, name, last
        problems.append(f"its {METRICS} does not have the rows that {name} relies on")
    raise refused(run.folder, "; ".join(problems))


def _written(run: Run, name: str, checkpoint: dict[str, Any]) -> Written:
    """Remove the writer's entry from a checkpoint, and return it.

    Raises:
        RunError: the checkpoint is of another format or run.
    """
    try:
        written = msgspec.msgpack.decode(checkpoint.pop(WRITTEN), type=Written)
    except (KeyError, TypeError, msgspec.MsgspecError) as error:
        raise refused(run.folder, f"its {name} has an unknown format") from error
    if written.format != FORMAT or written.counted.keys() != LAST.keys():
        raise refused(run.folder, f"its {name} has the format {written.format}, not {FORMAT}")
    if written.config != run.facts.get("config_digest"):
        raise refused(run.folder, f"its {name} is of another experiment")
    completed: Any = checkpoint.get("completed")
    clocks: Any = checkpoint.get("clocks")
    known = _is_column(completed, np.int64) and _is_column(clocks, np.float64) and len(completed) == len(clocks)
    flags = (checkpoint.get(name) for name in ("ended", "judged"))
    if not known or not all(f is None or (_is_column(f, np.bool_) and len(f) == len(completed)) for f in flags):
        raise refused(run.folder, f"its {name} does not have the progress of each node")
    return written


def _is_column(found: Any, dtype: type) -> bool:
    """True if a value is a column of non-negative numbers, one per node."""
    return (
        isinstance(found, np.ndarray)
        and found.dtype == dtype
        and found.ndim == 1
        and len(found) > 0
        and bool((found >= 0).all())
        and bool(np.isfinite(found).all())
    )


def _count(database: sqlite3.Connection, checkpoint: dict[str, Any], written: Written) -> dict[str, Counted]:
    """The existing rows among those that a checkpoint relies on."""
    # For a temporary table. The file itself is opened for reading only.
    database.execute("PRAGMA query_only=OFF")
    until = {table: counted.until for table, counted in written.counted.items()}
    return Counting(database).count(Moment.of(checkpoint), until)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run with their rounds, the latest first."""
    found = sorted((folder / CHECKPOINTS).glob("round-*.covey"), reverse=True)
    return [(int(path.stem.removeprefix("round-")), path) for path in found if path.stem[len("round-") :].isdigit()]


def latest_checkpoint(folder: Path) -> tuple[int, Payload] | None:
    """The round and content of the latest intact checkpoint, or None."""
    for round, path in checkpoints(folder):
        try:
            return round, read_payload(path)
        except RunError:
            continue
    return None
