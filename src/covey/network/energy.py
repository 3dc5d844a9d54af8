"""What nodes spend.

Shapes: N nodes, R devices.
"""

import math
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from covey.network.traces import Trace
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import Joules, Watts

MOBILENET_PARAMETERS = 3_504_872
"""Of MobileNet v2, whose inference time the data sheets of phones state."""
_BACKWARD = 3
"""A training step on a sample takes as long as so many inferences: one forwards, and two for the way back."""
_WATT_HOUR = 3600.0


class Energy(Part):
    """What computing and messages cost a node; written short as a power, drawn while it computes."""

    family: ClassVar[str] = "energy"
    short = ("constant", "power")

    @property
    def is_measured(self) -> bool:
        """Whether there is anything to record."""
        return True

    def per_sample(self, node: int, speed: float) -> float:
        """The joules that a node spends to train on one sample.

        Args:
            speed: its samples per second.
        """
        raise NotImplementedError

    def of_messages(self, bytes_out: int, bytes_in: int) -> float:
        """The joules that a node spends on what it sends and receives."""
        raise NotImplementedError

    def joules(self, node: int, samples: int, speed: float, bytes_out: int, bytes_in: int) -> float:
        """What a node has spent.

        Args:
            samples: how many it has trained and, where that takes time, evaluated on.
            speed: its samples per second.
            bytes_out: what it has sent.
            bytes_in: what it has received.
        """
        return self.per_sample(node, speed) * samples + self.of_messages(bytes_out, bytes_in)

    def devices(self) -> int:
        """How many devices there are, node i having device i modulo their number; 0 where it says nothing."""
        return 0

    def batteries(self, nodes: int) -> NDArray[np.float64] | None:
        """The joules in the battery of every node, N; None where there is nothing to say of them."""
        return None


class NoEnergy(Energy):
    """Nobody counts."""

    kind = "none"

    @property
    def is_measured(self) -> bool:
        cls = type(self)
        return (cls.per_sample, cls.of_messages, cls.joules) != (
            NoEnergy.per_sample,
            NoEnergy.of_messages,
            NoEnergy.joules,
        )

    def per_sample(self, node: int, speed: float) -> float:
        return 0.0

    def of_messages(self, bytes_out: int, bytes_in: int) -> float:
        return 0.0


class _PerByte(Energy):
    kind: ClassVar[str] = ""
    per_byte_out: Joules = param("What a byte costs its sender.", default=0.0, ge=0, lt=math.inf)
    per_byte_in: Joules = param("What a byte costs its receiver.", default=0.0, ge=0, lt=math.inf)

    def of_messages(self, bytes_out: int, bytes_in: int) -> float:
        return self.per_byte_out * bytes_out + self.per_byte_in * bytes_in


class ConstantEnergy(_PerByte):
    """The same for all nodes, and nothing while a node waits; the metric `energy` is the sum since the start."""

    kind = "constant"
    power: Watts = param("What a node draws while it trains or evaluates.", default=0.0, ge=0, lt=math.inf)

    def per_sample(self, node: int, speed: float) -> float:
        return self.power / speed


class DeviceEnergy(_PerByte):
    """What phones spend, as SkipTrain reckons it: the k-th node is the device in row k of a table, which is repeated.

    A sample takes three times as long as an inference, an inference as much longer than MobileNet v2's as the model is
    larger, and the device draws its greatest power meanwhile. How fast nodes are in virtual time is `compute`'s affair.
    """

    kind = "devices"
    file: Path | None = param(
        "A CSV file with the columns mobilenet_ms, power_w and battery_wh; by default four phones of 2022.",
        default=None,
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        devices = Trace(self.file or Path(str(files("covey.network") / "phones.csv")))
        self._mobilenet_seconds_R = devices.positive("mobilenet_ms") / 1000.0
        self._power_R = devices.positive("power_w")
        self._batteries = devices.positive("battery_wh") * _WATT_HOUR

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        inference_R = self._mobilenet_seconds_R * (setting.parameters - setting.buffers) / MOBILENET_PARAMETERS
        self._per_sample = (_BACKWARD * inference_R * self._power_R).tolist()

    def per_sample(self, node: int, speed: float) -> float:
        return float(self._per_sample[node % len(self._per_sample)])

    def devices(self) -> int:
        return len(self._batteries)

    def batteries(self, nodes: int) -> NDArray[np.float64]:
        return np.asarray(self._batteries[np.arange(nodes) % len(self._batteries)])
