"""The merging of clients' models at the server."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NoReturn

import numpy as np
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.federated.ends import SERVER
from covey.federated.uplink import Answer
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.network.graph import Graph


def merge(
    node: LearningNode, aggregation: Aggregation, parts: Iterable[tuple[Answer, Tensor]]
) -> Tensor | Mixture | None:
    """The aggregate of clients' models, weighted by their samples; None if no model arrived.

    Args:
        node: the server.
        aggregation: the rule.
        parts: the answer and the model of each client.
    """
    found = sorted((part for part in parts if part[0].samples), key=lambda part: part[0].sender)
    if not found:
        return None
    (_, first), *others = found
    graph = _graph(node.nodes, {int(answer.sender): answer.samples for answer, _ in found})
    with node.measured("mixing"):
        return aggregation.merge(node, graph, first, [Contribution(answer.sender, part) for answer, part in others])


def _graph(nodes: int, samples: Mapping[int, int]) -> Graph:
    """The graph by which the server merges clients, weighted by their samples.

    The server's own model is not merged. The first client takes its place, and the others send to it.
    """
    _, *others = samples
    weights = np.array([samples[client] for client in others], np.float64) / sum(samples.values())
    return Graph(nodes, np.array(others, np.int64), np.full(len(others), SERVER, np.int64), weights)


class Answers:
    """The graphs of all rounds for `Aggregation.check_with`. They cannot be drawn: the clients that answer vary."""

    weighted: ClassVar[bool] = True

    @classmethod
    def title(cls) -> str:
        return "that of clients and their server"

    def one_way(self) -> bool:
        return True

    def can_be_drawn(self) -> bool:
        return False

    def at(self, t: int) -> NoReturn:
        raise NotImplementedError
