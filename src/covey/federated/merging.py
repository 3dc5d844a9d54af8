"""Clients' models merged at the server."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NoReturn

import numpy as np
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.federated.ends import SERVER
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.network.graph import Graph
from covey.runtime.node import Message


def merge(
    node: LearningNode, aggregation: Aggregation, parts: Iterable[tuple[Message, Tensor]]
) -> Tensor | Mixture | None:
    """The aggregate of clients' models, each weighed by its samples; None where there is no model.

    Args:
        node: the server.
        parts: the answer and the model of each client.
    """
    found = sorted((part for part in parts if part[0]["samples"]), key=lambda part: part[0].sender)
    if not found:
        return None
    (_, first), *others = found
    graph = _graph(node.nodes, {int(answer.sender): answer["samples"] for answer, _ in found})
    with node.measured("mixing"):
        return aggregation.merge(node, graph, first, [Contribution(answer.sender, part) for answer, part in others])


def _graph(nodes: int, samples: Mapping[int, int]) -> Graph:
    """Who is merged at the server, by the share of each client in all samples.

    The server has no model of its own to add, so that of the first client stands in its place; the others send to it.
    """
    _, *others = samples
    weights = np.array([samples[client] for client in others], np.float64) / sum(samples.values())
    return Graph(nodes, np.array(others, np.int64), np.full(len(others), SERVER, np.int64), weights)


class Answers:
    """The graphs of all rounds, as an aggregation checks them: who answers is known when the time comes."""

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
