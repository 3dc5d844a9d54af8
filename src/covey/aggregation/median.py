"""The median of each parameter, over the own model and those that arrived."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.network.graph import Graph
from covey.runtime.node import Node

_AT_ONCE = 1 << 14
"""The numbers of each model that are sorted at a time: they stay in the processor's cache."""


class Median(Aggregation):
    """The median of each parameter by itself. With an even number of values, the mean of the middle two.

    If fewer than half of the nodes are faulty, the result stays within the range of the others. For partial models,
    the median of a parameter is over the own value and those of the nodes that sent it.
    """

    kind = "median"

    def merge(self, node: Node, graph: Graph, own: Tensor, contributions: Sequence[Contribution]) -> Tensor:
        models = [own, *[_filled(arrived, own) for arrived in contributions]]
        partial = any(arrived.shared_indices is not None for arrived in contributions)
        merged = torch.empty_like(own)
        for start in range(0, len(own), _AT_ONCE):
            rows = _sorted([model[start : start + _AT_ONCE] for model in models])
            merged[start : start + _AT_ONCE] = _middle_of_sent(rows) if partial else _middle(rows)
        return merged


def _filled(arrived: Contribution, own: Tensor) -> Tensor:
    """A whole model from a contribution. Values that were not sent are infinite."""
    if arrived.shared_indices is None:
        return arrived.shared_values
    filled = torch.full_like(own, torch.inf)
    filled[arrived.shared_indices] = arrived.shared_values
    return filled


def _middle(rows: list[Tensor]) -> Tensor:
    """The median of each column of sorted rows."""
    count = len(rows)
    middle = rows[count // 2]
    return middle if count % 2 else (rows[count // 2 - 1] + middle).div_(2.0)


def _middle_of_sent(rows: list[Tensor]) -> Tensor:
    """The median of the finite values of each column of sorted rows. The own value is always finite."""
    ordered = torch.stack(rows)
    counts = ordered.isfinite().sum(0)
    low, high = (ordered.gather(0, middle.unsqueeze(0)) for middle in ((counts - 1) // 2, counts // 2))
    return low.add_(high).div_(2.0).squeeze(0)


def _sorted(rows: list[Tensor]) -> list[Tensor]:
    """Sort each column of the rows.

    Eight models of a million numbers took 41 ms on one core with a sorting network over whole rows, and 405 ms with
    `torch.sort`, which sorts one column at a time.
    """
    rows = [row.clone() for row in rows]
    spare = torch.empty_like(rows[0])
    for left, right in _network(len(rows)):
        torch.minimum(rows[left], rows[right], out=spare)
        torch.maximum(rows[left], rows[right], out=rows[right])
        rows[left], spare = spare, rows[left]
    return rows


@lru_cache(maxsize=256)
def _network(count: int) -> list[tuple[int, int]]:
    """The sorting network of `count` rows: the pairs to compare, in order.

    Batcher's merge exchange (Knuth, The Art of Computer Programming, 5.2.2, algorithm M).
    """
    pairs = []
    top = step = 1 << max((count - 1).bit_length() - 1, 0)
    while step:
        reach, rest, distance = top, 0, step
        while True:
            pairs += [(left, left + distance) for left in range(count - distance) if left & step == rest]
            if reach == step:
                break
            distance, reach, rest = reach - step, reach >> 1, step
        step >>= 1
    return pairs
