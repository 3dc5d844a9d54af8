"""Hosts as Ray actors against those of the emulation, and a simulation over actors against threads. Needs Ray."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.emulation import DIGITS, GN_LENET, experiment
from covey import Content, Node, Program

_REPEATED = 3
_NUMBERS = 2_000_000
"""The float32 numbers of a large message: 8 MB."""

# Runs experiments one after the other on a Ray that was started before, and prints, for each, the seconds before the
# first round, those of all rounds, and those of two empty actors of Ray before.
SCRIPT = """
import json, sys, time
import ray, covey

def seconds(tables):
    seen = []
    began = time.perf_counter()
    run = covey.run(tables, progress=lambda progress: seen.append((time.perf_counter(), progress.commits)))
    first, last = seen[0], seen[-1]
    rounds = last[1] / max(last[1] - first[1], 1)
    return first[0] - began, (last[0] - first[0]) * rounds

@ray.remote(num_cpus=1)
class Empty:
    def here(self): return True

if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=256 << 20, log_to_driver=False)
    began = time.perf_counter()
    actors = [Empty.remote() for _ in range(2)]
    ray.get([actor.here.remote() for actor in actors])
    empty = time.perf_counter() - began
    for actor in actors: ray.kill(actor)
    print("FIGURES", json.dumps([empty, [seconds(tables) for tables in json.loads(sys.argv[1])]]))
    ray.shutdown()
"""


class Block(Content):
    numbers: Tensor


class Pouring(Program):
    """Two nodes that send each other a large message in every round."""

    async def run(self, node: Node) -> None:
        other, numbers = 1 - node.id, torch.zeros(_NUMBERS)
        async for t in node.rounds():
            node.send([other], Block(numbers=numbers), round=t)
            await node.receive(round=t, senders=[other])


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    if find_spec("ray") is None:
        return
    lenet = experiment(16, 10, GN_LENET, nodes_per_process=8)
    small = experiment(2, 2, DIGITS, nodes_per_process=1)
    poured = {
        "rounds": 60,
        "program": "bench.cluster:Pouring",
        "network": {"nodes": 2},
        "engine": {"kind": "emulation", "nodes_per_process": 1},
    }
    threads = {**lenet, "engine": {"kind": "simulation", "workers": 2}}
    actors = {**lenet, "engine": {"kind": "simulation", "workers": "ray", "actors": 2, "spread": "always"}}
    measured: list[list[Any]] = []
    empty, torches = [], []
    for _ in range(_REPEATED):
        torches.append(_import_torch())
        began, found = _figures([on_ray(lenet), lenet, on_ray(small), on_ray(poured), poured, actors, threads])
        empty.append(began)
        measured.append(found)
    rounds = [[figures[index][1] for figures in measured] for index in range(7)]
    yield _ratio(
        "cluster, GN-LeNet, 16 nodes, 2 hosts: time of rounds over the emulation's", rounds[0], rounds[1], "<= 1.1"
    )
    ready = min(figures[2][0] for figures in measured) - min(empty)
    detail = f"{ready:.1f} s, without {min(empty):.1f} s of two empty actors; `import torch` {min(torches):.1f} s"
    yield ["cluster, start-up beyond Ray's own, in `import torch`", f"{ready / min(torches):.1f}", "< 3", detail]
    yield _ratio("cluster, messages of 8 MB: time over the emulation's", rounds[3], rounds[4], "")
    yield _ratio("simulation, GN-LeNet: rate over 2 actors by that over 2 threads", rounds[6], rounds[5], ">= 0.9")


def on_ray(tables: dict[str, Any]) -> dict[str, Any]:
    """The same experiment on a cluster."""
    return {**tables, "engine": {**tables["engine"], "kind": "cluster"}}


def _figures(all_tables: list[dict[str, Any]]) -> Any:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(all_tables)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, env=environment,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    return json.loads(line.removeprefix("FIGURES "))


def _import_torch() -> float:
    code = "import time; began = time.perf_counter(); import torch; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _ratio(name: str, one: list[float], other: list[float], target: str) -> list[str]:
    """A row with the median of the ratios of interleaved times."""
    figure = median(a / b for a, b in zip(one, other, strict=True))
    return [name, f"{figure:.2f}", target, f"{min(one):.2f} s against {min(other):.2f} s, interleaved {len(one)} times"]
