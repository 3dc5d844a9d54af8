"""Rules without training: mean, median, trimmed mean and geometric median of probabilities.

Shapes: S queries, N clients, C classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from covey.federated.robust_inference import order
from covey.federated.robust_inference.rule import ROUNDING, Decision, Fitting, Rule
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param


@dataclass(frozen=True)
class Trim:
    """The number of values that are trimmed at each end: `count`, or a share of the rows."""

    count: int = 0
    ratio: float | None = None

    def of(self, rows: int) -> int:
        """The number for so many rows."""
        return self.count if self.ratio is None else math.floor(self.ratio * rows)

    def mean(self, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        """The trimmed mean of rows."""
        if valid is None:
            return order.trimmed_mean(rows, self.of(rows.shape[1]))
        if self.ratio is None:
            return order.trimmed_mean(rows, self.count, valid)
        return order.trimmed_mean(rows, (valid.sum(1) * self.ratio).floor().long(), valid)

    def bounds(self, rows: Tensor, faulty: int, low: float, high: float) -> tuple[Tensor, Tensor]:
        """The least and greatest trimmed mean after any `faulty` rows have changed to values in [low, high].

        The change moves a value by at most `faulty` places among the sorted ones.
        """
        count, trim = rows.shape[1], self.of(rows.shape[1])
        ordered = rows.sort(1).values
        below = F.pad(ordered, (0, 0, faulty, 0), value=low)[:, trim : count - trim]
        above = F.pad(ordered, (0, 0, 0, faulty), value=high)[:, faulty + trim : faulty + count - trim]
        return below.mean(1), above.mean(1)


@dataclass(frozen=True)
class TrimmedDecision(Decision):
    """The trimmed mean of probabilities; the mean, if nothing is trimmed, and the median, if all but the middle is."""

    faulty: int
    trim: Trim | None
    """None for the median."""
    straight: bool = False

    def __call__(self, answers: Tensor, valid: Tensor | None = None) -> Tensor:
        value = order.median(answers, valid) if self.trim is None else self.trim.mean(answers, valid)
        return order.straight_through(value, answers, valid) if self.straight else value

    def surrogates(self) -> Mapping[str, Decision]:
        straight = {"straight-through": TrimmedDecision(self.faulty, self.trim, straight=True)}
        return {"gradient": self} if self.trim == Trim() else {"gradient": self, **straight}

    def _trim(self, clients: int) -> Trim:
        return Trim((clients - 1) // 2) if self.trim is None else self.trim

    def kappa(self, clients: int) -> float:
        trim = self._trim(clients).of(clients)
        return trim / (clients - trim - self.faulty) if trim >= self.faulty else math.inf

    def bounds(self, answers: Tensor, faulty: int) -> tuple[Tensor, Tensor]:
        return self._trim(answers.shape[1]).bounds(answers, faulty, 0.0, 1.0)

    def least_lead(self, answers: Tensor, faulty: int) -> Tensor | None:
        if self.trim != Trim():
            return super().least_lead(answers, faulty)
        # Liars that are certain of another class do the most harm to a mean, so this bound is attained.
        return (order.least_lead_of_mean(answers, faulty) - faulty) / answers.shape[1] - ROUNDING


@dataclass(frozen=True)
class GeometricDecision(Decision):
    """The geometric median of probabilities. Few iterations approach it, so that it has no kappa."""

    def __call__(self, answers: Tensor, valid: Tensor | None = None) -> Tensor:
        return order.geometric_median(answers, valid)


class Mean(Rule):
    """The mean of the clients' probabilities."""

    kind = "mean"

    def fitted(self, to: Fitting) -> Decision:
        return TrimmedDecision(to.faulty, Trim())


class Median(Rule):
    """The median of the probabilities of each class."""

    kind = "median"

    def fitted(self, to: Fitting) -> Decision:
        return TrimmedDecision(to.faulty, None)


class GeometricMedian(Rule):
    """The geometric median of the clients' probabilities, by Weiszfeld's algorithm."""

    kind = "geometric-median"

    def fitted(self, to: Fitting) -> Decision:
        return GeometricDecision()


class TrimmedMean(Rule):
    """The mean of the probabilities of each class without the largest and the smallest (CWTM)."""

    kind = "trimmed-mean"
    trim: int | None = param(
        "The number of values that are left out at each end; by default, that of the clients that may lie.",
        default=None,
        ge=0,
    )
    ratio: float | None = param("The share of values to leave out at each end, instead.", default=None, ge=0, lt=0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trim(self, self.trim, self.ratio)

    def fitted(self, to: Fitting) -> Decision:
        return TrimmedDecision(to.faulty, trim_of(self.trim, self.ratio, to.faulty))


def check_trim(rule: Rule, trim: int | None, ratio: float | None) -> None:
    """Check that one way to state a trim is used.

    Raises:
        ConfigurationError: both are.
    """
    if trim is not None and ratio is not None:
        raise ConfigurationError(f"The 'ratio' of {rule.named()} replaces 'trim'. Got both, {ratio} and {trim}.")


def trim_of(trim: int | None, ratio: float | None, faulty: int) -> Trim:
    """The trim of a rule, by default that of the clients that may lie."""
    return Trim(ratio=ratio) if ratio is not None else Trim(faulty if trim is None else trim)
