"""Where the files of data sets are: found in the data folder, else downloaded, else asked for in one line."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from covey.errors import DataError

_BLOCK = 1 << 16
_TIMEOUT = 30.0


class Remote(NamedTuple):
    """A file at its publisher."""

    url: str
    md5: str
    """As the publisher states it."""


def data_folder(given: Path | None = None) -> Path:
    """The folder that holds a folder for each data set: the given one, COVEY_DATA, or one in the user's cache."""
    if given is not None:
        return given
    named = os.environ.get("COVEY_DATA")
    return Path(named) if named else Path.home() / ".cache" / "covey"


def found(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of some files that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def obtain(title: str, folder: Path, names: Sequence[str], remote: Remote | None, *, quiet: bool) -> Path:
    """A file of a data set, downloaded where it is not there yet.

    Args:
        title: the data set, for messages.
        folder: its folder.
        names: what the file may be called; a download gets the first name.
        remote: where to download it; None where the publisher has no plain address for it.
        quiet: whether to show no progress bar.

    Raises:
        DataError: it is not there and cannot be had.
    """
    there = found(folder, names)
    if there is not None:
        return there
    wanted = " or ".join(names)
    if remote is None:
        raise DataError(f"Cannot find {title}: put {wanted} into {folder}, or name another data folder by --data.")
    try:
        return download(remote, folder / names[0], quiet=quiet)
    except DataError as error:
        raise DataError(f"Cannot find {title}: put {wanted} from {remote.url} into {folder}. ({error})") from error


def download(remote: Remote, target: Path, *, quiet: bool) -> Path:
    """Download a file; it appears under its name only when it is whole and its checksum fits.

    Raises:
        DataError: the server cannot be reached, or what it sent is not the file.
    """
    part = target.with_name(target.name + ".part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(remote.url, timeout=_TIMEOUT) as response, open(part, "wb") as file:
            length = int(response.headers.get("Content-Length") or 0)
            with _Bar(target.name, length, quiet=quiet) as advance:
                received = 0
                while block := response.read(_BLOCK):
                    digest.update(block)
                    file.write(block)
                    received += len(block)
                    advance(len(block))
        if length and received != length:
            raise DataError(f"the download of {remote.url} ended after {received} of {length} bytes")
        if digest.hexdigest() != remote.md5:
            raise DataError(f"the download of {remote.url} has the MD5 {digest.hexdigest()}, not {remote.md5}")
        part.replace(target)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"the download of {remote.url} failed: {reason}") from error
    finally:
        part.unlink(missing_ok=True)
    return target


class _Bar:
    """A progress bar of bytes."""

    def __init__(self, name: str, length: int, *, quiet: bool) -> None:
        self.name, self.length, self.quiet = name, length, quiet

    def __enter__(self) -> Callable[[int], None]:
        if self.quiet:
            return lambda _: None
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        task = self._progress.add_task(self.name, total=self.length or None)
        self._progress.start()
        return lambda count: self._progress.advance(task, count)

    def __exit__(self, *_: object) -> None:
        if not self.quiet:
            self._progress.stop()


def damaged(path: Path, expected: str, got: object) -> DataError:
    """The sentence for a file that is not what it should be."""
    return DataError(f"The file {path} is damaged: expected {expected}. Found {got} instead. Delete it to get it anew.")
