"""Schedules that save energy by training less often than mixing: SkipTrain (de Vos et al., 2024) and its control."""

import numpy as np
from numpy.typing import NDArray

from covey.decentralized.schedule.rounds import Schedule
from covey.learning.node import LearningNode
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.runtime.state import State


class Spent(State):
    """The spent part of a node's budget."""

    trained: int = 0
    """The number of rounds in which it has trained."""


class _Budgeted(Schedule):
    """A schedule in which nodes may train only in a limited number of rounds."""

    kind = ""
    budget: int | list[int] | None = param(
        "The number of rounds in which a node may train; by default, unlimited. A list has one number per node, or one "
        "per device of the network's `energy`: node i has device i modulo their number.",
        default=None,
        ge=0,
    )
    battery: float | None = param(
        "The fraction of its battery that a node may spend on training, instead of `budget`. The network's `energy` "
        "defines batteries and the cost of a training.",
        default=None,
        gt=0,
        le=1,
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if self.budget is not None and self.battery is not None:
            raise ConfigurationError(f"Only one of 'budget' and 'battery' of {self.named()} may be given. Got both.")
        if self.battery is not None and setting.battery_joules is None:
            raise ConfigurationError(
                f"The 'battery' of {self.named()} needs a network with batteries: set its 'energy' to 'devices'."
            )
        if isinstance(self.budget, list) and len(self.budget) not in {setting.nodes, setting.devices} - {0}:
            devices = f", or {setting.devices}, one for each device" if setting.devices else ""
            raise ConfigurationError(
                f"The 'budget' of {self.named()} must be one int, or a list of {setting.nodes}, one for each node"
                f"{devices}. Got a list of {len(self.budget)} instead."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._limits: NDArray[np.float64] | None = None
        if self.budget is not None:
            each = self.budget if isinstance(self.budget, list) else [self.budget]
            self._limits = np.array(each, dtype=np.float64)[np.arange(setting.nodes) % len(each)]
        elif self.battery is not None:
            assert setting.battery_joules is not None
            assert setting.training_joules is not None
            with np.errstate(divide="ignore"):
                self._limits = np.floor(self.battery * setting.battery_joules / setting.training_joules)

    def spend(self, node: LearningNode, t: int, probability: float = 1.0) -> bool:
        """True if the node trains in round t, with a probability and if its budget allows. It reduces the budget."""
        if self._limits is None:
            return True
        spent = node.keep(Spent, self)
        if spent.trained >= self._limits[node.id]:
            return False
        if probability < 1.0 and node.random("schedule", t).random() >= probability:
            return False
        spent.trained += 1
        return True


class SkipTrain(_Budgeted):
    """Some rounds with training, then some that only mix, and so on; with a budget, nodes train at random.

    With a budget, a node trains in a training round with the probability at which it spends its whole budget.
    """

    kind = "skiptrain"
    training: int = param("The number of successive rounds with training.", default=4, ge=0)
    synchronization: int = param("The number of successive rounds that then only mix.", default=4, ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.training + self.synchronization == 0:
            raise ConfigurationError(
                f"The 'training' and 'synchronization' of {self.named()} must not both be 0: there would be no round."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._training_rounds = setting.rounds * self.training / self.cycle()

    def cycle(self) -> int:
        return self.training + self.synchronization

    def trains_all_at_once(self) -> bool:
        return self.budget is None and self.battery is None

    def trains(self, node: LearningNode, t: int) -> bool:
        if t % self.cycle() >= self.training:
            return False
        return self._limits is None or self.spend(node, t, min(self._limits[node.id] / self._training_rounds, 1.0))

    def mask(self, t: int) -> NDArray[np.bool_] | None:
        # With a budget, a node's own draws in earlier rounds count.
        if self._limits is not None or type(self).trains is not SkipTrain.trains:
            return None
        return self.all_of(t % self.cycle() < self.training)


class Greedy(_Budgeted):
    """Train in every round until the budget is spent, then only mix: the baseline of SkipTrain."""

    kind = "greedy"

    def trains_all_at_once(self) -> bool:
        return self.battery is None and (not isinstance(self.budget, list) or len(set(self.budget)) == 1)

    def trains(self, node: LearningNode, t: int) -> bool:
        return self.spend(node, t)

    def mask(self, t: int) -> NDArray[np.bool_] | None:
        own = type(self).trains is Greedy.trains and type(self).spend is Greedy.spend
        return self.all_of(True) if own and self._limits is None else None
