"""A host that strangers, peers and launchers of the test's own talk to."""

import asyncio
import contextlib
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import torch

from covey.learning.node import LearningNode, LearningProgram
from covey.messages import wire
from covey.parts.errors import WireError
from covey.runtime.emulation.host.host import open_connection
from covey.runtime.emulation.host.run import Orders
from covey.runtime.emulation.transport import handshake
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.handshake import LAUNCHER, Caller, greet, say
from covey.runtime.emulation.transport.sealing import Seal
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from tests.conftest import Written, table
from tests.hosts import TOKEN, hosts, token_file

PATIENCE = 0.4
NODES = 3
"""Node 0 is on the host, which has the number 0; the others are on hosts that the tests play."""


class Listens(LearningProgram):
    """Keeps what comes."""

    async def run(self, node: LearningNode) -> None:
        self.heard = []
        async for message in node.messages("x"):
            self.heard.append((message.sender, message.payload))


class Ignores(LearningProgram):
    """Takes nothing of what comes."""

    async def run(self, node: LearningNode) -> None:
        await node.sleep(3600.0)


class Floods(LearningProgram):
    """Sends to node 1 as fast as it can."""

    async def run(self, node: LearningNode) -> None:
        while True:
            for _ in range(20):
                node.send([1], {"x": torch.ones(25_000)}, tag="x")
            await node.sleep(0.001)


def tables(program: str | dict[str, Any] = "tests.strangers:Listens", **changes: Any) -> dict[str, Any]:
    network = {"nodes": NODES, "latency": 0.0, "bandwidth": None}
    return table(program=program if isinstance(program, dict) else {"kind": program}, network=network, **changes)


def serve(tmp_path):
    """A host that waits for callers; in the end it must serve a right launcher."""
    with hosts(1, patience=PATIENCE) as [(host, address)]:
        yield host, address
        eventually(lambda: host._run is None and not host._strangers)
        engine = {"kind": "emulation", "hosts": [str(address)], "token_file": str(token_file(tmp_path)), "wait": "20s"}
        experiment = Experiment.from_table(table(rounds=1, network={"nodes": 2}, engine=engine))
        prepared = prepare(experiment, **experiment.engine.compute_settings())
        assert experiment.engine.execute(prepared, Written()).finished
        prepared.task.close()


def eventually(true, seconds=10.0):
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late, "it did not become true in time"
        time.sleep(0.01)


async def soon(true, seconds=10.0):
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late, "it did not become true in time"
        await asyncio.sleep(0.01)


def within(main, seconds=30):
    """Run a coroutine, but not for ever."""

    async def limited():
        async with asyncio.timeout(seconds):
            return await main

    return asyncio.run(limited())


async def call(address, caller, token=TOKEN, callee=0):
    while True:
        connection = await open_connection(0, address, token, None, lambda reason: None)
        try:
            await greet(connection, token, caller, callee)
            return connection
        except WireError as error:
            connection.abort()
            await connection.lost
            if error.reason != "busy":
                raise


class Control:
    """A launcher that a test plays."""

    def __init__(self, connection):
        self.connection, self.frames = connection, asyncio.Queue()
        connection.listen(self.frames.put_nowait, wire.DEFAULT)

    async def until(self, tag):
        async with asyncio.timeout(20):
            while (frame := await self.frames.get()).tag != tag:
                assert frame.tag != "failed" or tag == "failed", frame.payload
            return frame


def orders(address, table, buffer=1 << 28, others="127.0.0.1:1", change=None):
    hosts = [str(address), *[others] * (NODES - 1)]
    settings = {
        "folders": [],
        "data": None,
        "workers": 1,
        "device": "cpu",
        "kernel": "auto",
        "chunk": 0,
        "buffer_bytes": buffer,
    }
    table = Experiment.from_table(table).to_table()
    del table["engine"]
    for name, value in (change or {}).items():
        table[name] = {**table.get(name, {}), **value}
    return msgspec.msgpack.encode(Orders(experiment=table, owners=list(range(NODES)), hosts=hosts, **settings))


@contextlib.asynccontextmanager
async def running(served, table, **settings: Any) -> AsyncIterator[tuple[Any, Control]]:
    """A run on the host, of which the test is the launcher: (what the host has of it, the launcher)."""
    host, address = served
    control = Control(await call(address, Caller("this run", LAUNCHER)))
    say(control.connection, "orders", {"orders": orders(address, table, **settings)})
    await control.until("ready")
    say(control.connection, "go", {"elapsed": 0.0, "returning": False})
    run = host._run
    await soon(lambda: run.stage.nodes[0].main is not None)
    try:
        yield run, control
    finally:
        control.connection.abort()
        await soon(lambda: host._run is None)


def frame(sender=1, receiver=0, number=0, payload=None, tag="x", round=None):
    numbers = {"sender": sender, "receiver": receiver, "number": number, "round": round}
    return wire.encode_parts({"n": 1} if payload is None else payload, tag=tag, **numbers)


def sealed(parts, seal=None):
    """The bytes of a frame as everybody can seal it; by default it is the first that is said."""
    prefix, *rest = parts
    return zlib.crc32(prefix).to_bytes(4, "little") + prefix + (seal or Seal()).seal(prefix, rest)


class Impostor:
    """A host that holds the token and says what it likes."""

    def __init__(self, says):
        self.says, self.tasks = says, set()

    def __call__(self):
        self.connection = Connection(handshake.LIMITS, print)
        task = asyncio.get_running_loop().create_task(self.talk(self.connection))
        self.tasks.add(task)
        return self.connection

    async def talk(self, connection):
        handshake.welcome(connection, TOKEN, await handshake.admit(connection, TOKEN))
        connection.listen(lambda frame: self.says(connection, frame), wire.DEFAULT)
