"""The lock of a run's writer, which the kernel releases when the process ends.

Windows has no such lock. There nothing guards a run's folder, and a run that was killed is shown as "running".
"""

import os
import re
from contextlib import suppress
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
    """Take the lock of a run's folder. Closing the file releases it.

    Raises:
        RunError: another writer holds it.
        OSError: the folder cannot be written.
    """
    # The file is not truncated and links are not followed: the folder may come from an untrusted source.
    flags = os.O_RDWR | os.O_CREAT | _NO_LINK
    file = open(os.open(folder / LOCK, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115
    for attempt in range(5):
        try:
            _lock(file, shared=False)
            return file
        except BlockingIOError:
            # A process that calls `is_held` holds the lock for a moment, too.
            sleep(0.02 * (attempt + 1))
        except OSError:
            # No locks on this file system: nothing guards the folder.
            return file
    file.close()
    raise busy(folder)


def busy(folder: Path) -> RunError:
    """The error if another writer holds the lock."""
    return RunError(f"The run {folder} is being written by another process.")


def is_held(folder: Path) -> bool | None:
    """True if a process writes to a run's folder; None if that cannot be known."""
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
        BlockingIOError: another process has locked it.
        OSError: the platform or the file system has no locks.
    """
    if not _HAS_LOCKS:
        raise OSError("no locks on this platform")
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def holder(folder: Path) -> int | None:
    """The process that writes to a run's folder, or None if it cannot be known.

    Linux alone tells: among the open files of a process are its locks. A folder's content cannot name a process.
    """
    try:
        own = os.stat(folder / LOCK, follow_symlinks=False)
        processes = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return None
    for process in processes:
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                found = os.stat(f"/proc/{process}/fd/{descriptor}")
                if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
                    locks = Path(f"/proc/{process}/fdinfo/{descriptor}").read_text()
                    if re.search(rf"^lock:.*FLOCK.*WRITE {process} ", locks, flags=re.M):
                        return int(process)
    return None
