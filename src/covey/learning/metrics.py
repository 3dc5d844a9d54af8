"""Figures of a model on a split, beside its loss and accuracy.

A metric keeps something of each batch of outputs and makes one number of all that it kept. Outputs and targets are
flat: n x C scores and n classes, of samples or of the positions in them; or n x ... values and targets of the same
shape.

Shapes: n samples, C classes.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from covey.learning.dataset import Data
from covey.parts.errors import ConfigurationError, quoted
from covey.parts.parameters import Part, build, param
from covey.parts.signatures import Wrapped, wrapped
from covey.runtime.runs.schema import COMMIT_COLUMNS

_TAKEN = frozenset({"loss", "rmse", "energy", *COMMIT_COLUMNS})
"""Columns that a run has by itself."""


class Metric(Part):
    """A figure of an evaluation; it has a column in the run."""

    family: ClassVar[str] = "metric"
    of: ClassVar[Literal["classes", "values", "all"]] = "all"
    """Which targets it takes."""
    column: str | None = param("The name of its column; by default, that of its kind.", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.column is not None and not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", self.column):
            raise ConfigurationError(
                f"The 'column' of {self.named()} must be at most 40 small letters, digits and '_', beginning with a "
                f"letter. Got {self.column!r} instead."
            )

    @classmethod
    def shorthand(cls, value: object) -> "Metric | None":
        return build(cls, {"kind": value}) if callable(value) else None

    @classmethod
    def adopt(cls, name: str, found: Any) -> "type[Metric] | None":
        """A user's own function, or a class of torchmetrics, made a metric of the name under which it was found."""
        if isinstance(found, type):
            computes = hasattr(found, "update") and hasattr(found, "compute")
            return wrapped(ClassMetric, name, found, asks=("num_classes",)) if computes else None
        return wrapped(FunctionMetric, name, found, positions=2) if callable(found) else None

    @property
    def called(self) -> str:
        """The name of its column."""
        if self.column is not None:
            return self.column
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.title().rpartition(":")[2].rpartition(".")[2])
        return re.sub(r"\W+", "_", name).lower()

    def check_with(self, data: Data) -> None:
        """See whether it takes the targets of a data set.

        Raises:
            ConfigurationError: it does not.
        """
        values = data.objective == "values"
        if (self.of == "classes" and values) or (self.of == "values" and not values):
            has = "values" if values else "classes"
            raise ConfigurationError(f"{self.named().capitalize()} is one of {self.of}, and the targets are {has}.")

    @abstractmethod
    def kept(self, outputs: Tensor, targets: Tensor) -> Any:
        """The part of a batch that `figure` needs."""

    @abstractmethod
    def figure(self, kept: Sequence[Any]) -> float:
        """The metric, from the kept values of all batches."""


def named(metrics: Sequence[Metric]) -> dict[str, Metric]:
    """Metrics by their columns.

    Raises:
        ConfigurationError: two have one column, or one has a column of every run.
    """
    found: dict[str, Metric] = {}
    for metric in metrics:
        column = metric.called
        if column in found or column in _TAKEN:
            other = f"the metric {found[column].title()}" if column in found else "every run"
            raise ConfigurationError(
                f"The metric {metric.title()} has the column {quoted(column)}, as {other} has: "
                f"set its 'column' to another one."
            )
        found[column] = metric
    return found


class Accuracy(Metric):
    """The share of samples, or of positions in them, whose class has the highest score."""

    kind = "accuracy"
    of = "classes"

    def kept(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([(outputs.argmax(-1) == targets).sum(), targets.new_tensor(len(targets))])

    def figure(self, kept: Sequence[Tensor]) -> float:
        hits, count = torch.stack(list(kept)).sum(0).tolist()
        return hits / count if count else float("nan")


class MacroF1(Metric):
    """The mean F1 score over the classes that are among targets or predictions."""

    kind = "macro-f1"
    of = "classes"

    def kept(self, outputs: Tensor, targets: Tensor) -> Tensor:
        predicted, classes = outputs.argmax(-1), outputs.shape[-1]
        hits = predicted[predicted == targets]
        return torch.stack([torch.bincount(one, minlength=classes) for one in (hits, predicted, targets)])

    def figure(self, kept: Sequence[Tensor]) -> float:
        hits, predicted, true = torch.stack(list(kept)).sum(0).double()
        found = (predicted + true) > 0
        return float((2.0 * hits[found] / (predicted + true)[found]).mean())


class AUROC(Metric):
    """The area under the ROC curve of a class against the others, a mean over the classes among the targets."""

    kind = "auroc"
    of = "classes"

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return outputs.softmax(-1), targets

    def figure(self, kept: Sequence[tuple[Tensor, Tensor]]) -> float:
        scores, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
        areas = []
        for label in range(scores.shape[1]):
            mine = targets == label
            positives = int(mine.sum())
            negatives = len(mine) - positives
            if positives and negatives:
                # The share of pairs in the right order, equal scores by half: Mann and Whitney's U.
                below = float(_ranks(scores[:, label])[mine].sum()) - positives * (positives + 1) / 2
                areas.append(below / (positives * negatives))
        return sum(areas) / len(areas) if areas else float("nan")


def _ranks(scores: Tensor) -> Tensor:
    """The rank of each score, from 1; equal scores share the mean of theirs."""
    _, where, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0).double() - (counts.double() - 1.0) / 2.0
    return ranks[where]


