"""The same seed gives the same bits in every process: libraries set themselves up at the first work of two threads."""

import subprocess
import sys

import pytest

FIRST_WORK = """
import hashlib, sys
from pathlib import Path

import torch

from covey.node import Work
from covey.task.learner import Training, load_learner
from covey.task.task import Task

kernel, model, dataset = sys.argv[1:]
images = {"kind": "synthetic-images", "samples": 800, "test_samples": 40, "channels": 1, "side": 28}
task = Task(
    dataset="digits" if dataset == "digits" else images, model=model, batch_size=7,
    partition={"kind": "shards", "per_node": 2},
)
torch.set_num_threads(1)
learner = load_learner(task, 37, seed=3, folder=Path("nowhere"), workers=2, kernel=kernel)
trainings = [Training(node, learner.initial(node), 100 + node, 0, 0, Work()) for node in range(37)]
learner.train(trainings)
models = [training.update.model for training in trainings]
figures = [training.update.loss for training in trainings], learner.evaluate(models, learner.split("test"))
print(hashlib.sha256(torch.stack(models).numpy().tobytes() + repr(figures).encode()).hexdigest())
learner.close()
"""
CASES = {
    "stacked": ["stacked", "logistic", "digits"],
    "module": ["module", "lenet", "images"],
    "vmap": ["vmap", "mlp", "digits"],
}


def digests(case: str, processes: int) -> set[str]:
    """What the first work of two threads comes to, in so many fresh processes."""
    found = set()
    for _ in range(processes):
        command = [sys.executable, "-c", FIRST_WORK, *CASES[case]]
        found.add(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


@pytest.mark.parametrize("case", CASES)
def test_fresh_processes_compute_the_same_bits(case):
    assert len(digests(case, 4)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_hundreds_of_fresh_processes_compute_the_same_bits(case):
    assert len(digests(case, 120)) == 1
