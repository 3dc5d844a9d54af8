"""Whole processes: memory and start-up."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

MEMORY = """
import resource
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World
from covey.runtime.experiment import Experiment
import torch
torch.set_num_threads(1)
experiment = Experiment.from_table({
    "rounds": 3,
    "program": {"kind": "gossip", "topology": {"kind": "random-regular", "degree": 4}},
    "task": {"dataset": {"kind": "synthetic-images", "samples": 8000}, "model": "gn-lenet", "batch_size": 2},
    "network": {"nodes": 1000, "latency": "10ms", "bandwidth": "100Mbit/s"},
    "evaluation": {"every": 0, "nodes": 8, "samples": 50},
})
prepared = prepare(experiment, **experiment.engine.compute_settings())
world = World(prepared)
world.begin()
world.run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, prepared.task.learner.layout.size)
"""


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    peak, parameters = map(int, _output([sys.executable, "-c", MEMORY]).split())
    floor = 1000 * parameters * 4
    bound = 2.5 * floor + 600e6
    detail = f"{peak / 1e6:,.0f} MB; 2.5 x nodes x parameters x 4 bytes + 600 MB is {bound / 1e6:,.0f} MB"
    yield ["peak memory, 1,000 nodes of GN-LeNet: share of the bound", f"{peak / bound:.2f}", "<= 1", detail]
    imports, demos = [], []
    for _ in range(5):
        began = perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imports.append(perf_counter() - began)
        demos.append(_first_round())
    ratio = sorted(demos)[2] / sorted(imports)[2]
    detail = f"{sorted(demos)[2]:.2f} s against {sorted(imports)[2]:.2f} s, medians of five"
    yield ["`covey run` of the demo to the end of round 1: times `import torch`", f"{ratio:.2f}", "<= 2", detail]


def _first_round() -> float:
    """Seconds from the start of `covey run` to the end of a run of one round."""
    from covey.cli.demo import experiment

    with tempfile.TemporaryDirectory() as folder:
        import tomli_w

        file = Path(folder) / "demo.toml"
        file.write_text(tomli_w.dumps({**experiment("epidemic-learning").to_table(), "rounds": 1}))
        began = perf_counter()
        subprocess.run(
            [sys.executable, "-m", "covey", "run", str(file), "--out", f"{folder}/run", "--json"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return perf_counter() - began


def _output(command: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
