"""Real processes: against simulation on the same work, bytes through sockets, memory, start-up, a thousand nodes."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import tomli_w
import torch

from covey.messages import wire
from covey.parts.errors import RunError
from covey.runtime.emulation.transport.connection import Connection, readdressed
from covey.runtime.runs import Run

MEGABYTES = 512
BLOCK = 1 << 20


def experiment(nodes: int, rounds: int, task: dict[str, Any], **engine: Any) -> dict[str, Any]:
    """Gossip on a 4-regular graph, trained as fast as it goes."""
    return {
        "rounds": rounds,
        "program": {"kind": "gossip", "topology": {"kind": "random-regular", "degree": 4}},
        "task": {"optimizer": {"kind": "sgd", "lr": 0.05}, **task},
        "network": {"nodes": nodes, "compute": 1e9},
        "evaluation": {"every": 0, "nodes": 1, "samples": 100, "average": False},
        "engine": {"kind": "emulation", **engine},
    }


DIGITS = {"dataset": "digits", "model": "logistic", "batch_size": 4, "partition": "iid"}
IMAGES = {"kind": "synthetic-images", "samples": 6400, "test_samples": 100}
MLP = {"dataset": {**IMAGES, "channels": 1, "side": 28}, "model": "mlp", "batch_size": 8, "local_steps": 10}
GN_LENET = {"dataset": {**IMAGES, "channels": 3, "side": 32}, "model": "gn-lenet", "batch_size": 8, "local_steps": 3}


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    for name, nodes, rounds, task in (("logistic", 64, 40, DIGITS), ("MLP 784-128-10", 64, 6, MLP)):
        real, virtual = (
            _seconds_of_rounds(experiment(nodes, rounds, task), kind) for kind in ("emulation", "simulation")
        )
        work = nodes * rounds
        detail = f"{work / real:,.0f} against {work / virtual:,.0f} node-rounds/s in rounds, without start-up"
        yield [
            f"emulation, {name}, {nodes} nodes, 2 processes: time over simulation's",
            f"{real / virtual:.2f}",
            "",
            detail,
        ]
    yield from _throughput()
    yield from _sixteen()
    yield from _thousand()


def _run(folder: str, tables: dict[str, Any], name: str = "run") -> subprocess.Popen[bytes]:
    file = Path(folder) / f"{name}.toml"
    file.write_text(tomli_w.dumps(tables))
    command = [sys.executable, "-m", "covey", "run", str(file), "--out", f"{folder}/{name}", "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _seconds_of_rounds(tables: dict[str, Any], engine: str) -> float:
    """The least of three times between the first commit of any node and the last, scaled to all rounds."""
    best = float("inf")
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            code = (
                "import sys, time, covey, tomllib\n"
                "times = []\n"
                "def note(progress): times.append((time.perf_counter(), progress.commits))\n"
                f"covey.run(tomllib.load(open('{folder}/e.toml', 'rb')), out='{folder}/run', progress=note)\n"
                "first, last = times[0], times[-1]\n"
                "print((last[0] - first[0]) / (last[1] - first[1]) * last[1])\n"
            )
            (Path(folder) / "e.toml").write_text(tomli_w.dumps({**tables, "engine": {"kind": engine}}))
            said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
            best = min(best, float(said))
    return best


# ---------------------------------------------------------------------- bytes through a pair of processes


def _throughput() -> Iterator[list[str]]:
    block = np.zeros(BLOCK, dtype=np.uint8)
    target = np.empty_like(block)
    began = perf_counter()
    for _ in range(MEGABYTES):
        np.copyto(target, block)
    copied = MEGABYTES / (perf_counter() - began)
    pairs = [(_between("frames"), _between("stream")) for _ in range(5)]
    frames, stream = (sorted(found)[2] for found in zip(*pairs, strict=True))
    detail = f"{frames:,.0f} against {stream:,.0f} MB/s, frames of 1 MiB checked and decoded, medians of five"
    yield ["bytes between two processes: share of a bare asyncio stream's", f"{frames / stream:.2f}", ">= 0.7", detail]
    yield ["bytes between two processes: share of a memcpy's", f"{frames / copied:.2f}", "", f"{copied:,.0f} MB/s"]


def _between(kind: str) -> float:
    """Megabytes a second from this process to another."""
    receiver = subprocess.Popen([sys.executable, "-m", "bench.emulation", kind], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    port = int(receiver.stdout.readline())
    began = perf_counter()
    asyncio.run((_send_frames if kind == "frames" else _send_stream)(port))
    spent = perf_counter() - began
    receiver.wait()
    return MEGABYTES * BLOCK / 1e6 / spent


async def _send_stream(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    block = bytes(BLOCK)
    for _ in range(MEGABYTES):
        writer.write(block)
        await writer.drain()
    await reader.readexactly(1)


async def _receive_stream() -> None:
    done = asyncio.Event()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = MEGABYTES * BLOCK
        while left:
            left -= len(await reader.read(BLOCK))
        writer.write(b"!")
        await writer.drain()
        done.set()

    server = await asyncio.start_server(receive, "127.0.0.1", 0, limit=4 * BLOCK)
    print(server.sockets[0].getsockname()[1], flush=True)
    await done.wait()


async def _send_frames(port: int) -> None:
    def refused(reason: str) -> None:
        raise AssertionError(reason)

    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(wire.DEFAULT, refused), "127.0.0.1", port)
    model = torch.zeros(BLOCK // 4)
    for number in range(MEGABYTES):
        # A message to eight receivers is encoded once.
        if number % 8 == 0:
            frame = wire.encode_parts({"model": model}, round=number)
        connection.send(readdressed(frame, number % 8))
        while connection.queued > 4 * BLOCK:
            await asyncio.sleep(0)
    await connection.next_frame(60.0)


async def _receive_frames() -> None:
    done = asyncio.Event()
    count = 0

    def refused(reason: str) -> None:
        raise AssertionError(reason)

    def make() -> Connection:
        connection = Connection(wire.DEFAULT, refused)

        def take(frame: wire.Frame) -> None:
            nonlocal count
            count += 1
            if count == MEGABYTES:
                connection.send(wire.encode_parts({}))
                asyncio.get_running_loop().call_later(0.2, done.set)

        connection.listen(take, wire.DEFAULT)
        return connection

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await done.wait()


# ---------------------------------------------------------------------- memory, start-up, many nodes


def _sixteen() -> Iterator[list[str]]:
    """16 nodes of GN-LeNet in 2 hosts."""
    imports, starts, peaks = [], [], []
    for _ in range(3):
        began = perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imports.append(perf_counter() - began)
        with tempfile.TemporaryDirectory() as folder:
            began = perf_counter()
            run = _run(folder, experiment(16, 20, GN_LENET, nodes_per_process=8))
            started, peak = 0.0, 0
            while run.poll() is None:
                sleep(0.05)
                peak = max(peak, memory_of_all(run.pid))
                if not started and _commits(Path(folder) / "run") >= 16:
                    started = perf_counter() - began
            assert run.returncode == 0
            starts.append(started)
            peaks.append(peak)
    peak = max(peaks) / 1e6
    yield [
        "16 nodes of GN-LeNet in 2 hosts: MB of memory (PSS), launcher included",
        f"{peak:.0f}",
        "<= 700",
        "most of three",
    ]
    ratio = sorted(starts)[1] / sorted(imports)[1]
    detail = f"{sorted(starts)[1]:.2f} s against {sorted(imports)[1]:.2f} s, medians of three"
    yield [
        "16 nodes of GN-LeNet in 2 hosts, to the end of round 1: times `import torch`",
        f"{ratio:.2f}",
        "<= 4",
        detail,
    ]


def _thousand() -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        began = perf_counter()
        run = _run(folder, experiment(1000, 20, DIGITS))
        assert run.wait() == 0
        spent = perf_counter() - began
        commits = len(Run(Path(folder) / "run").commits)
    yield [
        "1,000 nodes of logistic regression on digits, 20 rounds: s",
        f"{spent:.0f}",
        "done",
        f"{commits:,} rounds of nodes",
    ]


def _commits(folder: Path) -> int:
    try:
        return len(Run(folder).commits)
    except RunError:
        return 0  # It has not come so far.


def memory_of_all(process: int) -> int:
    """The proportional memory of a process and those that it started."""
    total = 0
    for number in [process, *_children(process)]:
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def _children(process: int) -> list[int]:
    """The processes that one has started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*"):
        try:
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_children(child)]
        except OSError:
            pass
    return found


if __name__ == "__main__":
    receivers: dict[str, Callable[[], Awaitable[None]]] = {"frames": _receive_frames, "stream": _receive_stream}
    asyncio.run(receivers[sys.argv[1]]())  # type: ignore[arg-type]
