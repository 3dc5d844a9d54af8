"""Private files: the secret that the hosts of a run share, and keys."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from covey.parts.errors import ConfigurationError

_LEAST, _MOST = 16, 4096


def read_token(file: Path) -> bytes:
    """Read the secret in a private file.

    Raises:
        ConfigurationError: others may read the file, it cannot be read, or the secret is too short. The text never
            quotes the file.
    """
    try:
        with open_private(file, "token file") as opened:
            token = opened.read(_MOST + 1).strip()
    except OSError as error:
        raise ConfigurationError(f"The token file {file} cannot be read: {error.strerror}.") from error
    if not _LEAST <= len(token) <= _MOST:
        held = len(token) if len(token) <= _MOST else "more"
        raise ConfigurationError(
            f"The token file {file} must hold a secret of {_LEAST} to {_MOST} bytes. It holds {held}."
        )
    return token


def open_private(file: Path, what: str) -> BinaryIO:
    """Open a private file.

    Args:
        file: its path.
        what: its name in messages.

    Raises:
        ConfigurationError: others may read the file, or it is not a regular file of the user.
        OSError: the file cannot be opened.
    """
    try:
        # Opened without waiting, in case it is a pipe.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ConfigurationError(f"The {what} {file} is a symbolic link: name the file itself.") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        problem = "is not a regular file"
    elif found.st_uid != os.geteuid():
        problem = "belongs to another user, who can read it: it must be your own"
    elif found.st_mode & 0o077:
        problem = f"can be read by others (its mode is {found.st_mode & 0o777:04o}): `chmod 600` it"
    else:
        return open(descriptor, "rb")
    os.close(descriptor)
    raise ConfigurationError(f"The {what} {file} {problem}.")
