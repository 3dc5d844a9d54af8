"""The score of outputs: the loss that training minimises, and the figures of an evaluation.

A class for each position may have its C scores in the last dimension, S x T x C, or in the second, S x C x H x W.
Where both fit, one dimension of positions has them in the last, and several have them in the second.

Shapes: S samples of a batch, T or H x W positions of a sample, C classes, n what is judged of a batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from covey.learning.dataset import Data
from covey.learning.metrics import Metric, named
from covey.learning.node import Metrics
from covey.learning.objectives import Misfit, Objective, mean_of_samples
from covey.parts.errors import ConfigurationError, CoveyError, described, quoted

T = TypeVar("T")

_LEAST = 1e-9
"""The divisor of the loss of a batch in which no target counts, so that this loss is 0."""


class Scoring:
    """The loss and the metrics of a task.

    Args:
        data: the data set.
        loss: the minimised loss, which is also that of an evaluation.
        metrics: further figures of an evaluation.

    Raises:
        ConfigurationError: a metric does not take such targets, two have one name, or no target counts.
    """

    def __init__(self, data: Data, loss: Objective, metrics: Sequence[Metric] = ()) -> None:
        self._kind, self._classes = data.objective, data.classes
        self._positions, self._ignored = data.train.targets.shape[1:], data.ignore_index
        self.loss = loss
        self.metrics = named(metrics)
        for metric in metrics:
            metric.check_with(data)
        for name, split in (("training", data.train), ("test", data.test)):
            if len(split):
                loss.check_targets(split.targets, name)
            counted = self.counted(split.targets)
            if counted is not None and data.own is None and len(split) and not counted.any():
                raise ConfigurationError(
                    f"The {name} targets of the task must have a class other than the 'ignore_index' at some "
                    f"position. Got only {int(split.targets.flatten()[0])}."
                )

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
            expected, what = (
                f"{tuple(wanted)}",
                "the numbers of each sample" if self._positions else "a number per sample",
            )
        else:
            last = self._last(outputs, targets).shape
            if last[:-1] == wanted and len(last) and last[-1] >= self._classes:
                return
            expected, what = f"{(*wanted, self._classes)}", "a score for each class"
            if len(wanted) > 1:
                expected += f" or {(wanted[0], self._classes, *wanted[1:])}"
        raise Misfit(
            f"predicts {tuple(made)} for a batch whose targets are {tuple(wanted)}: it must be {expected}, {what}"
        )

    def _last(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scores with classes in the last dimension."""
        if self._kind != "sequence":
            return outputs
        positions = self._positions if targets.is_floating_point() else targets.shape[1:]
        made = outputs.shape
        if len(made) != len(positions) + 2:
            return outputs
        in_last = made[1:-1] == positions and made[-1] >= self._classes
        in_second = made[2:] == positions and made[1] >= self._classes
        return outputs.movedim(1, -1) if in_second and (len(positions) > 1 or not in_last) else outputs

    def counted(self, targets: Tensor, objective: Objective | None = None) -> Tensor | None:
        """True for each target that counts; None if all do.

        Args:
            targets: classes, or numbers, which all count.
            objective: the objective that may leave a class out; the task's loss by default.
        """
        ignored = (objective or self.loss).ignored
        if (ignored is None and self._ignored is None) or targets.is_floating_point():
            return None
        found: list[Tensor] = [torch.ne(targets, value) for value in {ignored, self._ignored} if value is not None]
        return found[0] if len(found) == 1 else found[0] & found[1]

    def losses(self, outputs: Tensor, targets: Tensor, objective: Objective | None = None) -> Tensor:
        """The loss of each sample.

        Args:
            objective: the loss, instead of that of the task.
        """
        objective, counted = objective or self.loss, self.counted(targets, objective)
        if objective.is_the_tasks:
            self.check(outputs, targets)
        elif not objective.classes_last:
            return objective.of_samples(outputs, targets, counted)
        alike = targets.shape == outputs.shape
        known = targets if counted is None else targets.where(counted, 0)
        scores = self._last(outputs, targets)
        if not objective.is_the_tasks:
            known = self._last(known, targets) if alike and targets.is_floating_point() else known
            return objective.of_samples(scores, known, counted)
        if self._kind == "values":
            return mean_of_samples((outputs - targets).square())
        found = F.cross_entropy(scores.movedim(-1, 1), known, reduction="none")
        return mean_of_samples(found if counted is None else found.where(counted, 0.0))

    def mean_loss(self, outputs: Tensor, targets: Tensor, objective: Objective | None = None) -> Tensor:
        """The mean loss over the targets that count; the task's own in one operation where all do."""
        if not (objective or self.loss).is_the_tasks or self.counted(targets, objective) is not None:
            return self.weighed(self.losses(outputs, targets, objective), targets, objective).mean()
        self.check(outputs, targets)
        if self._kind == "values":
            return F.mse_loss(outputs, targets)
        return F.cross_entropy(self._last(outputs, targets).movedim(-1, 1), targets)

    def weighed(
        self, losses: Tensor, targets: Tensor, objective: Objective | None = None, share: Tensor | None = None
    ) -> Tensor:
        """The losses of samples, scaled so that their mean is that over the targets that count.

        Args:
            losses: as `losses` returns them, S.
            targets: the targets of the samples.
            objective: the loss, instead of that of the task.
            share: the weight of each sample in the mean; the same of all by default.
        """
        counted = self.counted(targets, objective)
        if counted is None:
            return losses
        shares = mean_of_samples(counted.to(losses.dtype))
        return losses / (shares.mean() if share is None else (shares * share).sum()).clamp(min=_LEAST)

    # ------------------------------------------------------------------ evaluation

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """True for each correct prediction: of the class, of the character, or of the value to within one half."""
        self.check(outputs, targets)
        if self._kind == "values":
            return (outputs - targets).abs() <= 0.5
        return self._last(outputs, targets).argmax(-1) == targets

    def figures(self, loss: float, accuracy: float, further: "Further") -> Metrics:
        """The metrics of one evaluated model. For values they include the root mean squared error."""
        found = {"loss": loss, "accuracy": accuracy}
        if self._kind == "values" and self.loss.is_the_tasks:
            found["rmse"] = loss**0.5
        return {**found, **further.figures()}

    def judge(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """The metrics of predictions."""
        losses, further = self.losses(outputs, targets), Further(self)
        hits, counted = self.hits(outputs, targets), self.counted(targets)
        further.add(outputs, targets)
        loss = float(losses.mean(dtype=torch.float64))
        if counted is not None:
            hits, loss = hits[counted], loss / max(float(counted.double().mean()), _LEAST)
        return self.figures(loss, float(hits.double().mean()), further)

    def flat(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs and targets that metrics take: n x C scores and the n classes that count, or values."""
        if targets.is_floating_point():
            return outputs, targets
        scores, counted = self._last(outputs, targets), self.counted(targets)
        scores, targets = scores.reshape(-1, scores.shape[-1]), targets.reshape(-1)
        return (scores, targets) if counted is None else (scores[counted.reshape(-1)], targets[counted.reshape(-1)])


class Tally:
    """The loss and accuracy of one model on a split, of batch after batch.

    Args:
        scoring: the task's.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._scoring, self._further = scoring, Further(scoring)
        self._loss, self._weight, self._hits, self._count = 0.0, 0.0, 0, 0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        scoring, weight = self._scoring, float(len(targets))
        self._loss += float(scoring.losses(outputs, targets).sum())
        hits, counted = scoring.hits(outputs, targets), scoring.counted(targets)
        if counted is not None:
            hits, weight = hits[counted], weight * float(counted.double().mean())
        self._weight += weight
        self._hits, self._count = self._hits + int(hits.sum()), self._count + hits.numel()
        self._further.add(outputs, targets)

    def figures(self) -> Metrics:
        """The metrics of all batches; nan if no target of them counts."""
        if not self._count:
            return self._scoring.figures(float("nan"), float("nan"), self._further)
        return self._scoring.figures(self._loss / self._weight, self._hits / self._count, self._further)


class Further:
    """The metrics of one model on a split, of batch after batch.

    Args:
        scoring: the task's.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._scoring, self._metrics = scoring, scoring.metrics
        self._kept: dict[str, list[Any]] = {column: [] for column in scoring.metrics}

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        if not self._metrics:
            return
        outputs, targets = self._scoring.flat(outputs, targets)
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
