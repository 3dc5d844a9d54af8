"""The answers of clients to an asynchronous server: all numbers of an outcome, or the trained ones compressed."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from covey.federated.ends import SERVER
from covey.federated.feedback import Feedback
from covey.learning.node import LearningNode
from covey.learning.selection import BUFFERS, Selection
from covey.learning.views import Adversary, View
from covey.messages.compression import Compressor, Decompressed
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting
from covey.runtime.content import Content
from covey.runtime.entries import Numbers
from covey.runtime.node import Expected, Message, Node
from covey.runtime.reading import understood
from covey.runtime.state import State

if TYPE_CHECKING:
    from covey.federated.asynchronous import AsynchronousProgram

VERSIONS = range(1 << 53)
"""The versions that a message may name."""
Sent: TypeAlias = Tensor | Decompressed
Outcome: TypeAlias = Literal["model", "change", "gradient"]
"""The trained numbers of a client's outcome."""


class Answer(Content):
    """The outcome of a client's work."""

    version: Annotated[int, VERSIONS]
    """The version from which it was computed."""
    last: bool = False
    """True if the client begins no further round."""


class Whole(Answer):
    """All numbers of an outcome."""

    vector: Tensor
    """The numbers of the shared part: a model, a change or a gradient, as the program says, and buffers."""


class Compressed(Answer):
    """A compressed outcome. Its message holds the trained numbers in other entries."""

    buffers: Tensor | None = None


class Starts(State):
    """The models from which clients compute, at a server that gets compressed changes of models."""

    models: dict[NodeId, Tensor] = {}
    """The trained numbers, by client."""


class WholeAnswers:
    """Outcomes with all their numbers."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection

    def send(self, node: LearningNode, vector: Tensor, version: int, *, last: bool) -> None:
        """Send an outcome to the server."""
        node.send(SERVER, Whole(vector=vector, version=version, last=last), tag="update")

    def begun(self, node: LearningNode, clients: Iterable[NodeId]) -> None:
        """Note at the server that clients begin to compute from its model."""

    def read(self, node: Node, inbox: Iterable[Message]) -> Iterator[tuple[Answer, Sent]]:
        """The usable answers among messages, and the numbers that they hold."""
        for answer in node.usable(inbox, Whole, vector=self.selection.entry):
            yield answer, answer.vector

    def vector(self, node: LearningNode, answer: Answer, sent: Sent) -> Tensor:
        """The numbers of an outcome, at the server, from those of an answer for work that its sender has."""
        assert isinstance(sent, Tensor)
        return sent

    def view(self, program: "AsynchronousProgram", server: Adversary, answer: Answer, sent: Sent) -> View:
        """The numbers that an answer tells of a client's model, or of its gradient."""
        assert isinstance(answer, Whole)
        return program.view(server, answer, server.own(answer.version))


class CompressedAnswers(WholeAnswers):
    """Outcomes whose trained numbers are compressed, with error feedback. A model is sent as its change.

    Args:
        compressor: the compressor.
        program: the program.
        setting: the experiment.
        selection: the shared part of the model.
    """

    purpose: ClassVar[str] = "asynchronous up"

    def __init__(self, compressor: Compressor, program: Part, setting: Setting, selection: Selection, outcome: Outcome):
        super().__init__(selection)
        compressor.need_contraction(program, selection.trained, "up")
        self._feedback = Feedback(compressor, setting, selection.trained, self.purpose)
        self._outcome = outcome
        buffered = selection.buffered
        self._beside: dict[str, Expected] = {BUFFERS: Numbers(buffered)} if buffered else {}

    def send(self, node: LearningNode, vector: Tensor, version: int, *, last: bool) -> None:
        trained, buffers = self.selection.split(vector)
        if self._outcome == "model":
            trained = trained - self._trained(node.model)
        payload = self._feedback.payload(node, trained, version)
        beside = {BUFFERS: buffers} if self._beside else {}
        node.send(SERVER, {**payload, "version": version, "last": last, **beside}, tag="update")

    def begun(self, node: LearningNode, clients: Iterable[NodeId]) -> None:
        if self._outcome == "model":
            start = self._trained(node.model)
            node.keep(Starts, "up").models.update(dict.fromkeys(clients, start))

    def read(self, node: Node, inbox: Iterable[Message]) -> Iterator[tuple[Answer, Sent]]:
        sound = node.usable(inbox, Compressed, **self._beside)
        return understood(node, sound, lambda answer: self._feedback.read(answer.others, answer.sender, answer.version))

    def vector(self, node: LearningNode, answer: Answer, sent: Sent) -> Tensor:
        assert isinstance(sent, Decompressed)
        assert isinstance(answer, Compressed)
        found = sent.dense(self.selection.trained)
        if self._outcome == "model":
            found += node.keep(Starts, "up").models.pop(answer.sender)
        return torch.cat([found, answer.buffers]) if self._beside and answer.buffers is not None else found

    def view(self, program: "AsynchronousProgram", server: Adversary, answer: Answer, sent: Sent) -> View:
        """The numbers that were sent: of the others, nothing is known."""
        assert isinstance(sent, Decompressed)
        start, places, values = server.own(answer.version), sent.indices, sent.values
        if self._outcome != "gradient":
            trained = self._trained(start)
            values = (trained if places is None else trained[places]) + values
        if places is None and self._beside:
            places = torch.arange(self.selection.trained)
        is_gradient = self._outcome == "gradient"
        return server.view(answer.message, values, places, selection=self.selection, start=start, gradient=is_gradient)

    def _trained(self, model: Tensor) -> Tensor:
        return self.selection.split(self.selection.take(model))[0]
