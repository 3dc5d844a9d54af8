"""Live queries: a server asks clients with models of their own, of which some lie, and a rule decides.

Shapes: B queries of a batch, N clients, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.ends import SERVER
from covey.federated.robust_inference.answers import check_faulty, usable_rows
from covey.federated.robust_inference.attacks import InferenceAttack, SecondBest, check_alone
from covey.federated.robust_inference.rule import Fitting, Rule
from covey.federated.robust_inference.scene import liars_of
from covey.federated.robust_inference.static_rules import TrimmedMean
from covey.federated.served import Served
from covey.learning.node import LearningNode
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.entries import Numbers
from covey.runtime.node import Expected, Node
from covey.runtime.patience import check_patience
from covey.runtime.state import State


@dataclass(frozen=True, slots=True)
class Shaped(Expected):
    """A tensor of one shape and type."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def admits(self, value: Any, node: Node) -> bool:
        return isinstance(value, Tensor) and tuple(value.shape) == self.shape and value.dtype == self.dtype

    def in_words(self, node: Node) -> str:
        return f"a {str(self.dtype).removeprefix('torch.')} tensor of {' x '.join(map(str, self.shape))}"


class Query(Content):
    """The inputs of a batch of queries."""

    inputs: Tensor


class Answer(Content):
    """The probabilities of a client for a batch of queries, row after row."""

    rows: Tensor


class Asked(State):
    """The queries that a client has received."""

    last: int = -1
    """The number of the last batch, counted over all rounds."""


class RobustInference(Served):
    """Node 0 is the server and has no data. In every round clients train models of their own, then answer its queries.

    The queries are the test samples. A query with too few valid answers is refused: all classes are as likely.
    """

    kind = "robust-inference"
    rule: Rule = param("The rule that combines the answers.", factory=TrimmedMean)
    faulty: int = param("The number of clients that may lie, fewer than half.", default=0, ge=0)
    work: ClientWork = param("The work of a client with its own model in a round.", factory=LocalTraining)
    batch: int = param("The number of queries in a message.", default=256, ge=1)
    on_invalid: str = param(
        "The treatment of answers that are not probabilities: reject, or project to the nearest.",
        default="reject",
        choices=("reject", "project"),
    )
    liars: int = param("The number of clients that do lie.", default=0, ge=0, lt="nodes")
    lie: InferenceAttack = param("The attack of a client that lies, from its own answers.", factory=SecondBest)
    classes: int | None = param("The number of classes; by default, that of the data.", default=None, ge=2)
    patience: Seconds | None = param(
        "The time that the server waits for the answers to a batch; by default, for ever.", default=None, ge=0
    )

    def most_received(self) -> int:
        return self._clients

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._clients = setting.nodes - 1
        check_faulty(self._clients, self.faulty)
        check_patience(self, setting, self.patience)
        if 2 * self.liars >= self._clients and self.liars:
            raise ConfigurationError(
                f"The 'liars' of {self.named()} must be fewer than half of its {self._clients} clients. "
                f"Got {self.liars} instead."
            )
        check_alone(self.lie, self.named())

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._liars = {1 + int(liar) for liar in liars_of(self._clients, self.liars, setting.seed)}
        self._classes = self.count_of_classes(setting)
        self._decide = self.rule.fitted(Fitting(self.faulty, None, setting.seed))
        self._quorum = max(self._clients - self.faulty, 2 * self.faulty + 1)
        # A mistake shows now: with the answers of all, and with as few as are decided.
        rows = torch.full((1, self._clients, self._classes), 1.0 / self._classes)
        self._decide(rows)
        self._decide(rows, torch.arange(self._clients).unsqueeze(0) < self._quorum)

    def count_of_classes(self, setting: Setting) -> int:
        """The number of classes: that of the data or, if only hosts know them, the given one."""
        if setting.training_samples:
            self.check_classes(setting)
        if self.classes is not None and setting.classes not in (0, self.classes):
            raise ConfigurationError(
                f"The 'classes' of {self.named()} must be those of the data, {setting.classes}. "
                f"Got {self.classes} instead."
            )
        if not (self.classes or setting.classes):
            raise ConfigurationError(
                f"The 'classes' of {self.named()} must be given if the data do not tell them. Got none."
            )
        return self.classes or setting.classes

    async def run(self, node: LearningNode) -> None:
        await (self.ask(node) if node.id == SERVER else self.answer(node))

    async def ask(self, node: LearningNode) -> None:
        """Run the server: send each batch of queries to all clients, and decide."""
        clients = [NodeId(client) for client in range(1, node.nodes)]
        async for t in node.rounds():
            decided, refused = [], 0
            for number, inputs in enumerate(torch.split(node.samples("test").inputs, self.batch)):
                node.send(clients, Query(inputs=inputs), tag=f"query {number}", round=t)
                inbox = await node.receive(tag=f"answer {number}", round=t, senders=clients, timeout=self.patience)
                answers = node.usable(inbox, Answer, rows=Numbers(len(inputs) * self._classes))
                scores, enough = self.decided(answers, len(inputs))
                decided.append(scores)
                refused += int((~enough).sum())
            node.judge(torch.cat(decided))
            node.log(refused=refused)

    def decided(self, answers: Sequence[Answer], queries: int) -> tuple[Tensor, Tensor]:
        """The scores of classes, B x C, and whether each query has a quorum, B."""
        rows_BNC = torch.zeros(queries, self._clients, self._classes)
        valid_BN = torch.zeros(queries, self._clients, dtype=torch.bool)
        for answer in answers:
            rows_BNC[:, answer.sender - 1] = answer.rows.view(queries, self._classes)
            valid_BN[:, answer.sender - 1] = True
        rows_BNC, valid = usable_rows(rows_BNC, self.on_invalid, valid_BN)  # type: ignore[arg-type]
        scores = torch.full((queries, self._classes), 1.0 / self._classes)
        if valid is None:
            return self._decide(rows_BNC), torch.ones(queries, dtype=torch.bool)
        enough = valid.sum(1) >= self._quorum
        if bool(enough.any()):
            scores[enough] = self._decide(rows_BNC[enough], valid[enough])
        return scores, enough

    async def answer(self, node: LearningNode) -> None:
        """Run a client: train its own model, and answer queries with its probabilities or with lies."""
        kept, batches = node.keep(Asked), torch.split(node.samples("test").inputs, self.batch)
        expected = [Shaped(tuple(batch.shape), batch.dtype) for batch in batches]
        async for t in node.rounds():
            node.model = (await self.work.train(node, node.model, t)).model
            for number, form in enumerate(expected):
                count = t * len(expected) + number
                patience = None if self.patience is None else (count - kept.last + 1) * self.patience
                inbox = await node.receive(tag=f"query {number}", round=t, senders=[SERVER], timeout=patience)
                for query in node.usable(inbox, Query, inputs=form):
                    kept.last = count
                    rows = (await node.predict(on=query.inputs)).softmax(-1)
                    lies = self.lie.alone(rows) if node.id in self._liars else None
                    node.send(
                        SERVER, Answer(rows=(rows if lies is None else lies).flatten()), tag=f"answer {number}", round=t
                    )