class Perplexity(Metric):
    """The exponential of the mean cross-entropy in nats, of samples or of positions in them."""

    kind = "perplexity"
    of = "classes"

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return F.cross_entropy(outputs, targets, reduction="none").sum(dtype=torch.float64), len(targets)

    def figure(self, kept: Sequence[tuple[Tensor, int]]) -> float:
        losses, counts = zip(*kept, strict=True)
        return float((torch.stack(losses).sum() / sum(counts)).exp())


class _OfDifferences(Metric):
    """A mean over all values of a function of their differences from the targets."""

    of = "values"

    @abstractmethod
    def of_difference(self, difference: Tensor) -> Tensor:
        """The values to average."""

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return self.of_difference(outputs.double() - targets.double()).sum(), outputs.numel()

    def figure(self, kept: Sequence[tuple[Tensor, int]]) -> float:
        sums, counts = zip(*kept, strict=True)
        return float(torch.stack(sums).sum() / sum(counts))


class MeanSquaredError(_OfDifferences):
    """The mean squared difference, in the square of the targets' unit."""

    kind = "mse"

    def of_difference(self, difference: Tensor) -> Tensor:
        return difference.square()


class MeanAbsoluteError(_OfDifferences):
    """The mean absolute difference, in the targets' unit."""

    kind = "mae"

    def of_difference(self, difference: Tensor) -> Tensor:
        return difference.abs()


class R2(Metric):
    """The coefficient of determination, 1 for exact predictions and 0 for the mean; a mean over outputs.

    Of an output whose targets are all equal it is 1 where predictions are exact and 0 elsewhere.
    """

    kind = "r2"
    of = "values"

    def kept(self, outputs: Tensor, targets: Tensor) -> Tensor:
        y, predicted = (
            targets.double().flatten(1) if targets.dim() > 1 else targets.double().unsqueeze(1),
            outputs.double(),
        )
        mean = y.mean(0)
        left = (predicted.reshape(y.shape) - y).square().sum(0)
        return torch.stack([torch.full_like(mean, len(y)), mean, (y - mean).square().sum(0), left])

    def figure(self, kept: Sequence[Tensor]) -> float:
        count, mean, around, left = torch.stack(list(kept), dim=1)
        whole = (count * mean).sum(0) / count.sum(0)
        spread = around.sum(0) + (count * (mean - whole).square()).sum(0)
        left = left.sum(0)
        share = torch.where(spread > 0, left / spread, (left > 0).double())
        return float((1.0 - share).mean())


class _Called(Wrapped, Metric):
    """A metric that is computed of all outputs of a split at once."""

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return outputs, targets


class FunctionMetric(_Called):
    """A function of the user's own: `(outputs, targets, **parameters) -> number`."""

    def figure(self, kept: Sequence[tuple[Tensor, Tensor]]) -> float:
        outputs, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return float(self.wraps(outputs, targets, **self.arguments()))


class ClassMetric(_Called):
    """A class of torchmetrics, or one with its methods `update` and `compute`."""

    def figure(self, kept: Sequence[tuple[Tensor, Tensor]]) -> float:
        arguments, (first, _) = self.arguments(), kept[0]
        if "num_classes" in self.asks and first.dim() > 1:
            arguments["num_classes"] = first.shape[-1]
        metric = self.wraps(**arguments).to(first.device)
        for outputs, targets in kept:
            metric.update(outputs, targets)
        return float(metric.compute())
