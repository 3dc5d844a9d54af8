"""The reports of a host to the launcher: commits, figures, events, snapshots, heartbeats."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from covey.messages.payloads import Payload
from covey.parts.errors import ProgramError, WireError
from covey.runtime.emulation.host.cuts import Part
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.handshake import say
from covey.runtime.node import Message
from covey.runtime.recorder import Pending, Recorder, framed
from covey.runtime.running_node import RunningNode
from covey.runtime.snapshots import Snapshot, pack

if TYPE_CHECKING:
    from covey.runtime.emulation.host.stage import HostStage

_PAUSE = 0.1
"""Seconds between two reports. A killed host loses this much."""
_ROWS_AT_ONCE = 2048


class Reporter(Recorder):
    """Collects the records of the nodes of one host, and sends them to the launcher.

    Args:
        stage: the stage of the host.
        control: the connection to the launcher.
    """

    stage: "HostStage"

    def __init__(self, stage: "HostStage", control: Connection) -> None:
        super().__init__(stage)
        self.control = control
        self._figures: list[tuple[int, int, str, float]] = []
        self._events: list[tuple[float, int, str, str]] = []
        self._records: list[tuple[float, int, str, Mapping[str, Any]]] = []
        self._working: asyncio.Task[None] | None = None
        """The task that evaluates, and sends snapshots."""
        self._passed = 0
        """The round up to which all evaluations are done."""
        self._moment: tuple[int, list[tuple[int, Any]]] | None = None
        """The moment whose evaluation is pending, and the objects to evaluate."""
        self._held: list[tuple[int, Snapshot]] = []
        """The snapshots that are not sent yet."""
        self._parts: list[Part] = []
        """The parts of cuts that are not sent yet."""

    def commit(self, node: RunningNode) -> bool:
        due = super().commit(node)
        if len(self.rows) >= _ROWS_AT_ONCE:
            self.flush()
        return due

    def await_evaluation(self, node: RunningNode) -> None:
        super().await_evaluation(node)
        self._work()

    def await_moment(self, number: int) -> None:
        """Queue the evaluation of all nodes in their current states, unless that of the last moment is pending."""
        nodes = self.at_moment()
        if nodes and self._moment is None:
            self._moment = number, [(node.id, self.stage.task.shown(node)) for node in nodes]
            self._work()

    def log(self, node: int, completed: int, figures: Mapping[str, float]) -> None:
        self._figures += [(node, completed, name, float(value)) for name, value in figures.items()]

    def record(self, time: float, node: int, table: str, columns: Mapping[str, Any]) -> None:
        self._records.append((time, node, table, columns))

    def observe(self, time: float, node: int, message: Message) -> None:
        frame = np.frombuffer(framed(message, node), np.uint8)
        say(self.control, "observed", {"time": time, "node": node, "frame": frame})

    def event(self, time: float, node: int, kind: str, detail: str) -> None:
        self._events.append((time, node, kind, detail))

    def flush(self) -> None:
        """Send all collected records."""
        if self.rows or self._figures or self._events or self._records:
            rows = msgspec.msgpack.encode((self.rows, self._figures, self._events, self._records))
            say(self.control, "rows", {"rows": rows})
            self.rows, self._figures, self._events, self._records = [], [], [], []

    def snapshots(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Send snapshots, after all rows of their rounds."""
        self._held += snapshots.items()
        self._work()

    def report_part(self, part: Part) -> None:
        """Send the part of this host at a cut, after all rows of the rounds that it holds."""
        self._parts.append(part)
        self._work()

    async def _send(self, held: list[tuple[int, Snapshot]], parts: list[Part]) -> None:
        self.flush()
        for node, snapshot in held:
            await self._send_snapshot(node, snapshot, {})
        for part in parts:
            for node, snapshot in part.snapshots.items():
                await self._send_snapshot(node, snapshot, {"cut": part.number})
            for word in part.mail():
                say(self.control, "mail", word)
                await self.control.has_room()
            say(self.control, "part", {"cut": part.number, "full": part.is_full})

    async def _send_snapshot(self, node: int, snapshot: Snapshot, of: Payload) -> None:
        try:
            say(self.control, "snapshots", {"nodes": [node], **of, **pack([snapshot], self.stage.task)})
        except WireError as error:
            raise ProgramError(f"The state of node {node} cannot be kept: {error.detail}.") from error
        await self.control.has_room()

    async def run(self) -> None:
        """Send reports regularly until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            self.flush()

    # ------------------------------------------------------------------ evaluation and snapshots

    def _work(self) -> None:
        if self._working is None:
            self._working = asyncio.create_task(self._work_off())

    async def _work_off(self) -> None:
        """Do pending evaluations, then send snapshots, which follow the figures of their rounds."""
        try:
            while self.pending or self._held or self._parts or self._moment:
                await asyncio.sleep(0)
                pending, self.pending = self.pending, []
                held, self._held = self._held, []
                parts, self._parts = self._parts, []
                if pending:
                    await self._evaluate_all(pending)
                await self._send(held, parts)
                moment, self._moment = self._moment, None
                if moment is not None:
                    await self._evaluate_moment(*moment)
        except Exception as error:
            self.stage.fail(error)
        finally:
            self._working = None

    @property
    def is_evaluating(self) -> bool:
        """True if evaluations are pending."""
        return self._working is not None

    async def _evaluate_all(self, pending: Sequence[Pending]) -> None:
        self.judged(pending, await self._evaluated([(node, shown) for node, _, shown in pending]))
        self._send_averages()

    async def _evaluate_moment(self, number: int, shown: Sequence[tuple[int, Any]]) -> None:
        kept = self.stage.task.summary()
        for (_, model), figures in zip(shown, await self._evaluated(shown), strict=True):
            kept.add(model, figures)
        say(self.control, "moment", {"number": number, **kept.freeze()})

    async def _evaluated(self, shown: Sequence[tuple[int, Any]]) -> list[dict[str, float]]:
        """The metrics of nodes' objects."""
        stage = self.stage
        for node, model in shown:
            with stage.measured(stage.nodes[node], "mixing"):
                stage.task.ready(model)
        return await stage.trainer.apart(partial(stage.task.evaluate, [model for _, model in shown]))

    def _send_averages(self, *, all_of_them: bool = False) -> None:
        """Send the summaries of the rounds that all evaluated nodes have passed, or of all rounds."""
        nodes = [self.stage.nodes[id] for id in self.evaluated]
        passed = min((node.round for node in nodes if not node.mail.ended), default=self.stage.rounds)
        passed = min([passed, *(completed - 1 for _, completed, _ in self.pending)])
        for completed in sorted(self.summaries):
            if all_of_them or completed <= passed:
                kept = self.summaries.pop(completed)
                self.flush()  # The figures of its nodes come first.
                say(self.control, "average", {"round": completed, **kept.freeze()})
        if passed > self._passed:
            self._passed = passed
            say(self.control, "passed", {"round": passed})

    async def finish(self) -> None:
        """Do and send the remaining evaluations. An error becomes the stage's failure."""
        while self._working is not None:
            await asyncio.wait([self._working])
        self._send_averages(all_of_them=True)
        self.count_without_rounds()
        self.flush()
