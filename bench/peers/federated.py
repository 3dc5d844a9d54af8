"""Federated averaging, as flwr and pfl are given it: the batches that covey draws."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from bench.peers.cases import BATCH, CASES, Case, inputs_of, prepared, quality
from covey.learning.batches import plan
from covey.parts import rng
from covey.parts.machine import default_workers
from covey.runtime.prepared import Prepared

CLIENTS = 20
PROCESSES = min(default_workers(), CLIENTS)


def fedavg(case: Case, aggregation: str = "given") -> Prepared:
    """Federated averaging with all clients in every round."""
    return prepared(case, {"kind": "fedavg", "aggregation": aggregation}, {"nodes": CLIENTS + 1})


@dataclass
class Clients:
    """The batches of clients: for each round and client, the inputs and targets in the order of covey's batches."""

    module: torch.nn.Module
    lr: float
    data: list[list[tuple[Tensor, Tensor]]]

    @classmethod
    @cache
    def of(cls, name: str) -> "Clients":
        """Those of a case, made once in a process."""
        case = next(case for case in CASES if case.name == name)
        setup = fedavg(case)
        learner, parts = setup.task.learner, setup.task.learner.parts
        inputs, targets = inputs_of(setup), learner.data.train.targets
        data = []
        for t in range(case.rounds):
            data.append([])
            for node, holder in setup.holders.items():
                key = rng.mix(rng.mix(rng.purpose_key(setup.setting.seed, "train"), node), t, 0)
                steps = np.array([-(-int(parts.sizes[holder]) // BATCH)])
                drawn = plan(parts, np.array([holder]), np.array([key], dtype=np.uint64), steps, BATCH).samples
                order = torch.from_numpy(drawn[drawn >= 0])
                data[t].append((inputs[order], targets[order]))
        return cls(learner._make(0), case.lr, data)


def equality(setup: Prepared, ours: Tensor, theirs: Tensor) -> str:
    """The distance of two models, and their accuracies."""
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    assert difference < 1e-3, f"the models differ by {difference:g}"
    (accuracy, loss), (its, its_loss) = quality(setup, ours.unsqueeze(0)), quality(setup, theirs.unsqueeze(0))
    return (
        f"{CLIENTS} clients; models equal to {difference:.0e}, accuracy {accuracy:.1%} against {its:.1%} "
        f"and loss {loss:.3f} against {its_loss:.3f} after {setup.experiment.rounds} rounds"
    )
