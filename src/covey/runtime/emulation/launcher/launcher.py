"""The launcher: it starts or calls hosts, gives them their nodes, records their reports, and ends them."""

import asyncio
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts import errors, kinds
from covey.parts.errors import CoveyError, RunError
from covey.parts.parameters import to_table
from covey.runtime.emulation.host.run import Orders
from covey.runtime.emulation.launcher.makers import HostEnded, HostGone, Maker, Wanted
from covey.runtime.emulation.launcher.records import Records
from covey.runtime.emulation.launcher.recovery import Recovery
from covey.runtime.emulation.launcher.remote import Condition, Remote
from covey.runtime.emulation.launcher.reports import Reports
from covey.runtime.emulation.launcher.sampling import Sampling
from covey.runtime.emulation.transport.connection import loop_time
from covey.runtime.emulation.transport.handshake import LAUNCHER, Caller, say
from covey.runtime.experiment import Outcome, Progress
from covey.runtime.interruption import STOP
from covey.runtime.mail import batches
from covey.runtime.prepared import Prepared
from covey.runtime.runs import RunWriter
from covey.runtime.runs.schema import NETWORK, STOPPED
from covey.runtime.snapshots import pack

if TYPE_CHECKING:
    from covey.runtime.emulation.hosted import Hosted

_STUCK = 10.0
"""Seconds without progress after which hosts that should stop after a common round stop at once."""
_LAST = 5.0
"""Seconds after which hosts that were ordered to stop at once are given up."""
_HEARTBEAT = 1.0
"""Seconds between heartbeats to every host."""
_ASK = 0.1
"""Seconds between two checks whether a checkpoint is due. Hosts report completed rounds as often."""


