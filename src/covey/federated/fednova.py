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
from covey.federated.merging import Part, weighed
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
        if not found:
            return found
        steps = [answer.effective or 0.0 for answer, _ in found]
        samples = [answer.samples for answer, _ in found]
        mean = sum(n * k for n, k in zip(samples, steps, strict=True)) / sum(samples)
        tau_eff = min(max(mean, min(steps)), max(steps))  # Rounding must not move the mean of equal steps.
        x, _ = self.selection.split(self.selection.take(node.model))
        return [(answer, self._moved(x, part, tau_eff / (answer.normaliser or 1.0))) for answer, part in found]

    def _moved(self, x: torch.Tensor, part: torch.Tensor, scale: float) -> torch.Tensor:
        """A client's shared part with its change multiplied. Buffers stay as they are."""
        if scale == 1.0:
            return part
        trained, buffers = self.selection.split(part)
        return torch.cat([torch.lerp(x, trained, scale), buffers])
