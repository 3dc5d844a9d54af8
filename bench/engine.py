"""The engine alone: all of a round but the training, which returns the model that it got."""

from collections.abc import Iterator, Sequence
from time import process_time

import torch

from covey.engines.prepared import prepare
from covey.engines.simulation.world import World
from covey.experiment import Experiment
from covey.node import Update
from covey.task.learner import Training


def stub(trainings: Sequence[Training]) -> None:
    """Training that takes no time."""
    for training in trainings:
        training.update = Update(training.start, training.start, 0.0, 1, 1)


def microseconds(nodes: int, rounds: int, bandwidth: str | None) -> float:
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
            "network": {"nodes": nodes, "latency": "10ms", "bandwidth": bandwidth},
            "evaluation": {"every": 0, "nodes": 1, "samples": 1, "average": False},
        }
    )
    prepared = prepare(experiment, workers=1)
    prepared.learner.train = stub  # type: ignore[method-assign]
    world = World(prepared)
    world.begin()
    began = process_time()
    world.run()
    return (process_time() - began) / nodes / rounds * 1e6


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    torch.set_num_threads(1)
    for nodes, rounds, target in ((1000, 20, 60.0), (10_000, 4, 100.0)):
        for bandwidth, network in ((None, "latency alone"), ("100Mbit/s", "queues at both ends")):
            best = min(microseconds(nodes, rounds, bandwidth) for _ in range(3))
            name = f"engine alone, {nodes:,} nodes, 8 neighbours, {network}: µs per node and round"
            yield [name, f"{best:.0f}", f"<= {target:g}", "mixing, byte counting and records included"]
