"""The events at set times of a host's nodes: absences, faults, and evaluations of all nodes at a moment."""

import asyncio
from collections.abc import Coroutine, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from covey.network.faults import Strike, strikes
from covey.runtime.recorder import moments_after
from covey.runtime.running_node import RunningNode

if TYPE_CHECKING:
    from covey.runtime.emulation.host.stage import HostStage


class Schedule:
    """Follows absences, faults and moments of evaluations until the run ends.

    Args:
        stage: the nodes of the host.
    """

    def __init__(self, stage: "HostStage") -> None:
        self._stage = stage
        self._following: set[asyncio.Task[None]] = set()

    def begin(self, elapsed: float) -> None:
        """Follow faults and moments from some seconds after the start of the run on."""
        stage = self._stage
        self._begin_strikes(elapsed)
        if stage.evaluation.seconds is not None and stage.recorder.evaluated:
            self._follow(self._follow_moments(elapsed, stage.evaluation.seconds))

    def follow_absences(self, node: RunningNode) -> None:
        """Follow the absences of a node, and start its program once it is present."""
        self._follow(self._come_and_go(node))

    def cancel(self) -> None:
        """Cancel all later events."""
        for task in list(self._following):
            task.cancel()

    def _follow(self, coroutine: Coroutine[Any, Any, None]) -> None:
        def on_end(task: asyncio.Task[None]) -> None:
            self._following.discard(task)
            error = None if task.cancelled() else task.exception()
            if isinstance(error, Exception):
                self._stage.fail(error)

        task = asyncio.create_task(coroutine)
        self._following.add(task)
        task.add_done_callback(on_end)

    async def _until(self, time: float) -> None:
        await asyncio.sleep(max(time - self._stage.now, 0.0))

    async def _come_and_go(self, node: RunningNode) -> None:
        stage, present = self._stage, False
        for start, end in stage.network.churn.absences(node.id, stage.prepared.setting):
            if end <= stage.now:
                continue
            if start > stage.now and not present:
                stage.start(node)
                present = True
            await self._until(start)
            if node.mail.ended:
                return
            stage.disturbances.leave(node, for_good=end == float("inf"))
            present = False
            if end == float("inf"):
                return
            await self._until(end)
            stage.disturbances.come_back(node)
            present = True
        if not present:
            stage.start(node)

    async def _follow_moments(self, elapsed: float, seconds: float) -> None:
        for number, time in moments_after(elapsed, seconds):
            await self._until(time)
            if self._stage.stops:
                return
            self._stage.recorder.await_moment(number)

    def _begin_strikes(self, elapsed: float) -> None:
        """Begin the strikes that are active after some seconds, and schedule the others."""
        prepared = self._stage.prepared
        upcoming = strikes(prepared.experiment.faults, prepared.setting)
        for strike in upcoming:
            if strike.start > elapsed:
                self._follow(self._follow_strikes(strike, upcoming))
                return
            if strike.end > elapsed:
                self._strike(strike)

    async def _follow_strikes(self, first: Strike, others: Iterator[Strike]) -> None:
        for strike in chain([first], others):
            await self._until(strike.start)
            self._strike(strike)

    def _strike(self, strike: Strike) -> None:
        # The launcher handles strikes of a host's process.
        if not strike.fault.stops_a_host:
            self._stage.disturbances.begin(strike, self._stage.nodes.values())
            if strike.end < float("inf"):
                self._follow(self._end_strike(strike))

    async def _end_strike(self, strike: Strike) -> None:
        await self._until(strike.end)
        self._stage.disturbances.end(strike)
