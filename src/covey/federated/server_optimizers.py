"""Optimizers of the server's model in fedavg.

D, the aggregate of the clients' changes, takes the place of a negative gradient (Reddi et al., "Adaptive Federated
Optimization", 2021, algorithm 2). As there, moments have no bias correction
unless it is asked for.
"""

import math
from typing import ClassVar, Literal

from torch import Tensor, full_like

from covey.learning.mixture import Mixture, computed
from covey.learning.node import LearningNode
from covey.learning.selection import Selection
from covey.parts.parameters import Part, param
from covey.runtime.state import State


class Moments(State):
    """The server's moving averages of its clients' changes."""

    first: Tensor | None = None
    second: Tensor | None = None


class Steps(State):
    """The steps that the server has made."""

    steps: int = 0


class ServerOptimizer(Part):
    """A rule that makes a step of the server's model from the clients' changes."""

    family: ClassVar[str] = "server-optimizer"
    short = ("sgd", "eta")

    def is_plain(self) -> bool:
        """True if the step is always the change itself."""
        return False

    def moved(self, node: LearningNode, merged: Tensor | Mixture, selection: Selection) -> Tensor | Mixture:
        """The server's model after a round. Buffers are the merged ones in any case."""
        model = node.model
        if self.is_plain():
            return selection.put(model, merged)
        trained, buffers = selection.split(computed(merged))
        before, _ = selection.split(selection.take(model))
        after = before + self.step(trained - before, node)
        return selection.put(model, after, buffers if selection.buffered else None)

    def step(self, change: Tensor, node: LearningNode) -> Tensor:
        """The step of the trained values of the server's model.

        Args:
            change: the aggregate of the clients' models minus the server's.
            node: the server. Its state holds values that are kept between rounds.
        """
        raise NotImplementedError


class ServerSGD(ServerOptimizer):
    """x + eta D. With eta = 1, the default, the server takes the aggregate of its clients (McMahan et al., 2017)."""

    kind = "sgd"
    eta: float = param("The server's learning rate.", default=1.0, gt=0)

    def is_plain(self) -> bool:
        return self.eta == 1.0 and type(self).step is ServerSGD.step

    def step(self, change: Tensor, node: LearningNode) -> Tensor:
        return change * self.eta


class FedAvgM(ServerOptimizer):
    """Hsu et al. (2019): m becomes beta m + D, and x becomes x + eta m."""

    kind = "momentum"
    eta: float = param("The server's learning rate.", default=1.0, gt=0)
    beta: float = param("The decay of the momentum.", default=0.9, ge=0, lt=1)

    def step(self, change: Tensor, node: LearningNode) -> Tensor:
        moments = node.keep(Moments, self)
        moments.first = momentum = change if moments.first is None else self.beta * moments.first + change
        return momentum * self.eta


class Adaptive(ServerOptimizer):
    """x becomes x + eta m / (sqrt(v) + tau), where m is a moving average of D, and v one of its squares."""

    eta: float
    beta_1: float
    tau: float = param("The degree of adaptivity: smaller values adapt more.", default=1e-3, gt=0)
    v_0: Literal["tau^2", "zero"] = param(
        "The first v: tau squared, the least of the paper, or zero, as in other implementations.", default="tau^2"
    )

    def second_moment(self, before: Tensor, squares: Tensor) -> Tensor:
        """The new v, from the old v and the squares of D."""
        raise NotImplementedError

    def step(self, change: Tensor, node: LearningNode) -> Tensor:
        moments = node.keep(Moments, self)
        first, second, moved = moments.first, moments.second, change * (1.0 - self.beta_1)
        moments.first = m = moved if first is None else moved.add_(first, alpha=self.beta_1)
        if second is None:
            second = full_like(change, self.tau**2 if self.v_0 == "tau^2" else 0.0)
        moments.second = v = self.second_moment(second, change * change)
        return m / (v.sqrt() + self.tau) * (self.eta * self.correction(node))

    def correction(self, node: LearningNode) -> float:
        """The factor of eta in this step."""
        return 1.0


class FedAdagrad(Adaptive):
    """Reddi et al. (2021): v becomes v + D²."""

    kind = "adagrad"
    eta: float = param("The server's learning rate.", default=0.1, gt=0)
    beta_1: float = param("The decay of m. 0 is no momentum, as in the paper's experiments.", default=0.0, ge=0, lt=1)

    def second_moment(self, before: Tensor, squares: Tensor) -> Tensor:
        return before + squares


class FedAdam(Adaptive):
    """Reddi et al. (2021): v becomes beta_2 v + (1 - beta_2) D²."""

    kind = "adam"
    eta: float = param("The server's learning rate.", default=0.1, gt=0)
    beta_1: float = param("The decay of m.", default=0.9, ge=0, lt=1)
    beta_2: float = param("The decay of v.", default=0.99, ge=0, lt=1)
    bias_correction: bool = param(
        "Whether eta is multiplied by sqrt(1 - beta_2^t) / (1 - beta_1^t) in step t = 1, 2 ..., as in Adam.",
        default=False,
    )

    def second_moment(self, before: Tensor, squares: Tensor) -> Tensor:
        return self.beta_2 * before + (1.0 - self.beta_2) * squares

    def correction(self, node: LearningNode) -> float:
        if not self.bias_correction:
            return 1.0
        kept = node.keep(Steps, self)
        kept.steps += 1
        return math.sqrt(1.0 - self.beta_2**kept.steps) / (1.0 - self.beta_1**kept.steps)


class FedYogi(FedAdam):
    """Reddi et al. (2021): v becomes v - (1 - beta_2) D² sign(v - D²)."""

    kind = "yogi"
    eta: float = param("The server's learning rate.", default=0.01, gt=0)

    def second_moment(self, before: Tensor, squares: Tensor) -> Tensor:
        return before - (1.0 - self.beta_2) * squares * (before - squares).sign()
