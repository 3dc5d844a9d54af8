"""A learner that learns nothing: what nodes send can be counted before anybody trains."""

from collections.abc import Sequence

import torch
from torch import Tensor

from covey.learning.dataset import Split
from covey.learning.jobs import Training
from covey.learning.learner import Learner
from covey.learning.node import Metrics, Update
from covey.parts import rng

_STEP = 0.01
"""How far a number moves in a training, about."""


class Rehearsal(Learner):
    """The learner of an experiment, whose trainings move models by chance.

    Args:
        learner: knows the data and the model.
        alike: whether the models of all nodes move alike in a round, or each its own way. Real ones are between these.
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
            training.update = Update(model, training.start, 1.0, samples, steps)

    def _change(self, training: Training) -> Tensor:
        """What a training adds to the trained numbers."""
        whose = 0 if self._alike else training.stream
        key = rng.mix(rng.mix(rng.purpose_key(self.seed, "rehearsal"), whose), training.round, training.call)
        draw = torch.Generator().manual_seed(key >> 1)
        return torch.randn(self.layout.trainable, generator=draw) * _STEP

    def evaluate(self, models: Sequence[Tensor], split: Split) -> list[Metrics]:
        return [{"loss": 1.0, "accuracy": 0.0} for _ in models]
