"""The events at set times of a simulation: absences, faults, and evaluations of all nodes at a moment."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from covey.network.faults import Strike, strikes
from covey.runtime.recorder import moments_after
from covey.runtime.running_node import RunningNode
from covey.runtime.runs.schema import NETWORK
from covey.runtime.simulation.agenda import Event

if TYPE_CHECKING:
    from covey.runtime.simulation.world import World

_STRIKES_AT_ONCE = 100
"""The number of strikes, which may be endless, after which the schedule checks for other events."""

_FIRST_STRIKE = 1 << 61
"""The order of strikes: after all events of nodes in a moment, before fair links search for the next completion."""

_MOMENT = 1 << 63
"""The order of evaluations at a moment of time: after all other events of it."""


class Schedule:
    """Puts absences, strikes of faults and moments of evaluations on the agenda, each kind one after the other.

    Args:
        world: the nodes.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self._strikes = strikes(world.prepared.experiment.faults, world.prepared.setting)
        self._strike_order = _FIRST_STRIKE
        self._struck = 0
        """The number of strikes so far."""
        self._since = [0.0] * world.size
        """The time from which on events affect each node: that at which it resumes."""
        self.gone: set[int] = set()
        """The nodes that have left for good."""

    def begin(self, since: float) -> None:
        """Schedule the first strike, and the first moment after a time at which all nodes are evaluated."""
        self._follow_strikes()
        seconds = self._world.evaluation.seconds
        if seconds is not None and self._world.recorder.evaluated:
            self._next_moment(moments_after(since, seconds))

    # ------------------------------------------------------------------ moments

    def _next_moment(self, moments: Iterator[tuple[int, float]]) -> None:
        self._world.agenda.put(next(moments)[1], _MOMENT, self._evaluate_all, moments)

    def _evaluate_all(self, moments: Iterator[tuple[int, float]]) -> None:
        world = self._world
        if not world.agenda.is_over(world.now):
            world.agenda.put(world.now, _MOMENT, self._evaluate_all, moments)
        elif world.running and any(map(self._goes_on, world.agenda.pending())):
            world.recorder.evaluate_moment()
            self._next_moment(moments)

    # ------------------------------------------------------------------ absences

    def follow_absences(self, node: RunningNode, since: float) -> bool:
        """Schedule the next absence of a node that was present at a time. True if the run begins with one."""
        world = self._world
        self._since[node.id] = since
        if not world.network.churn.has_churn:
            return False
        absences = world.network.churn.absences(node.id, world.prepared.setting)

        def schedule_next() -> bool:
            absence = next((absence for absence in absences if absence[0] >= since), None)
            if absence is None:
                return False
            start, end = absence
            at_once = start == world.now == 0.0
            if at_once:
                leave(end)
            else:
                world.at(start, node, lambda _: leave(end))
            return at_once

        def leave(end: float) -> None:
            if not node.mail.ended:
                world.disturbances.leave(node, for_good=end == float("inf"))
                if end < float("inf"):
                    world.at(end, node, lambda _: come_back())

        def come_back() -> None:
            world.disturbances.come_back(node)
            if not node.mail.ended:
                schedule_next()

        return schedule_next()

    # ------------------------------------------------------------------ faults

    def _follow_strikes(self) -> None:
        """Schedule the next strike of a fault."""
        strike = next(self._strikes, None)
        if strike is not None:
            self._strike_order += 1
            self._world.agenda.put(strike.start, self._strike_order, self._strike, strike)

    def _strike(self, strike: Strike) -> None:
        world = self._world
        self._struck += 1
        if self._struck % _STRIKES_AT_ONCE == 0 and not any(map(self._goes_on, world.agenda.pending())):
            world.check_that_all_have_ended()
            return
        if all(node.mail.ended or node.id in self.gone for node in world.nodes):
            return
        # Nodes that resume at a later moment were hit before.
        hit_before = {node.id for node in world.nodes if self._since[node.id] > strike.start}
        world.disturbances.begin(strike, world.nodes, hit_before)
        if not strike.fault.recorded_by_nodes:
            world.recorder.event(world.now, NETWORK, strike.fault.title(), strike.in_words())
        if strike.end < float("inf"):
            self._strike_order += 1
            world.agenda.put(strike.end, self._strike_order, world.disturbances.end, strike)
        self._follow_strikes()

    def _goes_on(self, event: Event) -> bool:
        """True if an event may let a node continue."""
        disturbances, (_, action, argument) = self._world.disturbances, event
        return action not in (self._strike, self._evaluate_all) and not (
            action == disturbances.end and argument in disturbances.of_messages
        )
