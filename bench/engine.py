"""The engine alone: all of a round but the training, which returns the model that it got."""

from collections.abc import Iterator, Sequence
from time import process_time
from typing import Any

import torch

from covey.learning.jobs import Training
from covey.learning.node import Update
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World


def stub(trainings: Sequence[Training]) -> None:
    """Training that takes no time."""
    for training in trainings:
        training.update = Update(training.start, training.start, 0.0, 1, 1)


UNEVEN = {
    "latency": {"kind": "uniform", "low": "5ms", "high": "50ms"},
    "bandwidth": {"kind": "log-normal", "median": "50Mbit/s", "sigma": 0.5},
    "compute": {"kind": "log-normal", "median": 100, "sigma": 0.5},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "latency alone": {"latency": "10ms"},
    "queues at both ends": {"latency": "10ms", "bandwidth": "100Mbit/s"},
    "queues, all nodes and pairs different": UNEVEN,
}


def microseconds(nodes: int, rounds: int, network: dict[str, Any]) -> float:
    """Of processor time per node and round, with 8 neighbours."""
    experiment = Experiment.from_table(
        {
            "rounds": rounds,
            "program": {"kind": "gossip", "topology": {"kind": "random-regular", "degree": 8}},
            "task": {
                "dataset": {"kind": "gaussian-blobs", "samples": nodes, "features": 8},
                "model": "logistic",
                "batch_size": 1,
            },
            "network": {"nodes": nodes, **network},
            "evaluation": {"every": 0, "nodes": 1, "samples": 1, "average": False},
        }
    )
    prepared = prepare(experiment, workers=1)
    prepared.task.learner.train = stub  # type: ignore[method-assign]
    world = World(prepared)
    world.begin()
    began = process_time()
    world.run()
    return (process_time() - began) / nodes / rounds * 1e6


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    torch.set_num_threads(1)
    for nodes, rounds, repeats, target in ((1000, 10, 8, 60.0), (10_000, 3, 4, 100.0)):
        # In turns, as other work on the machine comes and goes.
        turns = [[microseconds(nodes, rounds, network) for network in NETWORKS.values()] for _ in range(repeats)]
        for name, spent in zip(NETWORKS, zip(*turns, strict=True), strict=True):
            best = min(spent)
            title = f"engine alone, {nodes:,} nodes, 8 neighbours, {name}: µs per node and round"
            yield [title, f"{best:.0f}", f"<= {target:g}", "mixing, byte counting and records included"]
