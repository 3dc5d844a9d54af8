"""LiRA (Carlini et al., 2022): is the model's certainty on a sample that of models which were trained on it?

Reference models are trained on random halves of the pool. For each sample, the logit of the right class's probability
is about normal over reference models, with other parameters among those that were trained on it than among the others.

Shapes: R reference models, S + T samples of the pool, of the training and of the test data; V views.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import norm

from covey.learning.dataset import Split
from covey.learning.jobs import Training
from covey.learning.mixture import computed
from covey.learning.node import Work
from covey.parts import rng
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param
from covey.privacy.attacks.contract import Result, Tracked, Truth, untracked
from covey.privacy.attacks.knowledge import Knowledge
from covey.privacy.attacks.losses import Pool, judged, losses_of, margin_of, pool_of
from covey.privacy.attacks.membership import Evidence, OnSamples, combined, scored
from covey.privacy.attacks.rates import Floats

_POOLED_BELOW = 64
"""With fewer reference models, one variance serves all samples."""
_LEAST = 1e-3


class MembershipLiRA(OnSamples):
    """Compares the certainty of a seen model on a sample with that of models trained with and without it."""

    kind = "membership-lira"
    references: int = param("The reference models.", default=16, ge=2, le=1024)
    epochs: int = param("The epochs of their training.", default=20, ge=1)
    mode: Literal["online", "offline", "both"] = param(
        "Whether models trained on a sample are compared, too, or only models trained without it.", default="both"
    )
    samples: int = param("The most samples of the training data, and of the test data.", default=1000, ge=2)

    def observe(self, known: Knowledge, tracked: Tracked[Any] = untracked) -> dict[str, Evidence]:
        learner = known.learner
        if learner.data.objective != "classes":
            raise ConfigurationError(f"{self.named().capitalize()} needs classes, and the data of this run have none.")
        pool = pool_of(learner, self.samples, known.prepared.setting.seed)
        margins = losses_of(known, self.chosen(known), pool, tracked, margin_of(learner))
        references_RS, held_RS = self._references(known, pool, tracked)
        found: dict[str, Evidence] = {}
        for mode in ("online", "offline"):
            if self.mode in (mode, "both"):
                fitted = Fit(references_RS, held_RS)
                of = fitted.online if mode == "online" else fitted.offline
                count = len(pool.train)
                scores = []
                for one in margins:
                    both_VS = of(np.concatenate([one.train_VS, one.test_VT], axis=1))
                    scores.append(replace(one, train_VS=both_VS[:, :count], test_VT=both_VS[:, count:]))
                found[mode] = Evidence(pool, scores)
        return found

    def _references(self, known: Knowledge, pool: Pool, tracked: Tracked[Any]) -> tuple[Floats, np.ndarray]:
        """The margins of reference models on the pool, and whether each was trained on a sample: R x (S + T)."""
        learner, size = known.learner, len(pool.train) + len(pool.test)
        draw = rng.generator(known.prepared.setting.seed, "reference models")
        held_RS = np.zeros((self.references, size), dtype=bool)
        # Each sample is in one half of every pair of models, so that all have as many models with as without it.
        for at in range(0, self.references, 2):
            half = draw.permutation(size)[: size // 2]
            held_RS[at, half] = True
            held_RS[at + 1 : at + 2] = ~held_RS[at]
        stored = [learner.kernel.train_split, learner.kernel.test_split]
        chosen = [torch.from_numpy(indices).to(learner.device) for indices in (pool.train, pool.test)]
        inputs = torch.cat([split.inputs[of] for split, of in zip(stored, chosen, strict=True)])
        targets = torch.cat([split.targets[of] for split, of in zip(stored, chosen, strict=True)])
        key = rng.purpose_key(known.prepared.setting.seed, "reference models")
        margins = np.empty((self.references, size))
        together = max(2, 2 * learner.chunk)
        for at in tracked(range(0, self.references, together), "reference models", -(-self.references // together)):
            jobs = []
            for index in range(at, min(at + together, self.references)):
                held = torch.from_numpy(held_RS[index]).to(learner.device)
                work = Work(epochs=self.epochs, on=Split(inputs[held], targets[held]))
                jobs.append(Training(0, known.first, rng.mix(key, index), 0, 0, work, learner=learner))
            learner.do(jobs)
            models = [computed(job.update.model) for job in jobs if job.update is not None]
            rows = slice(at, at + len(models))
            margins[rows, : len(pool.train)] = judged(learner, models, "train", pool.train, margin_of(learner))
            margins[rows, len(pool.train) :] = judged(learner, models, "test", pool.test, margin_of(learner))
        return margins, held_RS

    def score(self, known: Knowledge, evidence: dict[str, Evidence], truth: Truth) -> Result:
        results = []
        for mode, found in evidence.items():
            result = scored(self.kind, found, truth)
            result.details["variant"] = mode
            results.append(result)
        return combined(results)


class Fit:
    """Normal distributions of margins for each sample, with and without it among the training samples.

    Args:
        margins_RS: the margins of reference models.
        held_RS: whether a model was trained on a sample.
    """

    def __init__(self, margins_RS: Floats, held_RS: np.ndarray) -> None:
        self.inside = _fitted(margins_RS, held_RS)
        self.outside = _fitted(margins_RS, ~held_RS)

    def online(self, margins_VS: Floats) -> Floats:
        """The log-likelihood ratio of membership."""
        inside, outside = norm.logpdf(margins_VS, *self.inside), norm.logpdf(margins_VS, *self.outside)
        return np.asarray(inside - outside)

    def offline(self, margins_VS: Floats) -> Floats:
        """The probability that a model without the sample has a lower margin."""
        return np.asarray(norm.logcdf(margins_VS, *self.outside))


def _fitted(margins_RS: Floats, chosen_RS: np.ndarray) -> tuple[Floats, Floats]:
    """The mean of the chosen margins of each sample, and their deviation; below 64 models that of all samples."""
    count_S = np.maximum(chosen_RS.sum(axis=0), 1)
    finite_RS = np.nan_to_num(margins_RS, nan=0.0, posinf=1e6, neginf=-1e6)
    mean_S = (finite_RS * chosen_RS).sum(axis=0) / count_S
    squares_RS = np.square(finite_RS - mean_S) * chosen_RS
    if len(margins_RS) < _POOLED_BELOW:
        freedom = max(float((count_S - 1).sum()), 1.0)
        deviation_S = np.full(len(mean_S), np.sqrt(squares_RS.sum() / freedom))
    else:
        deviation_S = np.sqrt(squares_RS.sum(axis=0) / np.maximum(count_S - 1, 1))
    return mean_S, np.maximum(deviation_S, _LEAST)
