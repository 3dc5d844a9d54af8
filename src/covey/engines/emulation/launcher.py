"""Starts hosts or calls those that wait, gives them their nodes, collects what they report, and lets them go."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import torch

from covey import errors, wire
from covey.engines.average import Average
from covey.engines.emulation.address import Address
from covey.engines.emulation.connection import Connection
from covey.engines.emulation.handshake import LAUNCHER, Caller, greet, say
from covey.engines.emulation.host import Orders, open_connection
from covey.engines.prepared import Prepared
from covey.engines.snapshots import Snapshot, computed, pack, unpack
from covey.errors import CoveyError, RunError, WireError
from covey.experiment import Outcome, Progress
from covey.network.faults import Kill, Pause, Strike, strikes
from covey.node import Payload
from covey.runs import RunWriter
from covey.runs.schema import COMMIT_COLUMNS, NETWORK

if TYPE_CHECKING:
    from covey.engines.emulation.emulation import Emulation

_Row = tuple[int, int, float, float | None, int, int, int, int, int, int, int]
_Rows = tuple[list[_Row], list[tuple[int, int, str, float]], list[tuple[float, int, str, str]]]
"""Commits, figures and events, as a host reports them."""
_COUNTED = slice(COMMIT_COLUMNS.index("bytes_out"), len(COMMIT_COLUMNS))
_STEPS = slice(COMMIT_COLUMNS.index("steps"), COMMIT_COLUMNS.index("bytes_out"))
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
"""Of the processes that are started, where it is not set: threads of their own are enough, and with one arena glibc
keeps less memory that was freed."""
_RESTARTS = 5
"""How often a host is started again."""
_PASSING = {"closed", "silent", "busy", "tls-silent", "tls-broken-off"}
"""Why a call may fail that succeeds a little later."""


@dataclass(eq=False)
class _Host:
    """One host, as the launcher sees it."""

    number: int
    nodes: list[int]
    address: Address
    listening: Any = None
    """The socket that a process started here listens on; it stays open so that the next one has the same address."""
    process: subprocess.Popen[bytes] | None = None
    connection: Connection | None = None
    problem: str = "it does not answer"
    """Why it is not ready yet."""
    ready: asyncio.Future[wire.Frame] | None = None
    held: asyncio.Future[int] | None = None
    done: bool = False
    restarts: int = 0
    kills: int = 0
    """How many faults keep it away."""
    for_good: bool = False
    """Whether one of them does so to the end."""


class Launcher:
    """Runs one experiment on hosts.

    Args:
        prepared: the experiment.
        settings: of the engine.
        writer: where to record the run; None records nothing.
        progress: told now and then how far it is.
        checkpoint: where to go on from.
    """

    def __init__(
        self,
        prepared: Prepared,
        settings: "Emulation",
        writer: RunWriter | None,
        progress: Callable[[Progress], None] | None,
        checkpoint: Payload | None,
    ) -> None:
        self.prepared, self.settings, self.writer, self.progress = prepared, settings, writer, progress
        self.size = prepared.network.nodes
        experiment = prepared.experiment
        self.rounds = experiment.rounds
        self.run_name = secrets.token_hex(16)
        self.in_step = prepared.in_step
        self.owners = settings.owners(self.size)
        self.hosts: list[_Host] = []
        self.snapshots: dict[int, Snapshot] = {}
        """The latest of each node."""
        self.cuts: dict[int, dict[int, Snapshot]] = {}
        self.models: dict[int, torch.Tensor] = {}
        self.averages: dict[int, Average] = {}
        self.interrupted = False
        self._first: dict[int, Snapshot] = {}
        if checkpoint is not None:
            self._first = dict(enumerate(unpack(checkpoint)))
            self.snapshots = dict(self._first)
        self._rounds_of = [self._first[n].completed if n in self._first else 0 for n in range(self.size)]
        self._last_rows: dict[int, Sequence[Any]] = {}
        self._losses: dict[int, float] = {}
        self._commits = 0
        self._accuracy: float | None = None
        self._shown = 0.0
        self._snapshots_since = 0
        self._time = 0.0
        self._began = 0.0
        self._elapsed = max((s.clock for s in self._first.values()), default=0.0)
        self._failure: CoveyError | None = None
        self._changed = asyncio.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="covey-")
        self._token, self._certificates = settings.trust()
        self._tasks: set[asyncio.Task[None]] = set()
        """What brings hosts back, and makes faults strike them."""

    # ------------------------------------------------------------------ from beginning to end

    async def run(self) -> Outcome:
        """Run the experiment to its end, or until it is interrupted.

        Raises:
            CoveyError: why it cannot go on.
        """
        loop = asyncio.get_running_loop()
        catches = threading.current_thread() is threading.main_thread() and os.name != "nt"
        if catches:
            main = asyncio.current_task()
            assert main is not None

            def on_interrupt() -> None:
                if self.interrupted:
                    main.cancel()
                else:
                    self.interrupted = True
                    self._changed.set()

            loop.add_signal_handler(signal.SIGINT, on_interrupt)
        try:
            await self._start()
            await self._watch()
            return await self._end()
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            if catches:
                loop.remove_signal_handler(signal.SIGINT)
            await self._stop_processes()
            self._folder.cleanup()

    async def _start(self) -> None:
        """Start or call all hosts, and let them begin."""
        count = max(self.owners) + 1
        nodes: list[list[int]] = [[] for _ in range(count)]
        for node, owner in enumerate(self.owners):
            nodes[owner].append(node)
        if self.settings.hosts:
            addresses = [Address.parse(text) for text in self.settings.hosts]
            self.hosts = [_Host(number, nodes[number], addresses[number]) for number in range(count)]
        else:
            token_file = Path(self._folder.name) / "token"
            token_file.touch(mode=0o600)
            token_file.write_bytes(self._token)
            for number in range(count):
                listening = Address("127.0.0.1", 0).listen()
                host = _Host(number, nodes[number], Address.of(listening), listening)
                self.hosts.append(host)
                self._spawn(host)
        late = asyncio.get_running_loop().time() + self.settings.wait
        ready = [asyncio.create_task(self._prepare(host, late, returning=False)) for host in self.hosts]
        try:
            await asyncio.wait(ready, return_when=asyncio.FIRST_EXCEPTION)
            for task in ready:
                if task.done():
                    task.result()
        finally:
            for task in ready:
                task.cancel()
            await asyncio.gather(*ready, return_exceptions=True)
        self._began = monotonic() - self._elapsed
        for host in self.hosts:
            self._go(host, returning=False)
        self._later(self._follow_faults())

    def _later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _spawn(self, host: _Host) -> None:
        """Start a process that is a host of this machine."""
        logs = Path(self._folder.name) if self.writer is None else self.writer.logs()
        command = [sys.executable, "-m", "covey", "host", "--socket", str(host.listening.fileno()), "--once"]
        command += ["--token-file", str(Path(self._folder.name) / "token")]
        paths = [path for path in sys.path if path]
        with open(logs / f"host-{host.number}.log", "ab") as output:
            host.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[host.listening.fileno()],
                env={**_ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *paths])},
                start_new_session=True,
            )

    async def _prepare(self, host: _Host, late: float, *, returning: bool) -> None:
        """Call a host, tell it what to do, and wait until it has made ready."""
        try:
            async with asyncio.timeout_at(late):
                connection = await self._reach(host)
                connection.refused = lambda reason: self._fail(
                    RunError(f"Host {host.number} at {host.address} sends what is no frame ({reason}).")
                )
                host.connection, host.ready, host.done = connection, asyncio.get_running_loop().create_future(), False
                connection.listen(lambda frame: self._hear(host, frame), wire.DEFAULT)
                connection.lost.add_done_callback(lambda _: self._on_lost(host, connection))
                host.problem = "it does not become ready"
                say(connection, "orders", {"orders": msgspec.msgpack.encode(self._orders(host))})
                await host.ready
        except TimeoutError:
            self._missing()
        mine = {node: self.snapshots[node] for node in host.nodes if node in self.snapshots}
        if returning:
            mine = {node: self._snapshot_of(node) for node in host.nodes}
            for node, snapshot in mine.items():
                self._count_on(snapshot, self._last_rows.get(node))
        for node, snapshot in mine.items():
            say(connection, "restore", {"nodes": [node], **pack([snapshot])})
            await connection.has_room()

    async def _reach(self, host: _Host) -> Connection:
        """Call a host until it answers.

        Raises:
            RunError: it is not to be expected that it ever will.
        """
        while True:
            self._check_alive(host)
            connection = greeting = None
            try:
                connection = await open_connection(host.number, host.address, self._certificates, lambda reason: None)
                greeting = asyncio.create_task(greet(connection, self._token, Caller(self.run_name, LAUNCHER)))
                while not greeting.done():
                    # A process that imports torch takes seconds to answer; one that died never does.
                    await asyncio.wait([greeting], timeout=0.1)
                    self._check_alive(host)
                greeting.result()
                return connection
            except BaseException as error:
                if greeting is not None:
                    greeting.cancel()
                if connection is not None:
                    connection.abort()
                if isinstance(error, WireError):
                    host.problem = self._told(error)
                    if error.reason not in _PASSING:
                        raise RunError(f"Host {host.number} at {host.address}: {host.problem}.") from error
                elif isinstance(error, OSError):
                    refused = isinstance(error, ConnectionRefusedError)
                    host.problem = "nobody listens there" if refused else str(error) or "it does not answer"
                else:
                    raise
            await asyncio.sleep(0.1)

    def _told(self, error: WireError) -> str:
        told = f"{error.detail} ({error.reason})"
        if error.reason == "silent" and self._certificates is None and self.settings.hosts:
            told += "; if it has certificates, 'certs' of the engine must name the launcher's"
        return told

    def _snapshot_of(self, node: int) -> Snapshot:
        """The latest of a node; where there is none, that with which it began."""
        if node not in self.snapshots:
            counters = [0] * len([*COMMIT_COLUMNS[_COUNTED], *COMMIT_COLUMNS[_STEPS]])
            model = self.prepared.learner.initial(node)
            self.snapshots[node] = Snapshot(model, completed=0, state={}, slots=None, loss=None, counters=counters)
        return self.snapshots[node]

    @staticmethod
    def _count_on(snapshot: Snapshot, row: Sequence[Any] | None) -> None:
        """What was sent was sent: a node that returns counts on from what it last reported."""
        if row is not None:
            reported = [*row[_COUNTED], *row[_STEPS]]
            snapshot.counters = [max(pair) for pair in zip(snapshot.counters, reported, strict=True)]

    def _check_alive(self, host: _Host) -> None:
        if host.process is not None and host.process.poll() is not None:
            raise RunError(
                f"Host {host.number} ended with status {host.process.returncode} before the run began"
                f"{self._said(host)}."
            )

    def _said(self, host: _Host) -> str:
        """The last line of a host's log."""
        logs = Path(self._folder.name) if self.writer is None else self.writer.logs()
        try:
            lines = (logs / f"host-{host.number}.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f": {lines[-1]}" if lines else ""

    def _missing(self) -> NoReturn:
        # The one whose time is over is among them, as its `ready` was cancelled with that.
        absent = [h for h in self.hosts if not (h.connection and h.ready and h.ready.done()) or h.ready.cancelled()]
        names = ", ".join(f"{h.number} at {h.address} ({h.problem})" for h in absent)
        raise RunError(
            f"{len(absent)} of {len(self.hosts)} hosts are missing after {self.settings.wait:g} seconds: {names}."
        )

    def _orders(self, host: _Host) -> Orders:
        settings = self.settings
        experiment = self.prepared.experiment.to_table()
        del experiment["engine"]  # The launcher alone knows how many hosts there are.
        return Orders(
            experiment=experiment,
            me=host.number,
            owners=self.owners,
            hosts=[str(other.address) for other in self.hosts],
            data=None if settings.hosts else str(self.prepared.data),
            workers=settings.workers_of(len(self.hosts)),
            device=settings.device,
            kernel=settings.kernel,
            chunk=settings.chunk,
            buffer_bytes=settings.buffer << 20,
        )

    def _go(self, host: _Host, *, returning: bool) -> None:
        assert host.connection is not None
        say(host.connection, "go", {"elapsed": monotonic() - self._began, "returning": returning})

    async def _watch(self) -> None:
        """Until all hosts are done, or the run cannot go on, or is interrupted and stopped."""
        stopping = False
        while not all(host.done for host in self.hosts):
            await self._changed.wait()
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            if self.interrupted and not stopping:
                stopping = True
                self._show()
                await self._stop_hosts()

    async def _stop_hosts(self) -> None:
        """Let all nodes stop where the run can be gone on with."""
        for task in self._tasks:
            task.cancel()
        for host in self.hosts:
            host.done |= host.connection is None
        self._changed.set()
        live = [host for host in self.hosts if host.connection is not None and not host.connection.lost.done()]
        if not self.in_step:
            for host in live:
                say(host.connection, "stop", {})  # type: ignore[arg-type]
            return
        for host in live:
            host.held = asyncio.get_running_loop().create_future()
            say(host.connection, "hold", {})  # type: ignore[arg-type]
        await asyncio.wait([host.held for host in live if host.held is not None], timeout=10.0)
        last = max((host.held.result() for host in live if host.held is not None and host.held.done()), default=0)
        for host in live:
            say(host.connection, "park", {"round": last})  # type: ignore[arg-type]

    async def _end(self) -> Outcome:
        """Record what is left and let the hosts go."""
        for completed in sorted(self.averages):
            self._close_average(completed)
        ended = [snapshot.ended for snapshot in self.snapshots.values()]
        limit = self.prepared.experiment.duration
        finished = (len(ended) == self.size and all(ended)) or (limit is not None and self._time >= limit)
        finished = finished or not self.interrupted
        if not finished and self.writer is not None:
            self._write_checkpoint(self.snapshots)
        for host in self.hosts:
            if host.connection is not None:
                say(host.connection, "bye", {})
                host.connection.close()
        if self.writer is not None:
            self.writer.flush()
        self._show()
        first = self.prepared.learner.first_model.cpu()
        models = [self.models.get(node, first) for node in range(self.size)]
        return Outcome(finished=finished, time=self._time, models=torch.stack(models))

    async def _stop_processes(self) -> None:
        for task in self._tasks:
            task.cancel()
        for host in self.hosts:
            if host.connection is not None:
                host.connection.close()
        late = monotonic() + 5.0
        for host in self.hosts:
            if host.process is not None:
                while host.process.poll() is None and monotonic() < late:
                    await asyncio.sleep(0.02)
                if host.process.poll() is None:
                    host.process.kill()
                    host.process.wait()
            if host.listening is not None:
                host.listening.close()

    # ------------------------------------------------------------------ what hosts say

    def _hear(self, host: _Host, frame: wire.Frame) -> None:
        try:
            getattr(self, f"_hear_{frame.tag}", self._hear_other)(host, frame)
        except CoveyError as error:
            self._fail(error)
        except Exception as error:
            self._fail(RunError(f"Host {host.number} says what cannot be understood: {errors.told(error)}."))

    def _fail(self, error: CoveyError) -> None:
        self._failure = self._failure or error
        for host in self.hosts:
            if host.ready is not None and not host.ready.done():
                host.ready.set_exception(error)
        self._changed.set()

    def _hear_other(self, host: _Host, frame: wire.Frame) -> None:
        raise RunError(f"Host {host.number} says {frame.tag!r}, which nobody understands.")

    def _check_own(self, host: _Host, nodes: Sequence[int]) -> None:
        for node in nodes:
            if not (0 <= node < self.size and self.owners[node] == host.number):
                raise RunError(f"Host {host.number} speaks for node {node}, which is not its own.")

    def _check_models(self, host: _Host, models: Sequence[torch.Tensor]) -> None:
        if any(model.shape != self.prepared.learner.first_model.shape for model in models):
            raise RunError(f"Host {host.number} reports models of another length.")

    def _hear_ready(self, host: _Host, frame: wire.Frame) -> None:
        here = {
            "parameters": self.prepared.setting.parameters,
            "samples": int(self.prepared.learner.parts.sizes.sum()),
        }
        if dict(frame.payload) != here:
            raise RunError(f"Host {host.number} has other data or another model: {dict(frame.payload)}, not {here}.")
        assert host.ready is not None
        host.ready.set_result(frame)

    def _hear_failed(self, host: _Host, frame: wire.Frame) -> None:
        kind = getattr(errors, str(frame.payload["kind"]), RunError)
        known = isinstance(kind, type) and issubclass(kind, CoveyError) and kind is not WireError
        raise (kind if known else RunError)(str(frame.payload["text"]))

    def _hear_rows(self, host: _Host, frame: wire.Frame) -> None:
        rows: Any = frame.payload["rows"]
        commits, figures, events = msgspec.msgpack.decode(rows, type=_Rows)
        self._check_own(host, [*(row[0] for row in [*commits, *figures]), *(event[1] for event in events)])
        for row in commits:
            node, completed, time, loss = row[:4]
            if completed <= self._rounds_of[node] and node in self._last_rows and self.writer is not None:
                self.writer.forget(node, completed)
            self._rounds_of[node] = completed
            self._last_rows[node] = row
            self._time = max(self._time, time)
            if loss is not None:
                self._losses[node] = loss
        self._commits += len(commits)
        if self.writer is not None:
            self.writer.commits(commits)
            self.writer.metrics(figures)
            for event in events:
                self.writer.event(*event)
        if self.progress is not None and monotonic() - self._shown > 0.1:
            self._show()

    def _hear_average(self, host: _Host, frame: wire.Frame) -> None:
        completed = frame.payload["round"]
        assert isinstance(completed, int)
        if completed not in self.averages:
            keeps = self.prepared.experiment.evaluation.average
            self.averages[completed] = Average(self.prepared.learner, keeps=keeps)
        kept = self.averages[completed]
        kept.merge(frame.payload)
        self._accuracy = kept.accuracy
        if len(kept.accuracies) == len(self.prepared.evaluated):
            self._close_average(completed)

    def _close_average(self, completed: int) -> None:
        learner = self.prepared.learner
        figures = self.averages.pop(completed).figures(
            learner, learner.split("test", samples=self.prepared.experiment.evaluation.samples)
        )
        if self.writer is not None:
            self.writer.metrics([(NETWORK, completed, name, value) for name, value in figures.items()])

    def _hear_snapshots(self, host: _Host, frame: wire.Frame) -> None:
        nodes: Any = frame.payload["nodes"]
        snapshots = unpack(frame.payload)
        self._check_own(host, nodes)
        self._check_models(host, [computed(snapshot.model) for snapshot in snapshots])
        for node, snapshot in zip(nodes, snapshots, strict=True):
            self.snapshots[node] = snapshot
            self._snapshots_since += 1
            if not self.in_step or self.writer is None:
                continue
            if snapshot.ended:
                for cut in self.cuts.values():
                    cut.setdefault(node, snapshot)
            else:
                if snapshot.completed not in self.cuts:
                    self.cuts[snapshot.completed] = {n: s for n, s in self.snapshots.items() if s.ended}
                self.cuts[snapshot.completed][node] = snapshot
        every = self.prepared.experiment.checkpoint.every
        if self.writer is None or not every or self.interrupted:
            return
        if self.in_step:
            for completed in sorted(completed for completed, cut in self.cuts.items() if len(cut) == self.size):
                cut = self.cuts.pop(completed)
                self.cuts = {later: cut for later, cut in self.cuts.items() if later > completed}
                if completed < self.rounds:
                    self._write_checkpoint(cut)
        elif self._snapshots_since >= self.size:
            self._write_checkpoint(self.snapshots)

    def _write_checkpoint(self, snapshots: dict[int, Snapshot]) -> None:
        assert self.writer is not None
        self._snapshots_since = 0
        each = [snapshots[node] if node in snapshots else self._snapshot_of(node) for node in range(self.size)]
        round = max((s.completed for s in each if not s.ended), default=max(s.completed for s in each))
        checkpoint = self.prepared.experiment.checkpoint
        self.writer.checkpoint(round, {"round": round, **pack(each)}, keep=checkpoint.keep)

    def _hear_pulse(self, host: _Host, frame: wire.Frame) -> None:
        said: Any = frame.payload
        figures = msgspec.msgpack.decode(said["figures"], type=dict[str, float])
        if self.writer is not None:
            self.writer.host_figures([(said["time"], host.number, name, value) for name, value in figures.items()])

    def _hear_holds(self, host: _Host, frame: wire.Frame) -> None:
        if host.held is not None and not host.held.done():
            host.held.set_result(int(frame.payload["round"]))  # type: ignore[arg-type]

    def _hear_model(self, host: _Host, frame: wire.Frame) -> None:
        node, model = frame.payload["node"], frame.payload["model"]
        assert isinstance(node, int)
        assert isinstance(model, torch.Tensor)
        self._check_own(host, [node])
        self._check_models(host, [model])
        self.models[node] = model

    def _hear_done(self, host: _Host, frame: wire.Frame) -> None:
        time = frame.payload["time"]
        assert isinstance(time, float)
        if not self.models.keys() >= set(host.nodes):
            raise RunError(f"Host {host.number} is done and has not reported all of its models.")
        host.done = True
        if not self._last_rows:
            self._time = max(self._time, time)
        self._changed.set()

    def _show(self) -> None:
        if self.progress is not None:
            self._shown = monotonic()
            losses = self._losses.values()
            self.progress(
                Progress(
                    rounds=sum(self._rounds_of) / self.size,
                    of=self.rounds,
                    time=self._time,
                    commits=self._commits,
                    loss=sum(losses) / len(losses) if losses else None,
                    accuracy=self._accuracy,
                    clock=self.settings.clock,
                    stopping=self.interrupted,
                )
            )

    # ------------------------------------------------------------------ hosts that die

    def _on_lost(self, host: _Host, connection: Connection) -> None:
        """The connection to a host has ended."""
        if host.connection is not connection or host.done or self._failure is not None:
            return
        host.connection = None
        if host.ready is not None and not host.ready.done():
            host.ready.set_exception(RunError(f"Host {host.number} ended while it made ready{self._said(host)}."))
            return
        if self.writer is not None:
            for node in host.nodes:
                self.writer.event(self._now, node, "left", f"host {host.number} is gone")
        # From now on nodes go through different rounds.
        self.in_step = False
        self._tell_others(host, "gone")
        if host.kills:
            if host.for_good:
                self._give_up(host)
            return
        if host.listening is None or not self.settings.restart or host.restarts >= _RESTARTS:
            self._fail(RunError(f"Host {host.number} at {host.address} is gone{self._said(host)}."))
            return
        host.restarts += 1
        self._later(self._bring_back(host))

    def _tell_others(self, host: _Host, tag: str) -> None:
        for other in self.hosts:
            if other is not host and other.connection is not None:
                say(other.connection, tag, {"host": host.number})

    def _give_up(self, host: _Host) -> None:
        """A host will not come back: its nodes have ended with what they last gave."""
        self.models |= {node: computed(self._snapshot_of(node).model) for node in host.nodes}
        host.done = True
        self._changed.set()

    async def _bring_back(self, host: _Host) -> None:
        """Start a host again, from the last snapshots of its nodes."""
        try:
            if host.listening is not None:
                if host.process is not None:
                    while host.process.poll() is None:
                        await asyncio.sleep(0.02)
                if host.kills:
                    return  # A fault struck it meanwhile, and is not over.
                self._spawn(host)
            await self._prepare(host, asyncio.get_running_loop().time() + self.settings.wait, returning=True)
            self._go(host, returning=True)
            self._tell_others(host, "here")
        except CoveyError as error:
            # A fault may have struck it again; and a host of which others take care may be gone for good.
            if host.for_good or (host.listening is None and not host.kills):
                if self.writer is not None:
                    self.writer.event(self._now, NETWORK, "gone", str(error))
                self._give_up(host)
            elif not host.kills:
                self._fail(error)
            return
        if self.writer is not None:
            for node in host.nodes:
                self.writer.event(self._now, node, "returned", f"with host {host.number}")

    # ------------------------------------------------------------------ faults

    async def _follow_faults(self) -> None:
        """Stop the hosts that faults stop, and note the faults that sites see to."""
        for strike in strikes(self.prepared.experiment.faults, self.prepared.setting):
            await asyncio.sleep(max(strike.start - self._now, 0.0))
            fault = strike.fault
            if isinstance(fault, Kill | Pause):
                if fault.host is not None and strike.end > self._now:
                    self._strike(self.hosts[fault.host], strike)
            elif self.writer is not None:
                self.writer.event(strike.start, NETWORK, fault.kind, strike.in_words())

    @property
    def _now(self) -> float:
        return monotonic() - self._began

    def _strike(self, host: _Host, strike: Strike) -> None:
        """A fault stops a host."""
        if host.done:
            return
        if isinstance(strike.fault, Pause):
            if host.connection is not None:
                say(host.connection, "pause", {"seconds": strike.end - self._now})
            return
        host.kills += 1
        host.for_good |= strike.end == float("inf")
        if host.process is not None:
            host.process.kill()
        elif host.connection is not None:
            say(host.connection, "die", {})
        if host.for_good and host.connection is None:
            self._give_up(host)
        if strike.end < float("inf"):
            self._later(self._return(host, strike.end))

    async def _return(self, host: _Host, time: float) -> None:
        await asyncio.sleep(max(time - self._now, 0.0))
        host.kills -= 1
        if not (host.kills or host.done or host.connection is not None):
            await self._bring_back(host)
