"""The learners of further networks of a program, such as an aggregator or a student."""

from dataclasses import replace

import numpy as np
import torch

from covey.learning.dataset import Split
from covey.learning.learner import Learner
from covey.learning.node import Further
from covey.learning.objectives import OwnLoss
from covey.parts import rng


def further_learner(learner: Learner, name: str, further: Further) -> Learner:
    """The learner of a further network, which trains on given samples.

    Args:
        learner: the learner of the nodes' model.
        name: the name of the network.
        further: the network.
    """
    data, task = learner.data, learner.task
    given, classes = further.inputs is not None, further.outputs or data.classes
    kind = "classes" if given and data.objective == "sequence" else data.objective
    few = torch.zeros(2, *further.inputs) if further.inputs is not None else data.train.inputs[:2].cpu()
    targets = torch.zeros(2, dtype=torch.int64) if kind == "classes" else data.train.targets[:2].cpu()
    split = Split(few, targets)
    learned = replace(
        task,
        model=further.model or task.model,
        optimizer=further.optimizer or task.optimizer.for_further(),
        loss=OwnLoss(),
        metrics=[],
        augmentation=[],
        start=None if further.model is not None else task.start,
        validation=0.0,
    )
    shown = replace(data, train=split, test=split, objective=kind, classes=classes, owners=None, own=None, stream=None)
    seed = rng.purpose_key(learner.seed, f"further {name}")
    return Learner(learned, shown, [np.arange(2)], seed=seed, device=str(learner.device), workers=learner.workers)
