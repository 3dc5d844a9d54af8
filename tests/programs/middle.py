"""An aggregation of a user's own, for gossip and for fedavg alike: the median of each number."""

from collections.abc import Sequence

import torch
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.network.graph import Graph
from covey.runtime.node import Node


class Middle(Aggregation):
    """The median of the own number and those that arrived; of two in the middle, their mean."""

    def merge(self, node: Node, graph: Graph, own: Tensor, contributions: Sequence[Contribution]) -> Tensor:
        return torch.stack([own, *[arrived.values for arrived in contributions]]).quantile(0.5, dim=0)
