"""D-SGD with clique averaging (Bellet et al., 2022): gradients are averaged in a clique, models over all edges.

The mean of a clique's gradients leads where the gradient of all data would, if its nodes together hold the labels as
all nodes do; that is what makes momentum work on data that differ from node to node.
"""

import torch
from torch import Tensor

from covey.errors import ConfigurationError
from covey.learning.gossip import Gossip
from covey.learning.hearing import hearing
from covey.node import MODEL, Node
from covey.parameters import Setting, param
from covey.topology.d_cliques import RandomCliques


class CliqueAveraging(Gossip):
    """Gossip on cliques in which a round's training is one step along the mean gradient of the clique."""

    kind = "clique-averaging"
    lr: float = param("The learning rate.", ge=0)
    momentum: float = param("The momentum.", default=0.0, ge=0, lt=1)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if not isinstance(self.topology, RandomCliques):
            raise ConfigurationError(
                f"The 'topology' of {self.named()} must have cliques: d-cliques or random-cliques. "
                f"Got {self.topology.title()} instead."
            )
        if self.overlap:
            raise ConfigurationError(f"The 'overlap' of {self.named()} must be false: a step needs others' gradients.")
        if not self.schedule.trains_all_at_once():
            raise ConfigurationError(
                f"The 'schedule' of {self.named()} must have all nodes train in the same rounds: a step needs others' "
                f"gradients. Got {self.schedule.title()} instead, by which each node decides for itself; use "
                f"'every-round', 'periodic' or 'skiptrain' without a budget."
            )
        self._cliques = self.topology

    def round_bytes(self, setting: Setting, model_bytes: int) -> float | None:
        models = super().round_bytes(setting, model_bytes)
        mates = sum(len(clique) * (len(clique) - 1) for clique in self.topology.at(0).groups) / setting.nodes
        trained = self.schedule.training_rounds(setting.rounds) / max(setting.rounds, 1)
        return None if models is None else models + trained * mates * model_bytes

    async def learn(self, node: Node, t: int) -> Tensor:
        start = node.model
        own = (await node.gradient()).vector
        mates = [mate for mate in self._cliques.clique(node.id) if mate != node.id]
        node.send(mates, {"gradient": own}, tag="gradient", round=t)
        inbox = await hearing(node, mates, t, self.patience)("gradient")
        gradients = [own, *(message["gradient"] for message in node.usable(inbox, gradient=MODEL))]
        direction = torch.stack(gradients).mean(0)
        if self.momentum:
            before = node.state.get("momentum")
            if isinstance(before, Tensor):
                direction = direction.add_(before, alpha=self.momentum)
            node.state["momentum"] = direction
        node.model = torch.sub(start, direction, alpha=self.lr)
        return start
