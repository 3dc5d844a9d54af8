"""The folder that is watched, and its runs."""

import hashlib
from pathlib import Path
from threading import Lock
from time import monotonic

from covey.parts.errors import RunError
from covey.runtime.runs import run_folders
from covey.watch.watched import Watched

_FRESH = 2.0
"""The seconds between two searches for runs."""
_AT_ONCE = 2.0
"""The seconds that reading all runs may take before the page shows what it has."""


class Folder:
    """A folder of runs, or the folder of one.

    Args:
        path: the folder. It may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        """The reason why the folder cannot be read."""
        self._runs: dict[str, Watched] = {}
        self._lock = Lock()
        self._searched = -_FRESH

    def runs(self) -> list[Watched]:
        """The runs, in natural order of their names."""
        with self._lock:
            if monotonic() - self._searched >= _FRESH:
                self._search()
                self._searched = monotonic()
            return list(self._runs.values())

    def run(self, id: str) -> Watched | None:
        """The run of an id; None if there is none."""
        return {run.id: run for run in self.runs()}.get(id)

    def look(self) -> list[Watched]:
        """The runs, after a look at each. Those of many rows are read over several looks."""
        runs, end = self.runs(), monotonic() + _AT_ONCE
        for run in runs:
            run.look(0.3 if monotonic() < end else 0.0)
        return runs

    def _search(self) -> None:
        try:
            found = run_folders(self.path) if self.path.exists() else []
            self.problem = ""
        except (RunError, OSError) as error:
            self.problem = str(error)
            return
        named = [(folder, self._name(folder)) for folder in found]
        ids = {
            hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]: (folder, name)
            for folder, name in named
        }
        self._runs = {id: self._runs.get(id) or Watched(id, folder, name) for id, (folder, name) in ids.items()}

    def _name(self, folder: Path) -> str:
        name = folder.resolve().name if folder == self.path else str(folder.relative_to(self.path))
        # A name that is not UTF-8 cannot be sent as it is.
        return name.encode(errors="surrogateescape").decode(errors="replace")
