"""Federated learning: asynchronous servers of many clients.

Times are those of the processor, which other work on the machine changes less.
"""

from collections.abc import Iterator
from time import process_time
from typing import Any

import torch

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
COMPUTE = {"kind": "log-normal", "median": 300, "sigma": 0.5}


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    torch.set_num_threads(1)
    for clients in (1000, 10_000):
        for kind in PROGRAMS:
            yield _server(kind, clients)


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
    """Run a world, and return the seconds in which the server's program ran."""
    seconds, resume = 0.0, SimulatedActivity.resume

    def timed(activity: SimulatedActivity, value: Any = None) -> None:
        nonlocal seconds
        if activity.node.id:
            resume(activity, value)
            return
        began = process_time()
        resume(activity, value)
        seconds += process_time() - began

    world.begin()
    SimulatedActivity.resume = timed  # type: ignore[method-assign]
    try:
        world.run()
    finally:
        SimulatedActivity.resume = resume  # type: ignore[method-assign]
    return seconds
