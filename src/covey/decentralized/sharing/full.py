"""Send the whole model."""

from typing import Any

from covey.aggregation.aggregation import Contribution
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing
from covey.learning.node import MODEL
from covey.runtime.node import Message


class Full(Sharing):
    """The whole model to every receiver."""

    kind = "full"
    takes_buffers = True
    entries = {"model": MODEL}

    def outgoing(self, round: Round) -> Messages:
        return [(round.receivers, {"model": round.node.model})]

    def contribution(self, message: Message) -> Contribution:
        model: Any = message.shared["model"]
        return Contribution(message.sender, model)
