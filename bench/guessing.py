"""Guesses: the time of a guess over that of a gradient step, on the MLP 784-64-10 with batches of 32.

Times are those of the processor, which other work on the machine changes less. All three rows alternate in one run.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch

from covey.learning.jobs import Training
from covey.learning.learner import Learner
from covey.learning.node import Work
from covey.learning.optimizers import Optimizer
from covey.learning.task import LearningTask
from covey.parts.parameters import build

IMAGES = {"kind": "synthetic-images", "samples": 2000, "test_samples": 10, "channels": 1, "side": 28}
RULES: dict[str, dict[str, Any]] = {
    "momentum": {"of": {"kind": "sgd", "momentum": 0.9}},
    "momentum and last gradient": {"of": {"kind": "sgd", "momentum": 0.9}, "last": 1.0},
    "adam": {"of": {"kind": "adam"}},
}
NODES, STEPS, GUESSES, TIMES = 32, 5, 10, 15


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    torch.set_num_threads(1)
    for name, rule in RULES.items():
        made = {count: _learner({"kind": "guessed", "guesses": count, **rule}) for count in (0, GUESSES)}
        spent: dict[tuple[int, int], list[float]] = {(0, STEPS): [], (0, 2 * STEPS): [], (GUESSES, STEPS): []}
        for _ in range(TIMES):
            for (guesses, steps), times in spent.items():
                times.append(_seconds(made[guesses], steps))
        base, longer, guessed = (median(times) for times in spent.values())
        step, guess = (longer - base) / STEPS / NODES, (guessed - base) / GUESSES / NODES
        yield [
            f"a guess over a gradient step: {name}",
            f"{guess / step:.3f}",
            "< 0.05" if name == "momentum" else "",
            f"{guess * 1e6:.1f} us of a processor, a step {step * 1e6:.0f}; {NODES} nodes at once, {GUESSES} guesses",
        ]


def _learner(optimizer: dict[str, Any]) -> Learner:
    task = LearningTask(
        dataset=IMAGES, model={"kind": "mlp", "hidden": [64]}, optimizer=build(Optimizer, optimizer), batch_size=32
    )
    data = task.dataset.load(Path())
    return Learner(task, data, np.array_split(np.arange(len(data.train)), NODES), seed=1)


def _seconds(learner: Learner, steps: int) -> float:
    """The processor's time for a training of every node."""
    trainings = [
        Training(node, learner.initial(node), stream=node, round=0, call=0, work=Work(steps=steps))
        for node in range(NODES)
    ]
    began = process_time()
    learner.train(trainings)
    return process_time() - began
