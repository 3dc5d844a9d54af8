"""The lock that a run's writer holds; the kernel takes it back however the process ends."""

import fcntl
from pathlib import Path
from time import sleep
from typing import BinaryIO

from covey.errors import RunError
from covey.runs.schema import LOCK


def acquire(folder: Path) -> BinaryIO:
    """Take the lock of a run folder; closing the file gives it back.

    Raises:
        RunError: another writer holds it.
        OSError: the folder cannot be written.
    """
    file = open(folder / LOCK, "wb")  # noqa: SIM115
    for attempt in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            # Who asks `is_held` holds it too, for a moment.
            sleep(0.02 * (attempt + 1))
        except OSError:
            # A file system without locks: nothing guards the folder, as nothing can.
            return file
    file.close()
    raise RunError(f"The run {folder} is being written by another process.")


def is_held(folder: Path) -> bool | None:
    """Whether somebody writes to a run folder; None where nobody can know."""
    try:
        with open(folder / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
