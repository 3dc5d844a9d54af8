"""Send what changed most."""

import numpy as np
import torch
from torch import Tensor

from covey.node import Node
from covey.parameters import param
from covey.sharing.partial import Partial


class TopK(Partial):
    """The values that changed most in a round's training, or with accumulation since they were last sent.

    With accumulation, what averaging changed counts too: a value is sent when it is far from what it was at the
    beginning of the round in which it was last sent.
    """

    kind = "top-k"
    by_change = True
    accumulation: bool = param("Whether changes add up until they are sent.", default=True)

    def choose(self, node: Node, t: int, start: Tensor) -> Tensor:
        before: Tensor = node.state.get("top-k reference", start) if self.accumulation else start  # type: ignore[assignment]
        places = largest(node.model - before, self.count)
        if self.accumulation:
            node.state["top-k reference"] = before.index_copy(0, places, start[places])
        return places


def largest(score: Tensor, count: int) -> Tensor:
    """The places of the `count` numbers furthest from zero, increasing; of equal ones the first."""
    size = abs(score.cpu().numpy())
    # Half to a tenth of the time of torch.topk and a sort, see "sharing" in bench/RESULTS.md.
    least = np.partition(size, len(size) - count)[len(size) - count]
    places = np.flatnonzero(size >= least)
    if len(places) > count:
        equal = np.flatnonzero(size == least)
        places = np.setdiff1d(places, equal[len(equal) - (len(places) - count) :], assume_unique=True)
    return torch.from_numpy(places).to(score.device)
