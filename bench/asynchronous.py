"""Asynchronous programs: trainings that are computed together, and the cost of a backlog of fragments.

Times are those of the processor, which other work on the machine changes less.
"""

from collections.abc import Iterator, Sequence
from time import process_time
from typing import Any

import numpy as np
import torch

from covey.learning.jobs import Training
from covey.learning.loaded import LoadedLearning
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World

NODES = 100
DIGITS = {
    "seed": 1,
    "rounds": 10_000,
    "task": {"dataset": "digits", "model": {"kind": "mlp", "hidden": [32]}, "batch_size": 8, "local_steps": 4},
    "evaluation": {"every": 0},
    "engine": {"kind": "simulation", "workers": 1},
}
SPEEDS = {"equal": 0.0, "log-normal of sigma 0.3": 0.3, "log-normal of sigma 1": 1.0}
TARGETS = {"equal": ">= 40", "log-normal of sigma 1": ">= 25"}
PROGRAMS = {
    "divshare": {"kind": "divshare", "fanout": 6},
    "ad-psgd": {"kind": "ad-psgd", "topology": "torus"},
    "swarm": {"kind": "swarm"},
}


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    torch.set_num_threads(1)
    for speed, sigma in SPEEDS.items():
        yield _batches(speed, sigma)
    yield _idle()
    yield _backlog()


def _world(program: dict[str, Any], **network: Any) -> World:
    tables = {**DIGITS, "program": program, "network": {"nodes": NODES, "latency": "2ms", **network}}
    return World(prepare(Experiment.from_table(tables), workers=1))


def _batches(speed: str, sigma: float) -> list[str]:
    """The mean number of trainings of DivShare that are computed together, and of other programs."""
    compute = {"kind": "log-normal", "median": 320, "sigma": sigma}
    found = {name: _mean_batch(_world(program, compute=compute)) for name, program in PROGRAMS.items()}
    speeds = _world(PROGRAMS["divshare"], compute=compute).speeds
    most = sum(speeds) / max(speeds)
    detail = ", ".join(f"{name} {batch:.1f}" for name, batch in found.items() if name != "divshare")
    return [
        f"DivShare: trainings computed together, {NODES} nodes, speeds {speed}",
        f"{found['divshare']:.1f}",
        TARGETS.get(speed, ""),
        f"{detail}; at most {most:.1f}, the sum of all speeds over the greatest: the trainings of the fastest "
        "node follow each other",
    ]


def _idle() -> list[str]:
    """The processor's time of gossip learning among idle nodes, and of the same with trainings computed when due."""
    program = {"kind": "gossip-learning", "topology": "complete", "jitter": 0.0}
    may_defer, spent, sizes = LoadedLearning.may_defer, dict[bool, list[float]](), dict[bool, float]()
    for defers in (True, False) * 3:
        LoadedLearning.may_defer = may_defer if defers else lambda task, prepared: False  # type: ignore[method-assign]
        world = _world(program, compute=3200)
        LoadedLearning.may_defer = may_defer  # type: ignore[method-assign]
        began = process_time()
        sizes[defers] = _mean_batch(world, 10.0)
        spent.setdefault(defers, []).append(process_time() - began)
    later, at_once = (min(spent[defers]) for defers in (True, False))
    return [
        f"gossip learning: trainings computed together, {NODES} nodes that are busy for 1 % of the time",
        f"{sizes[True]:.1f}",
        ">= 16",
        f"{sizes[False]:.1f} if each is computed when its time is over, which takes {at_once / later:.1f} times as "
        "long",
    ]


def _mean_batch(world: World, limit: float = 3.0) -> float:
    """The mean number of trainings of a call of the learner, in some rounds of the median node."""
    sizes: list[int] = []
    learner = world.task.learner  # type: ignore[attr-defined]
    train = learner.train

    def counted(trainings: Sequence[Training]) -> None:
        sizes.append(len(trainings))
        train(trainings)

    learner.train, world.limit = counted, limit
    world.begin()
    world.run()
    return float(np.mean(sizes))


def _backlog() -> list[str]:
    """The time of a run whose links carry a quarter of the fragments, over that of one whose links carry all."""
    spent: dict[str, list[float]] = {"50Mbit/s": [], "1Mbit/s": []}
    withdrawn = {}
    for _ in range(3):
        for uplink, times in spent.items():
            world = _world(PROGRAMS["divshare"], compute=320, uplink=uplink)
            world.limit = 1.5
            world.begin()
            began = process_time()
            world.run()
            times.append(process_time() - began)
            withdrawn[uplink] = sum(node.messages_out for node in world.nodes)
    wide, narrow = (min(times) for times in spent.values())
    share = withdrawn["1Mbit/s"] / withdrawn["50Mbit/s"]
    return [
        "DivShare with a backlog over the same run without: processor time",
        f"{narrow / wide:.2f}",
        "<= 1.5",
        f"{NODES} nodes, {narrow:.2f} s and {wide:.2f} s; slow links carry {share:.0%} of the messages",
    ]
