"""The files of data sets, in the data folder or downloaded from their publishers.

A file is accepted only if it is the published one, or if the SHA256SUMS beside it, in the format of `sha256sum`, lists
it. A download or an unpacked file may not exceed the published size.
"""

import gzip
import hashlib
import secrets
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Protocol, cast

from covey.parts.errors import DataError

_CHUNK = 1 << 20
_PATIENCE = 30.0
"""The timeout of a server, in seconds without a byte."""
LISTED = "SHA256SUMS"
"""The list of files that may differ from the published ones, beside them."""


@dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
        url: its address.
        checksum: "md5:" or "sha256:" and the hexadecimal digest of the file.
        most: the greatest number of bytes to receive, the published size or slightly more.
        most_unpacked: the greatest number of bytes to unpack.
        contents: the checksum of the unpacked content, if it is one file in gzip: others may compress it differently.
    """

    url: str
    checksum: str
    most: int
    most_unpacked: int = 0
    contents: str = ""


def obtain(path: Path, remotes: Sequence[Remote], *, quiet: bool, also: Sequence[Path] = ()) -> Path:
    """Find a file, and download it if it is missing.

    Args:
        path: its path.
        remotes: the sources for a download, the preferred one first.
        quiet: show no progress bar.
        also: other paths of the file or its unpacked form. A file whose name is not the publisher's is not checked.

    Raises:
        DataError: the file is not the published one, or cannot be obtained. The text says which file to put where.
    """
    for candidate in (path, *also):
        if candidate.is_file():
            if candidate.name == path.name:
                verify(candidate, remotes[0].checksum, remotes[0])
            elif candidate.name == path.stem and remotes[0].contents:
                verify(candidate, remotes[0].contents)
            return candidate
    failures = []
    for remote in remotes:
        try:
            download(remote, path, quiet=quiet)
            return path
        except DataError as error:
            failures.append(str(error))
    raise missing(path, " ".join(failures))


def obtain_from_archive(
    folder: Path, names: Sequence[str], remote: Remote, *, quiet: bool, known: Mapping[str, str] | None = None
) -> list[Path]:
    """Find files of an archive. If some are missing, download the archive and unpack them.

    Args:
        folder: the folder of the files.
        names: their names, without folders of the archive.
        remote: the archive. A local one of the same name, in the folder or beside it, is used instead.
        quiet: show no progress bar.
        known: the checksums of some of the files.

    Raises:
        DataError: a file is not the published one, or cannot be obtained. The text says which file to put where.
    """
    paths = [folder / name for name in names]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        archive_name = remote.url.rpartition("/")[2]
        try:
            archive = obtain(folder / archive_name, [remote], quiet=quiet, also=[folder.parent / archive_name])
        except DataError as error:
            raise DataError(f"Missing in {folder}: {', '.join(absent)}. {error}") from error
        unpack(archive, absent, folder, remote.most_unpacked)
    for path in paths:
        if known is not None and path.name in known:
            verify(path, known[path.name])
    return paths


def verify(path: Path, expected: str, packed: Remote | None = None) -> None:
    """Refuse a file that is neither the published one nor listed beside it.

    Args:
        path: the file.
        expected: the checksum of the published file.
        packed: the published file, if the same content may have been compressed differently.

    Raises:
        DataError: the file is another. The text says what to do.
    """
    listed = _listed(path)
    if listed is not None:
        found = _checksum(path, "sha256")
        if found != listed:
            raise damaged(path, f"{listed}, by {LISTED} beside it", found)
        return
    found = _checksum(path, expected.partition(":")[0])
    if found == expected or (packed and packed.contents and _holds(path, packed)):
        return
    raise DataError(
        f"The file {path} is not the published one: expected {expected}, found {found}. Remove it to have that one, or "
        f"list it in {path.with_name(LISTED)}, as sha256sum does, if it is meant to differ."
    )


def _checksum(path: Path, algorithm: str) -> str:
    try:
        with path.open("rb") as opened:
            return f"{algorithm}:{hashlib.file_digest(opened, algorithm).hexdigest()}"
    except OSError as error:
        raise damaged(path, "a readable file", error) from error


def _holds(path: Path, remote: Remote) -> bool:
    """True if a gzip file has the content of the published one."""
    algorithm, _, digest = remote.contents.partition(":")
    try:
        with gzip.open(path) as opened:
            content = Bounded(opened, remote.most_unpacked).read()
    except (OSError, EOFError, zlib.error):
        return False
    return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == digest


def _listed(path: Path) -> str | None:
    """The checksum of a file in the list beside it, or None."""
    lists = path.with_name(LISTED)
    try:
        lines = lists.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(lists, "checksums as sha256sum writes them", error) from error
    for line in lines:
        digest, _, name = line.partition(" ")
        # A space or, for binary files, a star precedes the name.
        if name[1:] == path.name:
            return f"sha256:{digest.lower()}"
    return None


class Readable(Protocol):
    """An object from which bytes can be read."""

    def read(self, size: int = ..., /) -> bytes: ...


class Bounded:
    """A stream that fails if more than a number of bytes are read.

    Args:
        stream: the source.
        most: the number.
    """

    def __init__(self, stream: Readable, most: int) -> None:
        self._stream, self._most, self._left = stream, most, most

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase.read`.

        Raises:
            OSError: the stream has more bytes.
        """
        chunk = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(chunk)
        if self._left < 0:
            raise OSError(f"more than {self._most:,} bytes in it")
        return chunk