class Launcher:
    """Runs one experiment on hosts.

    Args:
        prepared: the experiment.
        settings: the settings of the engine.
        writer: records the run; None records nothing.
        progress: called from time to time with the progress of the run.
        checkpoint: the checkpoint to resume from.
    """

    def __init__(
        self,
        prepared: Prepared,
        settings: "Hosted",
        writer: RunWriter | None,
        progress: Callable[[Progress], None] | None,
        checkpoint: Payload | None,
    ) -> None:
        self.prepared, self.settings, self.writer = prepared, settings, writer
        self.run_name = secrets.token_hex(16)
        self.owners = settings.owners(prepared.network.nodes)
        self.hosts: list[Remote] = []
        self.interrupts = 0
        """The number of requests to stop."""
        self.is_enough = False
        """True if a callback has stopped the run."""
        self.over = False
        """True if hosts are being dismissed."""
        self.changed = asyncio.Event()
        """Set when a host is done, or another awaited event has happened."""
        self.failure: CoveyError | None = None
        self.records = Records(
            prepared, self.owners, writer, progress, checkpoint, clock=settings.clock, later=self._later
        )
        self.recovery = Recovery(self, self._later)
        self.reports = Reports(self)
        self.sampling = None if prepared.overlay is None else Sampling(self, prepared.overlay)
        self.rolls_back = False
        """True if all hosts must roll back to the last cut, because one was lost."""
        self._began: float | None = None
        self._main: asyncio.Task[Any] | None = None
        """The task of `run`."""
        self._folder = tempfile.TemporaryDirectory(prefix="covey-")
        self._maker: Maker | None = None
        self._trust = settings.trust()
        self._tasks: set[asyncio.Task[None]] = set()
        prepared.callbacks.attach(self.stop_early, self.scale_learning_rate)

    @property
    def now(self) -> float:
        """The seconds since the start of the run."""
        return 0.0 if self._began is None else loop_time() - self._began

    @property
    def has_begun(self) -> bool:
        """True if nodes have begun, now or before a roll-back."""
        return self._began is not None

    @property
    def interrupted(self) -> bool:
        """True if the run should stop."""
        return self.interrupts > 0

    def fail(self, error: CoveyError) -> None:
        """End the run with an error."""
        self.failure = self.failure or error
        self.changed.set()

    def _later(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run a coroutine in the background. An error ends the run."""

        def on_end(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if isinstance(error, CoveyError):
                self.fail(error)
            elif error is not None:
                self.fail(RunError(f"The launcher failed: {errors.described(error)}."))
            self.changed.set()

        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(on_end)
        return task

    # ------------------------------------------------------------------ the course of a run

    async def run(self) -> Outcome:
        """Run the experiment to its end, or until it is interrupted.

        Raises:
            CoveyError: the run failed.
        """
        self._main = asyncio.current_task()
        with self._interruptible():
            return await self._run()

    def on_interrupt(self) -> None:
        """Handle a Ctrl-C or SIGTERM. The third ends the run at once."""
        self.interrupt()
        if self.interrupts > 2 and self._main is not None:
            self._main.cancel()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Make Ctrl-C and SIGTERM interrupt the run, if this thread receives them."""
        if threading.current_thread() is not threading.main_thread() or os.name == "nt":
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in STOP}
        for number in STOP:
            loop.add_signal_handler(number, self.on_interrupt)
        try:
            yield
        finally:
            for number, earlier in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL if earlier is None else earlier)

    async def _run(self) -> Outcome:
        try:
            if self.sampling is not None:
                self.sampling.write_truth()
            self._start_hosts()
            await self._let_begin()
            while self.rolls_back and not self.interrupted:
                await self._roll_back()
            if self.interrupted or self.is_enough:
                await self._stop_hosts()
            return await self._end()
        except HostGone as error:
            if not self.has_begun or self.writer is None:
                raise
            await self.records.finish()
            self.records.checkpoints.write_last()
            raise RunError(f"{error} Resume with: covey run --resume {self.writer.folder}") from error
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            await self._stop_processes()
            self._folder.cleanup()

    def interrupt(self) -> None:
        """Stop where the run can be resumed or, at the second request, at once."""
        self.interrupts += 1
        self.records.stopping = self.records.checkpoints.stopping = True
        self.changed.set()

    def stop_early(self, reason: str) -> None:
        """End the run for a callback, after the round that nodes are in."""
        if not (self.is_enough or self.interrupted):
            self.is_enough = True
            self.records.event(self.now, NETWORK, STOPPED, reason)
            self.changed.set()

    def scale_learning_rate(self, factor: float) -> int:
        """Multiply the learning rate of all nodes, from a round on that none has begun; returns that round."""
        since = self.records.next_round
        for host in self.hosts:
            host.send("rate", {"round": since, "factor": factor})
        return since

    @property
    def _all_done(self) -> bool:
        return all(host.done for host in self.hosts)

    async def _until(self, true: Callable[[], bool]) -> None:
        """Wait until a condition is true or the run has failed."""
        while self.failure is None and not true():
            await self.changed.wait()
            self.changed.clear()
        if self.failure is not None:
            raise self.failure

    async def _soon(self, true: Callable[[], bool], seconds: float, *, renewed: bool = True) -> None:
        """Wait until a condition is true, at most some seconds, and only until the next interrupt.

        Args:
            true: the condition.
            seconds: the timeout.
            renewed: restart the timeout at each sign of progress.
        """
        asked, signs, since = self.interrupts, self._signs, loop_time()
        while self.failure is None and not true() and self.interrupts == asked and loop_time() - since < seconds:
            await asyncio.sleep(0.02)
            if renewed and self._signs != signs:
                signs, since = self._signs, loop_time()
        if self.failure is not None:
            raise self.failure

    @property
    def _signs(self) -> tuple[Any, ...]:
        """A value that changes with every progress."""
        records, live = self.records, [host for host in self.hosts if not host.done]
        busy = max((host.condition.at for host in live if host.condition.is_busy), default=0.0)
        return records.commits, records.checkpoints.came, len(live), busy

    def _start_hosts(self) -> None:
        """Start a process for each share of the nodes."""
        nodes: list[list[int]] = [[] for _ in range(max(self.owners) + 1)]
        for node, owner in enumerate(self.owners):
            nodes[owner].append(node)
        folder, writer = Path(self._folder.name), self.writer
        task = self.prepared.task
        logs = (lambda: folder) if writer is None else writer.logs
        wanted = Wanted(
            len(nodes),
            self._trust.token,
            folder,
            logs,
            self.prepared.modules(),
            shipment=lambda number: task.common_shipment() if number is None else task.shipment(nodes[number]),
            authority=self._trust.authority,
        )
        self._maker = maker = self.settings.maker(wanted)
        log = wanted.log if maker.starts else lambda number: None
        self.hosts = [Remote(number, own, maker, log(number)) for number, own in enumerate(nodes)]
        for host in self.hosts:
            host.start()

    async def _let_begin(self) -> None:
        """Call all hosts and start their nodes. Return when they are done, after an interrupt, or for a roll-back."""
        self.rolls_back = False
        self._later(self._heartbeats())
        late = loop_time() + self.settings.wait
        preparing = [self._later(self._prepare_all_again(host, late)) for host in self.hosts]
        await self._until(lambda: self.interrupted or self.rolls_back or all(task.done() for task in preparing))
        if self.interrupted or self.rolls_back:
            return
        if self._began is None:
            self._began = loop_time() - self.records.elapsed
        for host in self.hosts:
            self.recovery.go(host, returning=False)
        self.recovery.begin()
        self._later(self._take_checkpoints())
        checkpoints = self.records.checkpoints
        await self._until(
            lambda: (
                self.interrupted or self.is_enough or self.rolls_back or (self._all_done and not checkpoints.is_void)
            )
        )

    async def _prepare_all_again(self, host: Remote, late: float) -> None:
        try:
            await self.prepare(host, late, returning=False)
        except HostEnded as error:
            if not (self.has_begun and self.prepared.waits_for_all):
                raise
            self.recovery.roll_back(str(error))

    async def _roll_back(self) -> None:
        """Restart all hosts at the last cut.

        They are called under another name of the run, so that no frame from before is accepted.
        """
        await self._cancel(task for task in self._tasks if task is not self.records.working)
        for host in self.hosts:
            host.dismiss()
        to = await self.records.roll_back()
        self.records.event(self.now, NETWORK, "rolled back", f"to round {to}")
        self.run_name = secrets.token_hex(16)
        for host in self.hosts:
            await host.start_again()
        await self._let_begin()

    async def _take_checkpoints(self) -> None:
        """Request snapshots whenever a checkpoint is due by time."""
        while True:
            await asyncio.sleep(_ASK)
            there = [host for host in self.hosts if host.begun and not host.done]
            if self.records.checkpoints.can_cut:
                self._cut(self.records.ask_for_cut)
            order = self.records.ask_for_snapshots(node for host in there for node in host.nodes)
            if order is not None:
                for host in there:
                    host.send("keep", order)

    def _cut(self, order: Callable[[Collection[int]], Payload | None]) -> None:
        """Let all hosts cut where that is ordered, also those that are done: their messages may be under way."""
        there = [host for host in self.hosts if host.begun]
        said = order([host.number for host in there])
        if said is not None:
            for host in there:
                host.send("cut", said)

    async def _heartbeats(self) -> None:
        """Send heartbeats to hosts."""
        while True:
            await asyncio.sleep(_HEARTBEAT)
            for host in self.hosts:
                host.send("heartbeat", {})
            if self._maker is not None:
                self._maker.check()

    async def prepare(self, host: Remote, late: float, *, returning: bool) -> None:
        """Call a host, send its orders, and wait until it is ready.

        Raises:
            HostGone: it does not become ready in time.
        """
        hint = ""
        if self._trust.certificates is None and not host.maker.starts:
            hint = "; if it has certificates, 'certs' of the engine must name the launcher's"
        try:
            async with asyncio.timeout_at(late):
                caller = Caller(self.run_name, LAUNCHER)
                connection = await host.reach(self._trust.token, caller, self._trust.certificates, hint)
                connection.refused = lambda reason: self.fail(
                    RunError(f"{host.named} sent a damaged frame ({reason}).")
                )
                host.connection, host.ready = connection, asyncio.get_running_loop().create_future()
                host.condition, host.problem = Condition(), "it does not become ready"
                connection.listen(lambda frame: self.reports.take(host, connection, frame), wire.DEFAULT)
                connection.lost.add_done_callback(lambda _: self.recovery.on_lost(host, connection))
                await self._all_placed(host)
                host.send("orders", {"orders": msgspec.msgpack.encode(self._orders())})
                await host.ready
        except TimeoutError:
            raise self._missing(host) from None
        if connection.lost.done():
            raise HostEnded(f"Host {host.number} ended before it was ready{host.ending()}.")
        snapshots = self.records.checkpoints.latest
        mine = {node: snapshots[node] for node in host.nodes if node in snapshots}
        if returning:
            mine = self.records.begin_again(host.number, host.nodes)
        for node, snapshot in mine.items():
            host.send("restore", {"nodes": [node], **pack([snapshot], self.prepared.task)})
            await connection.has_room()
        if self.prepared.keeps_mail:
            for held in batches(self.records.mail_for(host.nodes)):
                host.send("mail", {"held": msgspec.msgpack.encode(held)})
                await connection.has_room()

    async def _all_placed(self, host: Remote) -> None:
        """Wait until the addresses of all hosts are known, which one of them gets with its orders."""
        while any(other.address is None for other in self.hosts):
            host.problem = "it waits for the others"
            await asyncio.sleep(0.02)
            host.check_alive()

    def _missing(self, late: Remote) -> HostGone:
        absent = [host for host in self.hosts if host is late or not (host.begun or host.done or host.is_ready)]
        where = ((host, "" if host.address is None else f" at {host.address}") for host in absent)
        names = ", ".join(f"{host.number}{place} ({host.problem})" for host, place in where)
        return HostGone(
            f"{len(absent)} of {len(self.hosts)} hosts are missing after {self.settings.wait:g} seconds: {names}."
        )

    @cached_property
    def _experiment(self) -> dict[str, Any]:
        """The tables of the experiment for hosts."""
        experiment, shares = self.prepared.experiment, self.hosts[0].maker.shares_files
        tables = experiment.to_table()
        del tables["engine"]  # Only the launcher needs it.
        tables.pop("callback", None)

        if experiment.task is not None:
            tables["task"] = to_table(experiment.task.portable(Path(self._folder.name, "task") if shares else None))
        return tables

    def addresses(self) -> list[str]:
        """The present address of every host."""
        return [str(host.address) for host in self.hosts]

    def marks(self) -> list[str]:
        """The mark of the present certificate of every host; nothing for all if hosts do not move."""
        found = [host.maker.mark(host.number) for host in self.hosts]
        return found if any(found) else []

    def _orders(self) -> Orders:
        settings, maker = self.settings, self.hosts[0].maker
        return Orders(
            experiment=self._experiment,
            owners=self.owners,
            hosts=self.addresses(),
            marks=self.marks(),
            folders=kinds.searched() if maker.shares_files or maker.same_paths else [],
            data=str(self.prepared.data) if maker.shares_files or maker.same_paths else None,
            workers=settings.workers_of(len(self.hosts)),
            device=settings.device,
            kernel=settings.kernel,
            chunk=settings.chunk,
            buffer_bytes=settings.buffer << 20,
        )

    async def _stop_hosts(self) -> None:
        """Stop all nodes where the run can be resumed."""
        self.records.show()
        for task in [*self._tasks]:
            if task is not self.records.working:
                task.cancel()
        for host in self.hosts:
            if not host.begun:
                self.recovery.call_off(host)
                host.done = True
            host.wake()
        live, checkpoints = [host for host in self.hosts if not host.done], self.records.checkpoints
        if checkpoints.in_step and not checkpoints.is_void:
            for host in live:
                host.send("hold", {})
            await self._soon(lambda: all(host.done or host.holds is not None for host in live), _STUCK, renewed=False)
            last = max((host.holds for host in live if host.holds is not None), default=0)
            if self.interrupts < 2:
                for host in live:
                    host.send("park", {"round": last, "last": self.is_enough})
                await self._soon(lambda: self._all_done, _STUCK)
        if self.interrupts < 2 and self._may_cut_at_end:
            self._cut(self.records.begin_cut)
            await self._soon(lambda: checkpoints.gathering is None, _LAST)
        for host in live:
            if not host.done:
                host.send("stop", {"last": self.is_enough})
        await self._soon(lambda: self._all_done, _LAST)

    @property
    def _may_cut_at_end(self) -> bool:
        """True if nodes that are stopped can resume at a cut with mail, and not all have completed one round."""
        checkpoints = self.records.checkpoints
        if not checkpoints.can_cut or checkpoints.is_void or (self._all_done and not checkpoints.has_loose):
            return False
        return all(host.begun for host in self.hosts) or not self.prepared.waits_for_all

    async def _end(self) -> Outcome:
        """Record the remaining reports, and dismiss the hosts."""
        records = self.records
        await records.finish()
        stopped = self.interrupted or self.is_enough
        finished = not stopped or (self._all_done and (self.is_enough or records.has_ended))
        if not finished:
            records.checkpoints.write_last()
        for host in self.hosts:
            connection, host.connection = host.connection, None
            if connection is not None:
                say(connection, "bye", {})
                connection.close()
        if self.writer is not None:
            self.writer.flush()
        records.show()
        return Outcome(finished=finished, time=records.time, models=records.result(), states=records.final_states())

    async def _stop_processes(self) -> None:
        self.over = True
        await self._cancel(self._tasks)
        for host in self.hosts:
            if host.connection is not None:
                host.connection.close()
        late = loop_time() + 5.0
        for host in self.hosts:
            await host.end(late)
        if self._maker is not None:
            self._maker.close()

    @staticmethod
    async def _cancel(tasks: Iterable["asyncio.Task[None]"]) -> None:
        cancelled = list(tasks)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
