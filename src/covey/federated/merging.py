"""The merging of clients' models at the server."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NoReturn, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.federated.ends import SERVER
from covey.federated.uplink import Answer
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.network.graph import Graph
from covey.parts.errors import ProgramError
from covey.runtime.content import Content

Part: TypeAlias = tuple[Answer, Tensor]
"""A client's answer, and numbers of it: the shared part of its model, or others of one size for all clients."""
Given = TypeVar("Given", bound=Content)
TOO_LARGE = "its numbers are so large that their squares are not finite"


def weighed(node: LearningNode, parts: Iterable[Part]) -> list[Part]:
    """The parts of clients with samples, in the order of clients. Others are rejected, and so are those that overflow.

    A round without any changes nothing: what some clients report ends no run.

    Raises:
        ProgramError: all clients of the network answer, and none has samples.
    """
    found = sorted(parts, key=lambda part: part[0].sender)
    for answer, _ in found:
        if not answer.samples:
            node.reject(answer, "its sender has no samples, so its weight is 0")
    counted = [part for part in found if part[0].samples]
    if len(found) == node.nodes - 1 and not counted:
        raise ProgramError(f"Some clients must have samples. All of {len(found)} have 0.")
    return moderate(node, counted)


def moderate(node: LearningNode, parts: Sequence[tuple[Given, Tensor]]) -> list[tuple[Given, Tensor]]:
    """The parts whose numbers have finite squares. Others are rejected: they would make the server's model overflow."""
    if not parts:
        return []
    are_finite = torch.stack([torch.dot(numbers, numbers) for _, numbers in parts]).isfinite().tolist()
    for (answer, _), is_finite in zip(parts, are_finite, strict=True):
        if not is_finite:
            node.reject(answer, TOO_LARGE)
    return [part for part, is_finite in zip(parts, are_finite, strict=True) if is_finite]


def overflows(numbers: Tensor) -> bool:
    """True if the sum of the squares of numbers is not finite."""
    return not math.isfinite(float(torch.dot(numbers, numbers)))


def merge(node: LearningNode, aggregation: Aggregation, parts: Sequence[Part]) -> Tensor | Mixture | None:
    """The aggregate of clients' numbers, weighted by their samples; None without clients.

    Args:
        node: the server.
        aggregation: the rule.
        parts: the answer and the numbers of each client, in the order of clients.
    """
    if not parts:
        return None
    (_, first), *others = parts
    graph = _graph(node.nodes, {int(answer.sender): answer.samples for answer, _ in parts})
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
