"""Noise: rounds of Zip-DL and Muffliato against those of plain gossip, and protected steps against plain ones.

Times are those of the processor, which other work on the machine changes less.
"""

import warnings
from collections.abc import Iterator
from time import process_time
from typing import Any

import torch

from bench.sharing import IMAGES
from covey.learning.noise import Noise
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World

SIZE, NODES, DEGREE, ROUNDS, TIMES = 89_834, 8, 6, 3, 5
SHARINGS: dict[str, dict[str, Any]] = {
    "plain": {"kind": "full"},
    "Zip-DL": {"kind": "zip-dl", "sigma": 0.01},
    "Muffliato": {"kind": "muffliato", "sigma": 0.01},
}


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    torch.set_num_threads(1)
    yield _generator()
    for steps in (1, 3):
        worlds = {name: _prepared({"sharing": sharing}, local_steps=steps) for name, sharing in SHARINGS.items()}
        plain, *noised = _least(worlds).items()
        for name, spent in noised:
            yield [
                f"{name} over plain gossip: a round of GN-LeNet with {steps} local steps",
                f"{spent / plain[1]:.2f}",
                "<= 1.5" if name == "Zip-DL" else "",
                f"{spent * 1e3:.1f} ms a node and round, plain {plain[1] * 1e3:.1f}; batch 32, {DEGREE} neighbours",
            ]
    worlds = {
        "plain": _prepared({}, local_steps=2),
        "protected": _prepared({}, local_steps=2, ldp={"clip": 1.0, "noise": 1.0}),
    }
    plain_step, protected = _least(worlds).values()
    detail = f"{protected * 1e3:.1f} ms a node and round of two steps, plain {plain_step * 1e3:.1f}; batch 32"
    yield ["protected training (ldp) over plain training of GN-LeNet", f"{protected / plain_step:.2f}", "", detail]


def _generator() -> list[str]:
    """The time of normal numbers from a secret key over that of torch's own."""
    stream, out = Noise(bytes(32)), torch.empty(SIZE)
    ours, torchs = [], []
    for _ in range(20):
        began = process_time()
        stream.normal(SIZE)
        between = process_time()
        out.normal_()
        ours.append(between - began)
        torchs.append(process_time() - between)
    each = [min(spent) / SIZE * 1e9 for spent in (ours, torchs)]
    detail = f"{each[0]:.1f} ns a number, torch.normal_ {each[1]:.1f}"
    return ["normal numbers of a ChaCha20 stream over torch.normal_", f"{each[0] / each[1]:.2f}", "", detail]


def _prepared(program: dict[str, Any], **task: Any) -> Any:
    tables = {
        "seed": 1,
        "rounds": ROUNDS,
        "program": {"kind": "gossip", "topology": {"kind": "random-regular", "degree": DEGREE}, **program},
        "task": {"dataset": IMAGES, "model": "gn-lenet", "batch_size": 32, **task},
        "network": {"nodes": NODES},
        "evaluation": {"every": 0, "samples": 1, "average": False},
        "engine": {"kind": "simulation", "workers": 1},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        experiment = Experiment.from_table(tables)
        return prepare(experiment, **experiment.engine.compute_settings())


def _least(setups: dict[str, Any]) -> dict[str, float]:
    """The least seconds of a node and round of each, in turns."""
    spent: dict[str, list[float]] = {name: [] for name in setups}
    for _ in range(TIMES):
        for name, setup in setups.items():
            world = World(setup)
            world.begin()
            began = process_time()
            world.run()
            spent[name].append((process_time() - began) / NODES / ROUNDS)
    for setup in setups.values():
        setup.task.close()
    return {name: min(times) for name, times in spent.items()}
