"""CPFL (Dhasade et al., 2025): cohorts run federated averaging side by side until each has converged; then one model.

Shapes: K cohorts, C classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from covey.federated.cohort_training import CohortTraining, Outcome, Progress
from covey.federated.cohorts import BY, By, Cohort
from covey.federated.distillation import STUDENT, Distillation
from covey.federated.ends import SERVER
from covey.federated.ensembles import weights_by_labels
from covey.learning.node import Further, LearningNode
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.entries import Numbers
from covey.runtime.state import State


class Gathered(State):
    """The models that have arrived at node 0."""

    models: dict[NodeId, Tensor] = {}
    """By the server of the cohort: the shared part."""
    labels: dict[NodeId, Tensor] = {}
    """The sum of the labels of each cohort."""
    complete: bool = False


class CPFL(CohortTraining):
    """Cohorts of clients train a model each until their validation loss stands still; node 0 distils one of all.

    The member of a cohort with the lowest median latency is its server. Node 0 has no data. One cohort is federated
    averaging that ends by itself, without a distillation.
    """

    kind = "cpfl"
    synchronous = True
    cohorts: int = param("The number of cohorts.", default=4, ge=1, lt="nodes")
    by: By = param("The rule of cohorts: at random, or by the class of which a client has most.", default="seed")
    count: int | None = param("The clients of a round of a cohort; by default, all.", default=None, ge=1)
    fraction: float | None = param("The same as a fraction of the cohort, instead.", default=None, gt=0, le=1)
    distillation: Distillation | None = param(
        "The way to one model from those of cohorts; by default, from several.", default=None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count is not None and self.fraction is not None:
            raise ConfigurationError(
                f"The program cpfl has both 'count' ({self.count}) and 'fraction' ({self.fraction:g}): give one."
            )
        if self.distillation is None and self.cohorts > 1:
            self.distillation = Distillation()
        if self.distillation is not None and self.distillation.weights == "class" != self.by:
            raise ConfigurationError(
                "The 'weights' of the distillation must be 'label' or 'uniform' for cohorts by 'seed'. Got 'class' "
                "instead."
            )

    def networks(self, setting: Setting) -> Mapping[str, Further]:
        return {} if self.distillation is None else {STUDENT: self.distillation.network()}

    def most_received(self) -> int:
        return max(len(self._served), *(len(cohort.members) for cohort in self._served.values()))

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.check_facts(setting)
        if self.distillation is not None and self.distillation.weights == "label":
            self.classes = setting.classes
        groups = BY[self.by](setting, [NodeId(id) for id in range(1, setting.nodes)], self.cohorts)
        if self.count is not None and self.count > (most := max(map(len, groups))):
            raise ConfigurationError(
                f"The 'count' of {self.named()} must be at most the clients of the largest cohort, {most}. Got "
                f"{self.count} instead."
            )
        cohorts = [Cohort(setting, ids, self.count, self.fraction, k) for k, ids in enumerate(groups) if ids]
        self._served = {cohort.server: cohort for cohort in cohorts}
        self._cohort_of = {member: cohort for cohort in cohorts for member in cohort.members}

    def check_facts(self, setting: Setting) -> None:
        """Refuse clients that cannot tell when to stop, or whose words nothing protects."""
        held_out = any(setting.validation_samples)
        if setting.validation_samples and not held_out and self.max_rounds is None:
            raise ConfigurationError(
                "The clients must have validation samples, so that a cohort sees when its loss stands still. Got none: "
                "raise the 'validation' of the task, or set the 'max_rounds' of cpfl."
            )
        if setting.protects_samples and self.by == "class":
            raise ConfigurationError(
                "The 'by' of the program cpfl must be 'seed' with 'ldp': by 'class', a client's cohort tells the class "
                "of which it has most, without noise. Got 'class' instead."
            )
        labels = self.distillation is not None and self.distillation.weights != "uniform"
        if setting.protects_samples and (held_out or labels):
            sent = "validation losses" if held_out else "numbers of samples of each class"
            raise ConfigurationError(
                f"The program cpfl must send nothing that 'ldp' does not protect. Got {sent}: set 'validation' of the "
                f"task to 0, and 'weights' of the distillation to 'uniform'."
            )

    async def run(self, node: LearningNode) -> None:
        if node.id == SERVER:
            await self.fuse(node)
        else:
            cohort = self._cohort_of[node.id]
            await (self.lead if node.id == cohort.server else self.take_part)(node, cohort)

    async def fuse(self, node: LearningNode) -> None:
        """Wait for the models of all cohorts, and distil one from them."""
        kept = node.keep(Gathered)
        async for t in node.rounds():
            if not kept.complete:
                await self.gather(node, t)
            if kept.complete and self.distillation is not None:
                await self.distillation.learn(node)

    async def gather(self, node: LearningNode, t: int) -> None:
        """Take the models of cohorts that ended in a round. With those of all, choose or begin to distil the result."""
        kept, left, last = node.keep(Gathered), self.missing(node), t + 1 == self.end
        inbox = await node.receive(tag="progress", round=t, senders=left, timeout=self.patience and 2 * self.patience)
        ended = left if last else [word.sender for word in node.usable(inbox, Progress) if word.ended]
        wait = self.patience and self.patience * (2 if last else 1)
        arrived = await node.receive(tag="outcome", senders=ended, timeout=wait)
        entries = {"model": self.selection.entry, "labels": Numbers(self.classes, "int64")}
        for outcome in node.usable([*arrived, *node.arrived(tag="outcome")], Outcome, **entries):
            if outcome.sender in left:
                kept.models[outcome.sender], kept.labels[outcome.sender] = outcome.model, outcome.labels
        kept.complete = last or not self.missing(node)
        if kept.complete and kept.models:
            models = {server: self.selection.put(node.model, kept.models[server]) for server in sorted(kept.models)}
            if self.distillation is None:
                (node.model,) = models.values()
            else:
                await self.distillation.begin(node, models, self.weights(kept.labels, self.distillation), t)

    def missing(self, node: LearningNode) -> list[NodeId]:
        """The servers of cohorts whose models have not arrived."""
        kept = node.keep(Gathered)
        return [server for server in self._served if server not in kept.models]

    def weights(self, labels: Mapping[NodeId, Tensor], distillation: Distillation) -> Tensor:
        """The weight of each cohort for each class, K x C, or K x 1 if it is the same for all classes."""
        servers = sorted(labels)
        if distillation.weights == "label":
            return weights_by_labels(torch.stack([labels[server] for server in servers]))
        if distillation.weights == "uniform":
            return weights_by_labels(torch.ones(len(servers), 1))
        classes = torch.tensor([self._served[server].number for server in servers])
        return weights_by_labels((classes.unsqueeze(1) == torch.arange(self.cohorts)).long())
