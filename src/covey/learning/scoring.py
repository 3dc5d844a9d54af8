"""The score of outputs: the loss that training minimises, and the figures of an evaluation.

Shapes: S samples of a batch, T positions of a sequence, C classes, n what is judged of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from covey.learning.dataset import Data
from covey.learning.metrics import Metric, named
from covey.learning.node import Metrics
from covey.learning.objectives import Misfit, Objective
from covey.parts.errors import ConfigurationError, CoveyError, described, quoted

T = TypeVar("T")


class Scoring:
    """The loss and the metrics of a task.

    Args:
        data: the data set.
        loss: what is minimised, and the loss of an evaluation.
        metrics: further figures of an evaluation.

    Raises:
        ConfigurationError: a metric does not take such targets, or two have one name.
    """

    def __init__(self, data: Data, loss: Objective, metrics: Sequence[Metric] = ()) -> None:
        self._kind, self._classes = data.objective, data.classes
        self.loss = loss
        self.metrics = named(metrics)
        for metric in metrics:
            metric.check_with(data)

    # ------------------------------------------------------------------ the loss

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse predictions that do not fit their targets, which torch might broadcast silently.

        Raises:
            Misfit: the shapes differ.
        """
        if not isinstance(outputs, Tensor):
            raise Misfit(f"must return a tensor. Got a {type(outputs).__name__} instead")
        made, wanted = outputs.shape, targets.shape
        if self._kind == "values":
            if made == wanted or (outputs.numel() == 1 == targets.numel()):
                return
            expected, what = tuple(wanted), "a number per sample"
        else:
            if made[:-1] == wanted and len(made) and made[-1] >= self._classes:
                return
            expected, what = (*wanted, self._classes), "a score for each class"
        raise Misfit(
            f"predicts {tuple(made)} for a batch whose targets are {tuple(wanted)}: it must be {expected}, {what}"
        )

    def losses(self, outputs: Tensor, targets: Tensor, objective: Objective | None = None) -> Tensor:
        """The loss of each sample.

        Args:
            objective: in place of the task's loss.
        """
        objective = objective or self.loss
        if not objective.is_the_tasks:
            return objective.of_samples(outputs, targets)
        self.check(outputs, targets)
        if self._kind == "values":
            return (outputs - targets).square()
        if self._kind == "sequence":
            return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)
        return F.cross_entropy(outputs, targets, reduction="none")

    def mean_loss(self, outputs: Tensor, targets: Tensor, objective: Objective | None = None) -> Tensor:
        """The mean of `losses`; of the task's own in one operation."""
        if not (objective or self.loss).is_the_tasks:
            return self.losses(outputs, targets, objective).mean()
        self.check(outputs, targets)
        if self._kind == "values":
            return F.mse_loss(outputs, targets)
        return F.cross_entropy(outputs.transpose(1, 2) if self._kind == "sequence" else outputs, targets)

    # ------------------------------------------------------------------ evaluation

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """True for each correct prediction: of the class, of the character, or of the value to within one half."""
        self.check(outputs, targets)
        if self._kind == "values":
            return (outputs - targets).abs() <= 0.5
        return outputs.argmax(-1) == targets

    def figures(self, loss: float, accuracy: float, further: "Further") -> Metrics:
        """The metrics of one evaluated model. For values they include the root mean squared error."""
        found = {"loss": loss, "accuracy": accuracy}
        if self._kind == "values" and self.loss.is_the_tasks:
            found["rmse"] = loss**0.5
        return {**found, **further.figures()}

    def judge(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """The metrics of predictions."""
        losses, further = self.losses(outputs, targets), Further(self.metrics)
        hits = self.hits(outputs, targets)
        further.add(outputs, targets)
        return self.figures(float(losses.mean(dtype=torch.float64)), float(hits.double().mean()), further)


class Further:
    """The metrics of one model on a split, of batch after batch.

    Args:
        metrics: by their columns.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics
        self._kept: dict[str, list[Any]] = {column: [] for column in metrics}

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """One more batch."""
        if not self._metrics:
            return
        if not targets.is_floating_point():
            outputs, targets = outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)
        for column, metric in self._metrics.items():
            self._kept[column].append(_asked(metric, metric.kept, outputs, targets))

    def figures(self) -> Metrics:
        """The metrics of all batches."""
        found = {}
        for column, metric in self._metrics.items():
            found[column] = figure = _asked(metric, metric.figure, self._kept[column])
            if not isinstance(figure, float):
                raise ConfigurationError(
                    f"{metric.named().capitalize()} must make a float of a split. Got {quoted(figure)} instead."
                )
        return found


def _asked(metric: Metric, method: Callable[..., T], *arguments: Any) -> T:
    """The result of a metric's method; an error of a user's own metric names the metric."""
    try:
        return method(*arguments)
    except CoveyError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{metric.named().capitalize()} fails: {described(error)}.") from error
