"""D² (Tang et al., 2018): D-PSGD that takes the variance among the data of nodes out of its fixed point.

    x(t+1) = W (2 x(t) - x(t-1) - lr g(t) + lr g(t-1))

With y(t) = x(t) - lr g(t), the trained model, the bracket is y(t) + x(t) - y(t-1): the trained model, plus the change
of the last one by mixing. So a node keeps one model. Training may have several steps, with any optimiser: y(t) is its
result. In rounds without training nodes only mix, which is D² with a power of W.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from covey.aggregation.aggregation import Aggregation
from covey.aggregation.linear import Lazy
from covey.decentralized.gossip import Gossip
from covey.decentralized.weights import check_complete, check_spectrum
from covey.learning.node import LearningNode
from covey.learning.selection import Selection
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.runtime.patience import Reception
from covey.runtime.state import State


class Last(State):
    """The last training of a node."""

    trained: Tensor | None = None
    """The shared part of its result, without buffers."""


class D2(Gossip):
    """Gossip in which a node adds, to its trained model, the change by mixing of the one before."""

    kind = "d2"

    aggregation: Aggregation = param(
        "The rule that merges models; its weights must be symmetric. By default, lazy.", factory=Lazy
    )

    def check(self, setting: Setting) -> None:
        check_complete(self, setting)
        super().check(setting)
        for fits, name, right, got in (
            (not self.overlap, "overlap", "false", "true"),
            (self.patience is None, "patience", "left out", self.patience),
            (self.schedule.trains_all_at_once(), "schedule", "the same for all nodes", self.schedule.title()),
            (self.sharing.exact, "sharing", "exact, such as 'full'", self.sharing.title()),
        ):
            if not fits:
                raise ConfigurationError(f"The '{name}' of {self.named()} must be {right}. Got {got} instead.")

    def check_graphs(self) -> None:
        super().check_graphs()
        self._smallest = check_spectrum(self, self.topology, self.aggregation, above=-1 / 3)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._corrected = Selection.of(setting, self.sharing.share, "keep", owner=self.sharing.named())

    def findings(self) -> Mapping[str, str]:
        smallest = f"the smallest eigenvalue of their matrix is {self._smallest:.4f}, and must be above -0.3333"
        return {"weights": smallest}

    async def learn(self, node: LearningNode, t: int, reception: Reception) -> Tensor:
        last, update = node.keep(Last), await node.train()
        start, trained = self._corrected.take(update.start), self._corrected.take(update.model)
        moved = trained if last.trained is None else torch.sub(start, last.trained).add_(trained)
        last.trained = trained
        node.model = self._corrected.put(update.model, moved)
        return update.start
