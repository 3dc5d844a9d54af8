"""One-shot federated learning: each client trains once and uploads its model once.

`fedavg-1` averages the models. `ensemble` keeps them all, and predicts by a mean of their outputs.

Shapes: M clients, P numbers of a model, B samples, C classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.ends import SAMPLES, SERVER, wrong_labels
from covey.federated.ensembles import MEANS, joined, weights_by_labels
from covey.federated.model_formats import FORMATS
from covey.federated.served import Served
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.entries import Numbers
from covey.runtime.node import Expected
from covey.runtime.patience import check_patience
from covey.runtime.state import State


class Packed(Content):
    """One or several models, in one of the forms of `model_formats`."""

    models: Tensor | None = None
    codes: Tensor | None = None
    scales: Tensor | None = None
    rest: Tensor | None = None

    @property
    def packed(self) -> dict[str, Tensor | None]:
        """The entries of the form."""
        return {"models": self.models, "codes": self.codes, "scales": self.scales, "rest": self.rest}


class Local(Packed):
    """The model of a client."""

    samples: Annotated[int, SAMPLES]
    """The number of its training samples."""
    labels: Tensor | None = None
    """The number of its training samples of each class, if the program needs it."""
    held: Annotated[int, SAMPLES] = 0
    """The number of samples that it holds back from training."""

    def check(self, node: LearningNode) -> str | None:
        return None if self.labels is None else wrong_labels(self.labels)


class Trained(State):
    """The outcome of the first round at a client or the server."""

    outputs: Tensor | None = None
    """At the server of an ensemble: the outputs of the ensemble for the test samples."""


class OneShot(Served):
    """Node 0 is the server and has no data. All is done in round 0; in later rounds, nothing is sent."""

    work: ClientWork = param("The work of a client with its own initial model.", factory=LocalTraining)
    models: str = param(
        "The form of models on the wire: float32, or int8 with a scale for each tensor.",
        default="float32",
        choices=tuple(FORMATS),
    )
    patience: Seconds | None = param(
        "The time that the server waits for its clients; by default, for ever.", default=None, ge=0
    )

    needs_classes: ClassVar[bool] = False
    """True if each sample must have a class."""

    @property
    def needs_labels(self) -> bool:
        """True if the server must know the number of samples of each class at each client."""
        return False

    def most_received(self) -> int:
        return self._clients

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._clients = setting.nodes - 1
        check_patience(self, setting, self.patience)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.format = FORMATS[self.models](setting)
        self.count = setting.classes
        if self.needs_classes or self.needs_labels:
            self.check_classes(setting)
        if self.needs_labels:
            self.check_unprotected(setting, "numbers of samples of each class")
        counts = {"labels": Numbers(self.count, "int64")} if self.needs_labels else {}
        self._expected: Mapping[str, Expected] = {**self.format.expected(1), **counts}

    def check_unprotected(self, setting: Setting, sent: str) -> None:
        """Refuse a task whose noise does not protect what clients send."""
        if setting.protects_samples:
            raise ConfigurationError(
                f"{self.named().capitalize()} must send nothing that 'ldp' does not protect. Got {sent} instead."
            )

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            if node.id != SERVER:
                if t == 0:
                    await self.upload(node)
            else:
                await self.combine(node, await self.gather(node) if t == 0 else [])

    async def upload(self, node: LearningNode, held: int = 0) -> None:
        """Train the client's own initial model, and send it to the server."""
        update = await self.work.train(node, node.model, 0)
        packed = self.format.pack(update.model[None])
        (node.model,) = self.format.unpack(packed, 1)
        labels = self.labels_of(node) if self.needs_labels else None
        local = Local(**packed, samples=node.data.samples, labels=labels, held=held)
        node.send(SERVER, local, tag="local", round=0)

    def labels_of(self, node: LearningNode) -> Tensor:
        """The number of a client's training samples of each class."""
        counts = node.data.label_counts
        return torch.zeros(self.count, dtype=torch.int64) if counts is None else torch.tensor(counts).long()

    async def gather(self, node: LearningNode) -> list[tuple[Local, Tensor]]:
        """The messages of clients, and the model in each, at the server. A model that is not finite is rejected."""
        clients = [NodeId(client) for client in range(1, node.nodes)]
        inbox = await node.receive(tag="local", round=0, senders=clients, timeout=self.patience)
        found = []
        for local in node.usable(inbox, Local, **self._expected):
            (model,) = self.format.unpack(local.packed, 1)
            if bool(model.isfinite().all()):
                found.append((local, model))
            else:
                node.reject(local, f"the model of client {local.sender} is not finite")
        return found

    async def combine(self, node: LearningNode, found: Sequence[tuple[Local, Tensor]]) -> None:
        """The work of the server with the clients' models, which it gets in round 0 alone."""
        raise NotImplementedError

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The server sees the model of every client."""
        arrived = [message for message in messages if message.tag == "local"]
        for local in adversary.usable(arrived, Local, **self.format.expected(1)):
            yield adversary.view(local.message, self.format.unpack(local.packed, 1)[0])


def labels_of_all(found: Sequence[tuple[Local, Tensor]]) -> Tensor:
    """The number of samples of each class of each client, M x C."""
    return torch.stack([local.labels for local, _ in found if local.labels is not None])


def mean_of(found: Sequence[tuple[Local, Tensor]]) -> Mixture | None:
    """The mean of clients' models, weighted by their samples; None without any."""
    total = sum(local.samples for local, _ in found)
    return Mixture([model for _, model in found], [local.samples / total for local, _ in found]) if total else None


class FedAvgOnce(OneShot):
    """FedAvg-1: the mean of the clients' models, weighted by their samples."""

    kind = "fedavg-1"

    async def combine(self, node: LearningNode, found: Sequence[tuple[Local, Tensor]]) -> None:
        mean = mean_of(found)
        if mean is not None:
            node.model = mean


class Ensemble(OneShot):
    """The mean of the outputs of the clients' models. The server judges it on the test set."""

    kind = "ensemble"
    mean: str = param(
        "The mean: of logits, of probabilities, or labels: of logits, weighted for each class by a client's share of "
        "the samples of that class.",
        default="logits",
        choices=tuple(MEANS),
    )

    @property
    def needs_labels(self) -> bool:
        return self.mean == "labels"

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if self.mean == "probabilities" and not setting.classes:
            self.check_classes(setting)

    async def combine(self, node: LearningNode, found: Sequence[tuple[Local, Tensor]]) -> None:
        kept = node.keep(Trained)
        if found:
            outputs_MBC = await node.predict([model for _, model in found], on=node.samples("test"))
            outputs_BMC = joined(outputs_MBC.unbind(), [local.sender for local, _ in found])
            labels_MC = labels_of_all(found) if self.needs_labels else torch.ones(len(found), 1)
            kept.outputs = MEANS[self.mean](outputs_BMC, weights_by_labels(labels_MC))
        if kept.outputs is not None:
            node.judge(kept.outputs)
