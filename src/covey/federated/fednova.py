"""FedNova (Wang et al., 2020): clients of unequal budgets, whose changes are normalised.

    d_i = (y_i - x) / a_i,    x <- x + tau_eff sum_i p_i d_i,    tau_eff = sum_i p_i a_i

a_i is the total weight of the gradients in client i's change, `Update.normaliser`: its steps K_i with plain SGD, more
with momentum. With a proximal term, tau_eff is the mean of the steps K_i. The paper's global momentum is the server
optimizer `momentum`.
"""

from collections.abc import Iterable, Sequence

import torch

from covey.federated.downlink import Start
from covey.federated.ends import WEIGHT
from covey.federated.fedavg import FedAvg
from covey.federated.merging import Part, merge, moderate, weighed
from covey.learning.mixture import computed
from covey.learning.node import LearningNode, Update
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from covey.runtime.node import Message


class FedNova(FedAvg):
    """Federated averaging of changes that are divided by the weight of their gradients, for unequal budgets."""

    kind = "fednova"

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if not setting.adds_gradients:
            raise ConfigurationError(
                f"{self.named().capitalize()} divides changes by the weight of their gradients, so the task's "
                "'optimizer' must add gradients, as 'sgd' does, with momentum or without."
            )

    async def learn(self, node: LearningNode, start: Start, t: int) -> Update:
        update = await self.work.train(node, start.model, t)
        self._up.send(node, update, t, normaliser=update.normaliser, effective=self.work.effective(update))
        return update

    def read(self, node: LearningNode, answers: Iterable[Message]) -> Sequence[Part]:
        origin = self._down.origin(node)
        found = weighed(node, self._up.parts(node, answers, origin, normaliser=WEIGHT, effective=WEIGHT))
        return self._normalised(node, found) if found else found

    def _normalised(self, node: LearningNode, found: Sequence[Part]) -> Sequence[Part]:
        """The parts of clients with normalised changes."""
        tau_eff = self._effective(node, found)
        x, _ = self.selection.split(self.selection.take(node.model))
        moved = [(answer, self._moved(x, part, tau_eff / (answer.normaliser or 1.0))) for answer, part in found]
        sound = moderate(node, moved)
        if not sound or len(sound) == len(moved):
            return sound
        counted = {answer.sender for answer, _ in sound}  # The others' steps must not count either.
        return self._normalised(node, [part for part in found if part[0].sender in counted])

    def _effective(self, node: LearningNode, found: Sequence[Part]) -> float:
        """The steps by which the server moves: those of the clients, merged as their changes are."""
        steps = [answer.effective or 0.0 for answer, _ in found]
        parts = [(answer, torch.tensor([of])) for (answer, _), of in zip(found, steps, strict=True)]
        merged = merge(node, self.aggregation, parts)
        assert merged is not None
        return min(max(float(computed(merged)), min(steps)), max(steps))  # Rounding must not move equal steps.

    def _moved(self, x: torch.Tensor, part: torch.Tensor, scale: float) -> torch.Tensor:
        """A client's shared part with its change multiplied. Buffers stay as they are."""
        if scale == 1.0:
            return part
        trained, buffers = self.selection.split(part)
        return torch.cat([torch.lerp(x, trained, scale), buffers])
