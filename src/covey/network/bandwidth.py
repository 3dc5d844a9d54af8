"""How many bits a node's link carries in a second.

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
    """The rates of the nodes' links in one direction; written short as a rate, the same for all nodes."""

    family: ClassVar[str] = "bandwidth"
    short = ("constant", "rate")

    def rates(self, setting: Setting) -> NDArray[np.float64]:
        """Bits per second of every node's link, N; inf where it has no limit.

        What is drawn for the uplinks is drawn again for the downlinks, so that who is fast in one direction is as
        far above the median in the other.
        """
        raise NotImplementedError


class ConstantBandwidth(Bandwidth):
    """The same for all nodes."""

    kind = "constant"
    rate: BitsPerSecond = param("The rate of every link; inf for no limit.", gt=0)

    def rates(self, setting: Setting) -> NDArray[np.float64]:
        return np.full(setting.nodes, self.rate)


class LogNormalBandwidth(Bandwidth):
    """Drawn for every node, log-normal."""

    kind = "log-normal"
    median: BitsPerSecond = param("The median rate.", gt=0, le=1e15)
    sigma: float = param("The standard deviation of the rate's natural logarithm.", default=0.5, ge=0, le=10)

    def rates(self, setting: Setting) -> NDArray[np.float64]:
        normal = setting.generator("bandwidth").standard_normal(setting.nodes)
        return np.asarray(self.median * np.exp(self.sigma * normal), dtype=np.float64)


class Stragglers(Bandwidth):
    """All alike but for a share of slow links, drawn at random: those of exactly round(fraction * nodes) nodes."""

    kind = "stragglers"
    rate: BitsPerSecond = param("The rate of the others.", gt=0, lt=math.inf)
    fraction: float = param("Which share of the nodes has slow links.", ge=0, le=1)
    slowdown: float = param("How many times slower they are.", ge=1, lt=math.inf)

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
    """Read from a CSV file with a header line, a device a row; every node is given a device of its own at random."""

    kind = "trace"
    file: Path = param("The CSV file of the devices.")
    column: str = param("The column that holds the rates.", default="bandwidth")
    unit: Literal["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "B/s", "kB/s", "MB/s", "GB/s"] = param(
        "The unit of the numbers in the file.", default="bit/s"
    )

    def rates(self, setting: Setting) -> NDArray[np.float64]:
        return deal(Trace(self.file).positive(self.column) * _UNITS[self.unit], self.file, setting)
