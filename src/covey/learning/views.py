"""The adversary's side of a program: the models that a node's received messages tell of.

A program says what its messages tell (`LearningProgram.views`), because only it can read them. Attacks need nothing
else of a program, so a new program or sharing is attacked as soon as it defines its own:

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        for push in adversary.usable(messages, Push, model=self.selection.entry):
            yield adversary.view(push.message, push.model, selection=self.selection)

By default, whole models under the entry `model` are understood. The messages are those of one receiver, in the order of
their arrival, so a generator may accumulate. It reads messages as the program does, with the same contents: nonsense is
rejected, not believed. A sharing of gossip defines `Sharing.views`; its default takes the contribution of each message.

- A part of the model (a fragment, a chunk, some layers): give its `indices`. They count within the selection.
- Coefficients: give the `transform` in which values and indices are. Attacks complete and compare there.
- Masked values: `hidden`, the noise that the receiver sees; and a sum that it can open with all `senders` in it.
- A pseudonym: it is the sender, as on the wire. `LearningProgram.owners` says in scoring whose it was.
- A model from which the sender trained, if the receiver knows it: `start`. Gradient inversion needs it.
- A gradient instead of a model: `gradient`.

Shapes: P parameters, S of them in the shared part, K values of a message.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from covey.learning.selection import BUFFERS, Selection
from covey.messages.payloads import Payload
from covey.parts.nodes import NodeId
from covey.runtime.content import Content, usable
from covey.runtime.node import Message, Node, Wanted


class Arrived(Message):
    """A message as an observed node received it.

    Args:
        time: the time of its arrival, in seconds of the nodes' clock.
        message: the arguments of a `Message`.
    """

    __slots__ = ("time",)

    def __init__(self, time: float, *message: Any) -> None:
        super().__init__(*message)
        self.time = time

    def renamed(self, tag: str, payload: Payload | None = None) -> "Arrived":
        """The same message under another tag, or with other entries."""
        return Arrived(self.time, self.sender, tag, self.round, self.shared if payload is None else payload, self.size)


class Transform(Protocol):
    """A linear map of shared parts to coefficients, and back."""

    def forward_by_torch(self, vectors: Tensor) -> Tensor:
        """The coefficients of vectors, differentiable."""

    def inverse(self, coefficients: Tensor) -> Tensor:
        """The vectors of coefficients."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The numbers that one message tells of a model, or of a gradient.

    They are a linear image of it: `shows(model)` is what the same message would show of another model.
    """

    receiver: int
    senders: tuple[int, ...]
    """The sender, a node or a pseudonym; several if the numbers are the weighted mean of their models."""
    time: float
    round: int | None
    values: Tensor
    """The K numbers."""
    places: Tensor | None = None
    """The indices of the values in the model or, with a transform, among the coefficients; None for all."""
    transform: Transform | None = None
    part: Tensor | None = None
    """The indices of the shared part in the model, to which the transform applies; None for the whole model."""
    start: Tensor | None = None
    """The P numbers from which the sender trained, if the receiver knows them."""
    hidden: bool = False
    """True if masks hide the values: they are noise to the receiver."""
    gradient: bool = False
    """True if the values are of a gradient."""

    def domain(self, model: Tensor) -> Tensor:
        """A model in the coordinates of the values: itself, or its coefficients."""
        if self.transform is None:
            return model
        return self.transform.forward_by_torch(model if self.part is None else model[self.part])

    def domain_of_rows(self, models: Tensor) -> Tensor:
        """The same of several models in rows."""
        if self.transform is None:
            return models
        return self.transform.forward_by_torch(models if self.part is None else models[:, self.part])

    def shows(self, model: Tensor) -> Tensor:
        """The K numbers that the message would show of another model; differentiable."""
        whole = self.domain(model)
        return whole if self.places is None else whole[self.places]

    def completed(self, model: Tensor) -> Tensor:
        """The P numbers of the seen model, of which a given one provides those that the message does not show."""
        whole = self.domain(model).clone()
        if self.places is None:
            whole[:] = self.values
        else:
            whole[self.places] = self.values
        if self.transform is None:
            return whole
        found = self.transform.inverse(whole)
        return found if self.part is None else model.index_copy(0, self.part, found)

    def fraction(self, model: Tensor) -> float:
        """The fraction of the numbers of a model that the message shows."""
        return len(self.values) / len(self.domain(model))


class Adversary:
    """An observed node, as programs see it that read its messages after the run. It also has its public knowledge.

    Args:
        id: the node.
        nodes: the number of nodes of the network.
        first: the model that all nodes started with, P numbers.
        models: its own models after rounds, by the number of completed rounds, as far as they were kept.
        same_start: whether all nodes started with `first`.
    """

    careful = False

    def __init__(
        self, id: int, nodes: int, first: Tensor, models: Mapping[int, Tensor] | None = None, *, same_start: bool = True
    ) -> None:
        self.id, self.nodes, self.first, self.same_start = NodeId(id), nodes, first, same_start
        self.models: Mapping[int, Tensor] = {0: first, **(models or {})}
        self.shape: tuple[int, ...] = tuple(first.shape)
        self.model = first
        self.rejected: Counter[str] = Counter()
        """The number of messages that could not be read, by reason."""

    def narrowed(self, selection: Selection) -> "Adversary":
        """The same node for the sharing of a part of the model."""
        part = Adversary(self.id, self.nodes, selection.take(self.first), same_start=self.same_start)
        part.rejected = self.rejected
        return part

    def own(self, round: int | None) -> Tensor:
        """Its latest own model before a round; the first one if none was kept."""
        known = [completed for completed in self.models if round is None or completed <= round]
        return self.models[max(known, default=0)]

    def begun_with(self, round: int | None) -> Tensor | None:
        """The model with which every node began a round, if it is public: the first one in round 0."""
        return self.first if round == 0 and self.same_start else None

    def usable(self, messages: Iterable[Message], content: Any = None, /, **entries: Wanted) -> list[Any]:
        """Select usable messages, as `Node.usable` does."""
        return usable(cast(Node, self), messages, content, entries, copy=False)

    def reject(self, message: Message | Content, reason: str) -> None:
        """Count a message that cannot be read."""
        self.rejected[reason] += 1

    def view(
        self,
        message: Message,
        values: Tensor,
        indices: Tensor | None = None,
        *,
        selection: Selection | None = None,
        senders: Sequence[int] = (),
        transform: Transform | None = None,
        **facts: Any,
    ) -> View:
        """A view of a whole model.

        Args:
            message: the message that completes it.
            values: the values of the selected part, or of some indices of it, or of the coefficients of a transform.
            indices: the indices among the S numbers of the part, or among the coefficients; None for all.
            selection: the shared part; None for the whole model.
            senders: the nodes whose models are in it; by default, the sender of the message.
            transform: the map of the part to the coefficients.
            facts: further fields of the view.
        """
        part = None if selection is None or selection.is_whole else selection.take(torch.arange(len(self.first)))
        places = indices
        if transform is None and part is not None:
            places = part if indices is None else part[indices]
        beside = message.shared.get(BUFFERS) if selection is not None and selection.beside else None
        if transform is None and isinstance(beside, Tensor) and len(beside) == selection.buffered:  # type: ignore[union-attr]
            where = selection.buffers(torch.arange(len(self.first)))  # type: ignore[union-attr]
            places = torch.cat([torch.arange(len(values)) if places is None else places, where])
            values = torch.cat([values, beside.to(values)])
        time = getattr(message, "time", 0.0)
        senders_of = tuple(senders) or (int(message.sender),)
        return View(self.id, senders_of, time, message.round, values, places, transform, part, **facts)


def by_receiver(messages: Iterable[Arrived], receivers: Iterable[int]) -> Iterator[tuple[int, list[Arrived]]]:
    """The messages of each receiver, in order."""
    found: dict[int, list[Arrived]] = {}
    for receiver, message in zip(receivers, messages, strict=True):
        found.setdefault(receiver, []).append(message)
    return iter(sorted(found.items()))
