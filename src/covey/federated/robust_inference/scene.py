"""The scene of an attack: queries with their answers, the clients that lie, and the decision that they know.

Shapes: S queries, N clients, H honest clients, F lying clients, C classes.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from covey.federated.robust_inference.answers import Outputs, check_faulty
from covey.federated.robust_inference.rule import Decision, torch_generator
from covey.parts import rng


@dataclass(frozen=True)
class Scene:
    """All that liars may know.

    Attributes:
        outputs: the answers without lies, and the true classes.
        liars: the ids of the clients that lie, F.
        decision: the rule that combines the answers.
        clean: clean answers to other queries, for the statistics of an attack.
        seed: the seed of the attack's random numbers.
    """

    outputs: Outputs
    liars: Tensor
    decision: Decision
    clean: Tensor | None = None
    seed: int = 0

    @property
    def labels(self) -> Tensor:
        """The true classes, S."""
        return self.outputs.labels

    @cached_property
    def own(self) -> Tensor:
        """The answers that the liars would give, S x F x C."""
        return self.outputs.answers[:, self.liars]

    @cached_property
    def honest(self) -> Tensor:
        """The answers of the others, S x H x C."""
        answers = self.outputs.answers
        here = torch.ones(answers.shape[1], dtype=torch.bool)
        here[self.liars] = False
        return answers[:, here]

    @cached_property
    def consensus(self) -> Tensor:
        """The decision of the honest clients, S x C: their mean stands in for the liars' rows."""
        rows = self.honest.mean(1, keepdim=True).expand(-1, len(self.liars), -1)
        with torch.no_grad():
            return self.decision(self.attacked(rows))

    def attacked(self, rows: Tensor) -> Tensor:
        """The answers with those rows of the liars, S x N x C."""
        return self.outputs.answers.index_copy(1, self.liars, rows)

    def same_of_all(self, classes: Tensor) -> Tensor:
        """The certain answer for a class of each query, by all liars: S x F x C."""
        return self.certain(classes).unsqueeze(1).expand(-1, len(self.liars), -1)

    def certain(self, classes: Tensor) -> Tensor:
        """The probability 1 for some classes."""
        return F.one_hot(classes, self.outputs.answers.shape[2]).to(self.outputs.answers.dtype)

    def generator(self, purpose: str) -> torch.Generator:
        """A generator for a purpose."""
        return torch_generator(self.seed, f"attack {purpose}")


def liars_of(clients: int, faulty: int, seed: int) -> Tensor:
    """The clients that lie: the last `faulty` of a fixed random permutation, in increasing order.

    Raises:
        AnswersError: half of the clients or more may lie.
    """
    check_faulty(clients, faulty)
    order = rng.generator(seed, "robust inference liars").permutation(clients)
    return torch.from_numpy(order[clients - faulty :].copy()).sort().values
