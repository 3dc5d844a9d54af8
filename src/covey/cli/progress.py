"""Progress: a live bar on a terminal, plain lines elsewhere."""

import sys
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import Any

from covey.experiment import Progress
from covey.view.words import seconds

_PLAIN_SECONDS = 5.0


class ProgressDisplay(AbstractContextManager["ProgressDisplay"]):
    """Shows how far one run is.

    Args:
        title: what runs.
        rounds: how many rounds it has.
        nodes: how many nodes.
        silent: whether to show nothing.
    """

    def __init__(self, title: str, rounds: int, nodes: int, *, silent: bool = False) -> None:
        self.title, self.rounds, self.nodes, self.silent = title, rounds, nodes, silent
        self.live = sys.stderr.isatty() and not silent
        self._bar: Any = None
        self._began = perf_counter()
        self._first: int | None = None
        self._printed = self._began

    def __enter__(self) -> "ProgressDisplay":
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.title, total=self.rounds, state="starting")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show a new state."""
        if self.silent:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.rounds, state=self._state(progress))
            return
        now = perf_counter()
        if now - self._printed >= _PLAIN_SECONDS or progress.rounds >= progress.of:
            self._printed = now
            print(f"{self.title}: {self._state(progress)}{self._left(progress)}", file=sys.stderr, flush=True)

    def _rate(self, progress: Progress) -> float:
        """Nodes x rounds per second."""
        if self._first is None:
            self._first, self._began = progress.commits, min(self._began, perf_counter() - 1e-9)
        return progress.commits / (perf_counter() - self._began)

    def _state(self, progress: Progress) -> str:
        parts = [f"round {progress.rounds:.0f}/{progress.of}", f"{seconds(progress.time)} virtual"]
        if progress.accuracy is not None:
            parts.append(f"accuracy {progress.accuracy:.3f}")
        elif progress.loss is not None:
            parts.append(f"loss {progress.loss:.3f}")
        parts.append(f"{self._rate(progress):,.0f} node-rounds/s")
        return ", ".join(parts)

    def _left(self, progress: Progress) -> str:
        if not 0 < progress.rounds < progress.of:
            return ""
        spent = perf_counter() - self._began
        return f", {seconds(spent * (progress.of - progress.rounds) / progress.rounds)} left"
