"""The lock that a run's writer holds; the kernel takes it back however the process ends.

Windows has no such lock: nothing guards a run's folder there, and a run that was killed is shown as "running".
"""

import os
from pathlib import Path
from time import sleep
from typing import BinaryIO

from covey.parts.errors import RunError
from covey.runtime.runs.schema import LOCK

try:
    import fcntl

    _HAS_LOCKS = True
except ImportError:
    _HAS_LOCKS = False

_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def acquire(folder: Path) -> BinaryIO:
    """Take the lock of a run folder; closing the file gives it back.

    Raises:
        RunError: another writer holds it.
        OSError: the folder cannot be written.
    """
    # Not emptied, and no link is followed: whoever handed over the folder may have put anything there.
    flags = os.O_RDWR | os.O_CREAT | _NO_LINK
    file = open(os.open(folder / LOCK, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115
    for attempt in range(5):
        try:
            _lock(file, shared=False)
            return file
        except BlockingIOError:
            # Who asks `is_held` holds it too, for a moment.
            sleep(0.02 * (attempt + 1))
        except OSError:
            # No locks here: nothing guards the folder, as nothing can.
            return file
    file.close()
    raise busy(folder)


def busy(folder: Path) -> RunError:
    """What is said where another writer holds the lock."""
    return RunError(f"The run {folder} is being written by another process.")


def is_held(folder: Path) -> bool | None:
    """Whether somebody writes to a run folder; None where nobody can know."""
    try:
        with open(os.open(folder / LOCK, os.O_RDONLY | _NO_LINK), "rb") as file:
            _lock(file, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _lock(file: BinaryIO, *, shared: bool) -> None:
    """Lock a file until it is closed.

    Raises:
        BlockingIOError: somebody else has.
        OSError: there are no locks here.
    """
    if not _HAS_LOCKS:
        raise OSError("no locks on this platform")
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
