"""Federated averaging within cohorts of clients, each until its validation loss stands still.

Shapes: C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Annotated, Literal, cast

import torch
from torch import Tensor

from covey.aggregation.aggregation import Contribution, mixture
from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.cohorts import Cohort
from covey.federated.downlink import Model, Received
from covey.federated.ends import LOSS, SERVER, wrong_labels
from covey.federated.feedback import Feedback
from covey.federated.plateau import Falling, Plateau
from covey.federated.served import Served
from covey.federated.uplink import Changed, Trained
from covey.learning.node import LearningNode
from covey.learning.selection import BUFFERS, Selection
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import Compressor, Decompressed
from covey.messages.payloads import Payload
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.entries import Exactly, Numbers, Within
from covey.runtime.node import Message, Node
from covey.runtime.patience import check_patience
from covey.runtime.reading import understood


class Answer(Trained):
    """The model of a client after its training, and the loss of the model that it received."""

    loss: Annotated[float, Within(ge=-LOSS, le=LOSS)] | None = None
    """The loss on the client's validation samples; None without any."""


class CompressedAnswer(Changed):
    """The same with the compressed change of the model, in other entries of its message."""

    loss: Annotated[float, Within(ge=-LOSS, le=LOSS)] | None = None


class End(Content):
    """The word that a cohort trains no more."""

    ended: Annotated[bool, Exactly(True, "true")]


class Labels(Content):
    """The number of training samples of each class, C."""

    labels: Tensor

    def check(self, node: LearningNode) -> str | None:
        return wrong_labels(self.labels)


class Progress(Content):
    """The word of a cohort to the server, in every round until its end."""

    ended: bool


class Outcome(Labels):
    """The model of a cohort, and the sum of its members' labels; no labels if the server needs none."""

    model: Tensor

    def check(self, node: LearningNode) -> str | None:
        return "it has fewer than 0 samples of a class" if bool((self.labels < 0).any()) else None


class Member(Received):
    """The memory of a client about its cohort."""

    ended: bool = False


class Course(Falling):
    """The course of a cohort's training, at its server."""

    best: Tensor | None = None
    """The shared part of its best model."""
    labels: Tensor | None = None
    """The sum of its members' labels."""
    ended: bool = False
    dismissed: list[int] = []
    """The members that know of the end."""


