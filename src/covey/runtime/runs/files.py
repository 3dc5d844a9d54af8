"""The files of a run's folder, and checks before they are opened.

A folder may come from an untrusted source. A symbolic link in it would make covey read, or at a resumption write,
files outside of it.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from covey.parts.errors import RunError
from covey.runtime.runs import lock
from covey.runtime.runs.database import has_rows
from covey.runtime.runs.schema import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    CONSTANTS,
    FACTS,
    GRAPH,
    HOLDINGS,
    LAYOUT,
    LOCK,
    LOGS,
    METRICS,
    MODELS,
    OBSERVED,
    STATES,
    SUMS,
)

BESIDE_METRICS = tuple(METRICS + suffix for suffix in ("-wal", "-shm", "-journal"))
"""The files of SQLite beside a database that is open, or was open when its process ended."""

_REPLACED = (CONFIG, FACTS, GRAPH, HOLDINGS, LAYOUT, CONSTANTS, MODELS, BEST, STATES, SUMS)
_PARTS = tuple(name + ".part" for name in _REPLACED)
_FOLDERS = (CHECKPOINTS, LOGS, str(Path(OBSERVED).parent))
_CHANGED_IN_PLACE = (METRICS, *BESIDE_METRICS)


def refuse_links(folder: Path, *, writing: bool = False) -> None:
    """Refuse a run with files that are links.

    Args:
        folder: the folder of the run.
        writing: True if files will be changed, so that hard links matter, too.

    Raises:
        RunError: a file is a link or not a regular file.
    """
    for path in _of_run(folder):
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise RunError(f"The run folder {folder} cannot be read: {error.strerror}.") from error
        name = path.relative_to(folder)
        if stat.S_ISLNK(found.st_mode):
            raise RunError(
                f"The run {folder} is not opened: its {name} is a symbolic link, which covey does not follow."
            )
        wanted, what = (stat.S_ISDIR, "folder") if str(name) in _FOLDERS else (stat.S_ISREG, "regular file")
        if not wanted(found.st_mode):
            raise RunError(f"The run {folder} is not opened: its {name} is not a {what}.")
        in_place = str(name) in (*_CHANGED_IN_PLACE, OBSERVED) or path.parent.name == LOGS
        if writing and in_place and found.st_nlink > 1:
            raise RunError(
                f"The run {folder} is not written: its {name} is also a file elsewhere (a hard link), which would "
                f"change as well. Copy the folder first."
            )


_BEGINNING = {LOCK, CONFIG, CONFIG + ".part", FACTS + ".part", CHECKPOINTS, METRICS, *BESIDE_METRICS}
"""The files that may exist before FACTS, which shows that a run has begun."""
_WRITTEN_FIRST = (GRAPH, HOLDINGS, LAYOUT, CONSTANTS, SUMS)
_BEGUN = {FACTS, LOGS, *_WRITTEN_FIRST, *(name + ".part" for name in _WRITTEN_FIRST)}
"""The further files that may exist before anything is recorded."""


def is_beginning(folder: Path) -> bool:
    """True if a folder is the rest of a run that ended, or was killed, before it recorded anything.

    Raises:
        RunError: it is, but one of its files is a link.
    """
    names = {entry.name for entry in folder.iterdir()}
    # The lock is created first. Without it, the folder may be a user's own, with a run.toml.
    if LOCK not in names or not names <= (_BEGINNING | _BEGUN if FACTS in names else _BEGINNING):
        return False
    refuse_links(folder)
    if CHECKPOINTS in names and any((folder / CHECKPOINTS).iterdir()):
        return False
    if FACTS not in names:
        return METRICS not in names or not has_rows(folder)
    logs = (folder / LOGS).iterdir() if LOGS in names else ()
    return (
        all(_LOG.fullmatch(log.name) for log in logs)
        and _may_be_over(folder)
        and METRICS in names
        and not has_rows(folder, begun=True)
    )


def clear(folder: Path) -> None:
    """Delete the rest of a run for which `is_beginning` is true. It stays true if this is interrupted."""
    if (folder / LOGS).is_dir():
        for log in (folder / LOGS).iterdir():
            log.unlink()
        (folder / LOGS).rmdir()
    for name in (*sorted(_BEGUN - {FACTS, LOGS}), FACTS, METRICS, *BESIDE_METRICS):
        (folder / name).unlink(missing_ok=True)


_LOG = re.compile(r"host-\d+\.log")


def _may_be_over(folder: Path) -> bool:
    """True if a run failed or was interrupted, or if its lock shows whether a process writes it."""
    try:
        status = json.loads((folder / FACTS).read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
    return status in ("failed", "interrupted") or (status == "running" and lock.is_held(folder) is not None)


def _of_run(folder: Path) -> Iterator[Path]:
    for name in (LOCK, *_REPLACED, *_PARTS, *_CHANGED_IN_PLACE):
        yield folder / name
    for name in _FOLDERS:
        yield folder / name
        # Links to folders are refused before.
        if (folder / name).is_dir():
            with os.scandir(folder / name) as entries:
                yield from [folder / name / entry.name for entry in entries]
