"""The losses of seen models on samples: the evidence of membership and linkability attacks.

Shapes: V views, S candidate samples of the training data, T samples of the test data, K models at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.learner import Learner
from covey.learning.views import View
from covey.parts import rng
from covey.parts.errors import ConfigurationError
from covey.privacy.attacks.contract import Tracked
from covey.privacy.attacks.knowledge import Knowledge, seen
from covey.privacy.attacks.rates import Floats

_AT_ONCE = 8_000_000
"""The numbers of models and samples that are computed together."""


@dataclass
class Pool:
    """The samples on which models are judged: some of the training data, of any node, and some of the test data."""

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None

    def labels(self, train: np.ndarray, test: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """The classes of some of its samples; None if targets are no classes."""
        if self.train_labels is None or self.test_labels is None:
            return None
        return self.train_labels[train], self.test_labels[test]


def pool_of(learner: Learner, samples: int, seed: int) -> Pool:
    """A pool of at most so many samples of either split; the truth does not matter for it.

    Raises:
        ConfigurationError: the data come in streams, or stay with hosts.
    """
    if learner.data.stream is not None or learner.data.own is not None:
        raise ConfigurationError(
            "Attacks on samples need their data here, and those of this run come in streams or stay with hosts."
        )
    draw, splits = rng.generator(seed, "attacked samples"), (learner.data.train, learner.data.test)
    found = [np.sort(draw.permutation(len(split))[:samples]) for split in splits]
    labels = [
        split.targets[torch.from_numpy(chosen)].cpu().numpy() if learner.data.objective == "classes" else None
        for split, chosen in zip(splits, found, strict=True)
    ]
    return Pool(*found, *labels)


def loss_of(learner: Learner) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of each sample, from outputs and targets."""
    return lambda outputs, targets: learner.recipe.scoring.losses(outputs, targets)


def margin_of(learner: Learner) -> Callable[[Tensor, Tensor], Tensor]:
    """The logit of the probability of the right class, log(p / (1 - p)), from outputs and targets."""

    def margins(outputs: Tensor, targets: Tensor) -> Tensor:
        right = outputs.gather(1, targets.unsqueeze(1)).squeeze(1)
        others = outputs.scatter(1, targets.unsqueeze(1), -torch.inf)
        return right - torch.logsumexp(others, 1)

    return margins


def judged(
    learner: Learner,
    models: Sequence[Tensor],
    split: str,
    chosen: np.ndarray,
    judge: Callable[[Tensor, Tensor], Tensor],
) -> Floats:
    """A figure of each sample under each model, K x S."""
    inputs, targets = learner.splits.taken(split, chosen)
    found = np.empty((len(models), len(chosen)))
    step = max(1, _AT_ONCE // max(1, len(models) * max(inputs[:1].numel(), 1)))
    with torch.no_grad():
        for at in range(0, len(chosen), step):
            outputs = learner.kernel.predict(models, inputs[at : at + step])
            for row, one in enumerate(outputs):
                found[row, at : at + step] = judge(one, targets[at : at + step]).double().cpu().numpy()
    return found


@dataclass
class Losses:
    """Figures of the views of one kind under one completion: V x S and V x T."""

    seen: str
    completed: str
    views: list[View]
    train_VS: Floats
    test_VT: Floats
    unjudged_VS: NDArray[np.bool_] | None = None
    """True for the samples that have no score; None if all have one."""
    unjudged_VT: NDArray[np.bool_] | None = None

    def of_judged(self, index: int, members_S: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The members, and the non-members, that have a score under a view."""
        others_T = np.ones(self.test_VT.shape[1], dtype=bool)
        if self.unjudged_VS is None or self.unjudged_VT is None:
            return members_S, others_T
        return members_S & ~self.unjudged_VS[index], ~self.unjudged_VT[index]


def losses_of(
    known: Knowledge,
    views: Sequence[View],
    pool: Pool,
    tracked: Tracked[Any],
    judge: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Losses]:
    """The losses of completed models on a pool, by kind of view and completion."""
    learner, found = known.learner, []
    judge = judge or loss_of(learner)
    kinds: dict[str, list[View]] = {}
    for view in views:
        kinds.setdefault(seen(view), []).append(view)
    work = [(kind, by) for kind, of in kinds.items() for by in known.completions(of)]
    at_once = max(1, min(learner.chunk, 32))
    for kind, by in work:
        of, train, test = kinds[kind], [], []
        starts = range(0, len(of), at_once)
        for at in tracked(starts, f"{kind} by {by}" if len(work) > 1 else kind, len(starts)):
            models = [known.completed(view, by) for view in of[at : at + at_once]]
            train.append(judged(learner, models, "train", pool.train, judge))
            test.append(judged(learner, models, "test", pool.test, judge))
        found.append(Losses(kind, by, of, np.concatenate(train), np.concatenate(test)))
    return found
