"""Federated learning: asynchronous servers of many clients, outputs of many models, sizes of mini-batches.

Times are those of the processor, which other work on the machine changes less.
"""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covey.federated.iprof import TIME, Objective, Profiler
from covey.learning.jobs import Predicting, Predictor
from covey.learning.learner import Learner
from covey.learning.task import LearningTask
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.activity import SimulatedActivity
from covey.runtime.simulation.world import World

UPDATES = 5000
PROGRAMS: dict[str, dict[str, Any]] = {
    "fedasync": {"kind": "fedasync"},
    "fedbuff": {"kind": "fedbuff", "buffer": 10},
}
TASK = {
    "dataset": {"kind": "gaussian-blobs", "samples": 40_000, "test_samples": 60},
    "model": "logistic",
    "batch_size": 8,
    "local_steps": 1,
}
MODELS, QUERIES, TIMES = 20, 8, 15
SMALL, COLOURED = (
    {"kind": "synthetic-images", "samples": 400, "test_samples": 10, **form}
    for form in ({"channels": 1, "side": 28}, {"channels": 3, "side": 32})
)
PREDICTED: dict[str, tuple[Any, Any, str]] = {
    "logistic, 64-10": ("logistic", "digits", ">= 3"),
    "MLP 64-64-10": ({"kind": "mlp", "hidden": [64]}, "digits", ">= 3"),
    "MLP 784-128-10": ({"kind": "mlp", "hidden": [128]}, SMALL, ">= 3"),
    "LeNet-5": ("lenet", SMALL, ">= 1"),
    "GN-LeNet": ("gn-lenet", COLOURED, ">= 1"),
}
"""The model, its data and the target of a prediction."""
COMPUTE = {"kind": "log-normal", "median": 300, "sigma": 0.5}


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    torch.set_num_threads(1)
    for clients in (1000, 10_000):
        for kind in PROGRAMS:
            yield _server(kind, clients)
    for name, (model, dataset, target) in PREDICTED.items():
        yield _prediction(name, LearningTask(dataset=dataset, model=model), target)
    yield _size()


def _server(kind: str, clients: int) -> list[str]:
    """The time of the server's activity for an update, with what it calls of the engine."""
    world = _world(kind, clients)
    began, of_server = process_time(), _run(world)
    seconds, computed = process_time() - began, sum(node.round for node in world.nodes[1:])
    return [
        f"{kind}: the server's time for an update, {clients:,} asynchronous clients",
        f"{of_server / UPDATES * 1e6:.0f} µs",
        "<= 150 µs",
        f"{seconds / computed * 1e6:.0f} µs for one that clients computed, with all of the engine; {UPDATES:,} updates "
        f"of a model of {len(world.nodes[0].model)} numbers",  # type: ignore[attr-defined]
    ]


def _world(kind: str, clients: int) -> World:
    program = PROGRAMS[kind]
    tables = {
        "seed": 1,
        "rounds": UPDATES // program.get("buffer", 1),
        "program": program,
        "task": TASK,
        "network": {"nodes": clients + 1, "latency": "5ms", "bandwidth": None, "compute": COMPUTE},
        "evaluation": {"every": 0},
        "engine": {"kind": "simulation", "workers": 1},
    }
    return World(prepare(Experiment.from_table(tables), workers=1))


def _run(world: World) -> float:
    """Run a world, and return the seconds in which the server's program ran, without trainings."""
    seconds, computing, resume, do_jobs = 0.0, 0.0, SimulatedActivity.resume, world.do_jobs

    def computed() -> None:
        nonlocal computing
        began = process_time()
        do_jobs()
        computing += process_time() - began

    def timed(activity: SimulatedActivity, value: Any = None) -> None:
        nonlocal seconds
        if activity.node.id:
            resume(activity, value)
            return
        began, before = process_time(), computing
        resume(activity, value)
        seconds += process_time() - began - (computing - before)

    world.begin()
    world.do_jobs = computed  # type: ignore[method-assign]
    SimulatedActivity.resume = timed  # type: ignore[method-assign]
    try:
        world.run()
    finally:
        SimulatedActivity.resume = resume  # type: ignore[method-assign]
    return seconds


def _prediction(name: str, task: LearningTask, target: str) -> list[str]:
    """The time of the outputs of many models by a loop over modules, over that of `predict`."""
    data = task.dataset.load(Path())
    learner = Learner(task, data, np.array_split(np.arange(len(data.train)), MODELS), seed=1)
    modules = [learner._make(start).eval() for start in range(MODELS)]
    models = [learner.layout.flatten(module) for module in modules]
    inputs = torch.randn(QUERIES, *data.sample_shape)

    def together() -> Tensor:
        job = Predicting(Predictor(learner), models, inputs)
        learner.predict([job])
        assert job.outputs is not None
        return job.outputs

    @torch.no_grad()
    def loop() -> Tensor:
        return torch.stack([module(inputs) for module in modules])

    difference = float((together() - loop()).abs().max())
    ours, theirs = _in_turns(together, loop)
    return [
        f"predict of {MODELS} models over a loop of modules: times faster, {name}",
        f"{theirs / ours:.2f}",
        target,
        f"{ours * 1e3:.2f} against {theirs * 1e3:.2f} ms; {QUERIES} queries, kernel {learner.kernel_name}, "
        f"outputs equal to {difference:.0e}",
    ]


def _size() -> list[str]:
    """The time in which I-Prof predicts the size of a mini-batch of a known device."""
    profiler, limit = Profiler(), Objective(seconds=3.0)
    devices = [dict.fromkeys(TIME, 0.5 + model / 100) | {"model": f"phone {model}"} for model in range(40)]
    for number, device in zip(range(400), devices * 10, strict=True):
        profiler.observe(device, 100 + number, 2.0 + number % 7)
    turns = count()

    def thousand() -> None:
        for _ in range(1000):
            profiler.predict(devices[next(turns) % len(devices)], limit)

    (spent,) = _in_turns(thousand)
    return ["I-Prof: the size of a mini-batch", f"{spent * 1e3:.1f} µs", "< 20 µs", "a device of 40 known models"]


def _in_turns(*functions: Callable[[], Any]) -> list[float]:
    """The median times of functions that are called in turns."""
    spent: list[list[float]] = [[] for _ in functions]
    for _ in range(TIMES):
        for function, times in zip(functions, spent, strict=True):
            began = process_time()
            function()
            times.append(process_time() - began)
    return [*map(median, spent)]
