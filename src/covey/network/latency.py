"""The latencies of links, in addition to the time that bytes take.

The random latency of a pair is a hash of the pair, so that ten thousand nodes need no table of all pairs.
"""

import math
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from covey.network.graph import Ids
from covey.network.traces import parse_number, read_rows
from covey.parts import rng
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import Seconds


class Latency(Part):
    """The one-way delay from one node to another. A bare duration means the same delay for all pairs."""

    family: ClassVar[str] = "latency"
    short = ("constant", "seconds")

    def between(self, sender: int, receiver: int) -> float:
        """The delay from `sender` to `receiver` in seconds. Valid after `prepare`."""
        raise NotImplementedError

    def of_edges(self, senders: Ids, receivers: Ids) -> NDArray[np.float64]:
        """The delays from some senders to as many receivers."""
        return np.array([*map(self.between, senders.tolist(), receivers.tolist())], dtype=np.float64)

    def uniform_value(self) -> float | None:
        """The delay in seconds if it is the same for all pairs, else None."""
        return None


class ConstantLatency(Latency):
    """The same delay for all pairs."""

    kind = "constant"
    seconds: Seconds = param("The delay of every message.", ge=0, lt=math.inf)

    def between(self, sender: int, receiver: int) -> float:
        return self.seconds

    def uniform_value(self) -> float | None:
        return self.seconds if type(self).between is ConstantLatency.between else None


def _pair_key(key: int, one: int, other: int) -> int:
    """A hash of an unordered pair of nodes."""
    return rng.mix(key, min(one, other), max(one, other))


class UniformLatency(Latency):
    """A uniform delay between two bounds for every pair, the same in both directions."""

    kind = "uniform"
    low: Seconds = param("The least delay.", default=0.0, ge=0, lt=math.inf)
    high: Seconds = param("The greatest delay. At least `low`.", ge=0, lt=math.inf)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high < self.low:
            raise ConfigurationError(
                f"The 'high' of {self.named()} must be at least its 'low', {self.low:g}. Got {self.high:g} instead."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._key = rng.purpose_key(setting.seed, "latency")

    def between(self, sender: int, receiver: int) -> float:
        return self.low + (self.high - self.low) * rng.uniform(_pair_key(self._key, sender, receiver))

    def of_edges(self, senders: Ids, receivers: Ids) -> NDArray[np.float64]:
        if type(self).between is not UniformLatency.between:
            return super().of_edges(senders, receivers)
        keys = rng.mix_array(np.full(len(senders), self._key, dtype=np.uint64), np.minimum(senders, receivers))
        keys = rng.mix_array(keys, np.maximum(senders, receivers))
        return self.low + (self.high - self.low) * rng.uniforms(keys)


class LogNormalLatency(Latency):
    """A log-normal delay for every pair, the same in both directions."""

    kind = "log-normal"
    median: Seconds = param("The median delay.", gt=0, le=1e9)
    sigma: float = param("The standard deviation of the delay's natural logarithm.", default=0.5, ge=0, le=10)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._key = rng.purpose_key(setting.seed, "latency")

    def between(self, sender: int, receiver: int) -> float:
        pair = _pair_key(self._key, sender, receiver)
        # Box-Muller transform.
        radius = math.sqrt(-2.0 * math.log(1.0 - rng.uniform(pair, 0)))
        normal = radius * math.cos(math.tau * rng.uniform(pair, 1))
        return self.median * math.exp(self.sigma * normal)


class PlaneLatency(Latency):
    """A delay that grows with the distance between random points of a unit square."""

    kind = "plane"
    base: Seconds = param("The delay between two nodes at the same point.", default=0.0, ge=0, lt=math.inf)
    per_unit: Seconds = param("The additional delay per unit of distance, the side of the square.", ge=0, lt=math.inf)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        points: list[list[float]] = setting.generator("latency").random((setting.nodes, 2)).tolist()
        self._points = points

    def between(self, sender: int, receiver: int) -> float:
        return self.base + self.per_unit * math.dist(self._points[sender], self._points[receiver])


class NodeLatency(Latency):
    """A log-normal access latency for every node. The delay of a pair is the sum of its two."""

    kind = "per-node"
    median: Seconds = param("The median access latency of a node.", gt=0, le=1e9)
    sigma: float = param("The standard deviation of the access latency's natural logarithm.", default=0.5, ge=0, le=10)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        normal = setting.generator("latency").standard_normal(setting.nodes)
        access: list[float] = (self.median * np.exp(self.sigma * normal)).tolist()
        self._access = access

    def between(self, sender: int, receiver: int) -> float:
        return self._access[sender] + self._access[receiver]

    def of_edges(self, senders: Ids, receivers: Ids) -> NDArray[np.float64]:
        if type(self).between is not NodeLatency.between:
            return super().of_edges(senders, receivers)
        access = np.array(self._access, dtype=np.float64)
        return np.asarray(access[senders] + access[receivers], dtype=np.float64)


_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


class MatrixLatency(Latency):
    """Delays from a CSV file. Row i holds the delays from node i, column j those to node j. A header line is optional.

    If the file has more nodes than the network, the first ones are used.
    """

    kind = "matrix"
    file: Path = param("The CSV file of the delays.")
    unit: Literal["s", "ms", "us"] = param("The unit of the numbers in the file.", default="s")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        rows = read_rows(self.file)
        if all(parse_number(cell) is None for cell in rows[0].cells):
            rows = rows[1:]
        size = len(rows)
        for row in rows:
            if len(row.cells) != size:
                raise ConfigurationError(
                    f"The matrix '{self.file}' must be square. "
                    f"Got {size} rows and, in line {row.line}, {len(row.cells)} cells instead."
                )
        if size < setting.nodes:
            raise ConfigurationError(
                f"The matrix '{self.file}' must have a row for each of the {setting.nodes} nodes. "
                f"Got {size} rows instead."
            )
        self._seconds = np.empty((setting.nodes, setting.nodes))
        for i, row in enumerate(rows[: setting.nodes]):
            for j, cell in enumerate(row.cells[: setting.nodes]):
                value = parse_number(cell)
                if value is None or value < 0:
                    raise ConfigurationError(
                        f"Line {row.line} of '{self.file}': cell {j + 1} must be a number in [0, inf). "
                        f"Got {cell!r} instead."
                    )
                self._seconds[i, j] = value * _UNITS[self.unit]

    def between(self, sender: int, receiver: int) -> float:
        return self._seconds.item(sender, receiver)

    def of_edges(self, senders: Ids, receivers: Ids) -> NDArray[np.float64]:
        if type(self).between is not MatrixLatency.between:
            return super().of_edges(senders, receivers)
        return np.asarray(self._seconds[senders, receivers], dtype=np.float64)
