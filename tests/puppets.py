"""A launcher whose hosts are played by the test, which decides what they receive and when."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from covey.messages import wire
from covey.runtime.emulation.launcher.launcher import Launcher
from covey.runtime.emulation.transport import handshake
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.handshake import say
from covey.runtime.experiment import Experiment, Outcome
from covey.runtime.prepared import prepare
from covey.runtime.runs import RunWriter, latest_checkpoint
from covey.runtime.runs.schema import METRICS, NETWORK
from tests.conftest import table
from tests.hosts import TOKEN, answering, token_file
from tests.snapshots import Learned, Snapshot, packed

READY: dict[str, Any] = {}
"""The digests of data and model that a host sends; those of the experiment that was prepared last."""
PARAMETERS = 650
PATIENT = {"kind": "gossip", "topology": "ring", "patience": "60ms"}


async def soon(true, seconds=8.0):
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late, "it did not become true in time"
        await asyncio.sleep(0.005)


def row(node: int, completed: int, time: float = 0.1) -> tuple[Any, ...]:
    return (node, completed, time, 0.5, *[completed] * 9, *[0.0] * 4)


def snapshots(nodes: list[int], completed: int, *, ended: bool = False) -> dict[str, Any]:
    each = [
        Snapshot(completed, {}, Learned(torch.full((PARAMETERS,), float(completed)), None), None, [0] * 9, ended=ended)
        for _ in nodes
    ]
    return {"nodes": nodes, **packed(each)}


def share(completed: int, models: list[float]) -> dict[str, Any]:
    """The share of an average for models that have one number everywhere."""
    return {
        "round": completed,
        "total": torch.full((PARAMETERS,), sum(models), dtype=torch.float64),
        "squares": PARAMETERS * sum(model * model for model in models),
        "count": len(models),
        "accuracies": [0.5] * len(models),
    }


class Puppet:
    """A host with two nodes that sends the messages of the test."""

    def __init__(self, number: int) -> None:
        self.number, self.nodes = number, [2 * number, 2 * number + 1]
        self.listening = Address("127.0.0.1", 0).listen()
        self.address = Address.of(self.listening)
        self.frames: list[wire.Frame] = []
        """The messages of the launcher since the last call."""
        self.calls = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def __call__(self) -> Connection:
        connection = Connection(handshake.LIMITS, print)
        self.tasks.add(asyncio.get_running_loop().create_task(self._admit(connection)))
        return connection

    async def _admit(self, connection: Connection) -> None:
        handshake.welcome(connection, TOKEN, await handshake.admit(connection, TOKEN))
        self.connection, self.frames = connection, []
        self.calls += 1
        connection.listen(self.frames.append, wire.DEFAULT)

    @property
    def tags(self) -> list[str]:
        return [frame.tag for frame in self.frames]

    def said(self, tag: str) -> Any:
        """The last message of the launcher under a tag."""
        return [frame.payload for frame in self.frames if frame.tag == tag][-1]

    async def receives(self, tag: str) -> Any:
        await soon(lambda: tag in self.tags)
        return self.said(tag)

    def say(self, tag: str, payload: dict[str, Any]) -> None:
        say(self.connection, tag, payload)

    def rows(self, commits: Any = (), figures: Any = (), events: Any = ()) -> None:
        self.say("rows", {"rows": msgspec.msgpack.encode((list(commits), list(figures), list(events), []))})

    def heartbeat(self, *, idle: bool = True, waits: Any = (), **figures: float) -> None:
        packed = msgspec.msgpack.encode({name.replace("__", "/"): value for name, value in figures.items()})
        reported = {"acting": 2, "idle": 2 * idle, "waits": list(waits), "evaluates": False}
        self.say("heartbeat", {"time": 1.0, "figures": packed, **reported})

    async def get_ready(self, calls: int = 1) -> None:
        await soon(lambda: self.calls == calls)
        await self.receives("orders")
        self.say("ready", READY)
        await self.receives("go")

    def done(self) -> None:
        for node in self.nodes:
            self.say("learned", {"node": node, "models": torch.zeros(1, PARAMETERS)})
        self.say("done", {"time": 1.0})

    def vanish(self) -> None:
        self.connection.abort()


@dataclass
class Stage:
    """A launcher and its puppets."""

    launcher: Launcher
    puppets: list[Puppet]
    running: "asyncio.Task[Outcome]"
    folder: Path
    notices: list[str]

    async def ends(self) -> Outcome:
        """The run, when its hosts are done."""
        for puppet in self.puppets:
            if not puppet.connection.lost.done():
                puppet.done()
        return await self.running

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of the run's database."""
        assert self.launcher.writer is not None
        self.launcher.writer.flush()
        with contextlib.closing(sqlite3.connect(self.folder / METRICS)) as database:
            return sorted(database.execute(query))

    def commits(self) -> list[tuple[int, int, float]]:
        return self.rows("SELECT node, round, time FROM commits")

    def figures(self, node: int = NETWORK) -> list[tuple[int, str, float]]:
        return self.rows(f"SELECT round, name, value FROM metrics WHERE node = {node}")

    def events(self, *kinds: str) -> list[tuple[int, str]]:
        return [row for row in self.rows("SELECT node, kind FROM events") if row[1] in kinds]

    def checkpoint(self) -> list[int]:
        """The completed rounds of all nodes in the latest checkpoint."""
        found = latest_checkpoint(self.folder)
        assert found is not None
        return found[1]["completed"].tolist()


