"""Fragments: rounds of systems that send models in parts, against rounds of Epidemic Learning.

Times are those of the processor, taken in turns, and the least of several: other work on the machine changes them less.
"""

import warnings
from collections.abc import Iterator, Mapping
from time import process_time
from typing import Any

import torch

from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World

TURNS = 7
"""The number of times that every case is measured."""
IMAGES = {"kind": "synthetic-images", "samples": 10_000, "test_samples": 50}
MLP = {"dataset": IMAGES, "model": {"kind": "mlp", "hidden": [48]}, "batch_size": 16, "local_steps": 8}
"""An MLP 784-48-10 with 38,170 parameters."""


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    torch.set_num_threads(1)
    yield from _mosaic()


def _mosaic() -> Iterator[list[str]]:
    """A round of Mosaic Learning with 16 fragments, against one fragment."""
    for nodes in (24, 100):
        programs = {fragments: mosaic(fragments) for fragments in (1, 16)}
        spent = seconds({str(k): experiment(program, nodes) for k, program in programs.items()})
        yield [
            f"Mosaic Learning, {nodes} nodes: a round with K = 16 over one with K = 1",
            f"{spent['16'] / spent['1']:.2f}",
            "<= 1.5",
            f"{spent['16'] * 1e3:.0f} against {spent['1'] * 1e3:.0f} ms; MLP 784-48-10, 8 steps of 16, degree 1",
        ]


def mosaic(fragments: int) -> dict[str, Any]:
    """The program of Mosaic Learning."""
    return {
        "kind": "gossip",
        "topology": {"kind": "mosaic", "degree": 1, "fragments": fragments},
        "sharing": "mosaic",
    }


def experiment(program: Mapping[str, Any], nodes: int, rounds: int = 10, **changes: Any) -> Experiment:
    """A run of a program on the MLP, almost without evaluation."""
    return Experiment.from_table(
        {
            "rounds": rounds,
            "program": dict(program),
            "task": MLP,
            "network": {"nodes": nodes},
            "evaluation": {"every": 0, "nodes": 1, "samples": 1, "average": False},
            **changes,
        }
    )


def seconds(cases: Mapping[str, Experiment]) -> dict[str, float]:
    """The seconds of a round of each case."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(TURNS):
        for name, case in cases.items():
            with warnings.catch_warnings(action="ignore"):
                prepared = prepare(case, workers=1)
            world = World(prepared)
            world.begin()
            began = process_time()
            world.run()
            found[name].append((process_time() - began) / case.rounds)
            prepared.task.learner.close()
    return {name: min(times) for name, times in found.items()}
