"""Sharings of some coefficients of the model in another basis. A receiver completes them by its own."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from covey.aggregation.aggregation import Contribution
from covey.decentralized.sharing.indices import Indices
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing
from covey.decentralized.sharing.values import Values, check_written_as, written_as
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import largest
from covey.parts.errors import WireError
from covey.parts.parameters import Setting, param
from covey.runtime.node import Inbox, Message
from covey.runtime.state import State


class Coefficients(State):
    """The coefficients of earlier rounds that a round needs, also at its end."""

    reference: Tensor | None = None
    """Each coefficient as it was when it was last sent."""
    averaged: Tensor | None = None
    """The coefficients of the model after the last averaging."""
    own: Tensor
    """The coefficients of the model that was sent, until it is averaged."""


class Transform(Protocol):
    """A linear map of flat models to coefficients, and back."""

    size: int
    """The number of coefficients."""
    parts: int
    """The number of values in a coefficient, which lie one after the other: 2 where it is complex."""

    def forward(self, vectors: Tensor) -> Tensor:
        """The coefficients of vectors, along the last axis."""

    def forward_by_torch(self, vectors: Tensor) -> Tensor:
        """The same as `forward`, differentiable."""

    def inverse(self, coefficients: Tensor) -> Tensor:
        """The vectors of coefficients, along the last axis."""

    def project(self, coefficients: Tensor) -> None:
        """Replace coefficients, in place, by `forward(inverse(coefficients))`."""


class Transformed(Sharing):
    """Sends the coefficients that changed most, in training or, with accumulation, since they were last sent.

    A message has the coefficients themselves, not their changes. Let V be the importance of the coefficients and C the
    coefficients of the model that a round begins with. The state is C - V: training and averaging add the same to V and
    to C, so it changes only at coefficients that are sent.
    """

    by_change = True
    accumulation: bool = param("Whether changes add up until they are sent.", default=True)
    averaging_changes: bool = param("Whether changes by averaging add up, too.", default=True)
    values: str = written_as()

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_written_as(self.named(), self.values)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        # A node that always sends all sends the model itself, as full sharing does, and has nothing to add up.
        sends_all = all(part == 1.0 for part, chance in self.fractions() if chance > 0)
        self._transform = None if sends_all else self.transform(setting)
        self._accumulates = self.accumulation and not sends_all
        self._size = setting.parameters if self._transform is None else self._transform.size
        self._parts = 1 if self._transform is None else self._transform.parts
        self._indices = Indices(self._size)
        self._values = Values(self.values, self._parts * self._size, setting)

    def transform(self, setting: Setting) -> Transform | None:
        """The transform of the model to coefficients; None if the coefficients are the numbers of the model."""
        raise NotImplementedError

    def fractions(self) -> Sequence[tuple[float, float]]:
        """The fractions of the coefficients that messages hold, each with its probability; 1 is all, no indices."""
        raise NotImplementedError

    def fraction(self, round: Round) -> float:
        """The fraction that a node sends in a round."""
        raise NotImplementedError

    def count(self, fraction: float) -> int:
        """The number of coefficients in a fraction of them; at least 1."""
        return max(1, round(fraction * self._size))

    def outgoing(self, round: Round) -> Messages:
        node = round.node
        kept = node.keep(Coefficients, self)
        own, before = self._coefficients(node, round.start)
        reference = before
        if self._accumulates and kept.reference is not None:
            reference = kept.reference.to(before.device)
        sent = before if self.averaging_changes else own
        count = self.count(self.fraction(round))
        if count == self._size:
            payload = self._values.describe(own)
            reference = sent
        else:
            indices = largest(self._magnitudes(own - reference), count)
            numbers = self._numbers_at(indices)
            payload = {**self._values.describe(own.index_select(0, numbers)), **self._indices.describe(indices)}
            reference = reference.scatter(0, numbers, sent.index_select(0, numbers))
        if self._accumulates:
            kept.reference = reference
        kept.own = own
        return [(round.receivers, payload)]

    def _coefficients(self, node: LearningNode, start: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients of the model, and of the model that the round began with."""
        if self._transform is None:
            return node.model, start
        averaged = node.keep(Coefficients, self).averaged
        before = self._transform.forward(start) if averaged is None else averaged.to(start.device)
        return before if start is node.model else self._transform.forward(node.model), before

    def _magnitudes(self, change: Tensor) -> Tensor:
        return change if self._parts == 1 else torch.linalg.vector_norm(change.view(-1, self._parts), dim=1)

    def _numbers_at(self, indices: Tensor) -> Tensor:
        """The positions of the values of coefficients."""
        if self._parts == 1:
            return indices
        return (indices[:, None] * self._parts + torch.arange(self._parts, device=indices.device)).view(-1)

    def merge(self, round: Round, inbox: Inbox) -> Tensor | Mixture:
        node = round.node
        kept = node.keep(Coefficients, self)
        own = kept.own.to(node.model.device)
        del kept.own
        merged = round.merge(own, self.contributions(round, inbox))
        averaging_apart = self._accumulates and not self.averaging_changes
        if self._transform is None and not averaging_apart:
            return merged
        average = merged.tensor() if isinstance(merged, Mixture) else merged.clone()
        if self._transform is not None:
            self._transform.project(average)
            kept.averaged = average
        if averaging_apart:
            assert kept.reference is not None
            kept.reference = kept.reference.to(own.device) + (average - own)
        return average if self._transform is None else self._transform.inverse(average)

    def view(
        self, adversary: Adversary, message: Arrived, values: Tensor, indices: Tensor | None = None, **facts: Any
    ) -> View:
        return super().view(adversary, message, values, indices, transform=self._transform, **facts)

    def contribution(self, message: Message) -> Contribution:
        values = self._values.read(message.shared)
        count, rest = divmod(len(values), self._parts)
        if rest:
            raise WireError("bad-field", f"it holds {len(values)} numbers, and a coefficient is {self._parts}")
        if count == self._size and len(message.shared) == 1:
            return Contribution(message.sender, values)
        indices = self._indices.read(message.shared, count)
        return Contribution(message.sender, values, self._numbers_at(indices))
