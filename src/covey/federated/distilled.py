"""One-shot federated learning by distillation: a student learns the outputs of all clients' models on public samples.

`fedkd` is the plain form. `feddf` (Lin et al., 2020) begins with the mean of the clients' models.

Shapes: M clients, C classes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from covey.federated.distillation import STUDENT, Distillation
from covey.federated.ensembles import weights_by_labels
from covey.federated.one_shot import Local, OneShot, mean_of
from covey.learning.mixture import Mixture
from covey.learning.node import Further, LearningNode
from covey.learning.objectives import KL
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param


def softened() -> Distillation:
    """The distillation of FedKD: the divergence from the mean of logits, both softened by a temperature of 3."""
    return Distillation(weights="uniform", objective=KL(temperature=3.0))


class FedKD(OneShot):
    """Node 0 trains a student with random weights to give the mean of the outputs of the clients' models."""

    kind = "fedkd"
    distillation: Distillation = param("The way to one model from those of clients.", factory=softened)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distillation.weights == "class":
            raise ConfigurationError(
                f"The 'weights' of the distillation of {self.named()} must be 'label' or 'uniform'. Got 'class' instead."
            )

    def networks(self, setting: Setting) -> Mapping[str, Further]:
        return {STUDENT: self.distillation.network()}

    async def combine(self, node: LearningNode, found: Sequence[tuple[Local, Tensor]]) -> None:
        if found:
            by_label = self.distillation.weights == "label"
            counts = torch.stack([local.labels for local, _ in found]) if by_label else torch.ones(len(found), 1)
            models = [model for _, model in found]
            await self.distillation.begin(node, models, weights_by_labels(counts), self.start(found))
        await self.distillation.learn(node)

    def start(self, found: Sequence[tuple[Local, Tensor]]) -> Tensor | Mixture | None:
        """The first student; None for random weights."""
        return None


def plain() -> Distillation:
    """The distillation of FedDF: the divergence from the mean of logits."""
    return Distillation(weights="uniform", objective=KL())


class FedDF(FedKD):
    """The same, with a student that begins with the mean of the clients' models, weighted by their samples."""

    kind = "feddf"
    distillation: Distillation = param("The way to one model from those of clients.", factory=plain)

    def start(self, found: Sequence[tuple[Local, Tensor]]) -> Tensor | Mixture | None:
        return mean_of(found)
