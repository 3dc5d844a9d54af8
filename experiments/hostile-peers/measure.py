"""The memory of a host while a peer stops reading and floods it, and its time to answer in a flood of calls.

The results are memory.csv, memory.png and flood.csv, beside this file.

A host process serves one node that sends all the time. This script is its launcher, its peer, and a crowd of
silent callers.
"""

import asyncio
import contextlib
import csv
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import torch

from covey import LearningNode, LearningProgram
from covey.messages import wire
from covey.parts.errors import WireError
from covey.runtime.emulation.host.host import open_connection
from covey.runtime.emulation.host.run import Orders
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.handshake import LAUNCHER, Caller, greet, say
from covey.runtime.experiment import Experiment
from covey.view.figures import save
from covey.view.look import INK, LINES, legend, new_axes, new_figure

HERE = Path(__file__).parent
BUFFER = 64 << 20
STOPS, FLOODS, STRANGERS, READS, ENDS = 5.0, 12.0, 19.0, 26.0, 32.0
NAMES = ["reads", "stops reading", "... and floods", "... and strangers call", "reads again"]
MB = 1e6
CALLS = 20
FLOODS_OF_CALLS = {
    "none": (0, b""),
    "one process, silent": (1, b""),
    "three processes, silent": (3, b""),
    "one process, speaks HTTP": (1, b"GET / HTTP/1.1"),
    "one process, knocks without the token": (1, b"CVYK" * 12),
}
FLOOD = """
import contextlib, socket, sys, time
from collections import deque
port, said, calls, kept, began = int(sys.argv[1]), sys.argv[2].encode(), 0, deque(), time.monotonic()
with contextlib.suppress(KeyboardInterrupt):
    while True:
        caller = socket.socket()
        caller.setblocking(False)
        with contextlib.suppress(OSError):
            caller.connect_ex(("127.0.0.1", port))
            caller.send(said)
        kept.append(caller)
        calls += 1
        if len(kept) > 400:
            kept.popleft().close()
print(calls / (time.monotonic() - began))
"""
"""Calls as fast as it can, says something or nothing, and keeps 400 calls open."""


class Sends(LearningProgram):
    """Sends node 1 models of 400 kB all the time, and takes nothing of what comes."""

    async def run(self, node: LearningNode) -> None:
        while True:
            node.send([1], {"model": torch.ones(100_000)}, tag="model")
            await node.sleep(0.01)


