"""The average of the models of one evaluated round, and their distance from it.

Shapes: P parameters.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from covey.learning.dataset import Split
from covey.learning.jobs import Judged, Shown
from covey.learning.learner import Learner
from covey.learning.mixture import Mixture, computed
from covey.learning.node import Metrics


class Average:
    """The sum of the models of one evaluated round, and the sum of their squared norms.

    Args:
        learner: the learner that evaluates the average model.
        split: returns the data on which it is evaluated; None if there are no common test samples.
        keeps: sum models. If False, only accuracies are kept.
    """

    def __init__(self, learner: Learner, split: Callable[[], Split] | None, *, keeps: bool) -> None:
        self._learner, self._split = learner, split
        self.total = torch.zeros(learner.layout.size if keeps else 0, dtype=torch.float64, device=learner.device)
        self.squares = torch.zeros((), dtype=torch.float64)
        self._lost = torch.zeros_like(self.total), torch.zeros_like(self.squares)
        """The parts of both sums that rounding took. With them, sums do not depend on the order of models."""
        self.count = 0
        """The number of models in the sum."""
        self.accuracies: list[float] = []

    def add(self, judged: Tensor | Mixture | Judged | Shown, figures: Mapping[str, float]) -> None:
        """Add a model and its figures."""
        judged = judged.model if isinstance(judged, Shown) else judged
        self.accuracies.append(figures["accuracy"])
        if len(self.total) and not isinstance(judged, Judged):
            model = computed(judged).double()
            self._add(model, torch.dot(model, model).cpu())
            self.count += 1

    def _add(self, model: Tensor, square: Tensor) -> None:
        """Add to both sums, and note what rounding takes from them (Knuth's two-sum)."""
        for total, lost, value in zip((self.total, self.squares), self._lost, (model, square), strict=True):
            before = total.clone()
            total.add_(value)
            taken = total - before
            lost.add_((before - (total - taken)) + (value - taken))

    def _sums(self) -> tuple[Tensor, float]:
        """The sum of the models, and that of their squared norms."""
        return self.total + self._lost[0], float(self.squares + self._lost[1])

    def freeze(self) -> dict[str, Any]:
        """The state as the entries of a payload."""
        total, squares = self._sums()
        return {
            "total": total,
            "squares": squares,
            "count": self.count,
            "accuracies": list(self.accuracies),
        }

    def merge(self, frozen: Mapping[str, Any]) -> None:
        """Add the state of another average."""
        self._add(frozen["total"].to(self.total), torch.tensor(frozen["squares"], dtype=torch.float64))
        self.count += frozen["count"]
        self.accuracies += frozen["accuracies"]

    def mean(self) -> Tensor | None:
        """The average model; None if models are not summed."""
        return (self._sums()[0] / self.count).float().cpu() if self.count else None

    def figures(self) -> Metrics:
        """The metrics of the average model, and the models' mean squared distance from it; empty without models."""
        if not self.count:
            return {}
        total, squares = self._sums()
        mean = total / self.count
        spread = max(squares / self.count - float(torch.dot(mean, mean)), 0.0)
        if self._split is None:
            return {"consensus_distance": spread}
        (metrics,) = self._learner.evaluate([mean.float()], self._split())
        return {**{f"average_model_{name}": value for name, value in metrics.items()}, "consensus_distance": spread}
