"""The progress display: a live bar on a terminal or in a notebook, plain lines elsewhere."""

import math
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from covey.runtime.experiment import Progress
from covey.view import notebook
from covey.view.sparkline import Point, bounds, braille, svg
from covey.view.terminal import shown
from covey.view.words import counted, figure, seconds

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_PLAIN_SECONDS = 5.0
_SETTLED = 0.5
"""Seconds after the first report from which on speed is measured since that report, without preparation."""

_CELL_SECONDS = 0.25
"""Seconds between two updates of a notebook's cell."""

_CURVE = (60, 6)
"""Letters in a line of a curve, and its lines."""

_WIDE = 116
"""Columns in which the state fits beside the bar. In fewer it has its own line."""


class ProgressDisplay(AbstractContextManager["ProgressDisplay"]):
    """The display of one run's progress.

    Args:
        title: the name of the run.
        rounds: its number of rounds.
        nodes: its number of nodes.
        silent: show nothing.
        lines: print lines if there is neither a terminal nor a notebook.
        watch: draw the curve of the accuracy, or of the loss if there is no accuracy.
        duration: the time of the nodes' clocks at which the run ends, if it has not made its rounds before.
    """

    def __init__(
        self,
        title: str,
        rounds: int,
        nodes: int,
        *,
        silent: bool = False,
        lines: bool = True,
        watch: bool = False,
        duration: float | None = None,
    ) -> None:
        self.title = shown(title)
        self.rounds, self.nodes, self.watch, self.duration = rounds, nodes, watch, duration
        self._cell = notebook.Cell() if notebook.is_here() and not silent else None
        self.live = sys.stderr.isatty() and not silent and self._cell is None
        self.silent = silent or not (lines or self.live or self._cell is not None)
        self._curve: list[Point] = []
        self._of = ""
        """The name of the figure of the curve."""
        self._live: Any = None
        self._began = perf_counter()
        self._printed = self._began
        self._first: tuple[float, Progress] | None = None
        self._latest: tuple[float, Progress] | None = None
        self._over: float | None = None
        self._notice: str | None = None

    def __enter__(self) -> "ProgressDisplay":
        if self.live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self, console=Console(stderr=True), refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None or self._cell is not None:
            self._over = perf_counter()
        elif not self.silent and self._complete():
            self._print(self._line())
        if self._live is not None:
            self._live.stop()
        if self._cell is not None:
            self._cell.show(self._html(), self._line())

    def __call__(self, progress: Progress) -> None:
        """Show a new state."""
        if self.silent:
            return
        now = perf_counter()
        if progress.notice != self._notice:
            self._notice = progress.notice
            if progress.notice is not None:
                self._print(f"{self.title}: {shown(progress.notice)}")
        self._first = self._first or (now, progress)
        self._latest = (now, progress)
        if self.watch:
            self._extend(progress)
        if self._live is not None:
            return
        if self._cell is not None:
            if now - self._printed >= _CELL_SECONDS or self._complete():
                self._printed = now
                self._cell.show(self._html(), self._line())
        elif now - self._printed >= _PLAIN_SECONDS and not self._complete():
            # The last line waits for the end: hosts of an emulation report the last round more than once.
            self._printed = now
            self._print(self._line())

    def _done(self) -> float:
        """The share of the run that is done: of its rounds or, if that is more, of its duration."""
        if self._latest is None:
            return 0.0
        progress = self._latest[1]
        rounds = progress.rounds / self.rounds
        return rounds if self.duration is None else min(max(rounds, progress.time / self.duration), 1.0)

    def _complete(self) -> bool:
        return self._latest is not None and self._latest[1].rounds >= self._latest[1].of

    def _extend(self, progress: Progress) -> None:
        """Add a point to the curve where its value is a new one."""
        name, value = ("accuracy", progress.accuracy) if progress.accuracy is not None else ("loss", progress.loss)
        if name != self._of:
            self._of, self._curve = name, []
        if value is not None and math.isfinite(value) and (not self._curve or self._curve[-1][1] != value):
            self._curve.append((progress.rounds, value))

    def _line(self) -> str:
        parts = [self.title + ":", self._state() + ("," if self._left() else ""), self._left()]
        return " ".join(filter(None, parts))

    def _html(self) -> str:
        """The bar of a notebook's cell, with the curve below it."""
        done = self._done()
        curve = ""
        if self._curve:
            low, high = bounds(self._curve)
            curve = notebook.captioned(
                svg(self._curve, self.rounds, 480, 96), f"{self._of} {figure(low)} to {figure(high)}"
            )
        return notebook.bar(self.title, done, ", ".join(filter(None, [self._state(), self._left()]))) + curve

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = options.max_width
        wide = width >= _WIDE
        done = self._done()
        title = Text(self.title, no_wrap=True, overflow="ellipsis")
        title.truncate(max(width - 48, 12) if not wide else width // 3, overflow="ellipsis")
        cells: list[Text | ProgressBar] = [
            title,
            ProgressBar(total=1.0, completed=done, width=24),
            Text(f"{100 * done:3.0f} %", no_wrap=True),
            *([Text(self._state(), no_wrap=True, overflow="ellipsis")] if wide else []),
            Text(self._left(), no_wrap=True, style="cyan"),
        ]
        line = Table.grid(padding=(0, 1))
        line.add_row(*cells)
        yield line
        if not wide:
            yield Text("  " + self._state(), no_wrap=True, overflow="ellipsis", style="dim")
        if self._curve and not options.ascii_only:
            columns, rows = _CURVE
            low, high = bounds(self._curve)
            marks = [figure(high), *[""] * (rows - 2), figure(low)]
            columns = min(columns, width - max(map(len, marks)) - 3)
            for mark, drawn in zip(marks, braille(self._curve, self.rounds, columns, rows), strict=True):
                yield Text(f"  {drawn} {mark}", no_wrap=True, style="blue")

    def _since(self) -> tuple[float, float, int] | None:
        """The seconds, the rounds, and the sum of the nodes' rounds, over which speed is measured.

        None before a second report: until then, the time is that of loading data and starting hosts.
        """
        assert self._first is not None
        assert self._latest is not None
        (begun, first), (now, latest) = self._first, self._latest
        if now - begun >= _SETTLED and latest.commits > first.commits:
            return now - begun, latest.rounds - first.rounds, latest.commits - first.commits
        if latest.rounds < latest.of and self._over is None:
            return None
        # A resumed run starts with rounds, but no commits.
        return max(now - self._began, 1e-9), latest.commits / max(self.nodes, 1), latest.commits

    def _state(self) -> str:
        if self._latest is None:
            return "starting"
        progress = self._latest[1]
        parts = [f"round {progress.rounds:.0f}/{progress.of}", f"{seconds(progress.time)} {progress.clock}"]
        if progress.accuracy is not None:
            parts.append(f"accuracy {progress.accuracy:.3f}")
        elif progress.loss is not None:
            parts.append(f"loss {progress.loss:.3f}")
        return ", ".join([*parts, *self._speed()])

    def _speed(self) -> list[str]:
        measured = self._since()
        return [] if measured is None else [f"{measured[2] / measured[0]:,.0f} node-rounds/s"]

    def _left(self) -> str:
        """The estimated time that is left or, at the end, the time that was taken."""
        if self._latest is None:
            return ""
        now, progress = self._latest
        if progress.rounds >= progress.of or self._over is not None:
            return f"in {seconds((self._over or now) - self._began)}"
        if progress.stopping:
            return "stopping after this round"
        spent, rounds, _ = self._since() or (0.0, 0.0, 0)
        estimates = [spent * (progress.of - progress.rounds) / rounds] if rounds > 0 else []
        if estimates and self.duration is not None and progress.time > 0:
            left = max(self.duration - progress.time, 0.0)
            estimates.append((now - self._began) * left / progress.time)
        return f"{seconds(min(estimates))} left" if estimates else ""


class SweepDisplay(ProgressDisplay):
    """The display of runs that are made at the same time: one bar over the rounds of all.

    Args:
        title: the name of the sweep.
        rounds: the number of rounds of each run, by its name.
        nodes: the largest number of nodes of a run.
        kept: the number of further runs, which were finished before.
        silent: show nothing.
        lines: print lines if there is neither a terminal nor a notebook.
    """

    def __init__(
        self, title: str, rounds: Mapping[str, int], nodes: int, *, kept: int = 0, silent: bool, lines: bool
    ) -> None:
        super().__init__(title, max(sum(rounds.values()), 1), nodes, silent=silent, lines=lines)
        self._rounds, self._kept = rounds, kept
        self._running: dict[str, Progress] = {}
        self._ended: dict[str, int] = {}
        """The sum of the nodes' rounds of each run that is over."""

    def of(self, name: str, progress: Progress) -> None:
        """Show the new state of a run."""
        self._running[name] = progress
        self._show(progress.stopping, None if progress.notice is None else f"{name}: {progress.notice}")

    def over(self, name: str, status: str) -> None:
        """Show that a run is over."""
        last = self._running.pop(name, None)
        self._ended[name] = 0 if last is None else last.commits
        if self.live or self._cell is not None:
            self._show(False, None)
        elif not self.silent:
            self._print(f"{self.title}: {shown(name)} {status}, {self._count()}")

    def _show(self, stopping: bool, notice: str | None) -> None:
        running = self._running.values()
        rounds = sum(at.rounds for at in running) + sum(self._rounds[name] for name in self._ended)
        commits = sum(at.commits for at in running) + sum(self._ended.values())
        self(Progress(rounds, self.rounds, 0.0, commits, None, None, stopping=stopping, notice=notice))

    def _count(self) -> str:
        return f"{len(self._ended) + self._kept} of {counted(len(self._rounds) + self._kept, 'run')}"

    def _state(self) -> str:
        if self._latest is None:
            return "starting"
        parts = [self._count(), *self._speed(), *self._running]
        return ", ".join(map(shown, parts))
