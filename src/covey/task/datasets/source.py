"""Where the files of data sets are: the data folder, and the publishers' servers from which it is filled."""

import hashlib
import os
import secrets
import shutil
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO

from covey.errors import DataError

_CHUNK = 1 << 20
_PATIENCE = 30.0
"""Seconds without a byte after which a server is given up."""


@dataclass(frozen=True)
class Remote:
    """A file at its publisher's.

    Attributes:
        url: where it is.
        checksum: "md5:" or "sha256:" and the hexadecimal digest of the file.
    """

    url: str
    checksum: str


def data_folder(given: Path | None) -> Path:
    """The data folder: the one that is given, else that of COVEY_DATA, else ~/.cache/covey."""
    return Path(given or os.environ.get("COVEY_DATA") or "~/.cache/covey").expanduser()


def obtain(path: Path, remotes: Sequence[Remote], *, quiet: bool, also: Sequence[Path] = ()) -> Path:
    """The file, downloaded first where it is missing.

    Args:
        path: where it lies, or will.
        remotes: where it can be had, the first choice first.
        quiet: whether to show no progress bar.
        also: where else it may lie, in another form perhaps.

    Raises:
        DataError: it is neither there nor to be had; the text says what to put where.
    """
    for candidate in (path, *also):
        if candidate.is_file():
            return candidate
    failures = []
    for remote in remotes:
        try:
            download(remote, path, quiet=quiet)
            return path
        except DataError as error:
            failures.append(str(error))
    raise missing(path, " ".join(failures))


def obtain_from_archive(folder: Path, names: Sequence[str], remote: Remote, *, quiet: bool) -> list[Path]:
    """Files of an archive, which is downloaded and unpacked into the folder where they are missing.

    Args:
        folder: where they lie, or will.
        names: their names, without the folders that they have in the archive.
        remote: the archive; one of the same name may also lie in the folder or beside it.
        quiet: whether to show no progress bar.

    Raises:
        DataError: a file is missing and cannot be had; the text says what to put where.
    """
    paths = [folder / name for name in names]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        archive_name = remote.url.rpartition("/")[2]
        try:
            archive = obtain(folder / archive_name, [remote], quiet=quiet, also=[folder.parent / archive_name])
        except DataError as error:
            raise DataError(f"Missing in {folder}: {', '.join(absent)}. {error}") from error
        unpack(archive, absent, folder)
    return paths


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


def unpack(archive: Path, names: Sequence[str], folder: Path) -> None:
    """Copy single files out of a .zip or .tar.gz; each appears in `folder` under its bare name, whole or not at all.

    Raises:
        DataError: the archive is damaged or has no such file.
    """
    opened = _zip_members if archive.suffix == ".zip" else _tar_members
    wanted = set(names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in opened(archive):
            if name in wanted:
                with _appearing(folder / name) as part:
                    shutil.copyfileobj(content, part, _CHUNK)
                wanted.remove(name)
            if not wanted:
                return
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise damaged(archive, "a readable archive", error) from error
    raise damaged(archive, f"an archive with {', '.join(names)}", f"none of the name {min(wanted)}")


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.is_dir():
                with opened.open(info) as content:
                    yield info.filename.rpartition("/")[2], content


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r|*") as opened:
        for info in opened:
            content = opened.extractfile(info) if info.isreg() else None
            if content is not None:
                yield info.name.rpartition("/")[2], content


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
        length = int(announced) if announced and announced.isdigit() else None
        bar = progress.add_task(name, total=length)
        received = 0
        while chunk := answer.read(_CHUNK):
            part.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            progress.advance(bar, len(chunk))
    if length is not None and received < length:
        raise DataError(f"The download of {remote.url} broke off after {received:,} of {length:,} bytes.")
    return f"{algorithm}:{digest.hexdigest()}"
