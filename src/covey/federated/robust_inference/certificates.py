"""Certificates: queries whose decision no `faulty` lying clients can change.

Two certificates, both of the received answers alone. The first is of any (f, kappa)-robust rule. Such a rule is
within sqrt(kappa) times the dissimilarity sigma_H of the honest mean, for every set H of n - f rows:

    |decision - mean_H|^2 <= kappa sigma_H^2,    sigma_H^2 = (1 / |H|) sum over H of |x_i - mean_H|^2

Two of its scores move together by at most sqrt(2) times that. If for every H the mean's margin is greater than
sqrt(2 kappa) sigma_H, then the decision is that of the honest mean, whoever is honest.

The second certificate bounds each score of the decision itself, as sorting allows. It needs no mean, and is often
tighter. Shapes: S queries, N clients, C classes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from covey.federated.robust_inference import order
from covey.federated.robust_inference.answers import check_faulty
from covey.federated.robust_inference.rule import ROUNDING, Decision


class Certificate(NamedTuple):
    """The certificate of each query, S numbers each."""

    margin: Tensor
    """The least margin of the most likely class in the mean of n - f rows, over all choices of those."""
    dissimilarity: Tensor
    """A bound of the dissimilarity of n - f rows, over all choices of those."""
    needed: Tensor
    """The margin that is enough: sqrt(2 kappa) times the dissimilarity."""
    holds: Tensor
    """True if the margin is, and more than rounding may add."""


def certify(answers: Tensor, decision: Decision, faulty: int) -> Certificate:
    """The certificate by margin and dissimilarity."""
    clients = answers.shape[1]
    check_faulty(clients, faulty)
    margin, spread = least_margin(answers, faulty), greatest_dissimilarity(answers, faulty)
    kappa = decision.kappa(clients)
    needed = math.sqrt(2.0 * kappa) * spread if math.isfinite(kappa) else torch.full_like(spread, torch.inf)
    return Certificate(margin, spread, needed, margin > needed + ROUNDING)


def least_margin(answers: Tensor, faulty: int) -> Tensor:
    """The least margin of the mean's first class in the mean of n - f rows: without the rows most in its favour."""
    return order.least_lead_of_mean(answers, faulty) / (answers.shape[1] - faulty)


def greatest_dissimilarity(answers: Tensor, faulty: int) -> Tensor:
    """A bound of the dissimilarity of any n - f rows: the mean square distance to one point is least at their mean."""
    squares = (answers - answers.mean(1, keepdim=True)).square().sum(-1)
    count = answers.shape[1] - faulty
    return squares.topk(count, dim=1).values.mean(1).sqrt()


def bounded_margin(answers: Tensor, decision: Decision, faulty: int) -> Tensor | None:
    """A bound of the lead of the decided class after any change of `faulty` rows, S.

    Where it is positive, no lie changes the decision. None if the decision has no bounds.
    """
    check_faulty(answers.shape[1], faulty)
    with torch.no_grad():
        return decision.least_lead(answers, faulty)
