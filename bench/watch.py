"""The live page: does it delay the runs that it shows, and how much memory does its server take?"""

import json
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

WATCHERS, RUNS, TURNS = 10, 50, 5

WRITE = r"""
import sys
from pathlib import Path
from time import perf_counter
from covey.runtime.runs import RunWriter
tables = {"name": "x", "seed": 1, "rounds": 1000, "program": {"kind": "x"}, "task": {}}
facts = {"program": "x", "nodes": 100, "started": "2026-01-01T00:00:00+00:00"}
writer = RunWriter.create(Path(sys.argv[1]), tables, facts)
print("begun", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    begin, round = perf_counter(), 0
    while perf_counter() - begin < 2.0:
        round += 1
        writer.commits([(n, round, float(round), 1.0, *[round] * 9, *[0.0] * 4) for n in range(100)])
        writer.metrics([(n, round, "accuracy", 0.5) for n in range(100)])
        writer.flush()
    print(100 * round / (perf_counter() - begin), flush=True)
    sys.stdin.readline()
writer.finish("finished", {})
"""
"""A writer that prints its commits per second after each line that it reads."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """The address and the process of a server of the page."""
    command = [sys.executable, "-m", "covey", "watch", str(folder), "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    (origin,) = re.findall(r"http://[\d.:]+", server.stderr.readline())
    try:
        yield origin, server.pid
    finally:
        server.terminate()
        server.wait()


@contextmanager
def watching(origin: str, count: int) -> Iterator[None]:
    """Readers of the first run's stream within the context."""
    id = json.load(urllib.request.urlopen(f"{origin}/api/runs"))["ids"][0]
    streams = [urllib.request.urlopen(f"{origin}/api/run/{id}/stream?figures=accuracy") for _ in range(count)]
    over = threading.Event()

    def follow(stream: object) -> None:
        while not over.is_set() and stream.readline():  # type: ignore[attr-defined]
            pass

    readers = [threading.Thread(target=follow, args=(stream,), daemon=True) for stream in streams]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        over.set()
        for stream in streams:
            stream.fp.raw._sock.shutdown(2)
        for reader in readers:
            reader.join()


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE, folder / "runs" / "run", str(2 * TURNS)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()

        def rate() -> float:
            writer.stdin.write("\n")
            writer.stdin.flush()
            return float(writer.stdout.readline())

        alone, watched = [], []
        for _ in range(TURNS):
            alone.append(rate())
            with serving(folder / "runs") as (origin, _), watching(origin, WATCHERS):
                watched.append(rate())
        writer.stdin.close()
        writer.wait()
        ratio = median(after / before for before, after in zip(alone, watched, strict=True))
        detail = f"{median(watched):,.0f} against {median(alone):,.0f} commits/s, in turn; 2 cores"
        yield [
            f"commits per second with {WATCHERS} watchers: share of those without",
            f"{ratio:.2f}",
            ">= 0.95",
            detail,
        ]
        for number in range(RUNS):
            arguments = [sys.executable, "-c", WRITE, folder / "many" / f"run-{number}", "0"]
            subprocess.run(arguments, input="\n", text=True, check=True, stdout=subprocess.DEVNULL)
        with serving(folder / "many") as (origin, process):
            shown = json.load(urllib.request.urlopen(f"{origin}/api/runs"))
            assert len(shown["ids"]) == RUNS
            status = Path(f"/proc/{process}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1000  # type: ignore[index]
        yield [
            f"peak memory of the server of {RUNS} runs: MB",
            f"{peak:.0f}",
            "< 120",
            "without torch, pandas and matplotlib",
        ]
