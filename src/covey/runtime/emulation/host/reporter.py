"""What a host tells the launcher: commits, figures, events, snapshots, how it is."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from covey.parts.errors import ProgramError, WireError
from covey.runtime.average import Average
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.handshake import say
from covey.runtime.snapshots import Snapshot, pack

if TYPE_CHECKING:
    from covey.runtime.emulation.host.node import EmulatedNode
    from covey.runtime.emulation.host.site import Site

_PAUSE = 0.1
"""Seconds between two reports: what a host that is killed takes with it."""
_ROWS_AT_ONCE = 2048


class Reporter:
    """Collects what happens at the nodes of one host and sends it to the launcher.

    Args:
        site: the host's nodes.
        control: the connection to the launcher.
    """

    def __init__(self, site: "Site", control: Connection) -> None:
        self.site, self.control = site, control
        self._commits: list[tuple[Any, ...]] = []
        self._figures: list[tuple[int, int, str, float]] = []
        self._events: list[tuple[float, int, str, str]] = []
        self._pending: list[tuple[int, int, Any]] = []
        self._averages: dict[int, Average] = {}
        self._working: asyncio.Task[None] | None = None
        """Evaluates, and sends snapshots."""
        self._settled = 0
        """Up to which round all there is to be evaluated here has been."""
        self._evaluated = set(site.prepared.evaluated) & site.nodes.keys()
        self._held: list[tuple[int, Snapshot]] = []
        """Snapshots that wait until they are sent."""

    def commit(self, node: "EmulatedNode") -> bool:
        """Report a completed round of a node; whether its model is evaluated."""
        self._commits.append(node.commit_row())
        completed, energy = node.round, self.site.network.energy
        if energy.is_measured:
            self.log(node.id, completed, {"energy": node.joules(energy, self.site.speeds[node.id])})
        due = node.id in self._evaluated and self.site.evaluation.due(completed, self.site.rounds)
        if due:
            self._evaluate(node)
        if len(self._commits) >= _ROWS_AT_ONCE:
            self.flush()
        return due

    def ended(self, node: "EmulatedNode") -> None:
        """A node's program has returned: where that is before the last round, its final model is evaluated."""
        completed = node.round
        early = node.id in self._evaluated and 0 < completed < self.site.rounds
        if early and not self.site.evaluation.due(completed, self.site.rounds):
            self._evaluate(node)

    def log(self, node: int, completed: int, figures: Mapping[str, float]) -> None:
        """Report figures under a round."""
        self._figures += [(node, completed, name, float(value)) for name, value in figures.items()]

    def event(self, time: float, node: int, kind: str, detail: str) -> None:
        """Report something that happened."""
        self._events.append((time, node, kind, detail))

    def flush(self) -> None:
        """Send what has been collected."""
        if self._commits or self._figures or self._events:
            rows = msgspec.msgpack.encode((self._commits, self._figures, self._events))
            say(self.control, "rows", {"rows": rows})
            self._commits, self._figures, self._events = [], [], []

    def snapshots(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Send what nodes could go on from, after all rows of the rounds that it holds."""
        self._held += snapshots.items()
        self._work()

    async def _send(self, held: list[tuple[int, Snapshot]]) -> None:
        self.flush()
        for node, snapshot in held:
            try:
                say(self.control, "snapshots", {"nodes": [node], **pack([snapshot])})
            except WireError as error:
                raise ProgramError(f"The state of node {node} cannot be kept: {error.detail}.") from error
            await self.control.has_room()

    async def run(self) -> None:
        """Report every now and then, until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            self.flush()

    # ------------------------------------------------------------------ evaluation and snapshots

    def _work(self) -> None:
        if self._working is None:
            self._working = asyncio.create_task(self._work_off())

    async def _work_off(self) -> None:
        """Evaluate what waits for it and send snapshots, those behind the figures of what they hold."""
        try:
            while self._pending or self._held:
                await asyncio.sleep(0)
                pending, self._pending = self._pending, []
                held, self._held = self._held, []
                if pending:
                    await self._evaluate_all(pending)
                await self._send(held)
        except Exception as error:
            self.site.fail(error)
        finally:
            self._working = None

    @property
    def is_evaluating(self) -> bool:
        """Whether figures are still to come of what has been done."""
        return self._working is not None

    def _evaluate(self, node: "EmulatedNode") -> None:
        self._pending.append((node.id, node.round, node.current))
        self._work()

    async def _evaluate_all(self, pending: list[tuple[int, int, Any]]) -> None:
        site = self.site
        models = [site.nodes[node].mixed(model) for node, _, model in pending]
        split = site.split("test")
        evaluated = await site.trainer.apart(partial(site.learner.evaluate, models, split))
        for (node, completed, _), model, metrics in zip(pending, models, evaluated, strict=True):
            self.log(node, completed, metrics)
            if completed not in self._averages:
                self._averages[completed] = Average(site.learner, keeps=site.evaluation.average)
            self._averages[completed].add(model, metrics["accuracy"])
        self._send_averages()

    def _send_averages(self, *, all_of_them: bool = False) -> None:
        """Send what is known of the rounds that all evaluated nodes have passed, or of all."""
        nodes = [self.site.nodes[id] for id in self._evaluated]
        passed = min((node.round for node in nodes if not node.mail.ended), default=self.site.rounds)
        passed = min([passed, *(completed - 1 for _, completed, _ in self._pending)])
        for completed in sorted(self._averages):
            if all_of_them or completed <= passed:
                kept = self._averages.pop(completed)
                say(self.control, "average", {"round": completed, **kept.freeze()})
        if passed > self._settled:
            self._settled = passed
            say(self.control, "settled", {"round": passed})

    async def finish(self) -> None:
        """Evaluate and send what is left; what fails is the site's failure."""
        while self._working is not None:
            await asyncio.wait([self._working])
        self._send_averages(all_of_them=True)
        self.flush()