class CohortTraining(Served):
    """The base of programs whose clients train a model in each cohort. A member of the cohort serves it."""

    work: ClientWork = param("The work of a client with its cohort's model.", factory=LocalTraining)
    weighting: Literal["samples", "uniform"] = param("The weights of clients in a round.", default="samples")
    plateau: Plateau = param("The rule that ends the training of a cohort.", factory=Plateau)
    up: Compressor | None = param(
        "The compressor of clients' changes, with error feedback. By default, clients send whole models.", default=None
    )
    best: Literal["measured", "as-published"] = param(
        "The best model: the one with the lowest loss or, as in the published code, the one after it.",
        default="measured",
    )
    result: Literal["best", "last"] = param("The model that a cohort hands over.", default="best")
    budget: Seconds | None = param(
        "The time until which cohorts train. Each hands over its newest model of that time. No limit by default.",
        default=None,
        gt=0,
    )
    max_rounds: int | None = param(
        "The most rounds of a cohort; by default, those of the experiment.", default=None, ge=1
    )
    patience: Seconds | None = param(
        "The time that a server waits for its clients; by default, for ever.", default=None, ge=0
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.selection = Selection.of(setting, owner=self.named())
        self._feedback = None
        if self.up is not None:
            self.up.need_contraction(self, self.selection.trained, "up")
            self._feedback = Feedback(self.up, setting, self.selection.trained, "cohort up")
        self.end = min(self.max_rounds or setting.rounds, setting.rounds)
        self.classes = 0
        """The number of classes if clients send their labels; else 0."""

    async def lead(self, node: LearningNode, cohort: Cohort) -> None:
        """Serve a cohort: train its model with the members until its loss stands still, and hand it over."""
        course = node.keep(Course)
        async for t in node.rounds():
            if course.ended:
                self.dismiss(node, cohort, t)
                continue
            start, chosen = self.selection.take(node.model), cohort.chosen(t)
            asked = [member for member in chosen if member != node.id]
            node.send(asked, Model(model=start), tag="model", round=t)
            answers = [(node.id, await self.answer(node, start, t))] if node.id in chosen else []
            inbox = await node.receive(tag="update", round=t, senders=asked, timeout=self.patience)
            answers += self.read(node, inbox, start)
            if t == 0:
                course.labels = await self.gather_labels(node, cohort)
            self.merge(node, answers)
            losses = [answer.loss for _, answer in answers if answer.loss is not None]
            if losses:
                node.log(validation=fmean(losses))
                if self.plateau.add(course, fmean(losses)):
                    course.best = start if self.best == "measured" else self.selection.take(node.model)
            late = self.budget is not None and node.now > self.budget
            course.ended = late or self.plateau.ends(course) or t + 1 == self.end
            if course.ended:
                self.hand_over(node, start if late else self.selection.take(node.model))
                node.record("cohorts", rounds=t + 1, members=len(cohort.members), lowest=course.lowest)
            node.send(SERVER, Progress(ended=course.ended), tag="progress", round=t)

    async def answer(self, node: LearningNode, model: Tensor, t: int) -> Answer:
        """Measure the model of the cohort on the client's validation samples, and train it."""
        received = self.selection.put(node.model, model)
        node.model = received  # A client is evaluated with the cohort's model.
        loss = (await node.evaluate(received))["loss"] if node.data.validation else None
        update = await self.work.train(node, received, t)
        known = loss if loss is not None and abs(loss) <= LOSS else None  # NaN is not known, either.
        return Answer(model=self.selection.take(update.model), samples=node.data.samples, loss=known)

    def compressed(self, node: LearningNode, answer: Answer, start: Tensor, t: int) -> Answer | Payload:
        """The form in which a member sends its answer."""
        if self._feedback is None:
            return answer
        trained, buffers = self.selection.split(answer.model)
        payload = self._feedback.payload(node, trained - self.selection.split(start)[0], t)
        loss = {} if answer.loss is None else {"loss": answer.loss}
        beside = {BUFFERS: buffers} if self.selection.buffered else {}
        return {**payload, "samples": answer.samples, **loss, **beside}

    def read(self, node: LearningNode, inbox: Iterable[Message], start: Tensor) -> Iterator[tuple[NodeId, Answer]]:
        """The usable answers of members, by sender."""
        if self._feedback is None:
            for found in node.usable(inbox, Answer, model=self.selection.entry):
                yield found.sender, found
            return
        for sent, change in self._changes(node, inbox):
            model = start.clone()
            change.add_to(model[: self.selection.trained])
            if sent.buffers is not None and self.selection.buffered:
                model[self.selection.trained :] = sent.buffers
            yield sent.sender, Answer(model=model, samples=sent.samples, loss=sent.loss)

    def _changes(self, node: Node, inbox: Iterable[Message]) -> Iterator[tuple[CompressedAnswer, Decompressed]]:
        """The usable compressed answers, and the changes in them."""
        feedback, buffered = self._feedback, self.selection.buffered
        assert feedback is not None
        sound = node.usable(inbox, CompressedAnswer, **({BUFFERS: Numbers(buffered)} if buffered else {}))
        return understood(node, sound, lambda sent: feedback.read(sent.others, sent.sender, sent.message.round or 0))

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The models in messages and, at the server of a cohort, the values of members' models that were sent."""
        messages = [*messages]
        yield from super().views(adversary, messages)
        if self._feedback is None:
            return
        answers = [message for message in messages if message.tag == "update"]
        for sent, change in self._changes(cast(Node, adversary), answers):
            start, places = adversary.own(sent.message.round or 0), change.indices
            trained = self.selection.split(self.selection.take(start))[0]
            values = (trained if places is None else trained[places]) + change.values
            if places is None and self.selection.buffered:
                places = torch.arange(self.selection.trained)
            yield adversary.view(sent.message, values, places, selection=self.selection, start=start)

    def merge(self, node: LearningNode, answers: Sequence[tuple[NodeId, Answer]]) -> None:
        """Take the mean of clients, by their samples or in equal parts."""
        found = sorted((pair for pair in answers if pair[1].samples), key=lambda pair: pair[0])
        if not found:
            return
        weights = [1 if self.weighting == "uniform" else answer.samples for _, answer in found]
        (_, first), *others = found
        models = [Contribution(id, answer.model) for id, answer in others]
        merged = mixture(first.model, models, [weight / sum(weights) for weight in weights[1:]])
        node.model = self.selection.put(node.model, merged)

    def hand_over(self, node: LearningNode, newest: Tensor) -> None:
        """Send the model of a cohort to the server: the best one or, with a budget, the newest one."""
        course = node.keep(Course)
        best = course.best if self.result == "best" and self.budget is None else None
        assert course.labels is not None
        node.send(SERVER, Outcome(model=newest if best is None else best, labels=course.labels), tag="outcome")

    def dismiss(self, node: LearningNode, cohort: Cohort, t: int) -> None:
        """Tell the members that were drawn for a round after the end that there is none, once."""
        course = node.keep(Course)
        members = [m for m in cohort.chosen(t) if m not in course.dismissed and m != node.id] if t < self.end else []
        node.send(members, End(ended=True), tag="model", round=t)
        course.dismissed = [*course.dismissed, *members]

    async def take_part(self, node: LearningNode, cohort: Cohort) -> None:
        """Train the model of the cohort in the rounds for which the client was drawn."""
        member = node.keep(Member)
        async for t in node.rounds():
            if t == 0 and self.classes:
                node.send(cohort.server, Labels(labels=self.labels_of(node)), tag="labels", round=0)
            if member.ended or t >= self.end or node.id not in cohort.chosen(t):
                continue
            wait = None if self.patience is None else (t - member.last + 1) * self.patience
            inbox = await node.receive(tag="model", round=t, senders=[cohort.server], timeout=wait)
            member.ended = any(message.shared.get("ended") is True for message in inbox)
            for found in [] if member.ended else node.usable(inbox, Model, model=self.selection.entry):
                member.last = t
                answer = self.compressed(node, await self.answer(node, found.model, t), found.model, t)
                node.send(cohort.server, answer, tag="update", round=t)

    def labels_of(self, node: LearningNode) -> Tensor:
        """The number of a client's training samples of each class, C."""
        counts = node.data.label_counts
        return torch.zeros(self.classes, dtype=torch.int64) if counts is None else torch.tensor(counts).long()

    async def gather_labels(self, node: LearningNode, cohort: Cohort) -> Tensor:
        """The number of samples of each class in a cohort, at its server."""
        if not self.classes:
            return torch.zeros(0, dtype=torch.int64)
        others = [member for member in cohort.members if member != node.id]
        inbox = await node.receive(tag="labels", round=0, senders=others, timeout=self.patience)
        sent = node.usable(inbox, Labels, labels=Numbers(self.classes, "int64"))
        return torch.stack([self.labels_of(node), *(found.labels for found in sent)]).sum(0)
