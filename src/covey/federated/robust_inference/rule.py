"""The interface of rules: from stored outputs to a decision, which combines the answers to queries.

Shapes: S queries, N clients, C classes.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from covey.federated.robust_inference.answers import Outputs
from covey.parts import rng
from covey.parts.parameters import Part

T = TypeVar("T")
ROUNDING = 1e-5
"""The greatest rounding error of a score or its bound, relative to 1 plus its magnitude."""


@dataclass
class Fitting:
    """The material from which rules are fitted.

    Attributes:
        faulty: the number f of clients that may lie.
        outputs: stored outputs for learned rules; None without any.
        seed: the seed of all random numbers.
    """

    faulty: int
    outputs: Outputs | None = None
    seed: int = 0
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, which is called once for each key."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    def generator(self, purpose: str) -> torch.Generator:
        """A generator of torch for a purpose."""
        return torch_generator(self.seed, purpose)


class Decision:
    """A rule that is ready: it combines the answers to queries."""

    fixed_size: ClassVar[bool] = False
    """True if it takes the answers of a fixed number of clients."""

    def __call__(self, answers: Tensor, valid: Tensor | None = None) -> Tensor:
        """The scores of classes, S x C, which are differentiable in the answers. They need not sum to 1.

        Args:
            answers: the probabilities, S x N x C.
            valid: True for the rows that count, S x N; None if all do.
        """
        raise NotImplementedError

    def surrogates(self) -> "Mapping[str, Decision]":
        """The decisions whose gradients an attack follows, by name: its own, and others where that one hides much."""
        return {"gradient": self}

    def kappa(self, clients: int) -> float:
        """The robustness kappa: for all honest rows H, |decision - mean_H|^2 <= kappa * mean_H |row - mean_H|^2."""
        return torch.inf

    def weights(self) -> Mapping[str, Tensor]:
        """The tensors of a trained decision, by name, for a file; empty if it cannot be read from one."""
        return {}

    def bounds(self, answers: Tensor, faulty: int) -> tuple[Tensor, Tensor] | None:
        """The least and greatest scores after any `faulty` rows have changed, S x C each; None if it has no bounds."""
        return None

    def least_lead(self, answers: Tensor, faulty: int) -> Tensor | None:
        """A bound of the least lead of the decided class after any `faulty` rows have changed, S; None without one.

        By default, the least score of the class minus the greatest of another.
        """
        bounds = self.bounds(answers, faulty)
        if bounds is None:
            return None
        decided = self(answers).argmax(-1, keepdim=True)
        low, high = bounds
        lead = low.gather(1, decided).squeeze(1) - high.scatter(1, decided, -torch.inf).amax(1)
        return lead - ROUNDING * (1.0 + torch.maximum(low.abs(), high.abs()).amax(1))


class Rule(Part):
    """A rule that makes one decision of the answers of many clients."""

    family: ClassVar[str] = "inference-rule"

    @property
    def needs_outputs(self) -> bool:
        """True if it is fitted to stored outputs."""
        return False

    def fitted(self, to: Fitting) -> Decision:
        """The rule, fitted.

        Raises:
            ConfigurationError: it needs stored outputs, and there are none.
        """
        raise NotImplementedError


def torch_generator(seed: int, purpose: str) -> torch.Generator:
    """The generator of torch for (seed, purpose)."""
    return torch.Generator().manual_seed(rng.purpose_key(seed, f"robust inference {purpose}") >> 1)
