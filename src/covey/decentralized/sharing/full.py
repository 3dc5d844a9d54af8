"""The sharing of the whole model."""

from typing import Annotated

from torch import Tensor

from covey.aggregation.aggregation import Contribution
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing
from covey.learning.node import MODEL
from covey.messages.payloads import Payload
from covey.runtime.content import Content


class Whole(Content):
    """A whole model."""

    model: Annotated[Tensor, MODEL]


class Full(Sharing):
    """The whole model to every receiver."""

    kind = "full"
    exact = True
    takes_buffers = True
    content = Whole

    def outgoing(self, round: Round) -> Messages:
        return [(round.receivers, Whole(model=round.node.model))]

    def contribution(self, message: Whole) -> Contribution:
        return Contribution(message.sender, message.model)

    def message_of(self, model: Tensor) -> Payload | None:
        changed = any(getattr(type(self), name) is not getattr(Full, name) for name in _OF_A_ROUND)
        return None if changed else {"model": model}


_OF_A_ROUND = ("outgoing", "contribution", "contributions", "merge", "send", "receive", "round")
"""The methods that a round calls."""
