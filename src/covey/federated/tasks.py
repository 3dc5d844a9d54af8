"""Tasks that clients ask a server for, one gradient each: messages, state and the client of FLeet."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.federated.adasgd import History
from covey.federated.controller import Requests
from covey.federated.ends import SERVER
from covey.federated.feedback import Feedback
from covey.federated.iprof import Features
from covey.federated.merging import TOO_LARGE, overflows
from covey.federated.served import Served
from covey.learning.node import LearningNode, Update
from covey.learning.selection import Selection
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import Compressor, Decompressed
from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError, ProgramError, unknown
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.entries import Numbers, Within, count_in_words
from covey.runtime.node import Expected, Inbox, Message, Node
from covey.runtime.patience import check_patience
from covey.runtime.reading import understood
from covey.runtime.state import State

_COUNTS = range(1 << 53)
_LONGEST_NAME = 100
_MOST_LABELS = 1 << 32
"""The most samples of a class that a client may report, so that sums do not overflow."""
_GREATEST = 1e9
"""The greatest feature, in absolute terms, and the greatest seconds and joules that a client may report."""


class Labelled(Content):
    """A message about samples of a client and about its device."""

    label_counts: np.ndarray
    """The number of samples of each class."""
    device: str
    """The model of the device."""
    features: np.ndarray

    def check(self, node: LearningNode) -> str | None:
        if not (0 <= self.label_counts.min() <= self.label_counts.max() <= _MOST_LABELS and self.label_counts.any()):
            return f"its 'label_counts' are not in [0, {count_in_words(_MOST_LABELS)}], or all 0"
        if (abs(self.features) > _GREATEST).any():
            return f"its 'features' are not in [-{_GREATEST:g}, {_GREATEST:g}]"
        return None if len(self.device) <= _LONGEST_NAME else f"its 'device' has more than {_LONGEST_NAME} characters"


class Request(Labelled):
    """The request of a client for a task, with the labels of all its data."""

    number: Annotated[int, _COUNTS]


class Task(Content):
    """A model of the server, and the size of the mini-batch for a gradient. Without a model, a refusal."""

    number: Annotated[int, _COUNTS]
    """That of the request."""
    version: Annotated[int, _COUNTS] = 0
    samples: Annotated[int, _COUNTS] = 0
    model: Tensor | None = None


class Result(Labelled):
    """A gradient at the model of a version, the labels of its mini-batch, and the cost of computing it."""

    version: Annotated[int, _COUNTS]
    samples: Annotated[int, Within(ge=1)]
    gradient: Tensor | None = None
    """None if it is compressed: the message then holds it in other entries."""
    buffers: Tensor | None = None
    seconds: Annotated[float, Within(ge=0, le=_GREATEST)]
    joules: Annotated[float, Within(ge=0, le=_GREATEST)]

    def check(self, node: LearningNode) -> str | None:
        reason = super().check(node)
        if reason is None and int(self.label_counts.sum()) != self.samples:
            return f"its 'label_counts' do not sum to its {self.samples} samples"
        return reason


class Memory(State):
    """The server's knowledge of gradients, requests and devices."""

    staleness: np.ndarray | None = None
    labels: np.ndarray | None = None
    sizes: np.ndarray | None = None
    similarities: np.ndarray | None = None
    profile: bytes = b""
    given: dict[NodeId, int] = {}
    """The version that each client with a task has."""
    ordered: dict[NodeId, int] = {}
    """The samples of such a client's task."""

    def history(self, classes: int) -> History:
        """The gradients so far."""
        found = History(classes)
        if self.staleness is not None and self.labels is not None:
            found.staleness, found.labels = self.staleness, self.labels
        return found

    def requests(self) -> Requests:
        """The requests so far."""
        if self.sizes is None or self.similarities is None:
            return Requests()
        return Requests(self.sizes, self.similarities)

    def saw(self, history: History) -> None:
        """Keep the gradients so far."""
        self.staleness, self.labels = history.staleness, history.labels

    def asked(self, requests: Requests) -> None:
        """Keep the requests so far."""
        self.sizes, self.similarities = requests.sizes, requests.similarities


class Asked(State):
    """The last request of a client."""

    number: int = -1


class Delays(Part):
    """Simulated times between a gradient and its departure, such as those of a slow connection."""

    kind = "delays"
    handles_arrays = False
    mean: Seconds = param("The mean of a normal distribution.", default=0.0, ge=0, lt=math.inf)
    deviation: Seconds = param("The standard deviation of that. A negative time is 0.", default=0.0, ge=0, lt=math.inf)
    label: int | None = param("The class whose gradients have another delay.", default=None, ge=0)
    factor: float = param("The delay of gradients with the `label`, in means.", default=4.0, ge=0, lt=math.inf)

    def of(self, node: LearningNode, number: int, label_counts: np.ndarray) -> float:
        """The delay of the gradient of a task."""
        if self.label is not None and label_counts[self.label]:
            return self.factor * self.mean
        if not self.deviation:
            return self.mean
        return max(0.0, self.mean + self.deviation * float(node.random("delay", number).standard_normal()))


