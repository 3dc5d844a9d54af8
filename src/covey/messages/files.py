"""Files that hold a payload, and files that are replaced atomically."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts.errors import RunError, WireError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` atomically at the end. After a crash, `path` is the old file or the new one.

    Raises:
        OSError: the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    # Created anew: a leftover of a killed process may have been replaced by a link.
    part.unlink(missing_ok=True)
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        # A leftover would keep a full disk full.
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk, so that they survive a power cut.

    Raises:
        OSError: the folder cannot be written.
    """
    if os.name == "nt":
        return  # Windows cannot open folders.
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_payload(path: Path, payload: Payload) -> None:
    """Write a payload and its checksum atomically, as `replacing` does.

    Raises:
        OSError: the file cannot be written.
        WireError: an entry has no encoding.
    """
    digest = hashlib.blake2b(digest_size=32)
    with replacing(path) as file:
        for piece in wire.encode_parts(payload):
            digest.update(piece)
            file.write(piece)
        file.write(digest.digest())


def read_payload(path: Path) -> Payload:
    """Read the payload of a file that `write_payload` wrote.

    Raises:
        RunError: the file cannot be read or is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"The file {path} cannot be read: {error.strerror}.") from error
    body = memoryview(data)[:-32]
    if len(data) < 32 or hashlib.blake2b(body, digest_size=32).digest() != data[-32:]:
        raise RunError(f"The file {path} is damaged: its checksum does not fit.")
    try:
        return wire.decode(body, wire.FILES).payload
    except WireError as error:
        raise RunError(f"The file {path} is damaged: {error}.") from error
