"""One run as the page shows it."""

import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from time import monotonic, time
from typing import Any

from covey.parts.errors import CoveyError
from covey.runtime.runs import Course, Point, Run
from covey.runtime.runs.schema import CHECKPOINTS, CONFIG, FACTS, METRICS
from covey.view.groups import flat
from covey.watch.thinning import largest_triangles

_FRESH = 0.45
"""The least seconds between two looks at a run."""
_POINTS, _SPARK = 240, 24
"""The points of a curve, and of a small one."""
_MOST_CHANGED = 120
"""With more changed points than this, a page takes the curve anew."""


class Watched:
    """A run, opened when it is first looked at.

    Args:
        id: its name in addresses.
        folder: its folder.
        name: its path in the folder that is watched.
    """

    def __init__(self, id: str, folder: Path, name: str) -> None:
        self.id, self.folder, self.name = id, folder, name
        self.lock = Lock()
        """Held while the run is read."""
        self.problem = ""
        """The reason why the run, or a part of it, cannot be read."""
        self.run: Run | None = None
        self.course: Course | None = None
        self.facts: Mapping[str, Any] = {}
        self.experiment: Mapping[str, Any] = {}
        self.status = "unreadable"
        self.updated = 0.0
        """The time of the last change, in seconds since 1970."""
        self._looked = -math.inf
        self._signature: tuple[Any, ...] = ()

    def look(self, seconds: float = 0.3) -> None:
        """Read the changes of the run, for about so many seconds and if it was not just done."""
        with self.lock:
            if monotonic() - self._looked < _FRESH and self.is_whole:
                return
            self._looked = monotonic()
            try:
                self._read(seconds)
            except (CoveyError, OSError) as error:
                self.problem = str(error)

    @property
    def is_whole(self) -> bool:
        """True if all rows were read, as far as they can be."""
        return self.course is None or self.course.read >= 1.0 or bool(self.problem)

    def _read(self, seconds: float) -> None:
        if self.run is None:
            self.run = Run(self.folder)
        signature = tuple(_stat(self.folder / name) for name in (METRICS, f"{METRICS}-wal", FACTS, CONFIG))
        status = self.run.status
        if (signature, status) == self._signature and self.is_whole:
            return
        self.problem = ""
        self.facts, self.experiment, self.status = self.run.facts, self.run.experiment, status
        self.updated = max(changed for changed, _ in signature) / 1e9
        if self.course is None:
            self.course = self.run.course()
        # Kept before reading: after an error, the run is read again when it has changed.
        self._signature = (signature, status)
        self.course.advance(seconds)
        if self.course.is_partial:
            self.problem = f"The metrics of {self.folder} hold values of wrong types, which are left out."

    # ---------------------------------------------------------------------- the list of all runs

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return int(self.facts.get("nodes", 0)) or 1

    @property
    def rounds(self) -> int:
        """The number of rounds of the experiment."""
        return int(self.experiment.get("rounds", 0) or 0)

    @property
    def done(self) -> float:
        """The mean of the nodes' completed rounds."""
        if self.course is None:
            return 0.0
        if self.run is not None and self.run.recorded != "all":
            return float(self.course.completed)
        return self.course.done if self.course.done is not None else self.course.commits / self.nodes

    def row(self) -> dict[str, Any]:
        """The line of the run in the list of all."""
        course = self.course
        totals = (course.totals or {}) if course is not None else {}
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status,
            "problem": self.problem,
            "program": str(self.facts.get("program", "")),
            "label": str(self.experiment.get("name", "")),
            "seed": self.experiment.get("seed"),
            "nodes": self.facts.get("nodes"),
            "rounds": self.rounds,
            "done": round(self.done, 2),
            "left": self._left(),
            "clock": str(self.facts.get("clock", "virtual")),
            "time": None if course is None else course.time,
            "accuracy": None if course is None else course.now("accuracy"),
            "loss": None if course is None else course.now("loss"),
            "bytes": totals.get("bytes_out"),
            "dropped": totals.get("dropped"),
            "wall": None if self.run is None or not self.facts else self._wall(),
            "started": self._start().get("started"),
            "updated": self.updated,
            "read": 1.0 if course is None or self.is_whole else round(course.read, 3),
            "spark": [] if course is None else self._spark(course),
        }

    def _start(self) -> Mapping[str, Any]:
        starts = self.facts.get("starts") or [{}]
        return starts[-1] if isinstance(starts[-1], Mapping) else {}

    def _wall(self) -> float | None:
        known = [start.get("wall_seconds") for start in self.facts.get("starts", [])]
        seconds = [value for value in known if isinstance(value, int | float)]
        return float(sum(seconds)) if seconds else None

    def _left(self) -> float | None:
        """The seconds until the last round, at the speed since the last start; None if unknown."""
        begun = self._start()
        try:
            elapsed = time() - datetime.fromisoformat(str(begun.get("started"))).astimezone(UTC).timestamp()
            here = self.done - float(begun.get("after_round", 0))
        except (TypeError, ValueError):
            return None
        if self.status != "running" or here <= 0 or elapsed <= 0:
            return None
        return round(max(self.rounds - self.done, 0.0) * elapsed / here, 1)

    def _spark(self, course: Course) -> list[tuple[float, float]]:
        name = next((name for name in ("accuracy", "loss") if name in course.figures), None)
        if name is None:
            return []
        _, x_R, y_R = course.means(name)
        chosen = largest_triangles(x_R, y_R, _SPARK)
        return [(float(x_R[index]), float(y_R[index])) for index in chosen if math.isfinite(y_R[index])]

    # ---------------------------------------------------------------------- curves

    def curve(self, name: str, against: str) -> list[Point]:
        """A figure in the rounds that are drawn.

        Raises:
            RunError: the run has no such figure, or cannot be read.
        """
        with self.lock:
            course = self._course()
            rounds_R, x_R, y_R = course.means(name, against)
            chosen = largest_triangles(x_R, y_R, _POINTS)
            return course.points(name, rounds_R[chosen].tolist())

    def changed(self, names: Sequence[str], since: Mapping[str, int]) -> dict[str, list[Point]] | None:
        """The points of figures that have changed after some rows, or None if there are too many.

        Raises:
            RunError: the run cannot be read.
        """
        with self.lock:
            course = self._course()
            rounds = {name: course.changed(name, dict(since)) for name in names if name in course.figures}
            if sum(map(len, rounds.values())) > _MOST_CHANGED * max(len(rounds), 1):
                return None
            return {name: course.points(name, changed) for name, changed in rounds.items() if changed}

    def _course(self) -> Course:
        if self.course is None:
            raise CoveyError(self.problem or f"The run {self.folder} was not read yet.")
        return self.course

    def cursor(self) -> str:
        """The last rows that were read, from which a page goes on."""
        course = self.course
        return "" if course is None else f"{course.generation}.{course.last['commits']}.{course.last['metrics']}"

    # ---------------------------------------------------------------------- one run

    def settings(self) -> dict[str, str]:
        """The experiment, as flat keys and texts."""
        return {key: in_words(value) for key, value in flat(self.experiment).items()}

    def can_resume(self) -> bool:
        """True if the run ended early and has a checkpoint."""
        checkpoints = self.folder / CHECKPOINTS
        return self.status in ("interrupted", "failed") and any(checkpoints.glob("*.covey"))


def _stat(file: Path) -> tuple[int, int]:
    try:
        found = os.stat(file, follow_symlinks=False)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def in_words(value: Any) -> str:
    """A value of an experiment as a text."""
    if value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(in_words, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(inner)}" for key, inner in value.items())
    return str(value)
