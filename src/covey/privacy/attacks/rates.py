"""Figures of attacks: areas under curves, rates at low false alarms, and their intervals.

Shapes: M scores of members, N of non-members.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

Floats: TypeAlias = NDArray[np.float64]

_LEAST_RATE = 1e-4
_POINTS = 200


def worst_if_not_finite(scores: Floats) -> Floats:
    """Scores in which the worst takes the place of those that are not finite."""
    return np.where(np.isfinite(scores), scores, -np.inf)


def auc(members_M: Floats, others_N: Floats, weights_N: Floats | None = None) -> float:
    """The probability that a member has a higher score than a non-member; ties count one half. NaN without either.

    Args:
        members_M: the scores of members.
        others_N: those of non-members.
        weights_N: the weight of each non-member; 1 by default.
    """
    weights = np.ones(len(others_N)) if weights_N is None else weights_N
    total = float(weights.sum())
    if not len(members_M) or total <= 0.0:
        return float("nan")
    order = np.argsort(others_N, kind="stable")
    ranked, below = others_N[order], np.concatenate([[0.0], np.cumsum(weights[order])])
    lower, upper = (below[np.searchsorted(ranked, members_M, side)] for side in ("left", "right"))
    return float((lower + upper).mean() / (2.0 * total))


def matching(members: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Floats]:
    """The members whose class some non-member has, and weights with which non-members have the members' classes.

    Without them, an attack that only recognises which classes a node holds looks like one that recognises samples.

    Args:
        members: the classes of members, M.
        others: those of non-members, N.
    """
    classes = int(max(members.max(initial=0), others.max(initial=0))) + 1
    of_others = np.bincount(others, minlength=classes)
    kept_M = of_others[members] > 0
    of_members = np.bincount(members[kept_M], minlength=classes)
    return kept_M, of_members[others] / np.maximum(of_others, 1)[others]


def tpr_at(members_M: Floats, others_N: Floats, rate: float) -> float:
    """The fraction of members above a threshold that at most a fraction `rate` of non-members exceeds."""
    if not len(members_M) or not len(others_N):
        return float("nan")
    allowed = min(int(rate * len(others_N)), len(others_N) - 1)
    return float((members_M > np.sort(others_N)[::-1][allowed]).mean())


def interval(hits: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval of a rate.

    Args:
        hits: the number of hits; a mean over attacks of the same samples need not be whole.
        trials: the number of trials.
        level: the probability that it holds the rate.
    """
    if trials <= 0 or not np.isfinite(hits):
        return 0.0, 1.0
    outside = (1.0 - level) / 2.0
    low = 0.0 if hits <= 0 else float(beta.ppf(outside, hits, trials - hits + 1))
    high = 1.0 if hits >= trials else float(beta.ppf(1.0 - outside, hits + 1, trials - hits))
    return low, high


def roc(members_M: Floats, others_N: Floats) -> tuple[Floats, Floats]:
    """The curve of true alarms over false ones at fixed rates of these, so that curves can be averaged."""
    rates = np.concatenate([[0.0], np.geomspace(_LEAST_RATE, 1.0, _POINTS)])
    thresholds = np.unique(np.concatenate([members_M, others_N]))[::-1]
    falsely, truly = (
        np.concatenate([[0.0], 1.0 - np.searchsorted(np.sort(scores), thresholds, "left") / max(len(scores), 1)])
        for scores in (others_N, members_M)
    )
    return rates, np.interp(rates, falsely, truly)
