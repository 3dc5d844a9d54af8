"""Membership by series of losses (Zari et al., 2021): how a sample's loss changes while its node trains tells more
than one loss.

This adversary knows some members and non-members of its victim: classifiers are trained on a part of both, and tested
on the rest. So a part of the truth is an input here, by the threat model; no tested sample is.

Shapes: S samples, T moments of their series, B samples of a batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covey.learning.views import View
from covey.parts import rng
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param
from covey.privacy.attacks.contract import Result, Tracked, Truth, untracked
from covey.privacy.attacks.knowledge import Knowledge, spread
from covey.privacy.attacks.losses import Losses, losses_of, pool_of
from covey.privacy.attacks.membership import Evidence, OnSamples, combined, scored
from covey.privacy.attacks.rates import Floats

_FEWEST = 3
"""The fewest models of a sender that make a series."""
_WIDTHS, _KERNELS = (32, 64, 32), (7, 5, 3)
_BATCH, _LR, _MOMENTUM = 256, 0.01, 0.9
_LARGEST = 50.0
"""A larger loss is this one to the classifiers."""


class MembershipSeries(OnSamples):
    """Classifies the series of a sample's losses under the models that a sender sent, by an MLP and a 1-D FCN."""

    kind = "membership-series"
    messages: int = param(
        "The most models of one sender in a series, the first and the last included.", default=26, ge=3
    )
    victims: int = param("The most senders that are attacked.", default=4, ge=1)
    known: float = param(
        "The fraction of the victim's samples, and of test samples, that is known.", default=0.7, gt=0, lt=1
    )
    epochs: int = param("The epochs of training of a classifier.", default=100, ge=1)

    def chosen(self, known: Knowledge) -> list[View]:
        groups: dict[tuple[int, tuple[int, ...]], list[View]] = {}
        for view in known.views:
            if not view.gradient and not view.hidden and len(view.senders) == 1:
                groups.setdefault((view.receiver, view.senders), []).append(view)
        series = [found for found in groups.values() if len(found) >= _FEWEST]
        if not series:
            raise ConfigurationError(
                f"{self.named().capitalize()} needs {_FEWEST} models or more that one sender sent to one observed node."
            )
        longest = sorted(series, key=len, reverse=True)[: self.victims]
        return [view for found in longest for view in _ends_included(found, self.messages)]

    def observe(self, known: Knowledge, tracked: Tracked[Any] = untracked) -> Evidence:
        pool = pool_of(known.learner, self.samples, known.prepared.setting.seed)
        return Evidence(pool, losses_of(known, self.chosen(known), pool, tracked))

    def score(self, known: Knowledge, evidence: Evidence, truth: Truth) -> Result:
        results = []
        for name, network in (("MLP", mlp), ("FCN", fcn)):
            scores = [self._classified(known, one, evidence, truth, network) for one in evidence.scores]
            result = scored(self.kind, Evidence(evidence.pool, scores), truth)
            result.details["variant"] = name
            results.append(result)
        return combined(results)

    def _classified(self, known: Knowledge, losses: Losses, evidence: Evidence, truth: Truth, network: Any) -> Losses:
        """The scores of the samples that are not known, a row for each victim."""
        victims: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for index, view in enumerate(losses.views):
            victims.setdefault((view.receiver, view.senders), []).append(index)
        draw = rng.generator(known.prepared.setting.seed, "known samples")
        train, test, views = [], [], []
        for rows in victims.values():
            view = losses.views[rows[0]]
            members = np.isin(evidence.pool.train, truth.members(truth.owners(view)))
            inside = np.flatnonzero(members)
            if len(inside) < 2:
                continue
            given_in, given_out = (draw.random(count) < self.known for count in (len(inside), losses.test_VT.shape[1]))
            series_in, series_out = losses.train_VS[rows][:, inside].T, losses.test_VT[rows].T
            seed = int(draw.integers(1 << 62))
            model = trained(network, series_in[given_in], series_out[given_out], self.epochs, seed)
            of_train, of_test = np.full(len(members), np.nan), np.full(len(given_out), np.nan)
            of_train[inside[~given_in]] = judged_by(model, series_in[~given_in])
            of_test[~given_out] = judged_by(model, series_out[~given_out])
            train.append(of_train)
            test.append(of_test)
            views.append(view)
        if not views:
            raise ConfigurationError("No sender of a series of models has two samples among those judged.")
        train_VS, test_VT = np.stack(train), np.stack(test)
        hidden = {"unjudged_VS": np.isnan(train_VS), "unjudged_VT": np.isnan(test_VT)}
        return replace(losses, views=views, train_VS=train_VS, test_VT=test_VT, **hidden)


def _ends_included(found: Sequence[View], most: int) -> list[View]:
    """At most so many views at regular intervals, the first and the last among them."""
    if len(found) <= most:
        return spread(found, most)
    return [found[round(index * (len(found) - 1) / (most - 1))] for index in range(most)]


class Standardised(nn.Module):
    """A classifier of series, which are first brought to zero mean and unit variance.

    Args:
        classifier: the network, from B x T numbers to B scores.
        series: the known series.
    """

    def __init__(self, classifier: nn.Module, series: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.mean, self.deviation = series.mean(0), series.std(0).clamp(min=1e-6)

    def forward(self, series: Tensor) -> Tensor:
        scores: Tensor = self.classifier((series - self.mean) / self.deviation)
        return scores.squeeze(1)


def mlp(moments: int) -> nn.Module:
    """The multi-layer perceptron: T, 64, 32, 1."""
    return nn.Sequential(nn.Linear(moments, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))


def fcn(moments: int) -> nn.Module:
    """The fully convolutional network in time: three blocks, and the mean over time."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, moments))]
    for into, out, kernel in zip((1, *_WIDTHS), _WIDTHS, _KERNELS, strict=False):
        layers += [nn.Conv1d(into, out, kernel, padding="same"), nn.GroupNorm(1, out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(_WIDTHS[-1], 1))


def trained(network: Any, members: Floats, others: Floats, epochs: int, seed: int) -> Standardised:
    """A classifier of the known series, members against others, each side with the same total weight."""
    series = torch.from_numpy(np.concatenate([_bounded(members), _bounded(others)])).float()
    targets = torch.cat([torch.ones(len(members)), torch.zeros(len(others))])
    weights = torch.where(targets > 0, len(series) / max(2 * len(members), 1), len(series) / max(2 * len(others), 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Standardised(network(series.shape[1]), series)
        optimizer = torch.optim.SGD(model.parameters(), lr=_LR, momentum=_MOMENTUM)
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(series)), _BATCH):
                optimizer.zero_grad()
                losses = F.binary_cross_entropy_with_logits(model(series[batch]), targets[batch], weights[batch])
                torch.autograd.backward(losses)
                optimizer.step()
    return model.eval()


def judged_by(model: Standardised, series: Floats) -> Floats:
    """The scores of series, higher for likelier members."""
    with torch.no_grad():
        found: Floats = model(torch.from_numpy(_bounded(series)).float()).double().numpy()
    return found


def _bounded(series: Floats) -> Floats:
    return np.nan_to_num(series, nan=_LARGEST, posinf=_LARGEST, neginf=-_LARGEST).clip(-_LARGEST, _LARGEST)
