"""FENS (Allouah et al., 2024): the models of all clients stay as they are, and clients learn together how to combine
their outputs.

Round 0 is the one shot: clients train and upload, the server sends all models to all, and each client keeps their
logits for its proxy samples, which are its validation split. In every later round each client makes a mini-batch step
of the aggregator, and the server a step of FedAdam.

Shapes: B samples, K models that arrived, M clients, P numbers of a model, C classes.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from covey.federated.aggregators import Aggregator, Network
from covey.federated.distillation import STUDENT, SoftStudent
from covey.federated.ends import SERVER
from covey.federated.ensembles import joined
from covey.federated.fens_messages import Asked, Change, Counts, Fan, Ids, Kept
from covey.federated.merging import moderate
from covey.federated.model_formats import FORMATS
from covey.federated.one_shot import OneShot, labels_of_all
from covey.federated.server_optimizers import FedAdam, ServerOptimizer
from covey.learning.node import Further, LearningNode, Samples
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import ConfigurationError, ConfigurationWarning, ProgramError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.entries import Numbers

_NO_PROXIES = "No client has proxy samples for the aggregator: set 'validation' of the task to a share in (0, 1)."
_AT_ONCE = 4096
"""The public samples whose logits of all models are in memory at once."""


class Fens(OneShot):
    """Node 0 is the server. The rounds after the first train the aggregator."""

    kind = "fens"
    needs_classes = True
    models: str = param(
        "The form of models on the wire, up and down: int8 with a scale for each tensor, or float32.",
        default="int8",
        choices=tuple(FORMATS),
    )
    aggregator: Aggregator = param("The function that combines the outputs of all models.", factory=Network)
    batch_size: int = param("The proxy samples of one step of the aggregator.", default=128, ge=1)
    eta_l: float = param("The clients' learning rate of the aggregator.", default=1.0, gt=0)
    server_optimizer: ServerOptimizer | None = param(
        "The server's optimizer of the aggregator; by default FedAdam, with eta 0.01 for linear and per-class and "
        "0.001 for the others.",
        default=None,
    )
    selecting: float = param(
        "The share of a client's proxy samples that select the aggregator by its loss, and do not train it. With 0, "
        "the last one counts.",
        default=0.0,
        ge=0,
        lt=1,
    )

    student: SoftStudent | None = param(
        "The distillation of the models and the aggregator into one model, on the public samples of the task; by "
        "default, none.",
        default=None,
    )
    student_rounds: int = param("The number of last rounds in which the server distils.", default=10, ge=1)

    @property
    def needs_labels(self) -> bool:
        return self.aggregator.needs_labels

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if self.student is not None and self.student_rounds >= setting.rounds:
            raise ConfigurationError(
                f"The 'student_rounds' of {self.named()} must be fewer than the rounds of the experiment, "
                f"{setting.rounds}. Got {self.student_rounds} instead."
            )

    def networks(self, setting: Setting) -> Mapping[str, Further]:
        self.check_classes(setting)
        found = {} if self.student is None else {STUDENT: self.student.network()}
        network = self.aggregator.network(setting.nodes - 1, setting.classes, setting.sample_shape)
        if network is not None:
            found["aggregator"] = network
        return found

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._optimizer = self.server_optimizer or FedAdam(eta=self.aggregator.eta)
        self._trains = "aggregator" in self.networks(setting)
        self._fans_out = self._trains or self.aggregator.needs_counts
        """Whether clients need the models of all."""
        if self._fans_out and setting.validation_samples and not any(setting.validation_samples):
            raise ConfigurationError(_NO_PROXIES)
        if self._fans_out:
            sent = "changes by" if self._trains else "counts of"
            self.check_unprotected(setting, f"{sent} proxy samples for the aggregator {self.aggregator.title()}")
        self._fitted = setting.rounds - (0 if self.student is None else self.student_rounds)
        """The rounds before the distillation."""

    async def run(self, node: LearningNode) -> None:
        await (self.serve(node) if node.id == SERVER else self.take_part(node))

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The server sees the model of every client, and so does each client that gets them."""
        arrived = list(messages)
        yield from super().views(adversary, arrived)
        for head in adversary.usable([message for message in arrived if message.tag == "models"], Ids):
            for fan in adversary.usable([head.message], Fan, **self.format.expected(len(head.ids))):
                for id, model in zip(fan.ids, self.format.unpack(fan.packed, len(fan.ids)), strict=True):
                    yield adversary.view(fan.message, model, senders=[id])

    # ------------------------------------------------------------------ a client

    async def take_part(self, node: LearningNode) -> None:
        """Run a client: train once, keep the logits of all models, and train the aggregator on them."""
        kept, proxies = node.keep(Kept), None
        async for t in node.rounds():
            if t == 0:
                await self.join(node, kept)
            elif t < self._fitted and kept.logits is not None and self._trains:
                proxies = proxies or self.proxies(node, kept.logits)
                await self.improve(node, kept, *proxies, t)

    async def join(self, node: LearningNode, kept: Kept) -> None:
        """Upload the own model, and keep the logits of all models for the proxy samples."""
        await self.upload(node, held=node.data.validation)
        if not self._fans_out or not node.data.validation:
            return
        inbox = await node.receive(tag="models", round=0, senders=[SERVER], timeout=self.waiting(kept, 0))
        for head in node.usable(inbox, Ids):
            for fan in node.usable([head.message], Fan, **self.format.expected(len(head.ids))):
                models_KP, proxies = self.format.unpack(fan.packed, len(fan.ids)), node.samples("validation")
                kept.logits, kept.last = await self.logits(node, models_KP, fan.ids, proxies), 0
                if self.aggregator.needs_counts:
                    counts = self.aggregator.counts(kept.logits, _targets(proxies))
                    node.send(SERVER, Counts(counts=counts.flatten()), tag="counts", round=0)

    async def logits(self, node: LearningNode, models_KP: Tensor, ids: Sequence[int], samples: Samples) -> Tensor:
        """The logits of all models for samples, B x M x C; 0 for clients without a model."""
        outputs_KBC = await node.predict(models_KP.unbind(), on=samples)
        logits_BMC = outputs_KBC.new_zeros(len(samples.inputs), node.nodes - 1, self.count)
        logits_BMC[:, [id - 1 for id in ids]] = joined(outputs_KBC.unbind(), ids)
        return logits_BMC

    def proxies(self, node: LearningNode, logits_BMC: Tensor) -> tuple[Samples, Samples]:
        """The samples on which a client trains the aggregator, and those which select it."""
        samples = node.samples("validation")
        features, targets = self.aggregator.features(logits_BMC, samples.inputs), _targets(samples)
        last = min(round(self.selecting * len(targets)), len(targets) - 1)
        order = torch.from_numpy(node.random("selecting").permutation(len(targets)))
        fit, select = order[last:].sort().values, order[:last].sort().values
        return Samples(features[fit], targets[fit]), Samples(features[select], targets[select])

    async def improve(self, node: LearningNode, kept: Kept, fit: Samples, select: Samples, t: int) -> None:
        """Make one step of the server's aggregator, and send the change."""
        timeout = self.waiting(kept, t)
        inbox = await node.receive(tag="aggregator", round=t, senders=[SERVER], timeout=timeout)
        for asked in node.usable(inbox, Asked, aggregator=Numbers(len(node.initial("aggregator")))):
            kept.last, loss = t, 0.0
            if len(select.inputs):
                scores = await node.predict(asked.aggregator, on=select, of="aggregator")
                loss = float(F.cross_entropy(scores, _targets(select)))
            update = await node.train(
                asked.aggregator, of="aggregator", on=fit, steps=1, batch_size=self.batch_size, lr=self.eta_l
            )
            counts = {"samples": len(fit.inputs), "selecting": len(select.inputs)}
            node.send(SERVER, Change(delta=update.delta, loss=loss, **counts), tag="change", round=t)

    def waiting(self, kept: Kept, t: int) -> float | None:
        """The time that a client waits for the server in round t."""
        return None if self.patience is None else (t - kept.last + 2) * self.patience

    # ------------------------------------------------------------------ the server

    async def serve(self, node: LearningNode) -> None:
        """Run the server: send all models to all, then train the aggregator with the clients."""
        kept, inputs = node.keep(Kept), node.samples("test").inputs
        async for t in node.rounds():
            if t == 0:
                await self.fan_out(node, kept)
            elif t < self._fitted and self._trains and kept.taking_part:
                await self.step(node, kept, t)
            if t < self._fitted and kept.logits is not None:
                node.judge(await self.scores(node, kept, kept.logits, inputs))
            elif self.student is not None and kept.models is not None:
                await self.distil(node, kept, kept.models, self.student, t)

    async def fan_out(self, node: LearningNode, kept: Kept) -> None:
        """Gather the clients' models, send all to all who need them, and keep their logits for the test samples."""
        found = await self.gather(node)
        if self._fans_out:
            kept.taking_part = self.taking_part(node, {int(local.sender): local.held for local, _ in found})
        if not found:
            return
        clients, models_KP = [NodeId(id) for id in kept.taking_part], torch.stack([model for _, model in found])
        kept.ids = [int(local.sender) for local, _ in found]
        if clients:
            node.send(clients, Fan(ids=kept.ids, **self.format.pack(models_KP)), tag="models", round=0)
        kept.labels = torch.zeros(node.nodes - 1, self.count, dtype=torch.int64)
        if self.needs_labels:
            kept.labels[[id - 1 for id in kept.ids]] = labels_of_all(found)
        kept.logits = await self.logits(node, models_KP, kept.ids, node.samples("test"))
        kept.models = None if self.student is None else models_KP
        if self.aggregator.needs_counts:
            shape = (node.nodes - 1, self.count, self.count)
            inbox = await node.receive(tag="counts", round=0, senders=clients, timeout=self.patience)
            size = Numbers(shape[0] * shape[1] * shape[2], "int32")
            sums = [counts.counts.view(shape) for counts in node.usable(inbox, Counts, counts=size)]
            kept.counts = sum(sums, torch.zeros(shape, dtype=torch.int64))

    def taking_part(self, node: LearningNode, held: Mapping[int, int]) -> list[int]:
        """The clients that have proxy samples, as far as is known."""
        without = [id for id, count in held.items() if not count]
        if held and len(without) == len(held):
            raise ProgramError(_NO_PROXIES)
        if without:
            warnings.warn(
                f"A client without proxy samples has the weight 0. Got none at {', '.join(map(str, without))}.",
                ConfigurationWarning,
                stacklevel=2,
            )
        return [id for id in range(1, node.nodes) if id not in without]

    async def step(self, node: LearningNode, kept: Kept, t: int) -> None:
        """One round of FedAdam: the mean change of the clients, weighted by their proxy samples."""
        clients = [NodeId(id) for id in kept.taking_part]
        aggregator = node.initial("aggregator") if kept.aggregator is None else kept.aggregator
        node.send(clients, Asked(aggregator=aggregator), tag="aggregator", round=t)
        inbox = await node.receive(tag="change", round=t, senders=clients, timeout=self.patience)
        usable = node.usable(inbox, Change, delta=Numbers(len(aggregator)))
        changes = [change for change, _ in moderate(node, [(change, change.delta) for change in usable])]
        self.select(kept, aggregator, changes)
        total = sum(change.samples for change in changes)
        if total:
            delta = sum((c.delta * (c.samples / total) for c in changes), torch.zeros_like(aggregator))
            kept.aggregator = aggregator + self._optimizer.step(delta, node)

    def select(self, kept: Kept, aggregator: Tensor, changes: Sequence[Change]) -> None:
        """Keep the aggregator of the lowest loss on samples that do not train it."""
        total = sum(change.selecting for change in changes)
        loss = sum(change.loss * (change.selecting / total) for change in changes) if total else None
        if loss is not None and (kept.lowest is None or loss < kept.lowest):
            kept.lowest, kept.selected = loss, aggregator

    async def scores(self, node: LearningNode, kept: Kept, logits_BMC: Tensor, inputs: Tensor) -> Tensor:
        """The scores of the aggregator, B x C; the mean of logits as long as it is not trained."""
        assert kept.labels is not None
        chosen = kept.aggregator if kept.selected is None else kept.selected
        if chosen is not None:
            return await node.predict(chosen, on=self.aggregator.features(logits_BMC, inputs), of="aggregator")
        return self.aggregator.combined(logits_BMC, kept.labels, kept.counts)

    async def distil(self, node: LearningNode, kept: Kept, models_KP: Tensor, student: SoftStudent, t: int) -> None:
        """Train the server's own model to give the scores of the aggregator on public samples."""
        if t == self._fitted:
            parts = []
            for inputs in torch.split(node.samples("public").inputs, _AT_ONCE):
                logits_BMC = await self.logits(node, models_KP, kept.ids, Samples(inputs))
                parts.append(await self.scores(node, kept, logits_BMC, inputs))
            student.teach(node, torch.cat(parts), t)
        await student.learn(node)


def _targets(samples: Samples) -> Tensor:
    assert samples.targets is not None
    return samples.targets