def missing(path: Path, why: str) -> DataError:
    """The error for a missing file."""
    return DataError(f"The file {path} is missing: put it there. {why}".rstrip())


def damaged(path: Path, expected: str, found: object) -> DataError:
    """The error for a file with wrong content."""
    return DataError(f"The file {path} is damaged: expected {expected}, found {found}. Put an intact one there.")


def download(remote: Remote, target: Path, *, quiet: bool) -> None:
    """Download a file to `target` atomically, after a check of its content. Concurrent downloads do not interfere.

    Raises:
        DataError: the server or the disk fails, or the content is not the published one.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _appearing(target) as part:
            found = _receive(remote, part, target.name, quiet=quiet)
            if found != remote.checksum:
                raise DataError(f"The download of {remote.url} is damaged: expected {remote.checksum}, found {found}.")
    except (OSError, HTTPException) as error:
        raise DataError(f"Downloading {remote.url} failed: {error}.") from error


def unpack(archive: Path, names: Sequence[str], folder: Path, most: int) -> None:
    """Unpack single files from a .zip or .tar.gz into `folder`, without their folders, each atomically.

    Args:
        archive: the archive.
        names: the files.
        folder: the target.
        most: the greatest number of bytes to unpack: of each file of a .zip, or of a .tar.gz up to the last file.

    Raises:
        DataError: the archive is damaged, too large, or lacks a file.
    """
    opened = _zip_members if archive.suffix == ".zip" else _tar_members
    wanted = set(names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in opened(archive, most):
            if name in wanted:
                with _appearing(folder / name) as part:
                    while chunk := content.read(_CHUNK):
                        part.write(chunk)
                wanted.remove(name)
            if not wanted:
                return
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise damaged(archive, "a readable archive", error) from error
    raise damaged(archive, f"an archive with {', '.join(names)}", f"none of the name {min(wanted)}")


def _zip_members(archive: Path, most: int) -> Iterator[tuple[str, Readable]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.is_dir():
                with opened.open(info) as content:
                    yield info.filename.rpartition("/")[2], Bounded(content, most)


def _tar_members(archive: Path, most: int) -> Iterator[tuple[str, Readable]]:
    # The limit is on the stream: skipped files are unpacked, too, and names and comments may have any length.
    with gzip.open(archive) as stream, _tar(Bounded(stream, most)) as opened:
        for info in opened:
            content = opened.extractfile(info) if info.isreg() else None
            if content is not None:
                yield info.name.rpartition("/")[2], content


def _tar(stream: Readable) -> tarfile.TarFile:
    # In this mode tarfile only reads.
    return tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|")


@contextmanager
def _appearing(target: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file, which becomes `target` on success and is removed on failure."""
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as opened:
            yield opened
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _receive(remote: Remote, part: IO[bytes], name: str, *, quiet: bool) -> str:
    """Write a download to `part`, and return its checksum in the form of `Remote.checksum`."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    algorithm = remote.checksum.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    request = urllib.request.Request(remote.url, headers={"User-Agent": "covey"})
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer, Progress(*columns, disable=quiet) as progress:
        announced = answer.headers.get("Content-Length")
        length = int(announced) if announced and announced.isdecimal() and len(announced) < 20 else None
        bar = progress.add_task(name, total=length)
        received = 0
        while chunk := answer.read(_CHUNK):
            received += len(chunk)
            if received > remote.most:
                raise DataError(f"The download of {remote.url} is damaged: it is longer than {remote.most:,} bytes.")
            part.write(chunk)
            digest.update(chunk)
            progress.advance(bar, len(chunk))
    if length is not None and received < length:
        raise DataError(f"The download of {remote.url} broke off after {received:,} of {length:,} bytes.")
    return f"{algorithm}:{digest.hexdigest()}"
