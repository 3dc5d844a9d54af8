"""Server-sent events: at most two a second, each with the rows that were added since the last one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any

import msgspec

from covey.parts.errors import CoveyError
from covey.watch import details
from covey.watch.control import Control
from covey.watch.folder import Folder
from covey.watch.watched import Watched

_SECONDS = 0.5
"""The least seconds between two events."""
_BUSY = 4
"""A look at all runs is followed by a pause of at least this many times its seconds."""
_SILENT = 15.0
"""After these seconds without an event, an empty one shows that the server is there."""


async def events(look: Callable[[], Any], is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The events of changing facts.

    Args:
        look: gives the facts to send, or None if nothing has changed. It is called in a thread.
        is_over: true when the server ends.
    """
    yield b": covey\n\n"
    said = monotonic()
    while not is_over():
        began = monotonic()
        facts = await asyncio.to_thread(look)
        if facts is not None:
            yield b"data: " + msgspec.json.encode(facts) + b"\n\n"
            said = monotonic()
        elif monotonic() - said > _SILENT:
            yield b": here\n\n"
            said = monotonic()
        await asyncio.sleep(max(_SECONDS, _BUSY * (monotonic() - began)))


class All:
    """The changes of all runs, for one page.

    Args:
        folder: the folder of the runs.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._shown: dict[str, dict[str, Any]] | None = None

    def __call__(self) -> dict[str, Any] | None:
        """The lines of runs that have changed, and the ids of all; None if none has."""
        rows = {run.id: run.row() for run in self._folder.look()}
        before, self._shown = self._shown, rows
        changed = [row for id, row in rows.items() if before is None or before.get(id) != row]
        if not changed and before is not None and before.keys() == rows.keys():
            return None
        return {"rows": changed, "ids": list(rows), "problem": self._folder.problem}


class One:
    """The changes of one run, for one page.

    Args:
        run: the run.
        names: the figures that the page draws.
        cursor: the last rows that it has.
        event: the last event that it has.
        control: the resumptions of runs.
    """

    def __init__(self, run: Watched, names: list[str], cursor: str, event: int, control: Control) -> None:
        self._run, self._names, self._cursor, self._event = run, names, cursor, event
        self._control = control
        self._shown: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any] | None:
        """The line of the run, the changed points of its figures and its new events; None if nothing has changed."""
        self._run.look()
        row, cursor = self._run.row(), self._run.cursor()
        failure = self._control.failure(self._run)
        facts: dict[str, Any] = {"row": row, "cursor": cursor, "failure": failure}
        try:
            if cursor != self._cursor:
                facts["points"] = self._points()
            new = details.events(self._run, self._event)["events"]
        except CoveyError as error:
            new, facts["failure"] = [], str(error)
        if (row, cursor, failure) == self._shown.get("state") and not new:
            return None
        self._shown["state"] = (row, cursor, failure)
        self._cursor = cursor
        if new:
            facts["events"], self._event = new, new[0]["row"]
        return facts

    def _points(self) -> dict[str, list[Any]] | None:
        """The changed points of each figure; None if the page must take the curves anew."""
        parts = self._cursor.split(".")
        now = self._run.cursor().split(".")
        if len(parts) != 3 or len(now) != 3 or parts[0] != now[0] or not all(part.isdecimal() for part in parts):
            return None
        found = self._run.changed(self._names, {"commits": int(parts[1]), "metrics": int(parts[2])})
        return None if found is None else {name: list(map(list, points)) for name, points in found.items()}
