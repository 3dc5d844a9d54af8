"""Membership inference by the loss: a model has lower losses on the samples that it was trained on.

The attack sees only the model. On label-skewed data it also succeeds without any overfitting, because the model has
low losses on the classes of its node: so the area is given for non-members of the members' classes, too.

Shapes: V views, S candidate samples, T test samples, M members.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covey.learning.views import View
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param
from covey.privacy.attacks.contract import Attack, Cell, Result, Tracked, Truth, strongest, untracked
from covey.privacy.attacks.knowledge import Knowledge, spread
from covey.privacy.attacks.losses import Losses, Pool, losses_of, pool_of
from covey.privacy.attacks.rates import Floats, auc, interval, matching, roc, tpr_at, worst_if_not_finite

_RATES = (0.001, 0.01)


class OnSamples(Attack):
    """An attack that judges samples by the models that it saw."""

    samples: int = param(
        "The most samples of the training data, and of the test data, that are judged.", default=4000, ge=1
    )
    messages: int = param("The most messages that are used, evenly over the run.", default=64, ge=1)

    def chosen(self, known: Knowledge) -> list[View]:
        """The views of models that are attacked.

        Raises:
            ConfigurationError: only gradients were seen.
        """
        models = [view for view in known.views if not view.gradient]
        if not models:
            raise ConfigurationError(f"{self.named().capitalize()} needs models, and only gradients were observed.")
        return spread(models, self.messages)


@dataclass
class Evidence:
    """Scores of samples, higher for likelier members, by kind of view and completion."""

    pool: Pool
    scores: list[Losses]


class MembershipLoss(OnSamples):
    """Takes the samples with the lowest losses under a seen model for those that its sender trained on."""

    kind = "membership-loss"

    def observe(self, known: Knowledge, tracked: Tracked[Any] = untracked) -> Evidence:
        pool = pool_of(known.learner, self.samples, known.prepared.setting.seed)
        found = losses_of(known, self.chosen(known), pool, tracked)
        for one in found:
            one.train_VS, one.test_VT = -one.train_VS, -one.test_VT
        return Evidence(pool, found)

    def score(self, known: Knowledge, evidence: Evidence, truth: Truth) -> Result:
        return scored(self.kind, evidence, truth)


COLUMNS = (
    "seen",
    "completed by",
    "messages",
    "AUC",
    "class-matched AUC",
    "TPR at 0.1 %",
    "95 %",
    "TPR at 1 %",
    "95 % ",
)


def scored(kind: str, evidence: Evidence, truth: Truth) -> Result:
    """The figures of membership scores."""
    found = [figures for one in evidence.scores if (figures := _figures(one, evidence.pool, truth)) is not None]
    if not found:
        raise ConfigurationError("No observed message is of a node whose training samples are among those judged.")
    best = strongest(found, "matched")
    rows = [_row(figures) for figures in found]
    by = "" if best["completed"] == "own model" else f", completed by the {best['completed']}"
    meaning = (
        f"{_in_words(best['matched'])} A random sample of the sender has a higher score than a random test sample, "
        f"with classes in the same proportions, in {best['matched']:.1%} of cases (guessing 50 %; {best['auc']:.1%} if "
        f"classes do not match), seen through a {best['seen']}{by}."
    )
    headline = {name: best[name] for name in ("auc", "matched", "tpr_0.1%", "tpr_1%", "members")}
    return Result(
        kind,
        COLUMNS,
        rows,
        meaning,
        headline,
        curves={f"{one['seen']}, {one['completed']}" if len(found) > 1 else one["seen"]: one["roc"] for one in found},
        details={
            "per_class": [{"seen": one["seen"], "completed": one["completed"], **one["classes"]} for one in found]
        },
    )


def _in_words(area: float) -> str:
    if not area > 0.53:
        return "The attack does no better than guessing."
    return "The attack recognises members." if area > 0.65 else "The attack recognises members a little."


def _row(found: dict[str, Any]) -> tuple[Cell, ...]:
    rates: list[Cell] = []
    for rate in _RATES:
        name = f"tpr_{rate * 100:g}%"
        low, high = interval(found[name] * found["members"], found["members"])
        rates += [found[name], f"{low:.3f}–{high:.3f}"]
    return (found["seen"], found["completed"], found["messages"], found["auc"], found["matched"], *rates)


def _figures(scores: Losses, pool: Pool, truth: Truth) -> dict[str, Any] | None:
    """The mean figures over views; None if no view has members in the pool."""
    raw: list[float] = []
    matched: list[float] = []
    rates: list[list[float]] = []
    curves, counts, classes = [], [], dict[str, list[float]]()
    known = set[int]()
    for index, view in enumerate(scores.views):
        members = np.isin(pool.train, truth.members(truth.owners(view)))
        members_M, others_N = (np.flatnonzero(found) for found in scores.of_judged(index, members))
        if not len(members_M):
            continue
        inside = worst_if_not_finite(scores.train_VS[index, members_M])
        outside = worst_if_not_finite(scores.test_VT[index, others_N])
        labels = pool.labels(members_M, others_N)
        raw.append(auc(inside, outside))
        matched.append(_matched(inside, outside, labels))
        rates.append([tpr_at(inside, outside, rate) for rate in _RATES])
        curves.append(roc(inside, outside))
        counts.append(len(members_M))
        known.update(members_M.tolist())
        for name, area in _per_class(inside, outside, labels).items():
            classes.setdefault(name, []).append(area)
    if not raw:
        return None
    return {
        "seen": scores.seen,
        "completed": scores.completed,
        "messages": len(raw),
        "auc": float(np.mean(raw)),
        "matched": float(np.nanmean(matched)) if not np.isnan(matched).all() else float("nan"),
        **{f"tpr_{rate * 100:g}%": float(np.mean([r[at] for r in rates])) for at, rate in enumerate(_RATES)},
        # Attacks on the same samples are not independent, so the trials of the interval are the distinct members.
        "members": len(known),
        "roc": (curves[0][0], np.mean([truly for _, truly in curves], axis=0)),
        "classes": {
            name: float(np.mean(areas)) for name, areas in sorted(classes.items(), key=lambda one: int(one[0]))
        },
    }


_Labels: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]] | None


def _matched(inside: Floats, outside: Floats, labels: _Labels) -> float:
    """The class-matched area; the raw one where targets are no classes."""
    if labels is None:
        return auc(inside, outside)
    kept, weights = matching(*labels)
    return auc(inside[kept], outside, weights)


def _per_class(inside: Floats, outside: Floats, labels: _Labels) -> dict[str, float]:
    """The area among the samples of each class."""
    if labels is None:
        return {}
    of_members, of_others = labels
    found = {str(c): auc(inside[of_members == c], outside[of_others == c]) for c in np.unique(of_members)}
    return {name: area for name, area in found.items() if not np.isnan(area)}


def combined(results: Sequence[Result]) -> Result:
    """Several variants of an attack as one result; the strongest is the headline."""
    best = max(results, key=lambda result: result.headline["matched"])
    return Result(
        best.kind,
        ("variant", *best.columns),
        [(result.details["variant"], *row) for result in results for row in result.rows],
        best.meaning,
        best.headline,
        curves={f"{r.details['variant']}: {name}": curve for r in results for name, curve in r.curves.items()},
        details={result.details["variant"]: result.details for result in results},
    )
