"""Shatter with 100 nodes of 16 virtual nodes each: time and memory of a round, against Epidemic Learning."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

NODES, REPEATS = 100, 3
RUN = r"""
import json, re, sys
from pathlib import Path
from time import process_time
import torch
torch.set_num_threads(1)
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World
program, nodes, rounds = json.loads(sys.argv[1])
experiment = Experiment.from_table({
    "rounds": rounds,
    "program": program,
    "task": {"dataset": {"kind": "synthetic-images", "samples": 4000}, "model": "gn-lenet", "batch_size": 8},
    "network": {"nodes": nodes, "latency": "10ms", "bandwidth": "100Mbit/s"},
    "evaluation": {"every": 0, "nodes": 2, "samples": 20},
    "engine": {"kind": "simulation", "workers": 1},
})
prepared = prepare(experiment, **experiment.engine.compute_settings())
world = World(prepared)
began = process_time()
world.begin()
world.run()
# The peak of getrusage would be that of the parent if that is greater.
peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps([process_time() - began, peak]))
"""
EPIDEMIC = {"kind": "gossip", "topology": {"kind": "epidemic-oracle", "degree": 4}}
FOLDED = {"kind": "shatter", "virtual_nodes": 16, "degree": 4}
APART = {**FOLDED, "kind": "shatter-apart"}


def measured(program: dict[str, Any], nodes: int, rounds: int) -> tuple[float, float]:
    """CPU seconds and bytes of a run, in a process of its own."""
    arguments = [sys.executable, "-c", RUN, json.dumps([program, nodes, rounds])]
    seconds, memory = json.loads(subprocess.run(arguments, capture_output=True, check=True).stdout)
    return seconds, memory


def of_a_round(program: dict[str, Any], nodes: int = NODES) -> tuple[float, float]:
    """The least CPU seconds of a round of several runs, and the most memory beyond that of one round."""
    short, long = 2, 6
    found = [(measured(program, nodes, short), measured(program, nodes, long)) for _ in range(REPEATS)]
    return min((b[0] - a[0]) / (long - short) for a, b in found), max(b[1] for _, b in found)


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    (seconds, memory), (folded, held), (apart, _) = map(of_a_round, (EPIDEMIC, FOLDED, APART))
    model = "GN-LeNet, one step of 8"
    yield [
        "Shatter, 100 nodes x 16 virtual nodes: a round over one of Epidemic Learning",
        f"{folded / seconds:.2f}",
        "<= 2",
        f"{folded:.2f} against {seconds:.2f} s of CPU, the least of {REPEATS}; {model}, degree 4",
    ]
    yield [
        "the same, peak memory of the process",
        f"{held / memory:.2f}",
        "<= 1.5",
        f"{held / 1e6:,.0f} against {memory / 1e6:,.0f} MB",
    ]
    yield [
        "the same with virtual nodes apart, time",
        f"{apart / seconds:.2f}",
        "<= 4",
        f"{apart:.2f} against {seconds:.2f} s of CPU",
    ]
