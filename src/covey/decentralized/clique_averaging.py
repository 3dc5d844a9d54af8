"""D-SGD with clique averaging (Bellet et al., 2022): gradients are averaged in cliques, models over all edges.

If a clique holds labels in the proportions of all data, the mean of its gradients is nearly that of all data. So
momentum works on heterogeneous data. Buffers follow the node's own gradient until models are averaged. With masked
gradients, a node that misses the sum does not step along its own gradient.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from covey.aggregation.linear import Mean
from covey.decentralized.gossip import Gossip
from covey.decentralized.sharing.beside import averaged
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.selection import Selection
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.runtime.patience import Reception
from covey.runtime.state import State


class Step(State):
    """The state of a node's steps."""

    momentum: Tensor | None = None


class CliqueAveraging(Gossip):
    """Gossip on cliques, or on diverse neighbours, in which training is one step along their mean gradient."""

    kind = "clique-averaging"
    lr: float = param("The learning rate.", ge=0)
    momentum: float = param("The factor of the momentum.", default=0.0, ge=0, lt=1)

    def check(self, setting: Setting) -> None:
        self._gradients = self.sharing.beside("gradients")
        super().check(setting)
        if self.overlap:
            raise ConfigurationError(
                f"The 'overlap' of {self.named()} must be false: a step needs the gradients of other nodes."
            )
        if not self.schedule.trains_all_at_once():
            raise ConfigurationError(
                f"The 'schedule' of {self.named()} must have all nodes train in the same rounds: a step needs the "
                f"gradients of other nodes. Got {self.schedule.title()} instead, in which each node decides; use "
                f"'every-round', 'periodic' or 'skiptrain' without a budget."
            )
        if not self.topology.averages:
            raise ConfigurationError(
                f"The 'topology' of {self.named()} must have cliques, or balanced neighbourhoods: d-cliques, "
                f"random-cliques or diverse-neighbours. Got {self.topology.title()} instead."
            )
        self._gradients.check(setting)

    def check_graphs(self) -> None:
        super().check_graphs()
        if self.topology.averages and self.topology.can_be_drawn():
            self._cliques = self.topology.averaging()
            self._gradients.check_with(self._cliques, Mean())

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._trained = Selection.of(setting, owner=self.named(), beside=True)
        self._shared = Selection.of(setting, self.sharing.share, "keep", owner=self.sharing.named())
        self._gradients.prepare(self._shared.narrowed(setting))
        self._gradients.selection = self._shared
        # A node that waits long for gradients is late with its model.
        self._gradient_heartbeats = replace(self._heartbeats_of(setting, self._gradients), several=True)

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """Models, and the gradients at models that only their senders know after round 0."""
        found = [*messages]
        of = [
            message.renamed(message.tag.removeprefix("gradient").lstrip()) for message in found if _is_gradient(message)
        ]
        yield from super().views(adversary, [message for message in found if not _is_gradient(message)])
        for view in self._gradients.views(adversary, self._cliques, Mean(), of):
            yield replace(view, gradient=True, start=adversary.begun_with(view.round))

    async def learn(self, node: LearningNode, t: int, reception: Reception) -> Tensor:
        start = node.model
        gradient = await node.gradient()
        receive = reception.over(self._cliques.at(t), self._gradient_heartbeats)
        own = self._shared.take(gradient.vector)
        direction = await averaged(self._gradients, node, self._cliques, t, own, receive, called="gradient")
        if self._gradients.hides and direction is own:
            # The clique knows the steps of all its other nodes: a step along the own gradient would reveal it.
            direction = torch.zeros_like(own)
        if self._shared.trained < self._trained.trained:
            # Unshared values follow the own gradient.
            whole = self._shared.put(gradient.vector, direction)
            direction = self._trained.take(whole.tensor() if isinstance(whole, Mixture) else whole)
        if self.momentum:
            step = node.keep(Step)
            if step.momentum is not None:
                direction = torch.add(direction, step.momentum, alpha=self.momentum)
            step.momentum = direction
        trained = torch.sub(self._trained.take(start), direction, alpha=self.lr)
        node.model = self._trained.put(start, trained, gradient.buffers if len(gradient.buffers) else None)
        return start


def _is_gradient(message: Arrived) -> bool:
    return message.tag.split(" ")[0] == "gradient"
