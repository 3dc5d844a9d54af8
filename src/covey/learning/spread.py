"""A learner that lets other processes compute trainings, each with the same data.

One stacked tensor goes to each process, and one comes back. A process keeps nothing from one batch to the next, so it
does not matter which one computes a training: results are the same to the bit.

Shapes: J trainings, P parameters.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covey.learning.chunks import batch_keys, batches_of, label_counts_of
from covey.learning.jobs import Training
from covey.learning.learner import Learner
from covey.learning.node import Update, Work
from covey.parts.errors import ProgramError
from covey.runtime.task import Crew, Gain

_TRIED = 4
"""The number of chunks by which the time of a training is measured."""
_PAYS = 1.05
"""The least expected gain for which trainings leave this process."""

Batch = dict[str, Any]
"""The trainings of a process, or their results: plain values and arrays, J x P."""


@dataclass(frozen=True)
class _Figures:
    """The figures of a result that are not in its tensors, for each training."""

    loss: list[float]
    samples: list[int]
    steps: list[int]
    lr: list[float]
    normaliser: list[float | None]
    guesses: list[int]
    finite: list[bool]


class Spread(Learner):
    """A learner of which a crew computes trainings.

    Args:
        learner: the learner of the data and the model.
        crew: the other processes.
        here: the number of this machine's processors that would compute instead.
        always: whether trainings leave this process even where that is slower.
    """

    def __init__(self, learner: Learner, crew: Crew, *, here: int, always: bool = False) -> None:
        self.__dict__.update(learner.__dict__)
        self._crew, self._always = crew, always
        self._holders = len(learner.parts.sizes)
        self.gain = expected_gain(self, crew, here)

    @property
    def at_once(self) -> int:
        return max(super().at_once, 8 * self.chunk * self._crew.count)

    def train(self, trainings: Sequence[Training]) -> None:
        away = [training for training in trainings if self._may_leave(training)] if self._leaves else []
        left = set(map(id, away))
        super().train([training for training in trainings if id(training) not in left])
        for work, group in _by_work(away).items():
            self._spread(work, group)

    @property
    def _leaves(self) -> bool:
        return self._always or self.gain.ratio > _PAYS

    def _may_leave(self, training: Training) -> bool:
        """True if a training is one on the node's own data that a table describes."""
        plain = training.work.is_plain and not training.gradient
        return plain and self.task.ldp is None and self.streams is None and not self.recipe.optimizer.steps_modules

    def _spread(self, work: Work, trainings: Sequence[Training]) -> None:
        """Let each node's home compute its training."""
        homes: list[list[Training]] = [[] for _ in range(self._crew.count)]
        for training in trainings:
            homes[training.holder * self._crew.count // self._holders].append(training)
        given = {home: self._packed(work, own) for home, own in enumerate(homes) if own}
        for home, result in self._crew.train(given).items():
            self._take(homes[home], result)

    def _packed(self, work: Work, trainings: Sequence[Training]) -> Batch:
        names = [*self.recipe.optimizer.slots()]
        fresh = self.recipe.optimizer.fresh(self.first_model[: self.layout.trainable].unsqueeze(0)) if names else {}
        slots = {name: torch.cat([(one.slots or fresh)[name] for one in trainings]) for name in names}
        return {
            "starts": _array(torch.stack([one.start for one in trainings])),
            "slots": {name: _array(slot) for name, slot in slots.items()},
            "of": [(one.holder, one.stream, one.round, one.call) for one in trainings],
            "work": (work.steps, work.epochs, work.lr, work.proximal, work.expected, work.guesses),
            "rates": self.rate_factors,
        }

    def _take(self, trainings: Sequence[Training], result: Batch) -> None:
        """Take the results of a process."""
        figures, models = _Figures(**result["figures"]), _tensor(result["models"])
        slots = {name: _tensor(slot) for name, slot in result["slots"].items()}
        if models.shape != (len(trainings), self.layout.size):
            raise ProgramError(
                f"A process of the simulation sent {tuple(models.shape)} numbers for {len(trainings)} models."
            )
        for index, training in enumerate(trainings):
            training.update = Update(
                models[index].to(self.device, copy=True),
                training.start,
                figures.loss[index],
                figures.samples[index],
                figures.steps[index],
                lr=figures.lr[index],
                normaliser=figures.normaliser[index],
                guesses=figures.guesses[index],
                used=partial(_used, self, training),
            )
            training.finite = figures.finite[index]
            if self.recipe.optimizer.state == "keep":
                kept = {name: slot[index : index + 1].to(self.device, copy=True) for name, slot in slots.items()}
                training.slots = kept


def answer(learner: Learner, batch: Batch) -> Batch:
    """Compute the trainings of a batch in the process that got it."""
    steps, epochs, lr, proximal, expected, guesses = batch["work"]
    work = Work(steps=steps, epochs=epochs, lr=lr, proximal=proximal, expected=expected, guesses=guesses)
    learner.rate_factors[:] = batch["rates"]
    starts, slots = _tensor(batch["starts"]), {name: _tensor(slot) for name, slot in batch["slots"].items()}
    trainings = [
        Training(
            holder,
            starts[index].to(learner.device, copy=True),
            stream,
            round,
            call,
            work,
            {name: slot[index : index + 1].to(learner.device, copy=True) for name, slot in slots.items()} or None,
        )
        for index, (holder, stream, round, call) in enumerate(batch["of"])
    ]
    learner.train(trainings)
    updates = [training.update for training in trainings if training.update is not None]
    keeps = learner.recipe.optimizer.state == "keep"
    names = [*learner.recipe.optimizer.slots()] if keeps else []
    normalisers = [update._normaliser for update in updates]
    return {
        "models": _array(torch.stack([update.model for update in updates])),
        "slots": {name: _array(torch.cat([(one.slots or {})[name] for one in trainings])) for name in names},
        "figures": {
            "loss": [update.loss for update in updates],
            "samples": [update.samples for update in updates],
            "steps": [update.steps for update in updates],
            "lr": [update.lr for update in updates],
            "normaliser": normalisers,
            "guesses": [update.guesses for update in updates],
            "finite": [training.finite for training in trainings],
        },
    }


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of an array that may be read-only, as shared memory is."""
    return torch.from_numpy(np.array(array))


def _by_work(trainings: Sequence[Training]) -> dict[Work, list[Training]]:
    groups: dict[Any, tuple[Work, list[Training]]] = {}
    for training in trainings:
        work = training.work
        key = (work.steps, work.epochs, work.lr, work.proximal, work.expected, work.guesses)
        groups.setdefault(key, (work, []))[1].append(training)
    return dict(groups.values())


def _used(learner: Learner, training: Training) -> Any:
    """The number of samples of each class that a training used."""
    keys, steps = batch_keys([training]), [learner.steps(training.holder, training.work)]
    drawn = batches_of(learner, [training], keys, steps, None, None).samples
    return label_counts_of(learner, learner.kernel.train_split.targets, drawn)


def expected_gain(learner: Learner, crew: Crew, processors: int) -> Gain:
    """The measured times of a training here and of a model's way to the crew and back, and the gain that follows.

    Args:
        learner: the learner.
        crew: the other processes.
        processors: the number of this machine's processors that would compute instead.
    """
    holders = len(learner.parts.sizes)
    count = min(max(_TRIED * learner.chunk, 1), holders)
    alone = copy.copy(learner)
    alone.workers = 1
    took = []
    for size in (1, count):  # The first one warms up.
        began = time.perf_counter()
        Learner.train(alone, [Training(holder, learner.first_model, holder, 0, 0, Work()) for holder in range(size)])
        took.append(time.perf_counter() - began)
    training = took[-1] / count
    way = crew.way(_array(torch.zeros(count, learner.layout.size))) / count
    return Gain(training, way, training / processors / (training / crew.processors + way))
