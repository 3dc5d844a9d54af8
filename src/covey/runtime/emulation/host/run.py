"""A run that a host takes part in: the orders of the launcher, and their execution."""

import asyncio
import logging
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from covey.messages import wire
from covey.parts import kinds
from covey.parts.errors import ConfigurationError, CoveyError, ProgramError, RunError, described
from covey.runtime.emulation.host.heartbeat import heartbeat
from covey.runtime.emulation.host.log import sent_to_launcher
from covey.runtime.emulation.host.stage import HostStage
from covey.runtime.emulation.transport.address import BEHIND, Address
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.handshake import say
from covey.runtime.emulation.transport.peers import Peers
from covey.runtime.experiment import Experiment
from covey.runtime.mail import Held
from covey.runtime.prepared import prepare
from covey.runtime.snapshots import Snapshot, unpack

if TYPE_CHECKING:
    from covey.runtime.emulation.host.host import Host

log = logging.getLogger("covey.host")

_ORDERS = 64
"""The greatest number of waiting frames of the launcher. Until there are fewer, none are read."""
_HEARTBEAT = 1.0
"""Seconds between heartbeats to the launcher."""


class Orders(msgspec.Struct, frozen=True):
    """The orders of a launcher for a host."""

    experiment: dict[str, Any]
    owners: list[int]
    """The host of every node."""
    hosts: list[str]
    """The address of every host."""
    folders: list[str]
    """The folders on this machine with the user's own modules."""
    data: str | None
    workers: int
    device: str
    kernel: str
    chunk: int
    buffer_bytes: int
    """The bytes that may wait in a node's inbox, at its links, and for another host."""
    marks: list[str] = []
    """The mark of the certificate of every host; none if hosts do not move."""

    def check(self, nodes: int, me: int) -> None:
        """Check the orders of one host for a number of nodes.

        Raises:
            RunError: they are inconsistent.
        """
        count, owners = len(self.hosts), set(self.owners)
        if len(self.owners) != nodes or not ({me} <= owners <= set(range(count)) and self.buffer_bytes > 0):
            raise RunError(
                f"The orders of host {me} must name an owner, of {count} hosts, for each of {nodes} nodes, and a "
                f"buffer. Got {len(self.owners)} owners, {min(owners, default=0)} to {max(owners, default=0)}, and "
                f"{self.buffer_bytes} bytes."
            )
        if self.marks and len(self.marks) != count:
            raise RunError(f"The orders of host {me} must have a mark for each of {count} hosts, or none.")


