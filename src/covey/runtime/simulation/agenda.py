"""The agenda of events in virtual time."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from operator import itemgetter
from typing import Any

Event = tuple[int, Callable[[Any], None], Any]
"""The order of an event within its moment, its action, and the argument of the action."""

_order = itemgetter(0)


class Agenda:
    """The events, by time.

    The events of a moment share one entry of the heap. Equal nodes act at the same moments, so a round of 10,000 such
    nodes takes a few hundred entries instead of some hundred thousand.
    """

    __slots__ = ("_moments", "_times", "current")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._moments: dict[float, list[Event]] = {}
        self.current: list[Event] = []
        """The remaining events of the moment that `next` returned, in reverse order."""

    def put(self, time: float, order: int, action: Callable[[Any], None], argument: Any = None) -> None:
        """Schedule an event. One for the current moment happens after all others of it."""
        moment = self._moments.get(time)
        if moment is None:
            self._moments[time] = [(order, action, argument)]
            heappush(self._times, time)
        else:
            moment.append((order, action, argument))

    def next(self) -> float | None:
        """Move to the next moment, and return its time; None if nothing is left."""
        if not self._times:
            return None
        time = heappop(self._times)
        self.current = moment = self._moments.pop(time)
        if len(moment) > 1:
            moment.sort(key=_order, reverse=True)
        return time

    def is_over(self, time: float) -> bool:
        """True if no event of the current time is left."""
        return not self.current and time not in self._moments

    def pending(self) -> Iterator[Event]:
        """All events that have not happened, in any order."""
        yield from self.current
        for moment in self._moments.values():
            yield from moment

    def later(self) -> Iterator[tuple[float, Event]]:
        """All events after the current moment, with their times, in any order."""
        for time, moment in self._moments.items():
            for event in moment:
                yield time, event
