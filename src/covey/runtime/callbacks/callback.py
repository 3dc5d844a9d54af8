"""The contract between a run and a callback."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from covey.parts.errors import ConfigurationError, unknown
from covey.parts.parameters import Part, param

Plain = bool | int | float | str | None
"""A value that a callback may keep in its state."""

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class Began:
    """A run that begins or is resumed.

    Attributes:
        folder: the folder of the run.
        experiment: the resolved experiment, as tables.
        state: the state of the callback; of a resumed run, as its checkpoint has it.
        round: the last round that the callback was called for; 0 in a new run.
    """

    folder: Path
    experiment: Mapping[str, Any]
    state: dict[str, Plain]
    round: int


@dataclass(frozen=True)
class Evaluated:
    """A round that all evaluated nodes have completed.

    Attributes:
        round: the number of the round, from 1 on.
        time: the time at which the last node completed it, in seconds of the nodes' clock.
        nodes: the values of each figure at the evaluated nodes, in the order of their ids.
        network: the figures of the network as a whole, such as "average_model_accuracy".
        state: values that the callback keeps from round to round; checkpoints hold them.
    """

    round: int
    time: float
    nodes: Mapping[str, np.ndarray]
    network: Mapping[str, float]
    state: dict[str, Plain] = field(default_factory=dict)
    _stop: Callable[[str], None] = field(default=lambda reason: None, repr=False)
    _scale: Callable[[float], None] = field(default=lambda factor: None, repr=False)
    _model: Callable[[], Any] = field(default=lambda: None, repr=False)

    def figure(self, name: str) -> float:
        """The mean of a figure over nodes, or a figure of the network.

        Raises:
            ConfigurationError: there is no such figure.
        """
        if name in self.nodes:
            return float(np.mean(self.nodes[name]))
        if name in self.network:
            return float(self.network[name])
        raise ConfigurationError(unknown(f"figure '{name}'", name, [*self.nodes, *self.network]))

    def quantiles(self, name: str, at: Sequence[float] = QUANTILES) -> dict[float, float]:
        """The quantiles of a figure over nodes."""
        return dict(zip(at, map(float, np.quantile(self.nodes[name], at)), strict=True))

    def stop(self, reason: str) -> None:
        """End the run after the round that nodes are in. It counts as finished, and its models are kept."""
        self._stop(reason)

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate of all nodes from the next round on that none has begun."""
        self._scale(factor)

    def average_model(self) -> Any:
        """The average of the evaluated models as a flat tensor, or None if `evaluation.average` is false."""
        return self._model()


class Callback(Part):
    """A part that is called after every evaluated round, in the process that records the run.

    It sees the records of the run, and changes nothing unless it calls `stop` or `scale_learning_rate`.
    """

    family: ClassVar[str] = "callback"
    acts: ClassVar[bool] = True
    """True if it may call `stop` or `scale_learning_rate`. The simulation then evaluates each round at once."""

    def begin(self, run: Began) -> None:
        """The run begins or is resumed. By default, nothing is done."""

    @abstractmethod
    def evaluated(self, at: Evaluated) -> None:
        """All evaluated nodes have completed a round. Rounds come once each, in increasing order."""

    def end(self, status: str) -> None:
        """The run has ended as "finished", "interrupted" or "failed". By default, nothing is done."""

    @classmethod
    def adopt(cls, name: str, found: Any) -> "type[Self] | None":
        """A callback made of a user's own function of one argument, an `Evaluated`."""
        if isinstance(found, type) or not callable(found):
            return None
        inside = {"kind": name, "function": staticmethod(found)}
        return type(getattr(found, "__name__", "callback"), (_Adopted,), inside)

    @classmethod
    def of(cls, given: Any) -> "Callback":
        """A callback, or one made of a function.

        Raises:
            ConfigurationError: it is neither.
        """
        if isinstance(given, Callback):
            return given
        adopted = cls.adopt(f"{getattr(given, '__module__', '?')}:{getattr(given, '__qualname__', '?')}", given)
        if adopted is None:
            raise ConfigurationError(f"A callback must be a Callback or a function. Got {given!r} instead.")
        return adopted()


class _Adopted(Callback):
    """A function of the user's own."""

    function: ClassVar[Callable[[Evaluated], None]]

    def evaluated(self, at: Evaluated) -> None:
        type(self).function(at)

    @classmethod
    def title(cls) -> str:
        return cls.kind

    @classmethod
    def original(cls) -> Any:
        return cls.function


class Following(Callback):
    """A callback that follows one figure and knows its best value."""

    metric: str = param(
        "The figure to follow: one of nodes, of which the mean is taken, or one of the whole network.",
        default="accuracy",
    )
    mode: Literal["auto", "max", "min"] = param(
        'Whether the largest or the smallest value is best; "auto" is "min" if "loss" is in the name, else "max".',
        default="auto",
    )
    min_delta: float = param("The least change that is an improvement.", default=0.0, ge=0)

    def improves(self, at: Evaluated) -> bool:
        """True if the figure is better than ever before. The state keeps the best value and its round."""
        value, known = at.figure(self.metric), at.state.get("best")
        if isinstance(known, float) and not math.isnan(known) and not self.gain(value, known) > self.min_delta:
            return False
        at.state["best"], at.state["best_round"] = value, at.round
        return True

    def gain(self, value: float, other: float) -> float:
        """The improvement of a value on another; negative if it is worse."""
        is_min = self.mode == "min" or (self.mode == "auto" and "loss" in self.metric)
        return other - value if is_min else value - other

    def waits(self, at: Evaluated, patience: int) -> bool:
        """True if the figure has not improved for so many evaluations. The count begins again then."""
        if self.improves(at):
            at.state["waited"] = 0
            return False
        waited = int(at.state.get("waited") or 0) + 1
        at.state["waited"] = waited % patience
        return waited >= patience