class Tasks(Served):
    """Node 0 is the server and has no data. The others ask it for tasks. Subclasses define the server."""

    synchronous = False
    steps: int = param("The local steps of a task, whose mean gradient is sent.", default=1, ge=1)
    period: Seconds = param("The time between two requests of a client.", default=1.0, gt=0, lt=math.inf)
    up: Compressor | None = param(
        "The compressor of gradients, with error feedback. By default, clients send all numbers.", default=None
    )
    delays: Delays | None = param("The simulated delays of gradients. By default, none.", default=None)
    patience: Seconds | None = param(
        "The time that the server waits for a message, and a client for a task; by default, for ever.",
        default=None,
        gt=0,
    )

    def feature_names(self) -> Sequence[str]:
        """The names of the features of its device that a client tells."""
        return ()

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._check_task(setting)
        self.selection, self.names = Selection.of(setting, owner=self.named()), tuple(self.feature_names())
        self.classes, buffered = setting.classes, self.selection.buffered
        entries = {"label_counts": Numbers(setting.classes, "int64"), "features": Numbers(len(self.names), "float64")}
        beside = {"buffers": Numbers(buffered)} if buffered else {}
        self.of_requests = entries
        self.of_results: dict[str, Expected] = {**entries, **beside}
        self._feedback = None
        if self.up is None:
            self.of_results["gradient"] = Numbers(self.selection.trained)
        else:
            self.up.need_contraction(self, self.selection.trained, "up")
            self._feedback = Feedback(self.up, setting, self.selection.trained, "fleet up")

    def _check_task(self, setting: Setting) -> None:
        """Refuse tasks without classes, protected ones, and optimisers whose change is no sum of gradients.

        Raises:
            ConfigurationError: the task is one of these.
        """
        name = self.named().capitalize()
        if not setting.classes:
            raise ConfigurationError(f"{name} counts labels, so the data of the task must have classes.")
        if not setting.adds_gradients:
            raise ConfigurationError(f"{name} sends gradients, so the 'optimizer' of the task must be 'sgd'.")
        if setting.protects_samples:
            raise ConfigurationError(
                f"{name} chooses the size of each mini-batch, and the 'ldp' of the task counts on its 'batch_size'. "
                f"Leave out 'ldp', or use 'fedavg'."
            )
        if self.delays is not None and self.delays.label is not None and self.delays.label >= setting.classes:
            raise ConfigurationError(
                f"The 'label' of the delays must be a class in [0, {setting.classes}). Got {self.delays.label} instead."
            )

    async def run(self, node: LearningNode) -> None:
        await (self.serve(node) if node.id == SERVER else self.take_part(node))

    async def serve(self, node: LearningNode) -> None:
        """Run the server."""
        raise NotImplementedError

    # ------------------------------------------------------------------ for the server

    def requests(self, node: LearningNode, inbox: Inbox) -> list[Request]:
        """The usable requests among messages."""
        return node.usable([message for message in inbox if message.tag == "request"], Request, **self.of_requests)

    def results(self, node: LearningNode, inbox: Inbox, version: int) -> list[Result]:
        """The usable results among messages, each of a task that its sender had. The task is then done."""
        memory, found = node.keep(Memory), []
        given, ordered = memory.given, memory.ordered
        messages = [message for message in inbox if message.tag == "result"]
        for result, gradient in self.read(node, messages):
            if result.version > version:
                node.reject(result, f"its version {result.version} is from the future: the model has version {version}")
            elif given.get(result.sender) != result.version:
                node.reject(result, f"its sender has no task of version {result.version}")
            elif result.samples > (most := self.steps * ordered.get(result.sender, 0)):
                node.reject(result, f"it has {result.samples} samples, and its sender's task at most {most}")
            else:
                del given[result.sender], ordered[result.sender]
                if self._feedback is not None:
                    result.gradient = gradient.dense(self.selection.trained)
                found.append(result)
        return found

    def read(self, node: Node, messages: Iterable[Message]) -> Iterator[tuple[Result, Decompressed]]:
        """The usable results among messages, and their gradients."""
        for result, gradient in understood(node, node.usable(messages, Result, **self.of_results), self._gradient_in):
            if overflows(gradient.values) or (self.selection.buffered and overflows(cast(Tensor, result.buffers))):
                node.reject(result, TOO_LARGE)
            else:
                yield result, gradient

    def _gradient_in(self, result: Result) -> Decompressed:
        if self._feedback is not None:
            return self._feedback.read(result.others, result.sender, result.version)
        return Decompressed(cast(Tensor, result.gradient))

    def described(self, message: Labelled) -> Features:
        """The features of the sender's device."""
        return {"model": message.device, **dict(zip(self.names, message.features.tolist(), strict=True))}

    def stepped(self, model: Tensor, results: Sequence[Result], weights: NDArray[np.float64], lr: float) -> Tensor:
        """The server's shared part after a step by the weighted mean of gradients. Buffers move to the clients'."""
        trained, buffers = self.selection.split(self.selection.take(model))
        shares = torch.from_numpy(weights / len(results)).to(trained)
        gradients = [result.gradient for result in results if result.gradient is not None]
        moved = trained - lr * (shares @ torch.stack(gradients))
        if not self.selection.buffered:
            return moved
        theirs = torch.stack([result.buffers for result in results if result.buffers is not None])
        return torch.cat([moved, buffers + shares @ (theirs - buffers)])

    def stop(self, node: LearningNode) -> None:
        """Tell all clients that there are no more tasks."""
        node.send([NodeId(client) for client in range(1, node.nodes)], {}, tag="stop")

    # ------------------------------------------------------------------ a client

    async def take_part(self, node: LearningNode) -> None:
        """Run a client: a round is a task, or a request that is not answered in time."""
        async for _ in node.rounds():
            task = await self.task(node)
            if task is None:
                break
            if task.model is not None:
                node.model = self.selection.put(node.model, task.model)
                began, before, device = node.now, node.spent, self.of_device(node)
                update = await node.train(steps=self.steps, batch_size=task.samples)
                device |= {"seconds": node.now - began, "joules": max(node.spent - before, 0.0)}
                await self.give_back(node, task, update, device)

    async def give_back(self, node: LearningNode, task: Task, update: Update, entries: dict[str, Any]) -> None:
        """Send the gradient of a task to the server, after a simulated delay."""
        gradient, _ = self.selection.split(self.selection.take(update.gradient))
        if self.selection.buffered:
            entries["buffers"] = self.selection.buffers(update.model)
        counts = np.asarray(update.label_counts, dtype=np.int64)
        sent: Payload = {"gradient": gradient}
        if self._feedback is not None:
            sent = self._feedback.payload(node, gradient, task.version)
        result = {**sent, "version": task.version, "samples": update.samples, "label_counts": counts, **entries}
        if self.delays is not None:
            await node.sleep(self.delays.of(node, task.number, counts))
        node.send(SERVER, result, tag="result")

    async def task(self, node: LearningNode) -> Task | None:
        """A task; one without a model if none comes in time, and None after the last one.

        A refused request is repeated. Requests have fixed times, which are spread over the period.
        """
        asked, offset = node.keep(Asked), self.period * (node.id - 1) / (node.nodes - 1)
        while True:
            asked.number = max(asked.number + 1, math.floor((node.now - offset) / self.period))
            await node.sleep(max(offset + asked.number * self.period - node.now, 0.0))
            if node.arrived(tag="stop"):
                return None
            labels = np.asarray(node.data.label_counts, dtype=np.int64)
            request = Request(number=asked.number, label_counts=labels, **self.of_device(node))
            node.send(SERVER, request, tag="request")
            while inbox := await node.receive(tag=("task", "stop"), count=1, timeout=self.patience):
                if inbox[0].tag == "stop":
                    return None
                found = [task for task in self.given(node, inbox) if task.number == asked.number]
                if found and found[0].model is not None:
                    return found[0]
                if found:
                    break
            else:
                return Task(number=asked.number)

    def given(self, node: LearningNode, inbox: Inbox) -> list[Task]:
        """The usable tasks, and refusals, among messages."""
        whole = [message for message in inbox if "model" in message]
        rest = [message for message in inbox if "model" not in message]
        return [*node.usable(whole, Task, model=self.selection.entry), *node.usable(rest, Task)]

    def of_device(self, node: LearningNode) -> dict[str, Any]:
        """The features of the own device that a client tells."""
        device = node.device
        if self.names and not device:
            raise ProgramError(
                f"{self.named().capitalize()} reads the features of devices, such as '{self.names[0]}', and the "
                "network has none: give it 'devices', as in devices = \"phones\"."
            )
        for name in self.names:
            if not isinstance(device.get(name), float):
                raise ProgramError(unknown(f"feature '{name}' of the devices of the network", name, device))
        return {
            "device": str(device.get("model", "")),
            "features": np.array([device[name] for name in self.names], dtype=np.float64),
        }

    # ------------------------------------------------------------------ for attacks

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The server sees gradients at models that it knows; a client sees the server's models."""
        if adversary.id != SERVER:
            for task in adversary.usable([message for message in messages if message.tag == "task"], Task):
                if task.model is not None and task.model.shape == (self.selection.size,):
                    yield adversary.view(task.message, task.model, selection=self.selection)
            return
        everywhere = self.selection.is_whole and not self.selection.buffered
        results = [message for message in messages if message.tag == "result"]
        for result, gradient in self.read(cast(Node, adversary), results):
            start, places = adversary.own(result.version), gradient.indices
            if places is None and not everywhere:
                places = torch.arange(self.selection.trained)
            yield adversary.view(
                result.message, gradient.values, places, selection=self.selection, start=start, gradient=True
            )
