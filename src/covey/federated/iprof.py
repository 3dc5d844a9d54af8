"""I-Prof (Damaskinos et al., 2020): the largest mini-batch that a device computes within a time or an energy.

Computing n samples takes t0 + slope * n, and the slope is a linear function of the device's features. It comes from

- the cold start, ordinary least squares on measurements from before the run;
- a passive-aggressive regressor (PA-I) for every model of device, which starts as the cold start, or as 0;
- for a model without a measurement, ordinary least squares on all measurements so far.

    profiler = Profiler(TIME)
    batch = profiler.predict(features, Objective(seconds=3.0)).samples
    profiler.observe(features, batch, seconds=2.7)

Slopes are in milliseconds and in millijoules per sample. The state is bounded: it does not grow with measurements.

Shapes: D features, R rows of measurements.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from covey.parts.errors import ProgramError, quoted, unknown

Features: TypeAlias = Mapping[str, float | str]
"""The features of a device by name: numbers, and its "model"."""

TIME = ("available_memory_gb", "total_memory_gb", "temperature_c", "max_frequency_ghz")
ENERGY = (*TIME, "power_w")
"""The paper's features: of the time, and of the energy of a sample."""
_MULTIPLE = 8
_MILLI = 1000.0
_RIDGE = 1e-11
"""The ridge of least squares, relative to the trace of the normal matrix."""


@dataclass(frozen=True)
class Bounds:
    """The sizes of mini-batches, and the cost of a task beside its samples, of one kind of objective."""

    least: int
    most: int
    fixed: float
    """t0, in seconds or joules."""


SECONDS = Bounds(104, 10_000, 0.1)
JOULES = Bounds(56, 5_000, 0.0)
MAUI_SIZES = Bounds(56, 1_504, 0.0)


@dataclass(frozen=True)
class Objective:
    """The time and the energy that a task may take (SLO); None for no limit."""

    seconds: float | None = None
    joules: float | None = None


class Prediction(NamedTuple):
    """The size of a mini-batch."""

    samples: int
    warning: str = ""
    """The reason why not even the smallest size can meet the objective, if it is known beforehand."""


class PassiveAggressive:
    """A linear regressor that changes just enough for an error of at most eps (PA-I).

    Args:
        weights: the weights, D.
        cap: C, the largest step.
        eps: the error that is tolerated.
    """

    __slots__ = ("cap", "eps", "weights")

    def __init__(self, weights: Sequence[float], cap: float = 0.1, eps: float = 0.1) -> None:
        self.weights, self.cap, self.eps = list(weights), cap, eps

    def predict(self, x: Sequence[float]) -> float:
        """The value at x."""
        return float(sum(map(mul, self.weights, x)))

    def observe(self, x: Sequence[float], value: float) -> None:
        """Learn the value at x. Without a feature other than 0, nothing changes."""
        error, square = value - self.predict(x), sum(map(mul, x, x))
        loss = abs(error) - self.eps
        if loss > 0 and square > 0:
            step = math.copysign(min(self.cap, loss / square), error)
            self.weights = [weight + step * number for weight, number in zip(self.weights, x, strict=True)]


