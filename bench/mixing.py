"""Mixing: covey's two ways against each other, by the size of the model."""

from collections.abc import Iterator
from time import perf_counter

import numpy as np
import torch

from covey.decentralized.topology import RandomRegular
from covey.learning import mixing
from covey.learning.mixture import Mixture
from covey.parts.parameters import Setting


class _OneThread:
    """As much of a learner as mixing asks for."""

    device = torch.device("cpu")

    class Layout:
        def __init__(self, size: int) -> None:
            self.size = size

    def __init__(self, size: int) -> None:
        self.layout = self.Layout(size)

    def mix(self, pieces: list) -> None:  # type: ignore[type-arg]
        for piece in pieces:
            piece()


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    torch.set_num_threads(1)
    nodes, usual = 200, mixing.SMALL
    topology = RandomRegular(degree=8)
    topology.ready(Setting(nodes))
    graph = topology.at(0)
    for size in (650, 2048, 8192, 89_834):
        models = list(torch.randn(nodes, size).unbind())
        learner = _OneThread(size)
        seconds = {}
        for name, limit in (("one product", 1 << 40), ("additions", 0)):
            mixing.SMALL = limit
            times = []
            for _ in range(5):
                weights = [[1 / 9] * 9 for _ in range(nodes)]
                mixtures = [
                    Mixture([models[i], *(models[j] for j in graph.senders(i))], weights[i]) for i in range(nodes)
                ]
                began = perf_counter()
                mixing.mix(mixtures, learner)  # type: ignore[arg-type]
                times.append(perf_counter() - began)
            seconds[name] = float(np.median(times))
        ratio = seconds["additions"] / seconds["one product"]
        detail = (
            f"{seconds['one product'] / nodes * 1e6:.1f} against {seconds['additions'] / nodes * 1e6:.1f} µs a node"
        )
        yield [f"mixing, {size:,} parameters: one sparse product is faster by", f"{ratio:.2f}", "", detail]
    mixing.SMALL = usual
