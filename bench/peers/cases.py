"""The cases that covey and its peers both run, their results, and their reports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from bench.loops import with_covey
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import Prepared, prepare


@dataclass(frozen=True)
class Case:
    """A model and its data."""

    name: str
    model: str
    dataset: dict[str, Any]
    samples: int
    rounds: int
    lr: float


CASES = [
    Case("logistic on digits", "logistic", {"kind": "digits"}, 1437, 20, 0.1),
    Case("MLP 784-128-10", "mlp", {"kind": "synthetic-images", "samples": 6400, "noise": 1.5}, 6400, 8, 0.05),
]
BATCH = 8


@dataclass
class Run:
    """The seconds that a framework took, and its models at the end, one a row."""

    start_up: float
    round: float
    models: Tensor

    @classmethod
    def between(cls, began: float, ends: Sequence[float], models: Tensor) -> "Run":
        """From the times at which rounds ended."""
        steady = float(np.median(np.diff(ends)))
        return cls(max(ends[0] - began - steady, 0.0), steady, models)


def prepared(case: Case, program: dict[str, Any], network: dict[str, Any]) -> Prepared:
    """A case with a program, without evaluation."""
    experiment = Experiment.from_table(
        {
            "rounds": case.rounds,
            "program": program,
            "task": {
                "dataset": case.dataset,
                "model": case.model,
                "batch_size": BATCH,
                "local_epochs": 1,
                "optimizer": {"kind": "sgd", "lr": case.lr},
            },
            "network": network,
            "evaluation": {"every": 0, "nodes": 1, "samples": 1, "average": False},
        }
    )
    return prepare(experiment, **experiment.engine.compute_settings())


def by_covey(make: Callable[[], Prepared]) -> Run:
    """The median of three runs."""
    starts, rounds = [], []
    for _ in range(3):
        began = perf_counter()
        setup = make()
        starts.append(perf_counter() - began)
        seconds, models = with_covey(setup)
        setup.task.learner.close()
        rounds.append(seconds / setup.experiment.rounds)
    return Run(median(starts), median(rounds), models)


def quality(setup: Prepared, models: Tensor) -> tuple[float, float]:
    """(accuracy, loss) on the test data, means over models."""
    found = setup.task.learner.evaluate(list(models), setup.task.learner.kernel.test_split)
    return float(np.mean([each["accuracy"] for each in found])), float(np.mean([each["loss"] for each in found]))


def row(package: str, case: Case, peer: Run, ours: Run, remark: str) -> list[str]:
    """A line of the table."""
    detail = (
        f"{1000 * ours.round:.3g} against {1000 * peer.round:.3g} ms a round, "
        f"start-up {ours.start_up:.2g} against {peer.start_up:.2g} s; {remark}"
    )
    title = f"{package} {version(package)}, {case.name}: covey is faster by"
    return [title, f"{peer.round / ours.round:.2f}", "", detail]


def inputs_of(setup: Prepared) -> Tensor:
    """All inputs, as a model takes them."""
    data = setup.task.learner.data
    return (data.train.inputs.float() * data.scale + data.shift).flatten(1)
