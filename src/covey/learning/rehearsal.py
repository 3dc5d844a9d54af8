"""A learner without training, with which `covey check` counts the bytes of messages."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from covey.learning.dataset import Split
from covey.learning.jobs import Predicting, Training
from covey.learning.learner import Learner
from covey.learning.mixture import computed
from covey.learning.node import Metrics, Update
from covey.parts import rng

_STEP = 0.01
"""The standard deviation of a number's change by a training."""


class Rehearsal(Learner):
    """The learner of an experiment, with random changes instead of trainings.

    Args:
        learner: the learner of the data and the model.
        alike: make the same change at all nodes of a round, or another one at each. Real trainings are in between.
    """

    def __init__(self, learner: Learner, *, alike: bool) -> None:
        self.__dict__.update(learner.__dict__)
        self._alike = alike

    def train(self, trainings: Sequence[Training]) -> None:
        for training in trainings:
            model, trained = training.start.clone(), self.layout.trainable
            if training.gradient:
                training.buffers = model[self.layout.averaged :].clone()
                model.zero_()
            model[:trained] += self._change(training).to(self.device)
            samples, steps = self.cost(training), self.steps(training.holder, training.work)
            if not training.gradient:
                self.kernel.optimizer.guesses_after(steps, training.work.expected, training.work.guesses)
            used = partial(self._used, training, samples)
            start, a = training.start, float(steps)
            training.update = Update(model, start, 1.0, samples, steps, normaliser=a, used=used)

    def _used(self, training: Training, samples: int) -> np.ndarray | None:
        """The classes of the samples of a training, in the proportions of the node's data."""
        if self.label_counts is None or training.work.on is not None:
            return None
        ends = np.cumsum(self.label_counts[training.holder])
        taken = (np.arange(samples) * ends[-1]) // max(samples, 1)
        return np.bincount(np.searchsorted(ends, taken, side="right"), minlength=len(ends))

    def _change(self, training: Training) -> Tensor:
        """The change of the trained numbers by a training."""
        whose = 0 if self._alike else training.stream
        key = rng.mix(rng.mix(rng.purpose_key(self.seed, "rehearsal"), whose), training.round, training.call)
        draw = torch.Generator().manual_seed(key >> 1)
        return torch.randn(self.layout.trainable, generator=draw) * _STEP

    def evaluate(self, models: Sequence[Tensor], split: Split) -> list[Metrics]:
        figures = dict.fromkeys(self.recipe.scoring.metrics, 0.0)
        return [{"loss": 1.0, "accuracy": 0.0, **figures} for _ in models]

    def predict(self, jobs: Sequence[Predicting]) -> None:
        """Give all samples, and all models of a job, the outputs of the first: their size counts."""
        for job in jobs:
            first = self.kernel.predict([computed(job.models[0])], job.inputs[:1].to(self.device))
            job.outputs = first.expand(len(job.models), len(job.inputs), *first.shape[2:]).clone()
