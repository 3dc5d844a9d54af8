"""The checksums of a run's files, in a file that `sha256sum --check` reads as well.

While a run goes on the file lists what no longer changes; when the run ends, everything.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from covey.messages import wire
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
"""The files that are as they will be once the first checkpoint is written."""


def files_of(folder: Path) -> list[str]:
    """The files of a run that has ended, within its folder; not its lock, and not what others put there."""
    found = [
        name for name in (*UNCHANGING, FACTS, METRICS, MODELS, STATES, OBSERVED, TRUTH) if (folder / name).exists()
    ]
    for name in (f"{CHECKPOINTS}/*.covey", f"{LOGS}/*"):
        found += [str(path.relative_to(folder)) for path in folder.glob(name)]
    return sorted(found)


def write_sums(folder: Path, names: Iterable[str], coming: Mapping[str, bytes] | None = None) -> None:
    """List files with their checksums, in the place of those that were listed.

    Args:
        folder: the run's.
        names: the files.
        coming: what some of them will hold.

    Raises:
        OSError: a file cannot be read, or the list not written.
    """
    known = {name: hashlib.sha256(content).hexdigest() for name, content in (coming or {}).items()}
    text = _text({name: known.get(name) or _sum(folder / name) for name in names})
    with wire.replacing(folder / SUMS) as file:
        file.write(text.encode())


def _text(sums: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items())


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """The listed files and their checksums.

    Raises:
        RunError: there is no list, or it is damaged.
    """
    try:
        text = (folder / SUMS).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"The run {folder} has no readable {SUMS}: {error}.") from error
    sums = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (.+)$", text, flags=re.M)}
    if _text(sums) != text:
        raise RunError(f"The run {folder} has no readable {SUMS}: it is no list of checksums and files.")
    return sums


def check_sums(folder: Path, *, ended: bool = True, but: tuple[str, ...] = ()) -> int:
    """See whether files are as they were written; returns how many.

    Args:
        folder: the run's.
        ended: whether the run has ended; if not, it is seen what no longer changes.
        but: files that are not looked at; their names begin so.

    Raises:
        RunError: some are not.
    """
    sums, known = read_sums(folder), files_of(folder)
    # A list that somebody else wrote may name any file.
    looked_at = [name for name in sorted({*sums, *known}) if (ended or name in UNCHANGING) and not name.startswith(but)]
    wrong = {name: _what_is_wrong(folder / name, sums.get(name), name in known) for name in looked_at}
    if any(wrong.values()):
        named = ", ".join(f"{name} {what}" for name, what in wrong.items() if what)
        raise RunError(f"The run {folder} is not as its {SUMS} says: {named}.")
    return len(looked_at)


def _what_is_wrong(path: Path, digest: str | None, is_known: bool) -> str:
    if digest is None:
        return "is not listed"
    if not is_known:
        return "is missing"
    try:
        return "" if _sum(path) == digest else "differs"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
