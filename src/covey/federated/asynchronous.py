"""The frame of asynchronous federated programs: a server that waits for no particular client.

The server counts versions of its model, one a round. Clients compute from the version that they were given, and answer
when they are done. The staleness of an answer is the version that it meets minus the version that it is for.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, cast

from torch import Tensor

from covey.federated.answers import VERSIONS, Answer, CompressedAnswers, Outcome, Whole, WholeAnswers
from covey.federated.assignments import Assigned, Assignments
from covey.federated.ends import SERVER
from covey.federated.merging import TOO_LARGE, overflows
from covey.federated.served import Served
from covey.federated.staleness import Constant, Staleness
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.selection import Selection
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import Compressor
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.node import Message, Node
from covey.runtime.patience import check_patience

_QUESTIONS = 10
"""The number of unanswered questions after which a client takes the server for dead."""


class Version(Content):
    """A version of the server's model, for a client to compute from."""

    model: Tensor
    version: Annotated[int, VERSIONS]


class Word(Content):
    """The answer to a client's question."""

    finished: bool
    """True if the server has completed its last round."""


class AsynchronousProgram(Served):
    """Node 0 is the server and has no data. A client that answers gets the newest model, or another idle one does."""

    synchronous = False
    computes: ClassVar[Outcome] = "change"
    """The outcome of a client's work: a trained model, its change, or a gradient."""
    staleness: Staleness = param("The weight of an update by its staleness.", factory=Constant)
    concurrency: int | None = param(
        "The greatest number of clients that compute at a time, drawn uniformly; by default, all.",
        default=None,
        ge=1,
        lt="nodes",
    )
    up: Compressor | None = param(
        "The compressor of what clients compute, with error feedback. By default, they send all numbers.", default=None
    )
    patience: Seconds | None = param(
        "The time after which the server counts a client's work as lost, and makes a version of fewer updates if none "
        "comes; by default, never. A client that has waited this long asks whether the server has finished.",
        default=None,
        gt=0,
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.selection = Selection.of(setting, owner=self.named())
        self._most = self.concurrency or setting.nodes - 1
        self._rounds = setting.rounds
        self._answers = WholeAnswers(self.selection)
        if self.up is not None:
            self._answers = CompressedAnswers(self.up, self, setting, self.selection, self.computes)

    def most_received(self) -> int:
        return self._most

    # ------------------------------------------------------------------ supplied by a program

    def updates(self) -> int:
        """The number of updates that make a version."""
        return 1

    async def outcome(self, node: LearningNode, t: int) -> Tensor:
        """Compute a client's update from its model, which is the server's, in the client's round t."""
        raise NotImplementedError

    def absorb(
        self, node: LearningNode, t: int, vectors: Sequence[Tensor], weights: Sequence[float]
    ) -> Tensor | Mixture:
        """Version t + 1 of the server's model, from version t, updates and the weights of their staleness."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the protocol

    async def run(self, node: LearningNode) -> None:
        await (self.serve(node) if node.id == SERVER else self.take_part(node))

    async def serve(self, node: LearningNode) -> None:
        """Run the server: a version in every round."""
        clients = Assignments(node, self._most, self.patience)
        if self.patience is not None:
            node.serve("ask", partial(self.reply, node))
        async for t in node.rounds():
            answers = await self.collect(node, clients, t)
            if answers:
                stale = [t - answer.version for answer, _ in answers]
                weights = [self.staleness.weight(s) for s in stale]
                node.model = self.absorb(node, t, [vector for _, vector in answers], weights)
                node.log(staleness=sum(stale) / len(stale))
            finished = t + 1 == self._rounds
            clients.keep(finished=finished)
            if finished:
                node.send([NodeId(client) for client in range(1, node.nodes)], Word(finished=True), tag="model")

    async def collect(self, node: LearningNode, clients: Assignments, t: int) -> list[tuple[Answer, Tensor]]:
        """Give clients the model, and wait for the updates of a version; for fewer, if none comes for too long."""
        found: list[tuple[Answer, Tensor]] = []
        current = Version(model=self.selection.take(node.model), version=t)
        while len(found) < self.updates():
            chosen = clients.begin(t)
            self._answers.begun(node, chosen)
            node.send(chosen, current, tag="model")
            inbox = await node.receive(tag="update", count=1, timeout=self.patience)
            if not inbox:
                return found
            found += self.counted(node, clients, inbox)
        return found

    def counted(
        self, node: LearningNode, clients: Assignments, inbox: Iterable[Message]
    ) -> Iterator[tuple[Answer, Tensor]]:
        """The answers for work that their senders have, with their numbers. Those for work given up are late."""
        for answer, sent in self._answers.read(node, inbox):
            if clients.is_late(answer.sender, answer.version):
                node.discard(answer)
                if answer.last:
                    clients.leave(answer.sender)
                continue
            reason = clients.end(answer.sender, answer.version, last=answer.last)
            if reason is not None:
                node.reject(answer, reason)
            elif overflows(vector := self._answers.vector(node, answer, sent)):
                node.reject(answer, TOO_LARGE)
            else:
                yield answer, vector

    async def reply(self, node: LearningNode, message: Message) -> None:
        """Tell a client that asks whether the server has finished."""
        node.send(message.sender, Word(finished=node.keep(Assigned).finished), tag="model")

    async def take_part(self, node: LearningNode) -> None:
        """Run a client: compute from the server's newest model, and answer."""
        async for t in node.rounds():
            given = await self.given(node)
            if given is None:
                return
            node.model = self.selection.put(node.model, given.model)
            vector = await self.outcome(node, t)
            self._answers.send(node, vector, given.version, last=t + 1 == self._rounds)

    async def given(self, node: LearningNode) -> Version | None:
        """Wait for a version of the server's model. None if the server has finished, or seems dead."""
        unanswered = 0
        while unanswered <= _QUESTIONS:
            inbox = await node.receive(tag="model", count=1, timeout=self.patience)
            versions, words = self.read(node, [*inbox, *node.arrived(tag="model")])
            if any(word.finished for word in words):
                return None
            if versions:
                return versions[-1]
            unanswered = 0 if words else unanswered + 1
            node.send(SERVER, {}, tag="ask")
        return None

    def read(self, node: LearningNode, messages: Iterable[Message]) -> tuple[list[Version], list[Word]]:
        """The messages of the server, of two kinds under one tag."""
        versions, words = [], []
        for message in messages:
            if message.sender != SERVER:
                node.reject(message, "it is not of the server")
            elif "model" in message.shared:
                versions += node.usable([message], Version, model=self.selection.entry)
            else:
                words += node.usable([message], Word)
        return versions, words

    # ------------------------------------------------------------------ for attacks

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The server sees what clients computed; a client sees the server's model, which is made of theirs."""
        if adversary.id == SERVER:
            answers = [message for message in messages if message.tag == "update"]
            for answer, sent in self._answers.read(cast(Node, adversary), answers):
                yield replace(self._answers.view(self, adversary, answer, sent), round=answer.version)
            return
        models = [message for message in messages if message.tag == "model" and "model" in message.shared]
        for given in adversary.usable(models, Version, model=self.selection.entry):
            if given.version:
                clients = range(1, adversary.nodes)
                seen = adversary.view(given.message, given.model, selection=self.selection, senders=clients)
                yield replace(seen, round=given.version)

    def view(self, server: Adversary, answer: Whole, start: Tensor) -> View:
        """The numbers that an answer tells of a client's model, or of its gradient at `start`."""
        raise NotImplementedError
