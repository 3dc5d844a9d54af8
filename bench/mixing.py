"""Mixing: covey's two ways against each other, by the size of the model."""

from collections.abc import Iterator
from time import perf_counter, process_time

import numpy as np
import torch

from covey.decentralized.topology import Complete, RandomRegular
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
    for size in (650, 7850):
        yield _crowded(size)


def _crowded(size: int, nodes: int = 1000) -> list[str]:
    """All nodes' means over the complete graph: together, against one addition after the other for a few of them."""
    topology = Complete()
    topology.ready(Setting(nodes))
    graph, models, learner = topology.at(0), list(torch.randn(nodes, size).unbind()), _OneThread(size)
    weights = [1 / nodes] * (nodes - 1)
    own = 1.0 - sum(weights)
    mixtures = [Mixture([models[i], *(models[j] for j in graph.senders(i))], [own, *weights]) for i in range(nodes)]
    began = process_time()
    for some in mixtures[:20]:
        assert some.models is not None
        total = some.models[0].double() * own
        for model, weight in zip(some.models[1:], some.weights[1:], strict=True):
            total.add_(model, alpha=weight)
    apart = (process_time() - began) / 20
    began = process_time()
    mixing.mix(mixtures, learner)  # type: ignore[arg-type]
    together = (process_time() - began) / nodes
    name = f"mixing, complete graph of {nodes:,} nodes, {size:,} parameters: faster than additions by"
    detail = f"{together * 1e6:.0f} against {apart * 1e6:,.0f} µs a node"
    return [name, f"{apart / together:.1f}", ">= 8" if size > mixing.SMALL else "", detail]
