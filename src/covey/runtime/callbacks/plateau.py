"""The learning rate by plateau."""

from covey.parts.parameters import param
from covey.runtime.callbacks.callback import Evaluated, Following


class Plateau(Following):
    """Multiplies the learning rate by a factor whenever a figure has not improved for a while."""

    kind = "plateau"
    patience: int = param("The number of successive evaluations that may bring no improvement.", default=3, ge=1)
    factor: float = param("The factor by which the learning rate is multiplied.", default=0.5, gt=0, lt=1)
    least: float = param("The least product of all factors.", default=1e-3, gt=0, le=1)

    def evaluated(self, at: Evaluated) -> None:
        if not self.waits(at, self.patience):
            return
        before = float(at.state.get("factor") or 1.0)
        after = max(before * self.factor, self.least)
        if after < before:
            at.state["factor"] = after
            at.scale_learning_rate(after / before)