async def main() -> None:
    async with serving() as (address, token, process):
        rows = await measure(address, token, process)
    write("memory.csv", rows)
    draw(rows)
    write("flood.csv", [await flooded(name, *flood) for name, flood in FLOODS_OF_CALLS.items()])


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[Address, bytes, int]]:
    """A host: where it is, its token and its process."""
    with tempfile.TemporaryDirectory() as folder, Address("127.0.0.1", 0).listen() as listening:
        token = Path(folder) / "token"
        token.touch(mode=0o600)
        token.write_bytes(secrets.token_hex(32).encode())
        command = [sys.executable, "-m", "covey", "host", "--socket", str(listening.fileno())]
        paths = os.pathsep.join([str(HERE), *(path for path in sys.path if path)])
        process = subprocess.Popen(
            [*command, "--token-file", str(token)],
            pass_fds=[listening.fileno()],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Address.of(listening), token.read_bytes(), process.pid
        finally:
            process.kill()
            process.wait()


def write(name: str, rows: list[dict[str, Any]]) -> None:
    with open(HERE / name, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[-1]), restval=0, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


async def flooded(name: str, processes: int, said: bytes) -> dict[str, Any]:
    """The time until another host of the run has its answer while processes call as fast as they can."""
    async with serving() as (address, token, _):
        await answered(address, token)
        floods = [
            subprocess.Popen([sys.executable, "-c", FLOOD, str(address.port), said], stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        await asyncio.sleep(1.0)
        seconds = sorted([await answered(address, token) for _ in range(CALLS)])
        calls = 0.0
        for each in floods:
            each.send_signal(signal.SIGINT)
            calls += float(each.communicate()[0])
    row = {"flood": name, "calls per second": round(calls)}
    return row | {"seconds, median": round(seconds[CALLS // 2], 3), "seconds, most": round(seconds[-1], 3)}


async def answered(address: Address, token: bytes) -> float:
    """The seconds until a caller with the secret is refused because the host has no such run."""
    began = monotonic()
    while True:
        with contextlib.suppress(OSError):
            connection = await open_connection(0, address, token, None, lambda reason: None)
            try:
                await greet(connection, token, Caller("a run", 1), 0)
            except WireError as error:
                if error.reason == "wrong-run":
                    return monotonic() - began
            finally:
                connection.abort()


async def call(address: Address, token: bytes, who: int) -> Connection:
    while True:
        connection = await open_connection(0, address, token, None, print)
        try:
            await greet(connection, token, Caller("measured", who), 0)
            return connection
        except Exception:
            connection.abort()
            await asyncio.sleep(0.05)


async def measure(address: Address, token: bytes, process: int) -> list[dict[str, float]]:
    """The memory, queue and inbox of the host, ten times a second."""
    task = {"dataset": "digits", "model": "logistic", "optimizer": {"kind": "sgd", "lr": 0.1}}
    table = {"rounds": 1, "program": {"kind": "measure:Sends"}, "task": task, "network": {"nodes": 2}}
    experiment = Experiment.from_table(table).to_table()
    del experiment["engine"]
    hosts, compute = (
        [str(address), "127.0.0.1:1"],
        {"folders": [], "data": None, "workers": 1, "device": "cpu", "kernel": "auto", "chunk": 0},
    )
    orders = Orders(experiment=experiment, owners=[0, 1], hosts=hosts, buffer_bytes=BUFFER, **compute)
    control = await call(address, token, LAUNCHER)
    ready, figures = asyncio.Event(), {}

    def hear(frame: wire.Frame) -> None:
        if frame.tag == "ready":
            ready.set()
        elif frame.tag == "pulse":
            figures.update(msgspec.msgpack.decode(frame.payload["figures"]))

    control.listen(hear, wire.DEFAULT)
    say(control, "orders", {"orders": msgspec.msgpack.encode(orders)})
    await ready.wait()
    say(control, "go", {"elapsed": 0.0, "returning": False})
    peer = await call(address, token, 1)
    peer.listen(lambda frame: None, wire.DEFAULT)
    began, rows = monotonic(), []
    tasks = [asyncio.create_task(misbehave(peer, began)), asyncio.create_task(crowd(address, began))]
    while (time := monotonic() - began) < ENDS:
        resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        row = {"seconds": round(time, 2), "resident": resident, "files": len(os.listdir(f"/proc/{process}/fd"))}
        names = ("send_queue", "inboxes", "dropped/queue-full", "dropped/inbox-full", "dropped/too-many-strangers")
        rows.append(row | {name: int(figures.get(name, 0)) for name in names})
        await asyncio.sleep(0.1)
    for each in tasks:
        each.cancel()
    peer.abort()
    control.abort()
    return rows


async def misbehave(peer: Connection, began: float) -> None:
    """Stop reading, then flood, then read again."""
    await asyncio.sleep(STOPS - (monotonic() - began))
    peer.pause_reading()
    await asyncio.sleep(FLOODS - (monotonic() - began))
    sequence = 0
    while monotonic() - began < READS:
        if peer.queued < 1 << 20:
            payload = {"model": torch.ones(25_000)} if sequence % 2 else {"n": sequence}
            peer.send(wire.encode_parts(payload, tag="model", sender=1, sequence=sequence))
            sequence += 1
        await asyncio.sleep(0 if sequence % 10 else 0.005)
    peer.resume_reading()


async def crowd(address: Address, began: float) -> None:
    """Two hundred callers a second that say nothing, none of which is kept longer than a second."""
    await asyncio.sleep(STRANGERS - (monotonic() - began))
    callers: list[socket.socket] = []
    while monotonic() - began < READS:
        for _ in range(20):
            stranger = socket.socket()
            stranger.setblocking(False)
            with contextlib.suppress(OSError):
                stranger.connect_ex((address.host, address.port))
            callers.append(stranger)
        while len(callers) > 400:
            callers.pop(0).close()
        await asyncio.sleep(0.1)
    for stranger in callers:
        stranger.close()


def draw(rows: list[dict[str, float]]) -> None:
    """The figure."""
    figure = new_figure((7.0, 4.2))
    axes = new_axes(figure)
    seconds = [row["seconds"] for row in rows]
    first = rows[0]["resident"]
    drawn = {
        "memory beyond the first moment's": [(row["resident"] - first) / MB for row in rows],
        "queue to the peer": [row["send_queue"] / MB for row in rows],
        "inbox": [row["inboxes"] / MB for row in rows],
    }
    handles = [
        axes.plot(seconds, values, color=colour, linewidth=1.8)[0]
        for values, colour in zip(drawn.values(), LINES, strict=False)
    ]
    handles.append(axes.axhline(BUFFER / MB, color=INK, linewidth=1.0, linestyle=":"))
    top = max(max(values) for values in drawn.values()) * 1.18
    moments = [0.0, STOPS, FLOODS, STRANGERS, READS, ENDS]
    for moment, end, name in zip(moments[:-1], moments[1:], NAMES, strict=True):
        axes.axvline(moment, color=INK, linewidth=0.6, alpha=0.4)
        axes.text((moment + end) / 2, top * 0.99, name, ha="center", va="top", fontsize=7.5, color=INK)
    axes.set_xlim(0, ENDS)
    axes.set_ylim(0, top)
    axes.set_xlabel("seconds")
    axes.set_ylabel("MB")
    legend(figure, handles, [*drawn, "buffer"])
    save(figure, HERE / "memory.png")


if __name__ == "__main__":
    asyncio.run(main())
