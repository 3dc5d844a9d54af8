"""covey against an idiomatic loop: a Module, a DataLoader and an optimizer for each node, torch's default threads.

Both do the same work with the same batches, and the models at the end are compared.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from covey.learning.batches import plan
from covey.parts import rng
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import Prepared, prepare
from covey.runtime.simulation.world import World


@dataclass
class Case:
    """One comparison."""

    name: str
    model: Any
    dataset: dict[str, Any]
    nodes: int
    batch: int
    steps: int
    rounds: int
    target: float
    """At least so many times faster."""


IMAGES = {"kind": "synthetic-images", "samples": 6400, "test_samples": 100}
CASES = [
    Case("logistic, 64 nodes", "logistic", {**IMAGES, "channels": 1, "side": 28}, 64, 8, 10, 6, 8.0),
    Case("MLP 784-128-10, 64 nodes", "mlp", {**IMAGES, "channels": 1, "side": 28}, 64, 8, 10, 4, 4.0),
    Case("LeNet-5, 64 nodes", "lenet", {**IMAGES, "channels": 1, "side": 28}, 64, 8, 3, 3, 2.0),
    Case("GN-LeNet, 16 nodes", "gn-lenet", {**IMAGES, "channels": 3, "side": 32}, 16, 8, 3, 6, 2.0),
]


def prepared(case: Case) -> Prepared:
    """The experiment of a case: D-PSGD on a 4-regular graph, without evaluation."""
    experiment = Experiment.from_table(
        {
            "rounds": case.rounds,
            "program": {"kind": "gossip", "topology": {"kind": "random-regular", "degree": 4}},
            "task": {
                "dataset": case.dataset,
                "model": case.model,
                "batch_size": case.batch,
                "local_steps": case.steps,
                "optimizer": {"kind": "sgd", "lr": 0.01},
            },
            "network": {"nodes": case.nodes},
            "evaluation": {"every": 0, "nodes": 1, "samples": 1, "average": False},
        }
    )
    return prepare(experiment, **experiment.engine.compute_settings())


def with_covey(setup: Prepared) -> tuple[float, torch.Tensor]:
    """(seconds, models)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    began = perf_counter()
    world = World(setup)
    world.begin()
    world.run()
    models = torch.stack([node.model for node in world.nodes])
    spent = perf_counter() - began
    torch.set_num_threads(before)
    return spent, models


def batches_of(setup: Prepared, node: int, t: int) -> list[list[int]]:
    """The batches that covey draws for a node and round, as indices among the node's own samples."""
    learner = setup.task.learner
    key = rng.mix(rng.mix(rng.purpose_key(setup.setting.seed, "train"), node), t, 0)
    keys, holders = np.array([key], dtype=np.uint64), np.array([node])
    drawn = plan(learner.parts, holders, keys, np.array([learner.task.local_steps]), learner.task.batch_size)
    own = learner.parts.of(node)
    return [np.searchsorted(own, batch).tolist() for batch in drawn.samples[0]]


def as_usually_written(module: torch.nn.Module) -> torch.nn.Module:
    """The module with ReLU before max-pooling, as one writes it; covey's own have the equivalent, cheaper order."""
    layers = list(module)  # type: ignore[call-overload]
    for at in [at for at, layer in enumerate(layers) if isinstance(layer, torch.nn.MaxPool2d)]:
        layers[at], layers[at + 1] = layers[at + 1], layers[at]
    return torch.nn.Sequential(*layers)


def with_a_loop(setup: Prepared) -> tuple[float, torch.Tensor]:
    """(seconds, models)."""
    learner, nodes = setup.task.learner, setup.setting.nodes
    data, optimizer = learner.data, setup.experiment.task.optimizer
    graph = setup.program.topology.at(0)  # type: ignore[attr-defined]
    inputs = data.train.inputs.float() * data.scale + data.shift
    first = learner._make(0)
    if isinstance(first, torch.nn.Sequential):
        first = as_usually_written(first)
    modules = [copy.deepcopy(first) for _ in range(nodes)]
    optimizers = [torch.optim.SGD(module.parameters(), lr=optimizer.lr) for module in modules]
    own = [torch.from_numpy(learner.parts.of(node)) for node in range(nodes)]
    sets = [TensorDataset(inputs[samples], data.train.targets[samples]) for samples in own]
    drawn = [[batches_of(setup, node, t) for node in range(nodes)] for t in range(setup.experiment.rounds)]
    criterion = torch.nn.CrossEntropyLoss()
    began = perf_counter()
    for batches in drawn:
        for node in range(nodes):
            for x, y in DataLoader(sets[node], batch_sampler=batches[node]):
                optimizers[node].zero_grad()
                criterion(modules[node](x), y).backward()
                optimizers[node].step()
        states = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
        for node in range(nodes):
            weights = graph.metropolis(node)
            merged = {}
            for name, value in states[node].items():
                total = value * (1.0 - sum(weights))
                for weight, sender in zip(weights, graph.senders(node), strict=True):
                    total = total + weight * states[sender][name]
                merged[name] = total
            modules[node].load_state_dict(merged)
    spent = perf_counter() - began
    return spent, torch.stack([learner.layout.flatten(module) for module in modules])


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, and figures for scale."""
    for case in CASES:
        setup = prepared(case)
        _, ours = with_covey(setup)
        _, theirs = with_a_loop(setup)
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        # Convolutions in another order of sums: their rounding errors grow with every step of training.
        assert difference < 3e-3, f"{case.name}: the models differ by {difference:g}"
        # In turns, as other work on the machine comes and goes; the least of four times each.
        times = [(with_a_loop(setup)[0], with_covey(setup)[0]) for _ in range(4)]
        loop, covey = (min(spent) for spent in zip(*times, strict=True))
        setup.task.learner.close()
        work = case.nodes * case.rounds
        detail = f"{work / covey:,.0f} against {work / loop:,.0f} node-rounds/s; models equal to {difference:.0e}"
        yield [f"{case.name}: times faster than a loop", f"{loop / covey:.1f}", f">= {case.target:g}", detail]
