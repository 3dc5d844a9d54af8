"""One-shot federated learning by distillation: a student learns the outputs of all clients' models on public samples.

`fedkd` is the plain form. `feddf` (Lin et al., 2020) begins with the mean of the clients' models.

Shapes: M clients, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from covey.federated.distillation import STUDENT, Distillation
from covey.federated.ensembles import weights_by_labels
from covey.federated.one_shot import Local, OneShot, labels_of_all, mean_of
from covey.learning.mixture import Mixture
from covey.learning.node import Further, LearningNode
from covey.learning.objectives import KL, Objective
from covey.parts.parameters import Setting, param


class ClientDistillation(Distillation):
    """A distillation from clients' models, with the divergence from outputs softened by a temperature of 3."""

    weights: Literal["label", "uniform"] = param(
        "The weight of a client for a class: its share of the samples of this class, or the same for all.",
        default="uniform",
    )
    objective: Objective = param(
        "The loss between the outputs of the student and those of the teachers.", factory=lambda: KL(temperature=3.0)
    )


class FedKD(OneShot):
    """Node 0 trains a student with random weights to give the mean of the outputs of the clients' models."""

    kind = "fedkd"
    distillation: ClientDistillation = param("The way to one model from those of clients.", factory=ClientDistillation)

    @property
    def needs_labels(self) -> bool:
        return self.distillation.weights == "label"

    def networks(self, setting: Setting) -> Mapping[str, Further]:
        return {STUDENT: self.distillation.network()}

    async def combine(self, node: LearningNode, found: Sequence[tuple[Local, Tensor]]) -> None:
        if found:
            counts = labels_of_all(found) if self.needs_labels else torch.ones(len(found), 1)
            models = {local.sender: model for local, model in found}
            await self.distillation.begin(node, models, weights_by_labels(counts), start=self.start(found))
        await self.distillation.learn(node)

    def start(self, found: Sequence[tuple[Local, Tensor]]) -> Tensor | Mixture | None:
        """The first student; None for random weights."""
        return None


class PlainDistillation(ClientDistillation):
    """The same without a temperature."""

    objective: Objective = param("The loss between the outputs of the student and those of the teachers.", factory=KL)


class FedDF(FedKD):
    """The same, with a student that begins with the mean of the clients' models, weighted by their samples."""

    kind = "feddf"
    distillation: PlainDistillation = param("The way to one model from those of clients.", factory=PlainDistillation)

    def start(self, found: Sequence[tuple[Local, Tensor]]) -> Tensor | Mixture | None:
        return mean_of(found)
