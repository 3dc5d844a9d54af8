"""How fast the nodes train.

Shapes: N nodes.
"""

import math
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from covey.network.traces import Trace, deal
from covey.parts.parameters import Part, Setting, param


class Compute(Part):
    """The training speeds of the nodes; written short as samples per second, the same for all nodes."""

    family: ClassVar[str] = "compute"
    short = ("constant", "samples_per_second")

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        """Samples per second of every node, N."""
        raise NotImplementedError


class ConstantCompute(Compute):
    """The same for all nodes."""

    kind = "constant"
    samples_per_second: float = param("How many samples a node trains on in a second.", gt=0, lt=math.inf)

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        return np.full(setting.nodes, self.samples_per_second)


class LogNormalCompute(Compute):
    """Drawn for every node, log-normal."""

    kind = "log-normal"
    median: float = param("The median of samples per second.", gt=0, le=1e15)
    sigma: float = param("The standard deviation of the speed's natural logarithm.", default=0.5, ge=0, le=10)

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        normal = setting.generator("compute").standard_normal(setting.nodes)
        return np.asarray(self.median * np.exp(self.sigma * normal), dtype=np.float64)


class Stragglers(Compute):
    """All alike but for a share of slow nodes, drawn at random: exactly round(fraction * nodes) of them."""

    kind = "stragglers"
    samples_per_second: float = param("The speed of the others.", gt=0, lt=math.inf)
    fraction: float = param("Which share of the nodes is slow.", ge=0, le=1)
    slowdown: float = param("How many times slower they are.", ge=1, lt=math.inf)

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        slow = setting.generator("compute").permutation(setting.nodes)[: round(self.fraction * setting.nodes)]
        speeds = np.full(setting.nodes, self.samples_per_second)
        speeds[slow] /= self.slowdown
        return speeds


class TraceCompute(Compute):
    """Read from a CSV file with a header line, a device a row; every node is given a device of its own at random."""

    kind = "trace"
    file: Path = param("The CSV file of the devices.")
    column: Literal["samples_per_second", "ms_per_sample"] = param(
        "The column that holds the speeds; its name says what they are.", default="samples_per_second"
    )

    def speeds(self, setting: Setting) -> NDArray[np.float64]:
        values = Trace(self.file).positive(self.column)
        return deal(1000.0 / values if self.column == "ms_per_sample" else values, self.file, setting)
