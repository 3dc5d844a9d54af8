"""The messages and the state of FENS.

Shapes: B samples, M clients, C classes.
"""

from typing import Annotated

from torch import Tensor

from covey.federated.ends import SAMPLES
from covey.federated.one_shot import Packed
from covey.learning.node import LearningNode
from covey.runtime.content import Content
from covey.runtime.entries import Within
from covey.runtime.state import State


class Ids(Content):
    """The clients whose models a message holds."""

    ids: list[int]

    def check(self, node: LearningNode) -> str | None:
        known = self.ids and self.ids == sorted({*self.ids}) and all(0 < id < node.nodes for id in self.ids)
        return None if known else "its ids are not those of clients in order"


class Fan(Ids, Packed):
    """The models of clients."""


class Counts(Content):
    """The counts on proxy samples that an aggregator needs."""

    counts: Tensor

    def check(self, node: LearningNode) -> str | None:
        return "one of its counts is negative" if bool((self.counts < 0).any()) else None


class Asked(Content):
    """The aggregator that clients train."""

    aggregator: Tensor


class Change(Content):
    """The change of the aggregator by one step of a client."""

    delta: Tensor
    samples: Annotated[int, SAMPLES]
    """The number of proxy samples that it trains on."""
    loss: Annotated[float, Within(ge=0)] = 0.0
    """The mean loss of the received aggregator on proxy samples that do not train it."""
    selecting: Annotated[int, SAMPLES] = 0
    """The number of these samples."""


class Kept(State):
    """The knowledge of a client or of the server after round 0, and the server's aggregator."""

    logits: Tensor | None = None
    """The logits of all models, B x M x C: for the proxy samples at a client, for the test samples at the server."""
    labels: Tensor | None = None
    """The training samples of each client and class, M x C."""
    models: Tensor | None = None
    """The models that arrived, if a student learns from them, K x P."""
    counts: Tensor | None = None
    """The sum of the clients' counts."""
    ids: list[int] = []
    """The clients whose models the server has."""
    taking_part: list[int] = []
    """The clients to which the server has sent the models."""
    last: int = -1
    """The last round of which a client has a message of the server."""
    aggregator: Tensor | None = None
    selected: Tensor | None = None
    """The aggregator of the lowest loss on samples that did not train it."""
    lowest: float | None = None
    """That loss."""
