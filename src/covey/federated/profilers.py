"""The ways in which the server of FLeet chooses the size of a client's mini-batch."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from covey.federated.iprof import ENERGY, TIME, Bounds, Features, Maui, Objective, Prediction, Profiler, warned
from covey.network.traces import Trace, parse_number
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import Joules, Seconds


class Profiles(Protocol):
    """A profiler at work, as those of `covey.federated.iprof`."""

    def predict(self, features: Features, objective: Objective) -> Prediction:
        """The size of a device's mini-batch."""

    def observe(self, features: Features, samples: int, seconds: float | None, joules: float | None) -> None:
        """Learn a measurement."""

    def dump(self) -> bytes:
        """The state."""

    def load(self, state: bytes) -> None:
        """Restore a state."""


class Profiling(Part):
    """A way to choose sizes. One object serves all nodes of a process; `begin` makes what learns."""

    family: ClassVar[str] = "profiler"

    def objective(self) -> Objective:
        """The time and the energy that a task may take."""
        return Objective()

    def costs(self, seconds: float, joules: float) -> tuple[float | None, float | None]:
        """The measured costs that the objective limits; None for others."""
        limits = self.objective()
        return None if limits.seconds is None else seconds, None if limits.joules is None else joules

    def features(self) -> Sequence[str]:
        """The features that a client tells, by name."""
        return ()

    def begin(self, state: bytes) -> Profiles:
        """A profiler, with the state of an earlier `dump`, or b"" for a new one."""
        raise NotImplementedError


class _Same:
    """The same size for all devices."""

    def __init__(self, samples: int) -> None:
        self.prediction = Prediction(samples)

    def predict(self, features: Features, objective: Objective) -> Prediction:
        return self.prediction

    def observe(self, features: Features, samples: int, seconds: float | None, joules: float | None) -> None:
        pass

    def dump(self) -> bytes:
        return b""

    def load(self, state: bytes) -> None:
        pass


class ConstantSize(Profiling):
    """Mini-batches of one size."""

    kind = "constant"
    samples: int = param("The size of a mini-batch.", default=100, ge=1)

    def begin(self, state: bytes) -> Profiles:
        return _Same(self.samples)


class _Limited(Profiling):
    kind: ClassVar[str] = ""
    seconds: Seconds | None = param("The time that a task may take.", default=3.0, gt=0, lt=math.inf)
    joules: Joules | None = param("The energy that a task may take. By default, any.", default=None, gt=0, lt=math.inf)
    least: int = param("The least size of a mini-batch.", default=104, ge=1)
    most: int = param("The greatest size of a mini-batch.", default=10_000, ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds is None and self.joules is None:
            raise ConfigurationError(f"{self.named().capitalize()} needs 'seconds' or 'joules'. Got neither.")
        if self.most < self.least:
            raise ConfigurationError(
                f"The 'most' of {self.named()} must be at least its 'least', {self.least}. Got {self.most} instead."
            )

    def objective(self) -> Objective:
        return Objective(self.seconds, self.joules)


class IProf(_Limited):
    """I-Prof: the size by the device's features, learned from measurements of its model and of all."""

    kind = "i-prof"
    fixed: Seconds = param("The time of a task beside its samples.", default=0.1, ge=0, lt=math.inf)
    fixed_joules: Joules = param("The energy of a task beside its samples.", default=0.0, ge=0, lt=math.inf)
    eps: float = param("The error of a slope that is tolerated, in ms or mJ per sample.", default=0.1, ge=0)
    cap: float = param("The largest step C of a model's regressor.", default=0.1, gt=0)
    time_features: list[str] = param("The features of the time.", factory=lambda: list(TIME))
    energy_features: list[str] = param("The features of the energy.", factory=lambda: list(ENERGY))
    most_models: int = param("The models of devices with a regressor of their own.", default=1000, ge=0)
    cold_start: Path | None = param(
        "The CSV file of earlier measurements: the features, `ms_per_sample` and, for an energy, `mj_per_sample`.",
        default=None,
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._earlier = [] if self.cold_start is None else self._read(Trace(self.cold_start))

    def _read(self, trace: Trace) -> list[tuple[Features, float, float]]:
        """The features and the slopes of earlier measurements."""
        names = list(dict.fromkeys([*self.features(), "ms_per_sample", *(["mj_per_sample"] if self.joules else [])]))
        columns = [trace.parsed(name, "a finite number", parse_number) for name in names]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return [(row, row["ms_per_sample"], row.get("mj_per_sample", 0.0)) for row in rows]

    def findings(self) -> Mapping[str, str]:
        limits = (self.seconds, self.fixed, "s"), (self.joules, self.fixed_joules, "J")
        sizes = self.least, self.most
        found = [warned(limit, Bounds(*sizes, fixed), unit) for limit, fixed, unit in limits if limit is not None]
        words = "; ".join(filter(None, found))
        return {"profiler": f"{words}, so all mini-batches have {self.least} samples"} if words else {}

    def features(self) -> Sequence[str]:
        energy = self.energy_features if self.joules is not None else ()
        return tuple(dict.fromkeys([*self.time_features, *energy]))

    def begin(self, state: bytes) -> Profiles:
        sizes = self.least, self.most
        found = Profiler(
            self.time_features,
            self.energy_features,
            Bounds(*sizes, self.fixed),
            Bounds(*sizes, self.fixed_joules),
            self.cap,
            self.eps,
            self.most_models,
        )
        if state:
            found.load(state)
        elif self._earlier:
            rows, times, energies = zip(*self._earlier, strict=True)
            found.time.warm_up(rows, times)
            if self.joules is not None:
                found.energy.warm_up(rows, energies)
        return found


class MauiSizes(_Limited):
    """MAUI (Cuervo et al., 2010): the size by one regression for all devices."""

    kind = "maui"
    least: int = param("The least size of a mini-batch.", default=56, ge=1)
    most: int = param("The greatest size of a mini-batch.", default=1504, ge=1)

    def begin(self, state: bytes) -> Profiles:
        found = Maui(Bounds(self.least, self.most, 0.0))
        if state:
            found.load(state)
        return found
