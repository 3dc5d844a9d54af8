"""Sharings: what JWINS costs a node beside its training, and partial averages of many nodes together.

Times are those of the processor, which other work on the machine changes less.
"""

import warnings
from collections.abc import Iterator, Sequence
from time import process_time
from typing import Any

import numpy as np
import torch

from bench.loops import Case
from bench.loops import prepared as prepared_case
from bench.mixing import _OneThread
from covey.decentralized.topology import RandomRegular
from covey.learning import mixing
from covey.learning.jobs import Training
from covey.learning.mixture import Mixture, Pull
from covey.learning.node import Update
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import Prepared, prepare
from covey.runtime.simulation.world import World

SIZE, NODES = 89_834, 8
IMAGES = {"kind": "synthetic-images", "samples": 6400, "test_samples": 100, "channels": 3, "side": 32}


SHARINGS = {
    "JWINS": {"kind": "jwins"},
    "JWINS at 20 %": {"kind": "jwins", "budget": 0.2},
    "top-k at 20 %": {"kind": "top-k", "budget": 0.2},
}


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    torch.set_num_threads(1)
    # In turns, as other work on the machine comes and goes; the least of five times each.
    times = [(_local_step(), _sharing({"kind": "full"}), *map(_sharing, SHARINGS.values())) for _ in range(5)]
    step, full, *sparse = (min(spent) for spent in zip(*times, strict=True))
    for name, spent in zip(SHARINGS, sparse, strict=True):
        detail = (
            f"{spent * 1e3:.2f} ms a node and round, of which sharing the whole model takes {full * 1e3:.2f}; "
            f"a step {step * 1e3:.2f} ms; {SIZE:,} parameters, 4 neighbours"
        )
        target = "<= 0.25" if name == "JWINS" else ""
        yield [
            f"{name}: extra time of a round over that of a local step of GN-LeNet",
            _ratio(spent - full, step),
            target,
            detail,
        ]
    yield from _partial_averages()


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.2f}"


def _local_step() -> float:
    """Seconds of one local step of GN-LeNet with a batch of 8, as part of a round of ten."""
    steps = 10
    case = Case("", "gn-lenet", IMAGES, NODES, 8, steps, 1, 0.0)
    setup: Prepared = prepared_case(case)
    assert setup.task.learner.layout.size == SIZE

    spent = []
    for _ in range(4):
        world = World(setup)
        world.begin()
        began = process_time()
        world.run()
        spent.append(process_time() - began)
    setup.task.learner.close()
    return float(np.median(spent[1:])) / NODES / steps


def _sharing(table: dict[str, Any]) -> float:
    """Seconds of a node and round of gossip in which training adds noise and takes next to no time."""
    rounds = 28
    experiment = Experiment.from_table(
        {
            "rounds": rounds,
            "program": {"kind": "gossip", "topology": {"kind": "random-regular", "degree": 4}, "sharing": table},
            "task": {"dataset": IMAGES, "model": "gn-lenet", "batch_size": 8},
            "network": {"nodes": NODES},
            "evaluation": {"every": 0, "nodes": 1, "samples": 1, "average": False},
        }
    )
    with warnings.catch_warnings(action="ignore"):
        prepared = prepare(experiment, workers=1)
    noise = 0.01 * torch.randn(NODES, SIZE, generator=torch.Generator().manual_seed(1))

    def train(trainings: Sequence[Training]) -> None:
        for training in trainings:
            start = training.start
            training.update = Update(start, start + noise[training.holder], 0.0, 1, 1)

    prepared.task.learner.train = train  # type: ignore[method-assign]
    world = World(prepared)
    world.begin()
    began = process_time()
    world.run()
    spent = process_time() - began
    prepared.task.learner.close()
    return spent / NODES / rounds


def _partial_averages() -> Iterator[list[str]]:
    """The partial averages of many nodes computed together, against the same one by one."""
    nodes, draw = 200, np.random.default_rng(1)
    topology = RandomRegular(degree=8)
    topology.ready(Setting(nodes))
    graph = topology.at(0)
    for size in (650, 2048, 8192, SIZE):
        learner = _OneThread(size)
        models = torch.randn(nodes, size).unbind()
        indices = [torch.from_numpy(np.sort(draw.choice(size, size // 5, replace=False))) for _ in models]
        parts = [(at, model[at], 1 / 9) for model, at in zip(models, indices, strict=True)]
        pulls = [[Pull(*parts[sender]) for sender in graph.senders(NodeId(node))] for node in range(nodes)]
        usual, mixing.SMALL = mixing.SMALL, 1 << 40
        together, one_by_one = [], []
        for _ in range(7):
            mixtures = [Mixture([model], [1.0], drawn) for model, drawn in zip(models, pulls, strict=True)]
            again = [Mixture([model], [1.0], drawn) for model, drawn in zip(models, pulls, strict=True)]
            began = process_time()
            mixing.mix(mixtures, learner)  # type: ignore[arg-type]
            between = process_time()
            for mixture in again:
                mixture.tensor()
            together.append(between - began)
            one_by_one.append(process_time() - between)
        mixing.SMALL = usual
        batched, loop = float(np.median(together)), float(np.median(one_by_one))
        detail = (
            f"{batched / nodes * 1e6:.0f} against {loop / nodes * 1e6:.0f} µs a node; 8 neighbours, 20 % of the values"
        )
        yield [f"partial averages, {size:,} parameters: together is faster by", _ratio(loop, batched), "", detail]
