"""Knowledge distillation: a student learns the outputs of several teachers on unlabelled public samples.

Shapes: K teachers, S public samples, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from covey.learning.mixture import Mixture, computed
from covey.learning.node import Further, LearningNode
from covey.learning.objectives import KL, L1, Objective
from covey.learning.optimizers import Adam, Optimizer
from covey.parts.errors import ConfigurationError, ModelError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting, param
from covey.runtime.state import State

STUDENT = "student"
"""The name of the further network that distils."""
_AT_ONCE = 4096
"""The number of public samples whose outputs of all teachers are in memory at once."""
_LEAST = 1e-7
"""The least probability, in the logarithm of a mean of probabilities."""


def pooled(outputs: Tensor, weights: Tensor, form: Literal["logits", "probabilities"] = "logits") -> Tensor:
    """The weighted sum of teachers' outputs, S x C: of raw ones, or the logarithm of that of probabilities.

    Args:
        outputs: K x S x C raw outputs; K x S x ... x C for several positions.
        weights: K x C, which sum to 1 for each class.
        form: the outputs that are added up.
    """
    terms = outputs.float()
    if form == "logits":
        return torch.einsum("kc,ks...c->s...c", weights, terms)
    found = torch.einsum("kc,ks...c->s...c", weights, terms.softmax(-1))
    return found.clamp_min(_LEAST).log()


def checked(outputs: Tensor, nodes: Sequence[int]) -> Tensor:
    """The outputs of the models of K nodes, K x S x ..., if all are finite.

    Raises:
        ModelError: the outputs of a teacher are not finite.
    """
    finite = outputs.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        node = nodes[int(finite.int().argmin())]
        raise ModelError(f"The outputs of the model of node {node} are not finite on the public samples.")
    return outputs


class Lesson(State):
    """A distillation under way."""

    targets: Tensor | None = None
    """The soft targets of all public samples in float16, so that teachers are asked once; in float32 if some are beyond
    its range."""
    best: Tensor | None = None
    """The student with the lowest loss on the public samples that are held out."""
    lowest: float | None = None
    rounds: int = 0
    """The number of rounds that were left when it began."""
    passes: int = 0
    """The number of passes that are made."""


class StudentTraining(Part):
    """Trains a student to give known outputs on the public samples of the task."""

    kind = "distillation"
    objective: Objective = param("The loss between the outputs of the student and those of the teachers.", factory=L1)
    optimizer: Optimizer = param("The rule of a step of the student. Its state is kept.", factory=Adam)
    batch_size: int = param("The number of public samples of a step.", default=512, ge=1)
    epochs: int = param("The number of passes over the public samples.", default=50, ge=1)
    validation: float = param(
        "The fraction of the public samples that is held out to choose the best student.", default=0.1, ge=0, lt=1
    )
    result: Literal["best", "last"] = param(
        "The student that is the result: the one with the lowest loss on what is held out, or the last one.",
        default="best",
    )

    @classmethod
    def named(cls) -> str:
        return "the distillation"

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if not setting.public_samples:
            raise ConfigurationError(
                "The 'public' samples of the task must be given for a distillation, as in "
                "public = { dataset = 'fashion-mnist' }. Got none."
            )
        self._rounds = setting.rounds
        order = setting.generator("held out").permutation(setting.public_samples)
        held = int(self.validation * setting.public_samples)
        self._held, self._taught = torch.from_numpy(np.sort(order[:held])), torch.from_numpy(np.sort(order[held:]))

    def network(self) -> Further:
        """The student: a network like the nodes' model."""
        return Further(optimizer=replace(self.optimizer, state="keep"))

    def teach(self, node: LearningNode, targets: Tensor, t: int = 0, start: Tensor | Mixture | None = None) -> None:
        """Begin with given outputs for all public samples, S x C, and take the student for the node's model."""
        lesson, small = node.keep(Lesson, self), targets.half()
        lesson.rounds = self._rounds - t
        lesson.targets = small if bool(small.isfinite().all()) else targets.float()
        node.model = node.initial(STUDENT) if start is None else computed(start)

    async def learn(self, node: LearningNode) -> None:
        """Make the passes of a round: one, or more if few rounds are left. After the last pass, choose the result.

        If a round is left, it does that in the next one, so that evaluations show the last student, too.
        """
        lesson = node.keep(Lesson, self)
        if lesson.targets is None:
            return
        begun = lesson.passes
        for _ in range(-(-(self.epochs - begun) // max(lesson.rounds - 1, 1))):
            await self._pass(node, lesson, lesson.targets)
        lesson.rounds -= 1
        if lesson.passes == self.epochs and (lesson.passes == begun or lesson.rounds == 0):
            if self.result == "best" and lesson.best is not None:
                node.model = lesson.best
            lesson.targets = lesson.best = None

    async def _pass(self, node: LearningNode, lesson: Lesson, stored: Tensor) -> None:
        """Train the student in one pass over the samples, and measure it on those that are held out."""
        inputs = node.samples("public").inputs
        targets = stored.to(inputs.device).float()
        on = inputs[self._taught], targets[self._taught]
        update = await node.train(
            node.model, of=STUDENT, on=on, objective=self.objective, epochs=1, batch_size=self.batch_size
        )
        node.model = update.model
        loss = await self._loss(node, inputs[self._held], targets[self._held])
        if loss is None or lesson.lowest is None or loss < lesson.lowest:
            lesson.best, lesson.lowest = update.model, loss
        lesson.passes += 1
        node.record("distillation", epoch=lesson.passes, loss=update.loss, held_out=loss)

    async def _loss(self, node: LearningNode, inputs: Tensor, targets: Tensor) -> float | None:
        """The loss of the student on samples; None without any."""
        if not len(inputs):
            return None
        outputs = await node.predict(node.model, on=inputs, of=STUDENT)
        return float(self.objective.of_samples(outputs, targets).mean())


class SoftStudent(StudentTraining):
    """The same, with the divergence from outputs softened by a temperature of 3."""

    objective: Objective = param(
        "The loss between the outputs of the student and the given ones.", factory=lambda: KL(temperature=3.0)
    )


class Distillation(StudentTraining):
    """Trains a student to give the outputs of several models, its teachers, on the public samples of the task."""

    weights: Literal["label", "uniform", "class"] = param(
        "The weight of a teacher for a class: its share of the samples of this class, the same for all teachers, or 1 "
        "for the teacher of the cohort of this class.",
        default="label",
    )
    outputs: Literal["logits", "probabilities"] = param(
        "The outputs of teachers that are added up: raw ones, or their probabilities, of which the student gets the "
        "logarithm.",
        default="logits",
    )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        unknown = bool(setting.training_samples) and setting.label_counts is None
        if self.weights != "uniform" and (unknown or not setting.classes):
            raise ConfigurationError(
                f"The 'weights' of {self.named()} must be 'uniform' for data without classes. "
                f"Got '{self.weights}' instead."
            )

    async def begin(
        self,
        node: LearningNode,
        teachers: Mapping[NodeId, Tensor | Mixture],
        weights: Tensor,
        t: int = 0,
        start: Tensor | Mixture | None = None,
    ) -> None:
        """Ask the teachers for their outputs, and take the student for the node's model.

        Args:
            node: the node that distils.
            teachers: K models, by the nodes that have sent them.
            weights: K x C.
            t: the round.
            start: the first student; by default, one with random weights.
        """
        inputs, models = node.samples("public").inputs, list(teachers.values())
        pools = [
            pooled(checked(await node.predict(models, on=part), list(teachers)), weights, self.outputs)
            for part in torch.split(inputs, _AT_ONCE)
        ]
        self.teach(node, torch.cat(pools), t, start)