class LeastSquares:
    """Ordinary least squares by the normal equations, refitted with every point.

    Args:
        size: D.
    """

    __slots__ = ("gram", "moments", "weights")

    def __init__(self, size: int) -> None:
        self.gram: NDArray[np.float64] = np.zeros((size, size))
        self.moments: NDArray[np.float64] = np.zeros(size)
        self.weights: list[float] = [0.0] * size

    def observe(self, x: Sequence[float], value: float) -> None:
        """Add a point."""
        row = np.asarray(x, dtype=np.float64)
        self.add(row[None], np.array([value]))

    def add(self, rows: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Add points: R x D, and R values."""
        self.gram += rows.T @ rows
        self.moments += rows.T @ values
        # The ridge decides where points do not. solve takes 5 us, lstsq 30.
        ridge = np.trace(self.gram) * _RIDGE * np.eye(len(self.moments))
        self.weights = np.linalg.solve(self.gram + ridge, self.moments).tolist() if ridge.any() else self.weights

    def predict(self, x: Sequence[float]) -> float:
        """The value at x; 0 before the first point."""
        return float(sum(map(mul, self.weights, x)))


class _Saved(msgspec.Struct):
    gram: list[list[float]]
    moments: list[float]
    weights: list[float]
    first: list[float] | None
    personal: dict[str, list[float]]


class Slopes:
    """The slopes of devices: of one predictor, of the time or of the energy.

    Args:
        names: the features.
        cap, eps: the parameters of the regressors of models.
        most_models: the number of models that have a regressor of their own.
    """

    def __init__(self, names: Sequence[str], cap: float = 0.1, eps: float = 0.1, most_models: int = 1000) -> None:
        self.names, self.cap, self.eps, self.most_models = tuple(names), cap, eps, most_models
        self.all = LeastSquares(len(names))
        self.first: list[float] | None = None
        """The weights of the cold start."""
        self.personal: dict[str, PassiveAggressive] = {}

    def warm_up(self, rows: Sequence[Features], slopes: Sequence[float]) -> None:
        """Make the cold start, from features and slopes."""
        if rows:
            x = np.array([self._numbers(row) for row in rows], dtype=np.float64)
            self.all.add(x, np.asarray(slopes, dtype=np.float64))
            self.first = self.all.weights

    def predict(self, features: Features) -> float:
        """The slope of a device: by the regressor of its model or, without one, by that of all measurements."""
        own = self.personal.get(features.get("model", ""))  # type: ignore[arg-type]
        weights = self.all.weights if own is None else own.weights
        return float(sum(map(mul, weights, self._numbers(features))))

    def observe(self, features: Features, slope: float) -> None:
        """Learn the slope of a device."""
        x, model = self._numbers(features), str(features.get("model", ""))
        if not (math.isfinite(slope) and all(map(math.isfinite, x))):
            raise ProgramError(f"The slope and the features of a device must be finite. Got {slope!r} and {x} instead.")
        self.all.observe(x, slope)
        if model not in self.personal and len(self.personal) < self.most_models:
            # A fit of a few points may have any weights in directions that they do not span, and a regressor would keep
            # them. From 0 it takes the first slope at once.
            start = [0.0] * len(x) if self.first is None else self.first
            self.personal[model] = PassiveAggressive(start, self.cap, self.eps)
        if model in self.personal:
            self.personal[model].observe(x, slope)

    def _numbers(self, features: Features) -> list[float]:
        try:
            return [features[name] + 0.0 for name in self.names]  # type: ignore[operator]
        except KeyError as error:
            raise ProgramError(unknown(f"feature '{error.args[0]}' of a device", error.args[0], features)) from None
        except TypeError:
            values = [features[name] for name in self.names]
            raise ProgramError(f"The features of a device must be numbers. Got {quoted(values)} instead.") from None

    def _saved(self) -> _Saved:
        own = {name: regressor.weights for name, regressor in self.personal.items()}
        return _Saved(self.all.gram.tolist(), self.all.moments.tolist(), self.all.weights, self.first, own)

    def _load(self, saved: _Saved) -> None:
        self.all.gram, self.all.moments = np.array(saved.gram), np.array(saved.moments)
        self.all.weights, self.first = saved.weights, saved.first
        self.personal = {name: PassiveAggressive(w, self.cap, self.eps) for name, w in saved.personal.items()}


def batch_size(limit: float, slope: float, bounds: Bounds) -> int:
    """floor((limit - t0) / slope) within bounds, rounded up to a multiple of 8; the least for a slope that is not
    positive."""
    if not slope > 0 or limit <= bounds.fixed:
        return bounds.least
    fitting = math.floor(min((limit - bounds.fixed) / slope, bounds.most))
    return min(-(-max(fitting, bounds.least) // _MULTIPLE) * _MULTIPLE, bounds.most)


def warned(limit: float, bounds: Bounds, unit: str) -> str:
    """A warning if a limit is no more than the fixed cost; else ""."""
    if limit > bounds.fixed:
        return ""
    return f"an objective of {limit:g} {unit} is no more than the fixed cost of {bounds.fixed:g} {unit}"


@dataclass
class Profiler:
    """I-Prof: predicts sizes of mini-batches, and learns from measurements.

    A cost without its fixed part, divided by n, is a measured slope.
    """

    names: Sequence[str] = TIME
    """The features of the time."""
    energy_names: Sequence[str] = ENERGY
    """The features of the energy."""
    seconds: Bounds = SECONDS
    joules: Bounds = JOULES
    cap: float = 0.1
    eps: float = 0.1
    most_models: int = 1000
    time: Slopes = field(init=False)
    energy: Slopes = field(init=False)

    def __post_init__(self) -> None:
        self.time = Slopes(self.names, self.cap, self.eps, self.most_models)
        self.energy = Slopes(self.energy_names, self.cap, self.eps, self.most_models)

    def predict(self, features: Features, objective: Objective) -> Prediction:
        """The largest mini-batch with which a device meets an objective."""
        found, warning = self.seconds.most if objective.joules is None else self.joules.most, ""
        if objective.seconds is not None:
            found = batch_size(objective.seconds, self.time.predict(features) / _MILLI, self.seconds)
            warning = warned(objective.seconds, self.seconds, "s")
        if objective.joules is not None:
            slope = self.energy.predict(features) / _MILLI
            found = min(found, batch_size(objective.joules, slope, self.joules))
            warning = warning or warned(objective.joules, self.joules, "J")
        return Prediction(found, warning)

    def observe(
        self, features: Features, samples: int, seconds: float | None = None, joules: float | None = None
    ) -> None:
        """Learn the measured time and energy of a task of some samples.

        Raises:
            ProgramError: a number is not finite, there are no samples, or a feature is missing.
        """
        check_measurement(samples, seconds, joules)
        if seconds is not None:
            self.time.observe(features, max(seconds - self.seconds.fixed, 0.0) / samples * _MILLI)
        if joules is not None:
            self.energy.observe(features, max(joules - self.joules.fixed, 0.0) / samples * _MILLI)

    def dump(self) -> bytes:
        """The state, for `load`."""
        return msgspec.json.encode([self.time._saved(), self.energy._saved()])

    def load(self, state: bytes) -> None:
        """Restore a state of `dump`."""
        for slopes, saved in zip((self.time, self.energy), msgspec.json.decode(state, type=list[_Saved]), strict=True):
            slopes._load(saved)


def check_measurement(samples: int, *costs: float | None) -> None:
    """Refuse a measurement that is none.

    Raises:
        ProgramError: there are no samples, or a cost is negative or not finite.
    """
    if samples < 1:
        raise ProgramError(f"The 'samples' of a measurement must be at least 1. Got {samples} instead.")
    for cost in costs:
        if cost is not None and not (math.isfinite(cost) and cost >= 0):
            raise ProgramError(f"The costs of a measurement must be finite and at least 0. Got {cost} instead.")


class Maui:
    """MAUI (Cuervo et al., 2010), as the paper's baseline: one regression time = a n + b for all devices.

    Args:
        sizes: the least and the greatest size.
    """

    def __init__(self, sizes: Bounds = MAUI_SIZES) -> None:
        self.sizes = sizes
        self.time, self.energy = LeastSquares(2), LeastSquares(2)

    def predict(self, features: Features, objective: Objective) -> Prediction:
        """The size (SLO - b) / a, the same for all devices."""
        found, warning = self.sizes.most, ""
        for limit, fit, unit in ((objective.seconds, self.time, "s"), (objective.joules, self.energy, "J")):
            if limit is not None:
                slope, fixed = fit.weights
                bounds = Bounds(self.sizes.least, self.sizes.most, fixed / _MILLI)
                found = min(found, batch_size(limit, slope / _MILLI, bounds))
                warning = warning or warned(limit, bounds, unit)
        return Prediction(found, warning)

    def observe(
        self, features: Features, samples: int, seconds: float | None = None, joules: float | None = None
    ) -> None:
        """Learn the measured time and energy of a task of some samples."""
        check_measurement(samples, seconds, joules)
        for cost, fit in ((seconds, self.time), (joules, self.energy)):
            if cost is not None:
                fit.observe((float(samples), 1.0), cost * _MILLI)

    def dump(self) -> bytes:
        """The state, for `load`."""
        fits = (self.time, self.energy)
        return msgspec.json.encode([_Saved(f.gram.tolist(), f.moments.tolist(), f.weights, None, {}) for f in fits])

    def load(self, state: bytes) -> None:
        """Restore a state of `dump`."""
        for fit, saved in zip((self.time, self.energy), msgspec.json.decode(state, type=list[_Saved]), strict=True):
            fit.gram, fit.moments, fit.weights = np.array(saved.gram), np.array(saved.moments), saved.weights
