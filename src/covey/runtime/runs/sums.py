"""The checksums of a run's files, in a file that `sha256sum --check` can read.

During a run, the file lists the files that no longer change; at the end, all files.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from covey.messages.files import replacing
from covey.parts.errors import RunError
from covey.runtime.runs.schema import (
    CHECKPOINTS,
    CONFIG,
    CONSTANTS,
    FACTS,
    GRAPH,
    HOLDINGS,
    LAYOUT,
    LOGS,
    METRICS,
    MODELS,
    OBSERVED,
    STATES,
    SUMS,
    TRUTH,
)

UNCHANGING = (CONFIG, GRAPH, HOLDINGS, LAYOUT, CONSTANTS)
"""The files that no longer change after the first checkpoint."""


def files_of(folder: Path) -> list[str]:
    """The files of a run that has ended, without its lock and without files of others."""
    found = [
        name for name in (*UNCHANGING, FACTS, METRICS, MODELS, STATES, OBSERVED, TRUTH) if (folder / name).exists()
    ]
    for name in (f"{CHECKPOINTS}/*.covey", f"{LOGS}/*"):
        found += [str(path.relative_to(folder)) for path in folder.glob(name)]
    return sorted(found)


def write_sums(folder: Path, names: Iterable[str], coming: Mapping[str, bytes] | None = None) -> None:
    """Write the list of files with their checksums.

    Args:
        folder: the run's.
        names: the files.
        coming: the content of files that are written later.

    Raises:
        OSError: a file cannot be read, or the list cannot be written.
    """
    known = {name: hashlib.sha256(content).hexdigest() for name, content in (coming or {}).items()}
    text = _text({name: known.get(name) or _sum(folder / name) for name in names})
    with replacing(folder / SUMS) as file:
        file.write(text.encode())


def _text(sums: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items())


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """The listed files and their checksums.

    Raises:
        RunError: the list is missing or damaged.
    """
    try:
        text = (folder / SUMS).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"The run {folder} has no readable {SUMS}: {error}.") from error
    sums = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (.+)$", text, flags=re.M)}
    if _text(sums) != text:
        raise RunError(f"The run {folder} has no readable {SUMS}: it is not a list of checksums and files.")
    return sums


def check_sums(folder: Path, *, ended: bool = True, but: tuple[str, ...] = ()) -> int:
    """Check files against their checksums, and return their number.

    Args:
        folder: the run's.
        ended: True if the run has ended. If not, only files that no longer change are checked.
        but: the beginnings of the names of files that are not checked.

    Raises:
        RunError: some files differ.
    """
    sums, known = read_sums(folder), files_of(folder)
    # An untrusted list may name any file.
    looked_at = [name for name in sorted({*sums, *known}) if (ended or name in UNCHANGING) and not name.startswith(but)]
    wrong = {name: _what_is_wrong(folder / name, sums.get(name), name in known) for name in looked_at}
    if any(wrong.values()):
        named = ", ".join(f"{name} {what}" for name, what in wrong.items() if what)
        raise RunError(f"The run {folder} differs from its {SUMS}: {named}.")
    return len(looked_at)


def check_sum(folder: Path, name: str) -> None:
    """Check one file against its checksum, if the run has checksums, and one of it.

    Raises:
        RunError: the file differs, or the list is damaged.
    """
    listed = read_sums(folder).get(name) if (folder / SUMS).exists() else None
    if listed is not None and (wrong := _what_is_wrong(folder / name, listed, True)):
        raise RunError(f"The run {folder} differs from its {SUMS}: {name} {wrong}.")


def _what_is_wrong(path: Path, digest: str | None, is_known: bool) -> str:
    if digest is None:
        return "is not listed"
    if not is_known:
        return "is missing"
    try:
        return "" if _sum(path) == digest else "differs"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
