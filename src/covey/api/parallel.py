"""The making of the runs of a sweep in several processes at a time: the process that gives them out."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

import msgspec

from covey.api.making import Making, Outcome
from covey.api.planning import Member
from covey.api.worker import Order, Report
from covey.parts import errors, kinds
from covey.parts.errors import ConfigurationError, ConfigurationWarning, CoveyError
from covey.parts.parameters import parts_of
from covey.runtime.experiment import Progress
from covey.runtime.interpreter import command
from covey.runtime.interruption import handled
from covey.runtime.prepared import check_importable, notes_on_cycles
from covey.runtime.runs import Run
from covey.runtime.runs.schema import FACTS, METRICS
from covey.view.progress import SweepDisplay

_PATIENCE = 3
"""The interrupt that kills the processes. The first one stops runs where they can be resumed, the second at once."""


def check_for_processes(members: Sequence[Member], jobs: int) -> None:
    """Refuse runs that other processes cannot make, or that would disturb each other.

    Raises:
        ConfigurationError: there is such a run.
    """
    for member in members:
        experiment = member.planned.experiment
        if experiment.engine.clock == "real":
            raise ConfigurationError(
                f"The engine {experiment.engine.title()} runs in real time, and runs at the same time would slow each "
                f"other down: 'jobs' must be 1. Got {jobs} instead."
            )
        check_importable(experiment, f"with jobs = {jobs}, the processes of runs")


def in_processes(members: Sequence[Member], making: Making, jobs: int) -> Generator[tuple[Member, Outcome]]:
    """Make runs in processes, which show one bar together, until they are interrupted."""
    waiting = deque(members)
    experiments = {member.name: member.planned.experiment for member in members}
    display = SweepDisplay(
        str(making.folder),
        {name: experiment.rounds for name, experiment in experiments.items()},
        max((experiment.network.nodes for experiment in experiments.values()), default=1),
        kept=making.planned - len(members),
        silent=making.quiet,
        lines=making.lines,
    )
    crew = _Crew(making, display)
    with handled(lambda *_: crew.interrupt()), crew, display:
        while True:
            while waiting and not crew.interrupts and len(crew.busy) < jobs:
                crew.give(waiting.popleft(), share=min(jobs, len(members)))
            if not crew.busy:
                return
            yield from crew.outcomes()


class _Crew:
    """Processes that make runs, each one after the other."""

    def __init__(self, making: Making, display: SweepDisplay) -> None:
        self._making, self._display = making, display
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Process] = []
        self.busy: dict[_Process, Member] = {}
        """The processes that make a run, and which."""
        self.interrupts = 0
        """The number of signals to stop."""
        self._passed = 0
        """The number of those that the processes know."""
        self._woken, self._wake = os.pipe()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._data = Path(mkdtemp(prefix="covey-sweep-"))
        """The data that were given in Python, each in a folder that its digest names."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = [*self._idle, *self.busy]
        for process in processes:
            process.dismiss()
        for process in processes:
            while not process.is_over():
                if self.interrupts >= _PATIENCE:
                    process.kill()
        self._selector.close()
        os.close(self._woken)
        os.close(self._wake)
        shutil.rmtree(self._data, ignore_errors=True)

    def give(self, member: Member, share: int) -> None:
        """Let a process make a run, with its share of the processors."""
        experiment = member.planned.experiment
        for note in notes_on_cycles(experiment):
            warnings.warn(f"{note[0].upper()}{note[1:]}.", ConfigurationWarning, stacklevel=6)
        for part in parts_of(experiment):
            part.store_given(self._data)
        process = self._idle.pop() if self._idle else _Process()
        self.busy[process] = member
        self._selector.register(process.reports, selectors.EVENT_READ, process)
        process.order(
            Order(
                experiment=experiment.to_table(),
                folder=str(member.folder),
                continued=member.before is not None,
                data=None if self._making.data is None else str(self._making.data),
                modules=kinds.searched(),
                given=str(self._data),
                share=share,
                command=[*sys.argv],
            )
        )

    def interrupt(self) -> None:
        """Note a signal to stop. A process may be given an order just now, so that it is passed on later."""
        self.interrupts += 1
        os.write(self._wake, b".")

    def _pass_on(self) -> None:
        """Stop all runs where they can be resumed; at the second interrupt at once; at the third kill the processes."""
        os.read(self._woken, 1 << 10)
        while self._passed < self.interrupts:
            self._passed += 1
            for process in self.busy:
                process.stop()
                if self._passed >= _PATIENCE:
                    process.kill()

    def outcomes(self) -> Iterator[tuple[Member, Outcome]]:
        """Wait for reports, show progress, and yield the runs that are over."""
        for key, _ in self._selector.select():
            if key.data is None:
                self._pass_on()
                continue
            process: _Process = key.data
            for report in process.received():
                member = self.busy[process]
                if report.progress is not None:
                    self._display.of(member.name, Progress(**report.progress))
                    continue
                yield member, self._over(process, member, report)
            if process.has_closed and process in self.busy:
                yield self.busy[process], self._lost(process)

    def _over(self, process: "_Process", member: Member, report: Report) -> Outcome:
        self._free(process, "failed" if report.error else report.status)
        self._idle.append(process)
        if report.error:
            return _error(report.error, report.text)
        return _recorded(member)

    def _lost(self, process: "_Process") -> Outcome:
        """A process that ended during a run."""
        member = self.busy[process]
        self._free(process, "failed")
        if self.interrupts:
            return _recorded(member)
        return CoveyError(f"The process of the run {member.folder} {process.end}: extend the sweep to continue it.")

    def _free(self, process: "_Process", status: str) -> None:
        self._selector.unregister(process.reports)
        self._display.over(self.busy.pop(process).name, status)


def _recorded(member: Member) -> Run | None:
    """The run, if it recorded anything before it was stopped."""
    return Run(member.folder) if (member.folder / METRICS).exists() and (member.folder / FACTS).exists() else None


def _error(kind: str, text: str) -> CoveyError:
    """The error that another process raised, with its class."""
    found = getattr(errors, kind, CoveyError)
    error: CoveyError = found.__new__(found, text)
    error.args = (text,)
    return error


class _Process:
    """A process that makes runs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            command("covey.api.worker", "serve"),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches this process alone, which stops the others in order.
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self.reports = self._process.stdin, self._process.stdout
        self._line = b""
        self.has_closed = False

    @property
    def end(self) -> str:
        """The way in which it ended, in words."""
        status = self._process.wait()
        if status >= 0:
            return f"ended with status {status}"
        memory = ", as where memory is short" if -status == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-status).name}{memory}"

    def order(self, order: Order) -> None:
        self._write(msgspec.json.encode(order))

    def stop(self) -> None:
        self._write(b"null")

    def _write(self, line: bytes) -> None:
        rest = memoryview(line + b"\n")
        with suppress(BrokenPipeError):  # It has ended, as its other pipe says.
            while rest:
                rest = rest[self._orders.write(rest) :]

    def received(self) -> list[Report]:
        """The reports that have come."""
        chunk = os.read(self.reports.fileno(), 1 << 16)
        self.has_closed = not chunk
        *lines, self._line = (self._line + chunk).split(b"\n")
        return [msgspec.json.decode(line, type=Report) for line in lines]

    def dismiss(self) -> None:
        """Let it end; a run that it makes is stopped where it can be resumed."""
        with suppress(BrokenPipeError):
            self._orders.close()

    def kill(self) -> None:
        self._process.kill()

    def is_over(self) -> bool:
        """True if it has ended, after a moment of waiting."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.1)
            self.reports.close()
        return self.reports.closed