@contextlib.asynccontextmanager
async def stage(
    folder: Path,
    count: int = 2,
    *,
    checkpoint: Any = None,
    every: int | None = 0,
    keep: int = 2,
    begun: bool = True,
    **changes: Any,
) -> AsyncIterator[Stage]:
    """A launcher that calls hosts which the test plays.

    Args:
        folder: for its files.
        count: of hosts.
        checkpoint: the checkpoint from which the run resumes.
        every: rounds between two checkpoints; None for checkpoints by time.
        keep: the number of kept checkpoints.
        begun: whether to let them begin.
        changes: of the experiment.
    """
    puppets = [Puppet(number) for number in range(count)]
    addresses = [str(puppet.address) for puppet in puppets]
    engine = {"kind": "emulation", "hosts": addresses, "token_file": str(token_file(folder)), "wait": "5s"}
    engine |= changes.pop("engine", {})
    if "faults" in changes:
        changes.setdefault("program", PATIENT)
    base: dict[str, Any] = {"rounds": 40, "network": {"nodes": 2 * count}, "checkpoint": {"keep": keep}}
    if every is not None:
        base["checkpoint"]["every"] = every
    changes = {**base, **changes}
    experiment = Experiment.from_table(table(**changes, engine=engine))
    prepared = prepare(experiment, **experiment.engine.compute_settings())
    READY.update(prepared.task.signature())
    writer = RunWriter.create(folder / "run", experiment.to_table(), {"program": "gossip", "nodes": 2 * count})
    notices: list[str] = []

    def progress(shown):
        if shown.notice is not None:
            notices.append(shown.notice)

    launcher = Launcher(prepared, experiment.engine, writer, progress, checkpoint)
    loop = asyncio.get_running_loop()
    servers = [answering(puppet.listening, puppet) for puppet in puppets]

    async def run() -> Outcome:
        try:
            return await launcher.run()
        except KeyboardInterrupt:
            raise asyncio.CancelledError from None

    running = loop.create_task(run())
    try:
        async with asyncio.timeout(20):
            if begun:
                await asyncio.gather(*(puppet.get_ready() for puppet in puppets))
            yield Stage(launcher, puppets, running, folder / "run", notices)
    finally:
        running.cancel()
        await asyncio.wait([running])
        for server in servers:
            server.close()
        writer.finish("finished", {})
        prepared.task.close()
