"""Sharings that send some numbers of the model; a receiver fills the gaps with its own."""

from typing import ClassVar

from torch import Tensor

from covey.aggregation.aggregation import Contribution
from covey.decentralized.sharing.indices import Indices
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing
from covey.decentralized.sharing.values import Values, check_written_as, written_as
from covey.messages.payloads import Payload
from covey.parts.parameters import Setting, param
from covey.runtime.node import Message


class Partial(Sharing):
    """Sends `choose`'s numbers of the model to every receiver, and where they belong."""

    foreseen: ClassVar[bool] = False
    """Whether the indices of a round follow from public randomness alone, and so are known before it begins."""
    budget: float = param("The fraction of the values that is sent.", gt=0, le=1)
    values: str = written_as()

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_written_as(self.named(), self.values)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._indices = Indices(setting.parameters)
        self._values = Values(self.values, setting.parameters, setting)

    def choose(self, round: Round) -> Tensor:
        """The indices of the numbers to send in a round, increasing."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """The number of values in a message."""
        return max(1, round(self.budget * self._setting.parameters))

    def outgoing(self, round: Round) -> Messages:
        model = round.node.model
        if self.count == self._setting.parameters:
            return [(round.receivers, self._values.describe(model))]
        indices = self.choose(round)
        return [(round.receivers, {**self._values.describe(model[indices]), **self.describe(indices)})]

    def describe(self, indices: Tensor) -> Payload:
        """The entries that describe the indices to a receiver."""
        return self._indices.describe(indices)

    def placed(self, message: Message, count: int) -> Tensor:
        """The indices of a message's values.

        Raises:
            WireError: it does not describe them.
        """
        return self._indices.read(message.shared, count)

    def contribution(self, message: Message) -> Contribution:
        values = self._values.read(message.shared)
        if len(values) == self._setting.parameters and len(message.shared) == 1:
            return Contribution(message.sender, values)
        return Contribution(message.sender, values, self.placed(message, len(values)))
