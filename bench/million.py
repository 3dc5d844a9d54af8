"""Rounds as arrays against events: processor time and memory of a node, in processes of their own.

`python -m bench.million WAY NODES ROUNDS` measures one of them, such as `arrays 1000000 10`.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare


def tables(way: str, nodes: int, rounds: int) -> dict[str, Any]:
    """An experiment of a model of 650 numbers, a new graph of degree 8 in every round, and 4 samples a node."""
    return {
        "rounds": rounds,
        "program": {"kind": "gossip", "topology": {"kind": "epidemic-oracle", "degree": 8}},
        "task": {
            "dataset": "digits",
            "model": "logistic",
            "batch_size": 4,
            "partition": {"kind": "draws", "per_node": 4},
        },
        "network": {"nodes": nodes, "latency": "10ms"},
        "evaluation": {"every": 0, "nodes": 100},
        "checkpoint": {"every": 0},
        "engine": {"kind": "simulation", "rounds": way},
    }


def peak() -> int:
    """The greatest number of bytes of resident memory of this process so far."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def measure(way: str, nodes: int, rounds: int, workers: int = 1) -> dict[str, float]:
    """The processor seconds before the first round, the microseconds of a node and round, and the peak of memory."""
    began = process_time()
    experiment = Experiment.from_table(tables(way, nodes, rounds))
    prepared = prepare(experiment, workers=workers)
    ready, before = process_time(), peak()
    experiment.engine.execute(prepared)
    spent = process_time() - ready
    return {
        "start": ready - began,
        "microseconds": spent / nodes / rounds * 1e6,
        "peak": peak(),
        "bytes": (peak() - before) / nodes,
    }


def _apart(way: str, nodes: int, rounds: int) -> dict[str, float]:
    """The result of `measure` in a process of its own."""
    command = [sys.executable, "-m", "bench.million", way, str(nodes), str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return dict(json.loads(printed))


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    for nodes, rounds, repeats in ((1000, 10, 3), (10_000, 5, 3), (100_000, 2, 1)):
        pairs = [(_apart("events", nodes, rounds), _apart("arrays", nodes, rounds)) for _ in range(repeats)]
        events, arrays = (min(pair[which]["microseconds"] for pair in pairs) for which in (0, 1))
        detail = (
            f"{events:.1f} against {arrays:.1f} µs of processor time a node and round, one thread, best of {repeats}"
        )
        target = ">= 5" if nodes == 100_000 else ""
        yield [
            f"arrays, {nodes:,} nodes of 650 numbers, degree 8: times faster than events",
            f"{events / arrays:.1f}",
        ] + [
            target,
            detail,
        ]
        bytes_of = [pairs[-1][which]["bytes"] / 1000 for which in (0, 1)]
        detail = f"of events {bytes_of[0]:.1f} KB; a model is 2.6 KB, and arrays keep two"
        yield [f"arrays, {nodes:,} nodes: peak of memory beyond the data, KB a node", f"{bytes_of[1]:.1f}", "", detail]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:]))))
