"""The sharing of the whole model."""

from typing import Annotated

from torch import Tensor

from covey.aggregation.aggregation import Contribution
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing
from covey.learning.node import MODEL
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
