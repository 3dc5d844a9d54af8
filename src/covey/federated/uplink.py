"""Ways to send clients' models to the server: whole, or as compressed changes."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, cast

import torch
from torch import Tensor

from covey.federated.ends import SAMPLES, SERVER, WEIGHT, Ends
from covey.federated.feedback import Feedback
from covey.learning.node import LearningNode, Update
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import Compressor, Decompressed
from covey.messages.payloads import Entry, Payload
from covey.parts.parameters import Setting
from covey.runtime.content import Content
from covey.runtime.node import Message, Node, Wanted
from covey.runtime.reading import understood

if TYPE_CHECKING:
    from covey.federated.fedavg import FedAvg


class Answer(Content):
    """The answer of a client. Programs say which of the optional entries they need."""

    samples: Annotated[int, SAMPLES]
    """The number of samples of the client."""
    normaliser: Annotated[float, WEIGHT] | None = None
    """The total weight of the gradients in the client's change, in learning rates."""
    effective: Annotated[float, WEIGHT] | None = None
    """The steps by which the client says that the server should move, in learning rates."""
    control: Tensor | None = None
    """The change of the client's control variate."""


class Trained(Answer):
    """The whole model of a client."""

    model: Tensor
    samples: Annotated[int, SAMPLES]  # Checked after the model.


class Changed(Answer):
    """The compressed change of a client's model. Its message holds the vector in other entries."""

    buffers: Tensor | None = None
    """The buffers of the client's model."""


class WholeUp(Ends):
    """The whole models of clients."""

    def send(self, node: LearningNode, update: Update, t: int, **beside: Entry) -> None:
        """Send the result of a client's training to the server, with further entries of an `Answer`."""
        payload = {**self.payload(node, update, t), "samples": node.data.samples, **beside}
        node.send(SERVER, payload, tag="update", round=t)

    def payload(self, node: LearningNode, update: Update, t: int) -> Payload:
        """The entries for the client's model."""
        return {"model": self.selection.take(update.model)}

    def parts(
        self, node: LearningNode, answers: Iterable[Message], origin: Tensor | None, **wanted: Wanted
    ) -> Iterator[tuple[Answer, Tensor]]:
        """The shared part of each client's model, corrected for a client's start that differs from the server's model.

        Args:
            node: the server.
            answers: the clients' messages.
            origin: the trained values that clients started with; None if those are the server's.
            wanted: the further entries that answers must have.
        """
        for answer in node.usable(answers, Trained, model=self.selection.entry, **wanted):
            part = answer.model
            if origin is not None:
                part = part.clone()
                part[: self.selection.trained] += self.trained(node.model) - origin
            yield answer, part

    def views(self, server: Adversary, answers: Iterable[Arrived]) -> Iterator[View]:
        """The clients' models. Clients began with the server's, unless they hold a copy of it."""
        for answer in server.usable(answers, Trained, model=self.selection.entry):
            round = answer.message.round
            start = None if self.copies else server.own(round)
            yield server.view(answer.message, answer.model, selection=self.selection, start=start)


class CompressedUp(WholeUp):
    """Compressed changes, with error feedback: a client adds the error of a change to its next one."""

    def __init__(self, program: "FedAvg", setting: Setting, compressor: Compressor) -> None:
        super().__init__(program, setting)
        self._feedback = Feedback(compressor, setting, self.selection.trained, "fedavg up")

    def payload(self, node: LearningNode, update: Update, t: int) -> Payload:
        change = self.trained(update.model) - self.trained(update.start)
        return self.with_buffers(self._feedback.payload(node, change, t), update.model)

    def parts(
        self, node: LearningNode, answers: Iterable[Message], origin: Tensor | None, **wanted: Wanted
    ) -> Iterator[tuple[Answer, Tensor]]:
        start = self.trained(node.model)
        sound = node.usable(answers, Changed, **self.beside, **wanted)
        for answer, change in understood(node, sound, self._change):
            expected = answer.buffers if self.beside else None
            part = start.clone() if expected is None else torch.cat([start, expected])
            change.add_to(part[: len(start)])
            yield answer, part

    def views(self, server: Adversary, answers: Iterable[Arrived]) -> Iterator[View]:
        """The clients' models, the server's plus their changes: of values that were not sent, nothing is known."""
        reader = cast(Node, server)
        for answer, change in understood(reader, server.usable(answers, Changed, **self.beside), self._change):
            start = server.own(answer.message.round)
            sent, trained = change.indices, self.trained(start)
            values = (trained if sent is None else trained[sent]) + change.values
            yield server.view(answer.message, values, sent, selection=self.selection, start=start)

    def _change(self, answer: Changed) -> Decompressed:
        """The change in an answer.

        Raises:
            WireError: the answer is malformed.
        """
        return self._feedback.read(answer.others, answer.sender, answer.message.round or 0)
