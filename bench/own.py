"""A user's own data and loss: the time of a training beside that with built-in ones."""

from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from covey.data import from_arrays, from_torch
from covey.learning.jobs import Training
from covey.learning.learner import Learner
from covey.learning.node import Work
from covey.learning.partition import IID
from covey.learning.task import LearningTask

NODES, STEPS, TURNS = 8, 40, 9


def entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy as a user would write it."""
    return F.cross_entropy(outputs, targets, reduction="none")


def learner(dataset: Any, kernel: str, loss: Any = "own") -> Learner:
    """The learner of an image classifier."""
    task = LearningTask(dataset=dataset, model="lenet" if kernel == "module" else "mlp", loss=loss)
    data = task.dataset.load(Path())
    return Learner(task, data, IID().assign(data, NODES, 0), seed=1, kernel=kernel)


def seconds(made: Learner) -> float:
    """The processor time of one training of each node."""
    work = Work(steps=STEPS)
    trainings = [Training(node, made.initial(node), node, 0, 0, work) for node in range(NODES)]
    began = process_time()
    made.train(trainings)
    return process_time() - began


def ratio(one: Learner, other: Learner) -> float:
    """The time of the first by that of the second: the median over turns, each of both."""
    for made in (one, other):
        seconds(made)
    return float(np.median([seconds(one) / seconds(other) for _ in range(TURNS)]))


def rows() -> Iterator[list[str]]:
    """Name, figure, target, detail."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(1)
    x = draw.normal(size=(2000, 1, 28, 28)).astype(np.float32)
    y = np.arange(2000) % 10
    arrays = from_arrays(x, y)
    adapted = from_torch(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)))
    for kernel in ("stacked", "module"):
        found = ratio(learner(adapted, kernel), learner(arrays, kernel))
        detail = f"a training of {STEPS} steps by the kernel {kernel}"
        yield ["data by from_torch: time by that of the same arrays", f"{found:.3f}", "<= 1.02", detail]
    own, built_in = (learner(arrays, "module", loss) for loss in (f"{__name__}:entropy", "own"))
    detail = f"cross-entropy, LeNet, {STEPS} steps by the kernel module"
    yield ["a loss of one's own: time by that of the built-in one", f"{ratio(own, built_in):.3f}", "<= 1.05", detail]
