"""SCAFFOLD (Karimireddy et al., 2020): control variates correct the drift of clients.

A client makes K steps y <- y - eta_l (g(y) - c_i + c). The server moves by the mean change, and c by that of the c_i:

    option 1: c_i+ = g_i(x), the gradient on all of the client's data
    option 2: c_i+ = c_i - c + (x - y) / (K eta_l)

    x <- x + eta mean(y_i - x),    c <- c + |S| / N mean(c_i+ - c_i)

Control variates double what is sent, both ways. The aggregation also merges them. A client's own is in its state. If an
answer does not count at the server, as it was lost or late, the client goes back to its c_i before it.
"""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from covey.aggregation.aggregation import Aggregation
from covey.aggregation.linear import Mean
from covey.federated.downlink import Order, Start
from covey.federated.ends import SERVER
from covey.federated.fedavg import FedAvg
from covey.federated.merging import Part, merge, moderate, weighed
from covey.federated.uplink import Answer
from covey.learning.mixture import computed
from covey.learning.node import LearningNode, Update
from covey.learning.selection import Selection
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.entries import Numbers
from covey.runtime.node import Message
from covey.runtime.state import State


class Control(State):
    """A control variate: c at the server, c_i at a client."""

    control: Tensor | None = None
    before: Tensor | None = None
    """At a client: that before its last training."""
    trained: int = -1
    """At a client: the round of its last training."""


class Counted(State):
    """The clients' answers at the server, by node."""

    asked: list[int] = []
    """The last round for which each was chosen."""
    counted: list[int] = []
    """The round of the last answer of each that counted."""


class Scaffold(FedAvg):
    """Federated averaging with control variates, which correct each local gradient by its difference to others."""

    kind = "scaffold"
    aggregation: Aggregation = param("The rule that merges changes of clients, and of control variates.", factory=Mean)
    option: Literal[1, 2] = param(
        "The new control variate of a client: 1 for the gradient at the server's model, on all of its data; 2 for the "
        "mean gradient of its steps, which costs nothing.",
        default=2,
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if not (setting.adds_gradients and setting.stateless):
            raise ConfigurationError(
                f"{self.named().capitalize()} divides changes by their steps, so the task's 'optimizer' must be "
                "'sgd' without momentum."
            )
        if "correction" not in inspect.signature(self.work.train).parameters:
            raise ConfigurationError(
                f"The 'work' of {self.named()} must take a 'correction' of gradients. Got {self.work.title()} instead."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if self.option == 1 and setting.protects_samples:
            raise ConfigurationError(
                f"The 'option' of {self.named()} must be 2 in a task with 'ldp': the gradient that option 1 sends has "
                f"no noise. Got 1 instead."
            )
        self._trained = Selection.of(setting, self.share, owner=self.named(), beside=True)
        self._ordered = {"control": Numbers(self.selection.trained)}

    def order(self, node: LearningNode, chosen: Sequence[NodeId], t: int) -> None:
        known = node.keep(Counted)
        asked, counted = ([*rounds] or [-1] * node.nodes for rounds in (known.asked, known.counted))
        beside = {"control": self._control(node)}
        if any(asked[client] != counted[client] for client in chosen):
            beside["counted"] = torch.tensor([counted[client] for client in chosen])
        for client in chosen:
            asked[client] = t
        known.asked, known.counted = asked, counted
        self._down.send(node, chosen, t, **beside)

    def read(self, node: LearningNode, answers: Iterable[Message]) -> Sequence[Part]:
        found = weighed(node, self._up.parts(node, answers, self._down.origin(node), **self._ordered))
        changes = moderate(node, [(answer, answer.control) for answer, _ in found if answer.control is not None])
        merged = merge(node, self.aggregation, changes)
        if merged is not None:
            moved = computed(merged) * (len(changes) / (node.nodes - 1))
            node.keep(Control).control = self._control(node) + moved
        counted = {answer.sender for answer, _ in changes}
        known = node.keep(Counted)
        both = zip(known.asked, known.counted, strict=True)
        known.counted = [now if client in counted else last for client, (now, last) in enumerate(both)]
        return [part for part in found if part[0].sender in counted]

    async def learn(self, node: LearningNode, start: Start, t: int) -> Update:
        own, shared = self._own(node, start.order, t), start.order.control
        assert shared is not None
        update = await self.work.train(node, start.model, t, correction=shared - own)
        if self.option == 1:
            gradient = await node.gradient(start.model, full=True)
            new = self._trained.take(gradient.vector)
        else:
            moved = update.steps * update.lr
            new = own - shared + self._trained.take(update.delta) * (-1.0 / moved if moved else 0.0)
        self._up.send(node, update, t, control=new - own)
        kept = node.keep(Control)
        kept.before, kept.control, kept.trained = own, new, t
        return update

    def _own(self, node: LearningNode, order: Order, t: int) -> Tensor:
        """A client's control variate, as the server knows it."""
        kept, chosen = node.keep(Control), self.clients.chosen(t)
        if order.counted is not None and order.counted.shape == (len(chosen),):
            last = int(order.counted[chosen.index(NodeId(node.id))])
            if last != kept.trained:
                kept.control, kept.trained = kept.before, last
        return self._control(node)

    def _control(self, node: LearningNode) -> Tensor:
        found = node.keep(Control).control
        return torch.zeros(self.selection.trained) if found is None else found

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """The views of federated averaging and, at the server, each client's control variate, which is a gradient."""
        messages = [*messages]
        yield from super().views(adversary, messages)
        if adversary.id != SERVER:
            return
        known: dict[int, Tensor] = {}
        for message in messages:
            for answer in adversary.usable([message], Answer, **self._ordered):
                known[answer.sender] = known.get(answer.sender, 0.0) + answer.control
                yield adversary.view(
                    answer.message,
                    known[answer.sender],
                    selection=self._trained,
                    start=adversary.own(answer.message.round),
                    gradient=True,
                )
