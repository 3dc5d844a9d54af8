"""What will happen when, in virtual time."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from operator import itemgetter
from typing import Any

Event = tuple[int, Callable[[Any], None], Any]
"""The order among the events of a moment, what happens, and its argument."""

_order = itemgetter(0)


class Agenda:
    """Events by their time.

    Nodes that compute and send alike do so at the same moments, so the events of a moment share one entry of the heap:
    a round of 10,000 such nodes takes a few hundred entries, not some hundred thousand.
    """

    __slots__ = ("_moments", "_times", "current")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._moments: dict[float, list[Event]] = {}
        self.current: list[Event] = []
        """What is left of the moment that `next` returned, the last first; to be taken from its end."""

    def put(self, time: float, order: int, action: Callable[[Any], None], argument: Any = None) -> None:
        """Let something happen. What is put while its moment passes happens when all that was there before is done."""
        moment = self._moments.get(time)
        if moment is None:
            self._moments[time] = [(order, action, argument)]
            heappush(self._times, time)
        else:
            moment.append((order, action, argument))

    def next(self) -> float | None:
        """Go on to the next moment; its time, or None where nothing is left."""
        if not self._times:
            return None
        time = heappop(self._times)
        self.current = moment = self._moments.pop(time)
        if len(moment) > 1:
            moment.sort(key=_order, reverse=True)
        return time

    def is_over(self, time: float) -> bool:
        """Whether all that is to happen at the current time has happened."""
        return not self.current and time not in self._moments

    def pending(self) -> Iterator[Event]:
        """All events that have not happened, in no order."""
        yield from self.current
        for moment in self._moments.values():
            yield from moment
