"""Opens a run for resume: takes its lock and sees whether all is there that a resume counts on.

Nothing is changed here: what cannot be resumed stays as it is.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from covey.messages import wire
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
"""The entry of a checkpoint with what the writer of the run's folder knows of it."""


class Written(msgspec.Struct, forbid_unknown_fields=True):
    """What the writer of a run's folder adds to a checkpoint."""

    format: int
    config: str
    """The digest of the experiment."""
    counted: dict[str, Counted]
    """The rows of each table that it counts on."""


@dataclass(frozen=True)
class Resumable:
    """A run that can be resumed.

    Attributes:
        run: the run.
        held: its lock.
        round: the round of the checkpoint.
        checkpoint: what to go on from.
        name: the checkpoint's file, within the folder.
        last: the last rows of each table when it was written.
    """

    run: Run
    held: BinaryIO
    round: int
    checkpoint: Payload
    name: str
    last: Mapping[str, int]

    def refused(self, why: object) -> RunError:
        """The error of a checkpoint that is not one of this run."""
        return refused(self.run.folder, f"its {self.name} is none of this experiment: {why}")


def refused(folder: Path, why: str) -> RunError:
    """The error of a run that cannot be resumed."""
    return RunError(f"The run {folder} cannot be resumed: {why}.")


@contextmanager
def resuming(folder: Path) -> Iterator[Resumable]:
    """Open a run for resume; where something is wrong, here or in what is done meanwhile, its lock is given back.

    Raises:
        RunError: it has finished, is being written, was changed, is damaged, or has no checkpoint; nothing was changed.
    """
    run = Run(folder)
    refuse_links(folder, writing=True)
    try:
        held = lock.acquire(folder)
    except OSError as error:
        raise RunError(f"The run folder {folder} cannot be written: {error.strerror}.") from error
    try:
        # What another process did before it gave the lock back counts, so nothing was read before.
        yield _opened(run, held)
    except BaseException:
        held.close()
        raise


def examine(folder: Path) -> tuple[int, int | None]:
    """See whether a run that nobody writes is as it was written.

    Returns:
        How many files were compared with their checksums, and after which round a resume would go on, where one could.

    Raises:
        RunError: the run is not, is being written, or is of an earlier format, which has no checksums.
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
    # Checkpoints have checksums of their own, and a damaged one gives way to the one before. Rows are counted; another
    # program that had the database open when the run ended puts its log into the file when it closes it.
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
    (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise refused(folder, f"its {METRICS} is damaged: {said}")


def _with_checkpoint(run: Run, database: sqlite3.Connection) -> tuple[int, Payload, str, dict[str, int]]:
    """The latest checkpoint that is whole and whose rows are there, as `Resumable` has it."""
    problems = []
    for round, file in checkpoints(run.folder):
        name = str(file.relative_to(run.folder))
        try:
            checkpoint = dict(wire.read_file(file))
        except RunError:
            problems.append(f"its {name} is damaged")
            continue
        written = _written(run, name, checkpoint)
        if _count(database, checkpoint, written) == written.counted:
            last = {table: counted.until for table, counted in written.counted.items()}
            return round, checkpoint, name, last
        problems.append(f"its {METRICS} has not the rows on which {name} counts")
    raise refused(run.folder, "; ".join(problems))


def _written(run: Run, name: str, checkpoint: dict[str, Any]) -> Written:
    """What the writer added to a checkpoint, which is taken out of it.

    Raises:
        RunError: it is of another format or run.
    """
    try:
        written = msgspec.msgpack.decode(checkpoint.pop(WRITTEN), type=Written)
    except (KeyError, TypeError, msgspec.MsgspecError) as error:
        raise refused(run.folder, f"its {name} is of no known format") from error
    if written.format != FORMAT or written.counted.keys() != LAST.keys():
        raise refused(run.folder, f"its {name} has the format {written.format}, not {FORMAT}")
    if written.config != run.facts.get("config_digest"):
        raise refused(run.folder, f"its {name} is of another experiment")
    completed: Any = checkpoint.get("completed")
    clocks: Any = checkpoint.get("clocks")
    ended: Any = checkpoint.get("ended")
    known = _is_column(completed, np.int64) and _is_column(clocks, np.float64) and len(completed) == len(clocks)
    if not known or not (ended is None or (_is_column(ended, np.bool_) and len(ended) == len(completed))):
        raise refused(run.folder, f"its {name} does not say how far each node is")
    return written


def _is_column(found: Any, dtype: type) -> bool:
    """Whether something is a number that is not negative for every node."""
    return (
        isinstance(found, np.ndarray)
        and found.dtype == dtype
        and found.ndim == 1
        and len(found) > 0
        and bool((found >= 0).all())
        and bool(np.isfinite(found).all())
    )


def _count(database: sqlite3.Connection, checkpoint: dict[str, Any], written: Written) -> dict[str, Counted]:
    """The rows that are there of those that a checkpoint counts on."""
    # For a temporary table; the file was opened for reading alone.
    database.execute("PRAGMA query_only=OFF")
    until = {table: counted.until for table, counted in written.counted.items()}
    return Counting(database).count(Moment.of(checkpoint), until)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run by their rounds, the latest first."""
    found = sorted((folder / CHECKPOINTS).glob("round-*.covey"), reverse=True)
    return [(int(path.stem.removeprefix("round-")), path) for path in found if path.stem[len("round-") :].isdigit()]


def latest_checkpoint(folder: Path) -> tuple[int, Payload] | None:
    """(round, checkpoint) of the latest that is not damaged; None where there is none."""
    for round, path in checkpoints(folder):
        try:
            return round, wire.read_file(path)
        except RunError:
            continue
    return None
