"""Whole processes: memory and start-up."""

import io
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

MEMORY = r"""
import re
from pathlib import Path
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
# The peak of getrusage would be that of the parent if that is greater.
peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
print(peak, prepared.task.learner.layout.size)
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
    yield from _shown()


BEFORE = "22e2d7a"
"""The last revision of which `covey show` imported pandas and scipy."""


def _shown() -> Iterator[list[str]]:
    """CPU time of `covey show`, against that of an earlier revision if its sources are at hand."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = subprocess.run(["git", "archive", BEFORE, "src"], capture_output=True, cwd=Path(__file__).parents[1])
        if sources.returncode:
            return
        with tarfile.open(fileobj=io.BytesIO(sources.stdout)) as archive:
            archive.extractall(folder / "before", filter="data")
        _first_round(folder)
        now, before = [], []
        for _ in range(7):
            now.append(_cpu_of_show(folder / "run", Path(__file__).parents[1] / "src"))
            before.append(_cpu_of_show(folder / "run", folder / "before" / "src"))
        new, old = sorted(now)[3], sorted(before)[3]
        detail = f"{new:.2f} s against {old:.2f} s, medians of seven in turn"
        yield [f"`covey show`, CPU time: over that of revision {BEFORE}", f"{new / old:.2f}", "<= 0.4", detail]


def _cpu_of_show(run: Path, sources: Path) -> float:
    """CPU seconds of the whole process of `covey show`, with the package of some sources."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    command = [sys.executable, "-m", "covey", "show", str(run)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=run)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _first_round(into: Path | None = None) -> float:
    """Seconds from the start of `covey run` to the end of a run of one round, which may be kept in a folder."""
    from covey.cli.demo import experiment

    with tempfile.TemporaryDirectory() as temporary:
        import tomli_w

        folder = into or Path(temporary)
        file = folder / "demo.toml"
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
