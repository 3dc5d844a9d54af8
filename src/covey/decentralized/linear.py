"""The rounds of gossip as linear maps, derived from its parts."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from covey.decentralized.graphs import merging_graph
from covey.messages import wire
from covey.network.graph import Graph
from covey.runtime.linear import LinearRounds

if TYPE_CHECKING:
    from covey.decentralized.gossip import Gossip


class LinearGossip(LinearRounds):
    """The rounds of a prepared gossip, none of whose parts is in `against`.

    Args:
        program: the program.
        parameters: the numbers of a model.
    """

    def __init__(self, program: "Gossip", parameters: int) -> None:
        self._program, self._parameters = program, parameters
        self._last: tuple[Graph, Graph] | None = None

    @cached_property
    def lengths(self) -> wire.Lengths:
        message = self._program.sharing.message_of(torch.empty(self._parameters))
        assert message is not None
        return wire.lengths(message)

    def trains(self, t: int) -> NDArray[np.bool_]:
        mask = self._program.schedule.mask(t)
        assert mask is not None
        return mask

    def graph(self, t: int) -> Graph:
        drawn = self._program.topology.at(t)
        if self._last is None or self._last[0] is not drawn:
            self._last = drawn, merging_graph(self._program, t)
        return self._last[1]


def against(program: "Gossip") -> str | None:
    """The reason why rounds of a prepared gossip are no linear maps that are known beforehand; None if they are."""
    sharing, aggregation, schedule = program.sharing, program.aggregation, program.schedule
    selection = sharing.selection
    assert aggregation is not None
    if program.overlap:
        return "the program sends models while nodes train ('overlap')"
    if program.patience is not None:
        return "nodes wait with 'patience'"
    if sharing.message_of(torch.empty(0)) is None:
        return f"{sharing.named()} does not send whole models as they are"
    if not selection.is_whole or selection.buffered:
        return "models have buffers, or tensors that are not shared"
    if program.topology.fragments_of_models() > 1:
        return f"{program.topology.named()} draws a graph for each fragment of a model"
    if not aggregation.is_linear or aggregation.of_edges(program.topology.at(0)) is None:
        return f"{aggregation.named()} does not merge with weights that are known beforehand"
    if schedule.mask(0) is None:
        return f"{schedule.named()} decides by more than the node and the round"
    return None
