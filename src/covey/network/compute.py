"""The training speeds of nodes.

Shapes: N nodes.
"""

import math
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from covey.network.devices import Devices
from covey.network.traces import Trace, deal
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param


class Compute(Part):
    """The training speeds of the nodes. A bare number means that many samples per second for all nodes."""

    family: ClassVar[str] = "compute"
    short = ("constant", "samples_per_second")

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        """The samples per second of every node, N."""
        raise NotImplementedError

    def speeds_of(self, devices: Devices | None, setting: Setting) -> NDArray[np.float64]:
        """The same in a network with these devices. By default, devices do not matter."""
        return self.speeds(setting)


class ConstantCompute(Compute):
    """The same speed for all nodes."""

    kind = "constant"
    samples_per_second: float = param("The number of samples that a node trains on in a second.", gt=0, lt=math.inf)

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        return np.full(setting.nodes, self.samples_per_second)


class LogNormalCompute(Compute):
    """A log-normal speed for every node."""

    kind = "log-normal"
    median: float = param("The median of samples per second.", gt=0, le=1e15)
    sigma: float = param("The standard deviation of the speed's natural logarithm.", default=0.5, ge=0, le=10)

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        normal = setting.generator("compute").standard_normal(setting.nodes)
        return np.asarray(self.median * np.exp(self.sigma * normal), dtype=np.float64)


class Stragglers(Compute):
    """One speed for all nodes, except that exactly round(fraction * nodes) random nodes are slow."""

    kind = "stragglers"
    samples_per_second: float = param("The speed of the other nodes.", gt=0, lt=math.inf)
    fraction: float = param("The fraction of the nodes that are slow.", ge=0, le=1)
    slowdown: float = param("The factor by which slow nodes are slower.", ge=1, lt=math.inf)

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        slow = setting.generator("compute").permutation(setting.nodes)[: round(self.fraction * setting.nodes)]
        speeds = np.full(setting.nodes, self.samples_per_second)
        speeds[slow] /= self.slowdown
        return speeds


class TraceCompute(Compute):
    """Speeds of real devices, from a CSV or JSON file with a device per row. Each node gets another one."""

    kind = "trace"
    file: Path = param("The CSV or JSON file of the devices.")
    column: Literal["samples_per_second", "ms_per_sample", "computation"] = param(
        "The column of the speeds. Its name states the unit; computation is FedScale's milliseconds of a sample.",
        default="samples_per_second",
    )

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        values = Trace(self.file).positive(self.column)
        return deal(values if self.column == "samples_per_second" else 1000.0 / values, self.file, setting)


class DeviceCompute(Compute):
    """The speeds of the network's `devices`. It is the default of a network that has devices."""

    kind = "devices"

    def speeds_of(self, devices: Devices | None, setting: Setting) -> NDArray[np.float64]:
        if devices is None:
            raise ConfigurationError("The compute devices needs a network with 'devices'. Got none.")
        return devices.speeds()
