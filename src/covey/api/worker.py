"""A process that makes runs of a sweep, as another process orders."""

import os
import queue
import signal
import sys
import threading
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from covey.parts.errors import ConfigurationWarning, CoveyError


class Order(msgspec.Struct):
    """The order to make a run.

    Attributes:
        experiment: the tables of the experiment.
        folder: the run's folder.
        continued: whether the folder has something of the run.
        data: the data folder; None for that of the environment.
        modules: the folders that are searched for the user's own modules.
        given: the folder with the data that were given in Python.
        share: the number of processes that share the processors.
        command: the command of the user, which the run records.
    """

    experiment: dict[str, Any]
    folder: str
    continued: bool
    data: str | None
    modules: list[str]
    given: str
    share: int
    command: list[str]


class Report(msgspec.Struct, omit_defaults=True):
    """The progress of a run, its status at the end, or its error.

    Attributes:
        progress: the fields of a `Progress`; None at the end.
        status: that of the run, or "stopped" before it recorded anything.
        error: the class of its error.
        text: the error's text.
    """

    progress: dict[str, Any] | None = None
    status: str = ""
    error: str = ""
    text: str = ""


class _Orders:
    """The orders from standard input. An empty one, or its end, interrupts the run that is being made."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._makes = False
        self.stopped = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with open(0, "rb", closefd=False) as lines:
            for line in lines:
                order = msgspec.json.decode(line, type=Order | None)
                if order is None:
                    self._interrupt()
                else:
                    self._waiting.put(order)
        self._interrupt()
        self._waiting.put(None)

    def _interrupt(self) -> None:
        with self._lock:
            self.stopped = True
            if self._makes:
                os.kill(os.getpid(), signal.SIGINT)

    def next(self) -> Order | None:
        return self._waiting.get()

    def begin(self) -> bool:
        """Note that a run begins, which interrupts reach from now on. False if it is to begin no more."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with self._lock:
            self._makes = not self.stopped
            return self._makes

    def end(self) -> None:
        with self._lock:
            self._makes = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def serve() -> int:
    """Make runs until standard input ends."""
    reports = os.dup(1)
    os.dup2(2, 1)  # A user's program may print, and that is no report.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", ConfigurationWarning)  # The process that gave the order has said it.
    orders = _Orders()
    while (order := orders.next()) is not None:
        _send(reports, _made(order, orders, reports))
    return 0


def _made(order: Order, orders: _Orders, reports: int) -> Report:
    """Make a run."""
    from covey.api.making import make
    from covey.parts import kinds, machine
    from covey.runtime.experiment import Experiment, Progress

    sys.argv = order.command
    for folder in order.modules:
        kinds.search(folder)
    machine.share(order.share)
    _find_given(order)

    def progress(at: Progress) -> None:
        _send(reports, Report(progress=asdict(at)))

    data = None if order.data is None else Path(order.data)
    try:
        if not orders.begin():
            return Report(status="stopped")
        try:
            experiment = Experiment.from_table(order.experiment)
            done = make(experiment, Path(order.folder), continued=order.continued, data=data, progress=progress)
        finally:
            orders.end()
        return Report(status=done.status)
    except CoveyError as error:
        return Report(error=type(error).__name__, text=str(error))
    except KeyboardInterrupt:
        return Report(status="stopped")


def _find_given(order: Order) -> None:
    if any(Path(order.given).iterdir()):
        from covey.learning.datasets import given

        given.stored_in(Path(order.given))


def _send(reports: int, report: Report) -> None:
    with suppress(BrokenPipeError):  # The reader is gone: the end of standard input ends this process.
        rest = msgspec.json.encode(report) + b"\n"
        while rest:
            rest = rest[os.write(reports, rest) :]