class HostRun:
    """A run that a host takes part in.

    Args:
        host: the host.
        control: the connection to the launcher.
        name: the name of the run.
        me: the number of the host.
    """

    def __init__(self, host: "Host", control: Connection, name: str, me: int) -> None:
        self.host, self.control, self.name, self.me = host, control, name, me
        self.peers: Peers | None = None
        self.stage: HostStage | None = None
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """True if its nodes have begun."""
        self._refused_before = Counter(host.refused)
        self._addresses: list[Address] = []
        self._marks: list[str] = []
        self._frames: asyncio.Queue[wire.Frame] = asyncio.Queue()
        self._dismissed = False
        self._is_private = False
        """True if errors may quote this host's own data, which is not sent."""
        self._nobody_asks = asyncio.Event()
        """Set when the programs of all nodes have ended, so that no more requests can come."""

    @property
    def refused(self) -> Counter[str]:
        """The number of connections and frames that the host has refused during the run, by reason."""
        return self.host.refused - self._refused_before

    def knows(self, who: int) -> bool:
        """True if a number is that of another host of the run."""
        return 0 <= who < len(self._addresses) and who != self.me

    def mark_of(self, who: int) -> str:
        """The mark of the present certificate of another host; nothing if hosts do not move."""
        return self._marks[who] if self._marks else ""

    def _settle(self, hosts: Sequence[str], marks: Sequence[str]) -> None:
        """Take the present addresses of all hosts, and the marks of their certificates."""
        self._addresses, self._marks = [Address.parse(text) for text in hosts], [*marks]

    def _move(self, host: int, address: str, mark: str) -> None:
        """Take the new address of another host, and the mark of its new certificate."""
        if not (self.knows(host) and self._marks):
            raise RunError(f"The launcher moved host {host}, which this host does not know.")
        self._addresses[host], self._marks[host] = Address.parse(address), mark
        if self.peers is not None:
            self.peers.drop(host)  # Nothing is for the old one. The order 'here' follows.

    async def serve(self) -> None:
        """Take part until the run is over or the launcher is lost."""
        with sent_to_launcher(log, self.control) if self.host.sends_log else nullcontext():
            await self._serve()

    async def _serve(self) -> None:
        self.control.refused = self._distrust
        self.control.listen(self._on_frame, wire.DEFAULT)
        work = asyncio.create_task(self._work())
        silence = self.host.silence
        watching = None if silence is None else asyncio.create_task(self._give_up_after(silence))
        try:
            await asyncio.wait([work, self.control.lost], return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not self._dismissed:
                log.warning("the launcher is gone")
        finally:
            if watching is not None:
                watching.cancel()
            work.cancel()
            await asyncio.wait([work])
            error = None if work.cancelled() else work.exception()
            if isinstance(error, CoveyError):
                self._fail(error)
            elif error is not None:
                log.error("failed", exc_info=error)
                self._fail(ProgramError(described(error)))
            if self.stage is not None:
                await self.stage.close(in_peace=self._dismissed)
            self.control.close()

    async def _give_up_after(self, silence: float) -> None:
        """End the connection to a launcher after some seconds of silence."""
        received_at, silent = self.control.received_at, 0.0
        # Time in which this process itself was stopped does not count.
        while silent < silence:
            await asyncio.sleep(min(_HEARTBEAT, silence / 10))
            if self.control.received_at == received_at:
                silent += min(_HEARTBEAT, silence / 10)
            else:
                received_at, silent = self.control.received_at, 0.0
        log.warning("the launcher was silent for %g seconds", silence)
        self.control.abort()

    def _on_frame(self, frame: wire.Frame) -> None:
        if frame.tag == "heartbeat":
            return  # A heartbeat has no content.
        self._dismissed |= frame.tag == "bye"
        self._frames.put_nowait(frame)
        if self._frames.qsize() >= _ORDERS:
            self.control.pause_reading()

    def _distrust(self, reason: str) -> None:
        """End the connection to the launcher, because a frame was damaged and an order is missing."""
        self.host.refused[reason] += 1
        log.error("the launcher sent a damaged frame: %s", reason)
        self.control.abort()

    async def _order(self) -> wire.Frame:
        frame = await self._frames.get()
        self.control.resume_reading()
        return frame

    def _fail(self, error: CoveyError) -> None:
        # An error may quote a file that contains the token.
        text = str(error).replace(self.host.token.decode(errors="replace"), "(the token)")
        log.error("%s", text)
        if self._is_private and not isinstance(error, ConfigurationError):
            named = type(error).__name__
            text = f"Host {self.me} fails with a {named}, whose text may quote its own data: its log has it."
        say(self.control, "failed", {"kind": type(error).__name__, "text": text})

    async def _next(self, *tags: str) -> wire.Frame:
        frame = await self._order()
        if frame.tag not in tags:
            raise RunError(f"The launcher sent {frame.tag!r} instead of one of {', '.join(tags)}.")
        return frame

    async def _work(self) -> None:
        packed: Any = (await self._next("orders")).payload["orders"]
        orders = msgspec.msgpack.decode(packed, type=Orders)
        if "engine" in orders.experiment:
            raise RunError("The orders of a host must not name an engine.")
        for folder in orders.folders:
            kinds.search(folder)
        self._settle(orders.hosts, orders.marks)
        own = str(self._addresses[self.me]) if self.me < len(self._addresses) else ""
        behind = orders.hosts.count(BEHIND + own)
        self.host.expect(len(orders.hosts), behind)
        experiment = Experiment.from_table(orders.experiment)
        self._is_private = experiment.task is not None and experiment.task.is_private and self.host.local is not None
        nodes = [node for node, owner in enumerate(orders.owners) if owner == self.me]
        prepared = await asyncio.to_thread(
            prepare,
            experiment,
            data=None if orders.data is None else Path(orders.data),
            clock="real",
            here=nodes,
            local=self.host.local,
            shipped=self.host.shipped,
            workers=orders.workers,
            device=orders.device,
            kernel=orders.kernel,
            chunk=orders.chunk,
        )
        prepared.task.begin_thread()
        orders.check(prepared.network.nodes, self.me)
        stage = self.stage = HostStage(prepared, nodes, orders.owners, self.me, self.control, orders.buffer_bytes)
        self.peers = stage.peers = Peers(
            self.me,
            orders.owners,
            call=lambda host: self.host.call(host, self._addresses[host], self.mark_of(host)),
            token=self.host.token,
            run=self.name,
            rounds=prepared.experiment.rounds,
            limits=stage.limits,
            most=orders.buffer_bytes,
            deliver=stage.deliver,
            from_host=stage.take_frame,
            refused=stage.refuse,
            broken=stage.break_from,
        )
        stage.say("ready", prepared.task.signature())
        restored: dict[int, Snapshot] = {}
        held = Held([], [])
        while (frame := await self._next("restore", "mail", "go")).tag != "go":
            said: Any = frame.payload
            if frame.tag == "restore":
                restored |= dict(zip(said["nodes"], unpack(said, prepared.task), strict=True))
            else:
                held += msgspec.msgpack.decode(said["held"], type=Held)
        go: Any = frame.payload
        if "hosts" in go:
            self._settle(go["hosts"], go["marks"])
        for gone in go.get("gone", ()):
            self.peers.drop(gone)
        for since, factor in zip(go.get("rates_since", ()), go.get("rate_factors", ()), strict=True):
            stage.task.scale_learning_rate(since, factor)
        for node in stage.nodes.values():
            node.behind = go["returning"]
        stage.begin(go["elapsed"], restored, held, go.get("posted", ()))
        self.begun = True
        log.info("%d nodes begin", len(nodes))
        try:
            async with asyncio.TaskGroup() as tasks:
                reporting = tasks.create_task(stage.recorder.run())
                beating = tasks.create_task(self._heartbeats(stage))
                listening = tasks.create_task(self._obey(stage))
                await stage.over.wait()
                if stage.failure is None and stage.serves:
                    stage.say("serves", {})
                    await self._nobody_asks.wait()
                    stage.end_serving()
                if stage.failure is None:
                    await stage.recorder.finish()
                if stage.failure is not None:
                    raise stage.failure
                for id, node in stage.nodes.items():
                    state = node.state if prepared.keeps_states else {}
                    kept = {f"state/{name}": value for name, value in state.items()}
                    stage.say("learned", {"node": id, **prepared.task.pack([prepared.task.kept(node)]), **kept})
                    await self.control.has_room()
                stage.say("heartbeat", heartbeat(stage, self.refused))
                stage.say("done", {"time": stage.now})
                await listening
                reporting.cancel()
                beating.cancel()
        except* CoveyError as errors:
            raise errors.exceptions[0] from None

    async def _heartbeats(self, stage: HostStage) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT)
            stage.say("heartbeat", heartbeat(stage, self.refused))

    async def _obey(self, stage: HostStage) -> None:
        """Follow the orders of the launcher until the run is over everywhere."""
        while (frame := await self._order()).tag != "bye":
            said: Any = frame.payload
            if frame.tag == "hold":
                stage.say("holds", {"round": stage.hold()})
            elif frame.tag == "keep":
                stage.keep(said["round"])
            elif frame.tag == "cut" and stage.cuts is not None:
                stage.cuts.begin(said["cut"], said["hosts"])
            elif frame.tag == "sampled" and stage.names is not None:
                stage.names.take(said["share"])
            elif frame.tag == "park":
                stage.park_after(int(said["round"]), for_good=bool(said.get("last")))
            elif frame.tag == "rate":
                stage.task.scale_learning_rate(int(said["round"]), float(said["factor"]))
            elif frame.tag == "stop":
                stage.stop_now(for_good=bool(said.get("last")))
                self._nobody_asks.set()
            elif frame.tag == "enough":
                self._nobody_asks.set()
            elif frame.tag == "gone" and self.peers is not None:
                self.peers.drop(said["host"])
                stage.lose(said["host"])
            elif frame.tag == "moved":
                self._move(int(said["host"]), str(said["address"]), str(said["mark"]))
            elif frame.tag == "here" and self.peers is not None:
                self.peers.take_up(said["host"])
            elif frame.tag == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif frame.tag == "pause":
                await _stand_still(said["seconds"])
            else:
                raise RunError(f"The launcher sent the unknown order {frame.tag!r}.")


async def _stand_still(seconds: float) -> None:
    """Stop this process for some seconds."""
    # A stopped process cannot wake itself. One script stops and wakes it, so that the wake-up cannot come first.
    me = os.getpid()
    script = f"kill -STOP {me}; sleep {max(seconds, 0.0):.3f}; kill -CONT {me}"
    child = partial(subprocess.run, stdin=subprocess.DEVNULL, start_new_session=True)
    await asyncio.to_thread(child, ["sh", "-c", script])
