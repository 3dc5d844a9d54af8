"""What nodes spend."""

import math
from typing import ClassVar

from covey.parameters import Joules, Part, Watts, param


class Energy(Part):
    """What computing and messages cost a node; written short as a power, drawn while it computes."""

    family: ClassVar[str] = "energy"
    short = ("constant", "power")
    is_measured: ClassVar[bool] = True
    """Whether there is anything to record."""

    def joules(self, samples: int, speed: float, bytes_out: int, bytes_in: int) -> float:
        """What a node has spent.

        Args:
            samples: how many it has trained and, where that takes time, evaluated on.
            speed: its samples per second.
            bytes_out: what it has sent.
            bytes_in: what it has received.
        """
        raise NotImplementedError


class NoEnergy(Energy):
    """Nobody counts."""

    kind = "none"
    is_measured: ClassVar[bool] = False

    def joules(self, samples: int, speed: float, bytes_out: int, bytes_in: int) -> float:
        return 0.0


class ConstantEnergy(Energy):
    """The same for all nodes, and nothing while a node waits; the metric `energy` is the sum since the start."""

    kind = "constant"
    power: Watts = param("What a node draws while it trains or evaluates.", default=0.0, ge=0, lt=math.inf)
    per_byte_out: Joules = param("What a byte costs its sender.", default=0.0, ge=0, lt=math.inf)
    per_byte_in: Joules = param("What a byte costs its receiver.", default=0.0, ge=0, lt=math.inf)

    def joules(self, samples: int, speed: float, bytes_out: int, bytes_in: int) -> float:
        return self.power * samples / speed + self.per_byte_out * bytes_out + self.per_byte_in * bytes_in
