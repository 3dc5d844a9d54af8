"""Find runs in folders of runs."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from covey.parts.errors import RunError
from covey.runtime.runs.run import Run
from covey.runtime.runs.schema import CONFIG, FACTS, METRICS

_DEEPEST = 4
"""The greatest number of folders between a given folder and a run."""


def find_runs(paths: Iterable[Path | str]) -> list[Run]:
    """The runs of some folders. A folder may be that of a run, or hold folders of runs, in natural order of names.

    Runs that were killed before anything was recorded are left out of a folder of runs, and no link is followed.

    Raises:
        RunError: a folder is not that of a run and holds none.
    """
    found: list[Run] = []
    for path in map(Path, paths):
        inside = [] if _is_run(path) else _inside(path, _DEEPEST)
        found += [Run(folder) for folder in inside] or [Run(path)]
    return found


def run_folders(folder: Path) -> list[Path]:
    """The folders of runs in a folder, or that folder itself if it is one, in natural order of names; none is opened.

    Raises:
        RunError: the folder cannot be read.
    """
    return [folder] if _is_run(folder) else _inside(folder, _DEEPEST)


def _is_run(folder: Path) -> bool:
    return (
        folder.is_symlink() or not folder.is_dir() or any((folder / name).exists() for name in (FACTS, CONFIG, METRICS))
    )


def _inside(folder: Path, depth: int) -> list[Path]:
    """The folders of runs below a folder."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise RunError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    found: list[Path] = []
    for name in sorted(names, key=_natural):
        inner = folder / name
        if (inner / METRICS).exists() and (inner / CONFIG).exists():
            found.append(inner)
        elif depth > 1 and not _is_run(inner):
            found += _inside(inner, depth - 1)
    return found


def _natural(name: str) -> list[tuple[float, str]]:
    """A key that sorts "degree=10" after "degree=4"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(float(part), "") if index % 2 else (0.0, part) for index, part in enumerate(parts)]
