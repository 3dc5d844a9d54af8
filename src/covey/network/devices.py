"""The devices of nodes: their features, and how the duration of a node's work varies.

A device is the one source of what is known of a node's hardware: its features, and with `compute = "devices"` and
`energy = "device-power"` its speed and its power.

Shapes: N nodes, M models of phone.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from types import MappingProxyType
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covey.network.traces import Trace, deal, parse_number
from covey.parts import rng
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import Seconds

Features: TypeAlias = Mapping[str, float | str]
"""The features of a device by name. "model" is the name of its model, all others are numbers."""
NOTHING: Features = MappingProxyType({})
MODEL, POWER, BATTERY = "model", "power_w", "battery_wh"
SPEED, PERIOD = "samples_per_second", "ms_per_sample"
_NORMAL = NormalDist()
_WARMTH, _PRESSURE = 0.025, 0.5
"""The relative increase of a phone's time of a sample per degree above 25 °C, and when all of its memory is taken."""


class Devices(Part):
    """The devices of the nodes, and how the duration of work varies.

    Work of n samples takes n / speed * exp(drift * g + noise * z) seconds, and a training `fixed` seconds more. z is a
    standard normal number of each training, and g one that changes with time, independent after two periods.
    """

    family: ClassVar[str] = "devices"
    fixed: Seconds = param("The time of a training beside that of its samples.", default=0.0, ge=0, lt=math.inf)
    drift: float = param(
        "The standard deviation of the slow change of a speed's natural logarithm.", default=0.0, ge=0, le=5
    )
    period: Seconds = param("The time in which a drift changes.", default=60.0, gt=0, lt=math.inf)
    noise: float = param(
        "The standard deviation of the natural logarithm of the time of a training.", default=0.0, ge=0, le=5
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._drifts = rng.purpose_key(setting.seed, "device drift")
        self._noises = rng.purpose_key(setting.seed, "device noise")

    def models(self) -> list[str]:
        """The name of the model of every node's device."""
        raise NotImplementedError

    def numbers(self) -> Mapping[str, NDArray[np.float64]]:
        """The features that are numbers, by name, each N."""
        raise NotImplementedError

    def features(self, node: int, now: float) -> Features:
        """The features of a node's device at a time."""
        raise NotImplementedError

    def speeds(self) -> NDArray[np.float64]:
        """The median samples per second of every node, N.

        Raises:
            ConfigurationError: they are not known.
        """
        raise NotImplementedError

    def powers(self) -> NDArray[np.float64]:
        """The watts that every node draws while it computes, N.

        Raises:
            ConfigurationError: they are not known.
        """
        numbers = self.numbers()
        if POWER not in numbers:
            raise ConfigurationError(
                f"The energy device-power needs a column '{POWER}' of {self.named()}. Got {', '.join(numbers)} instead."
            )
        return numbers[POWER]

    def batteries(self) -> NDArray[np.float64] | None:
        """The joules in the battery of every node, N; None if they are not known."""
        found = self.numbers().get(BATTERY)
        return None if found is None else found * 3600.0

    def change(self, node: int, now: float) -> float:
        """g: a standard normal number of a node and a time, continuous in time."""
        at = max(now, 0.0) / self.period
        before = math.floor(at)
        part = at - before
        ends = [_normal(rng.uniform(self._drifts, node, before + end)) for end in (0, 1)]
        return (ends[0] * (1.0 - part) + ends[1] * part) / math.hypot(1.0 - part, part)

    def seconds(self, node: int, usual: float, now: float, training: tuple[int, int] | None) -> float:
        """The duration of work that begins now.

        Args:
            node: the node.
            usual: its samples / speed.
            now: the time.
            training: the round and the number in it of a training; None for other work.
        """
        exponent = self.drift * self.change(node, now) if self.drift else 0.0
        if training is None:
            return usual * math.exp(exponent)
        if self.noise:
            exponent += self.noise * _normal(rng.uniform(self._noises, node, *training))
        return self.fixed + usual * math.exp(exponent)

    def findings(self) -> Mapping[str, str]:
        models, names = self.models(), list(self.numbers())
        varies = f"a training takes {self.fixed:g} s beside its samples; drift {self.drift:g}, noise {self.noise:g}"
        return {"devices": f"{len(set(models))} models with the features {', '.join(names)}; {varies}"}


class TraceDevices(Devices):
    """Devices from a CSV file with a header line and a device per row. Each node gets another one.

    All columns of numbers are features. A node has the row that a trace of `compute` or of a bandwidth gives it if that
    file has as many rows.
    """

    kind = "trace"
    file: Path = param("The CSV file of the devices.")
    model: str = param("The column of the device's model; without this column all have one model.", default="device")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        trace = Trace(self.file)
        rows = deal(np.arange(len(trace.rows), dtype=np.float64), self.file, setting).astype(int)
        named = trace.parsed(self.model, "a name", str) if self.model in trace.columns else ["device"] * len(trace.rows)
        self._models = [named[row] for row in rows]
        first = dict(zip(trace.columns, trace.rows[0].cells, strict=True))
        self._numbers: dict[str, NDArray[np.float64]] = {
            name: np.array(trace.parsed(name, "a finite number, as in the first row", parse_number))[rows]
            for name in trace.columns
            if name not in (self.model, MODEL) and parse_number(first[name]) is not None
        }
        for name in (SPEED, PERIOD, POWER, BATTERY):
            if name in self._numbers:
                trace.positive(name)
        columns = {name: values.tolist() for name, values in self._numbers.items()}
        self._features: list[Features] = [
            MappingProxyType({MODEL: model, **{name: columns[name][node] for name in columns}})
            for node, model in enumerate(self._models)
        ]

    def models(self) -> list[str]:
        return self._models

    def numbers(self) -> Mapping[str, NDArray[np.float64]]:
        return self._numbers

    def features(self, node: int, now: float) -> Features:
        return self._features[node]

    def speeds(self) -> NDArray[np.float64]:
        if SPEED in self._numbers:
            return self._numbers[SPEED]
        if PERIOD in self._numbers:
            return np.asarray(1000.0 / self._numbers[PERIOD], dtype=np.float64)
        raise ConfigurationError(
            f"The file '{self.file}' of {self.named()} has no column '{SPEED}' or '{PERIOD}': add one, or "
            f"set 'compute' of the network."
        )


class Phones(Devices):
    """Synthetic phones of several models, drawn by the seed.

    Memory, frequency, power, battery and the base speed belong to the model. A phone has its own available memory and
    temperature. Its time of a sample grows linearly with its temperature above 25 °C and with the share of memory that
    is taken. A drift shows in its temperature.
    """

    kind = "phones"
    count: int = param("The number of models, which nodes get at random.", default=8, ge=1, le=100_000)
    samples_per_second: float = param(
        "The median over models of the speed at 25 °C with all memory free.", default=200.0, gt=0, le=1e15
    )
    spread: float = param(
        "The standard deviation of the speed's natural logarithm over models.", default=0.5, ge=0, le=5
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        draw = setting.generator("device models")
        total_M = draw.choice([2.0, 3.0, 4.0, 6.0, 8.0, 12.0], self.count)
        log_speed_M = self.spread * draw.standard_normal(self.count)
        frequency_M = np.round(14.0 * np.exp(0.5 * log_speed_M + 0.1 * draw.standard_normal(self.count)), 2)
        power_M = np.round(draw.uniform(1.5, 6.0, self.count), 2)
        battery_M = np.round(draw.uniform(9.0, 20.0, self.count), 2)
        of_nodes = setting.generator("devices of nodes")
        self._kinds = of_nodes.integers(self.count, size=setting.nodes)
        total = total_M[self._kinds]
        self._numbers: dict[str, NDArray[np.float64]] = {
            "available_memory_gb": total * of_nodes.uniform(0.15, 0.7, setting.nodes),
            "total_memory_gb": total,
            "temperature_c": of_nodes.uniform(25.0, 38.0, setting.nodes),
            "max_frequency_ghz": frequency_M[self._kinds],
            POWER: power_M[self._kinds],
            BATTERY: battery_M[self._kinds],
        }
        taken = 1.0 - self._numbers["available_memory_gb"] / total
        slower = 1.0 + _WARMTH * (self._numbers["temperature_c"] - 25.0) + _PRESSURE * taken
        self._speeds: NDArray[np.float64] = self.samples_per_second * np.exp(log_speed_M[self._kinds]) / slower
        columns = {name: values.tolist() for name, values in self._numbers.items()}
        self._features = [
            {MODEL: f"phone-{kind}", **{name: columns[name][node] for name in columns}}
            for node, kind in enumerate(self._kinds.tolist())
        ]

    def models(self) -> list[str]:
        return [f"phone-{kind}" for kind in self._kinds.tolist()]

    def numbers(self) -> Mapping[str, NDArray[np.float64]]:
        return self._numbers

    def features(self, node: int, now: float) -> Features:
        found = self._features[node]
        if not self.drift:
            return MappingProxyType(found)
        warmer = self.drift * self.change(node, now) / _WARMTH
        return MappingProxyType({**found, "temperature_c": float(found["temperature_c"]) + warmer})

    def speeds(self) -> NDArray[np.float64]:
        return self._speeds


def _normal(uniform: float) -> float:
    """The standard normal number of one in [0, 1)."""
    return _NORMAL.inv_cdf(uniform or 2.0**-54)
