"""Where the files of data sets are: the data folder, and the publishers' servers from which it is filled.

A file that lies there counts only where it is the published one, or where the SHA256SUMS beside it, which `sha256sum`
writes, lists it. Nothing is received or unpacked beyond the size of what was published.
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
"""Seconds without a byte after which a server is given up."""
LISTED = "SHA256SUMS"
"""The file beside those that are meant to differ from the published ones."""


@dataclass(frozen=True)
class Remote:
    """A file at its publisher's.

    Attributes:
        url: where it is.
        checksum: "md5:" or "sha256:" and the hexadecimal digest of the file.
        most: how many bytes are received at most: as many as were published, or a few more.
        most_unpacked: how many are unpacked from it at most.
        contents: the checksum of what is in it, where it is one file in gzip: others compress that otherwise.
    """

    url: str
    checksum: str
    most: int
    most_unpacked: int = 0
    contents: str = ""


def obtain(path: Path, remotes: Sequence[Remote], *, quiet: bool, also: Sequence[Path] = ()) -> Path:
    """The file, downloaded first where it is missing.

    Args:
        path: where it lies, or will.
        remotes: where it can be had, the first choice first.
        quiet: whether to show no progress bar.
        also: where else it may lie, or lie unpacked. Under a name that is none of the publisher's it may be any file.

    Raises:
        DataError: it is not the published one, or neither there nor to be had; the text says what to put where.
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
    """Files of an archive, which is downloaded and unpacked into the folder where they are missing.

    Args:
        folder: where they lie, or will.
        names: their names, without the folders that they have in the archive.
        remote: the archive; one of the same name may also lie in the folder or beside it.
        quiet: whether to show no progress bar.
        known: the checksums of some of the files.

    Raises:
        DataError: a file is not the published one, or missing and not to be had; the text says what to put where.
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
        expected: the checksum of what was published.
        packed: what was published, where others may have compressed the same contents otherwise.

    Raises:
        DataError: the text says what to do.
    """
    listed = _listed(path)
    if listed is not None:
        found = _checksum(path, "sha256")
        if found != listed:
            raise damaged(path, f"{listed}, as {LISTED} beside it says", found)
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
    """Whether a file in gzip has the contents of the published one."""
    algorithm, _, digest = remote.contents.partition(":")
    try:
        with gzip.open(path) as opened:
            content = Bounded(opened, remote.most_unpacked).read()
    except (OSError, EOFError, zlib.error):
        return False
    return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == digest


def _listed(path: Path) -> str | None:
    """The checksum that the list beside a file has for it."""
    lists = path.with_name(LISTED)
    try:
        lines = lists.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(lists, "checksums as sha256sum writes them", error) from error
    for line in lines:
        digest, _, name = line.partition(" ")
        # Before the name is a blank, or a star for a file that is read as bytes.
        if name[1:] == path.name:
            return f"sha256:{digest.lower()}"
    return None


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int = ..., /) -> bytes: ...


class Bounded:
    """A stream of which no more bytes than some can be read, however many it has.

    Args:
        stream: where they come from.
        most: how many.
    """

    def __init__(self, stream: Readable, most: int) -> None:
        self._stream, self._most, self._left = stream, most, most

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase.read`.

        Raises:
            OSError: there is more.
        """
        chunk = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(chunk)
        if self._left < 0:
            raise OSError(f"more than {self._most:,} bytes in it")
        return chunk


def missing(path: Path, why: str) -> DataError:
    """The error for a file that is not there."""
    return DataError(f"The file {path} is missing: put it there. {why}".rstrip())


def damaged(path: Path, expected: str, found: object) -> DataError:
    """The error for a file that is not what it should be."""
    return DataError(f"The file {path} is damaged: expected {expected}, found {found}. Put an intact one there.")


def download(remote: Remote, target: Path, *, quiet: bool) -> None:
    """Bring a file to `target`, which appears whole and checked or not at all, whoever else is downloading it.

    Raises:
        DataError: the server or the disk refuses, or what came is not what was published.
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
    """Copy single files out of a .zip or .tar.gz; each appears in `folder` under its bare name, whole or not at all.

    Args:
        archive: the archive.
        names: the files.
        folder: where to put them.
        most: how many bytes are unpacked: of each file of a .zip, or of all that comes before the last in a .tar.gz.

    Raises:
        DataError: the archive is damaged, holds more, or has no such file.
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
    # What is skipped is unpacked too, and so are names and comments of any length.
    with gzip.open(archive) as stream, _tar(Bounded(stream, most)) as opened:
        for info in opened:
            content = opened.extractfile(info) if info.isreg() else None
            if content is not None:
                yield info.name.rpartition("/")[2], content


def _tar(stream: Readable) -> tarfile.TarFile:
    # In this mode tarfile does nothing but read.
    return tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|")


@contextmanager
def _appearing(target: Path) -> Iterator[IO[bytes]]:
    """A file of another name to write to, which becomes `target` if all goes well and vanishes if not."""
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as opened:
            yield opened
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _receive(remote: Remote, part: IO[bytes], name: str, *, quiet: bool) -> str:
    """Write what the server sends to `part`; its checksum in the form of `Remote.checksum`."""
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
