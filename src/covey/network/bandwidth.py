"""The data rates of the nodes' links.

Shapes: N nodes.
"""

import math
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from covey.network.traces import Trace, deal
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import BitsPerSecond


class Bandwidth(Part):
    """The rates of the nodes' links in one direction. A bare rate means the same rate for all nodes."""

    family: ClassVar[str] = "bandwidth"
    short = ("constant", "rate")

    def rates(self, setting: Setting) -> NDArray[np.float64]:
        """The bits per second of every node's link, N; inf for no limit.

        Uplinks and downlinks use the same random numbers, so a node has the same rank in both directions.
        """
        raise NotImplementedError


class ConstantBandwidth(Bandwidth):
    """The same rate for all nodes."""

    kind = "constant"
    rate: BitsPerSecond = param("The rate of every link; inf for no limit.", gt=0)

    def rates(self, setting: Setting) -> NDArray[np.float64]:
        return np.full(setting.nodes, self.rate)


class LogNormalBandwidth(Bandwidth):
    """A log-normal rate for every node."""

    kind = "log-normal"
    median: BitsPerSecond = param("The median rate.", gt=0, le=1e15)
    sigma: float = param("The standard deviation of the rate's natural logarithm.", default=0.5, ge=0, le=10)

    def rates(self, setting: Setting) -> NDArray[np.float64]:
        normal = setting.generator("bandwidth").standard_normal(setting.nodes)
        return np.asarray(self.median * np.exp(self.sigma * normal), dtype=np.float64)


class Stragglers(Bandwidth):
    """One rate for all nodes, except that exactly round(fraction * nodes) random nodes have slow links."""

    kind = "stragglers"
    rate: BitsPerSecond = param("The rate of the other links.", gt=0, lt=math.inf)
    fraction: float = param("The fraction of the nodes that have slow links.", ge=0, le=1)
    slowdown: float = param("The factor by which slow links are slower.", ge=1, lt=math.inf)

    def rates(self, setting: Setting) -> NDArray[np.float64]:
        slow = setting.generator("bandwidth").permutation(setting.nodes)[: round(self.fraction * setting.nodes)]
        rates = np.full(setting.nodes, self.rate)
        rates[slow] /= self.slowdown
        return rates


_UNITS = {
    prefix + unit: factor * bits
    for prefix, factor in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
    for unit, bits in (("bit/s", 1.0), ("B/s", 8.0))
}


class TraceBandwidth(Bandwidth):
    """Rates of real devices, from a CSV or JSON file with a device per row. Each node gets another one."""

    kind = "trace"
    file: Path = param("The CSV or JSON file of the devices.")
    column: str = param("The column of the rates.", default="bandwidth")
    unit: Literal["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "B/s", "kB/s", "MB/s", "GB/s"] = param(
        "The unit of the numbers in the file.", default="bit/s"
    )

    def rates(self, setting: Setting) -> NDArray[np.float64]:
        return deal(Trace(self.file).positive(self.column) * _UNITS[self.unit], self.file, setting)
