"""The energy that nodes spend.

Shapes: N nodes, R devices.
"""

import math
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from covey.network.devices import Devices
from covey.network.traces import Trace
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import Joules, Watts

MOBILENET_PARAMETERS = 3_504_872
"""The parameters of MobileNet v2, whose inference time is known for many phones."""
_BACKWARD = 3
"""The time of a training step on a sample, in inferences: one for the forward pass, two for the backward pass."""
_WATT_HOUR = 3600.0


class Energy(Part):
    """The energy of computing and of messages. A bare power means that power while a node computes."""

    family: ClassVar[str] = "energy"
    short = ("constant", "power")

    @property
    def is_measured(self) -> bool:
        """True if energy is recorded."""
        return True

    def meet(self, devices: Devices | None) -> None:
        """Take what this energy needs of the network's devices. By default, nothing."""

    def per_sample(self, node: int, speed: float) -> float:
        """The joules that a node spends to train on one sample.

        Args:
            node: the node's id.
            speed: its samples per second.
        """
        raise NotImplementedError

    def of_messages(self, bytes_out: int, bytes_in: int) -> float:
        """The joules that a node spends on messages of these bytes."""
        raise NotImplementedError

    def joules(self, node: int, samples: int, speed: float, bytes_out: int, bytes_in: int) -> float:
        """The joules that a node has spent since the start.

        Args:
            node: the node's id.
            samples: the samples that it has trained on and, if evaluation takes time, evaluated on.
            speed: its samples per second. With devices, their mean so far, in which fixed times count.
            bytes_out: the bytes that it has sent.
            bytes_in: the bytes that it has received.
        """
        return self.per_sample(node, speed) * samples + self.of_messages(bytes_out, bytes_in)

    def devices(self) -> int:
        """The number of kinds of device, or 0 if there are none. Node i has device i modulo this number."""
        return 0

    def batteries(self, nodes: int) -> NDArray[np.float64] | None:
        """The joules in the battery of every node, N; None if batteries are not modelled."""
        return None


class NoEnergy(Energy):
    """Energy is not measured."""

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
    per_byte_out: Joules = param("The energy that a byte costs its sender.", default=0.0, ge=0, lt=math.inf)
    per_byte_in: Joules = param("The energy that a byte costs its receiver.", default=0.0, ge=0, lt=math.inf)

    def of_messages(self, bytes_out: int, bytes_in: int) -> float:
        return self.per_byte_out * bytes_out + self.per_byte_in * bytes_in


class ConstantEnergy(_PerByte):
    """The same power for all nodes, and none while a node waits. The metric `energy` is the sum since the start."""

    kind = "constant"
    power: Watts = param("The power of a node while it trains or evaluates.", default=0.0, ge=0, lt=math.inf)

    def per_sample(self, node: int, speed: float) -> float:
        return self.power / speed


class DeviceEnergy(_PerByte):
    """The energy of phones, by the model of SkipTrain. Node k is the device in row k of a table, which is repeated.

    Training on a sample takes three times as long as an inference. The time of an inference is that of MobileNet v2
    times the ratio of the models' parameters. The device draws its greatest power meanwhile. This time is for energy
    only: virtual time follows `compute`.
    """

    kind = "devices"
    file: Path | None = param(
        "The CSV file with the columns mobilenet_ms, power_w and battery_wh. By default, four phones of 2022.",
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


class DevicePower(_PerByte):
    """The power of the network's `devices` while a node trains or evaluates, as long as that takes."""

    kind = "device-power"

    def meet(self, devices: Devices | None) -> None:
        if devices is None:
            raise ConfigurationError("The energy device-power needs a network with 'devices'. Got none.")
        self._powers, self._batteries = devices.powers().tolist(), devices.batteries()

    def per_sample(self, node: int, speed: float) -> float:
        return float(self._powers[node]) / speed

    def batteries(self, nodes: int) -> NDArray[np.float64] | None:
        return self._batteries
