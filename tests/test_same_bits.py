"""The same seed gives the same bits in every process, though libraries initialise at the first work of two threads."""

import subprocess
import sys

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from tests.test_kernels import learner

FIRST_WORK = """
import hashlib, os, sys
from pathlib import Path

import torch
if sys.argv[1] == "vmap":
    import torch._dynamo  # Half a second for each process, if not before they part.

from covey.learning.dataset import Location
from covey.learning.node import Work
from covey.learning.jobs import Training
from covey.learning.loading import load_learner
from covey.learning.task import LearningTask

kernel, model, dataset, processes = sys.argv[1:]
for _ in range(int(processes)):
    child = os.fork()
    if child == 0:
        break
    if os.waitpid(child, 0)[1]:
        sys.exit("a process failed")
else:
    sys.exit()
images = {"kind": "synthetic-images", "samples": 800, "test_samples": 40, "channels": 1, "side": 28}
task = LearningTask(
    dataset="digits" if dataset == "digits" else images, model=model, batch_size=7,
    partition={"kind": "shards", "per_node": 2},
)
torch.set_num_threads(1)
learner = load_learner(task, Location(Path("nowhere"), range(37)), seed=3, workers=2, kernel=kernel)
trainings = [Training(node, learner.initial(node), 100 + node, 0, 0, Work()) for node in range(37)]
learner.train(trainings)
models = [training.update.model for training in trainings]
figures = [training.update.loss for training in trainings], learner.evaluate(models, learner.split("test"))
print(hashlib.sha256(torch.stack(models).numpy().tobytes() + repr(figures).encode()).hexdigest(), flush=True)
learner.close()
"""
CASES = {
    "stacked": ["stacked", "logistic", "digits"],
    "module": ["module", "lenet", "images"],
    "vmap": ["vmap", "mlp", "digits"],
}


def digests(case: str, processes: int) -> set[str]:
    """The digests of the first results of two threads, in so many processes that fork before anything is computed."""
    command = [sys.executable, "-c", FIRST_WORK, *CASES[case], str(processes)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(lines) == processes
    return set(lines)


class Watched(TorchDispatchMode):
    """Notes which operations are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


def test_an_elementary_function_is_computed_before_threads_begin():
    """A dozen fresh processes overlook six times of ten what four of a hundred show."""
    with Watched() as watched:
        made = learner()
    assert "exp" in watched.names
    assert made._pool is None


@pytest.mark.parametrize("case", ["stacked", "vmap"])
def test_fresh_processes_compute_the_same_bits(case):
    assert len(digests(case, 4)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_many_fresh_processes_compute_the_same_bits(case):
    assert len(digests(case, 30)) == 1
