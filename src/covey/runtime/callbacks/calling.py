"""The callbacks of a run: collects the records of a round, and calls them when all nodes have completed it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from covey.parts.errors import CoveyError, ProgramError, RunError, described
from covey.runtime.callbacks.callback import Began, Callback, Evaluated, Plain

if TYPE_CHECKING:
    from covey.runtime.task import Summary

_ENTRY = "callbacks"
"""The entry of a checkpoint."""


class _Frozen(msgspec.Struct, forbid_unknown_fields=True):
    """The entry of a checkpoint about callbacks."""

    round: int
    states: list[dict[str, Plain]]
    rates: list[tuple[int, float]]


class Callbacks:
    """Calls callbacks.

    Args:
        callbacks: those of the experiment, and functions of the user's own.
    """

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self.all = list(callbacks)
        self.rates: list[tuple[int, float]] = []
        """From which round on the learning rate is multiplied by which factor."""
        self._states: list[dict[str, Plain]] = [{} for _ in self.all]
        self._round = 0
        """The last round that callbacks were called for."""
        self._open: dict[int, dict[str, dict[int, float]]] = {}
        """The figures of nodes, by round, name and node."""
        self._times: dict[int, float] = {}
        self._stop: Callable[[str], None] = lambda reason: None
        self._scale: Callable[[float], int] = lambda factor: 0

    def __bool__(self) -> bool:
        return bool(self.all)

    @property
    def acts(self) -> bool:
        """True if one of them may change the run."""
        return any(callback.acts for callback in self.all)

    def add(self, callbacks: Iterable[Any]) -> None:
        """More callbacks, or functions.

        Raises:
            ConfigurationError: one is neither.
        """
        found = [Callback.of(given) for given in callbacks]
        self.all += found
        self._states += [{} for _ in found]

    def attach(self, stop: Callable[[str], None], scale: Callable[[float], int]) -> None:
        """Let an engine obey callbacks.

        Args:
            stop: ends the run for a reason.
            scale: multiplies the learning rate by a factor; returns the first round of that.
        """
        self._stop, self._scale = stop, scale

    # ------------------------------------------------------------------ from beginning to end

    def begin(self, folder: Path, experiment: Mapping[str, Any]) -> None:
        """The run begins or resumes.

        Raises:
            CoveyError: a callback cannot begin.
        """
        for callback, state in zip(self.all, self._states, strict=True):
            with _named(callback, "when the run begins"):
                callback.begin(Began(folder, experiment, state, self._round))

    def end(self, status: str) -> None:
        """The run has ended.

        Raises:
            CoveyError: a callback fails; all others are called nevertheless.
        """
        failed: CoveyError | None = None
        for callback in self.all:
            try:
                with _named(callback, "when the run ends"):
                    callback.end(status)
            except CoveyError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    # ------------------------------------------------------------------ rounds

    def committed(self, round: int, time: float) -> None:
        """A node has completed a round at a time."""
        if round > self._round:
            self._times[round] = max(time, self._times.get(round, 0.0))

    def take(self, rows: Iterable[tuple[int, int, str, float]]) -> None:
        """Figures of nodes: (node, round, name, value)."""
        for node, round, name, value in rows:
            if round > self._round:
                self._open.setdefault(round, {}).setdefault(name, {})[node] = value

    def close(self, round: int, figures: Mapping[str, float], summary: "Summary") -> None:
        """All nodes have completed a round that was evaluated.

        Args:
            round: the round. One that is not later than the one before is not shown again.
            figures: those of the network.
            summary: the summary of the evaluated nodes.

        Raises:
            CoveyError: a callback fails.
        """
        if round <= self._round or not self.all:
            return
        self._round, time = round, self._times.get(round, 0.0)
        found = {
            name: np.array([values[node] for node in sorted(values)])
            for name, values in self._open.get(round, {}).items()
        }
        self._open = {later: of for later, of in self._open.items() if later > round}
        self._times = {later: time for later, time in self._times.items() if later > round}
        for callback, state in zip(self.all, self._states, strict=True):
            at = Evaluated(round, time, found, figures, state, self._stop, self._multiply, summary.mean)
            with _named(callback, f"after round {round}"):
                callback.evaluated(at)

    def _multiply(self, factor: float) -> None:
        self.rates.append((self._scale(factor), factor))

    # ------------------------------------------------------------------ checkpoints

    def freeze(self) -> dict[str, Any]:
        """The entries of a checkpoint that hold the states of callbacks; none if there are no callbacks.

        Raises:
            ProgramError: a state holds a value that no checkpoint can hold.
        """
        if not self.all:
            return {}
        frozen = _Frozen(self._round, self._states, self.rates)
        try:
            packed = msgspec.msgpack.encode(frozen)
            msgspec.msgpack.decode(packed, type=_Frozen)
        except (TypeError, msgspec.MsgspecError) as error:
            raise ProgramError(f"The state of a callback must hold plain values: {error}.") from error
        return {_ENTRY: packed}

    def thaw(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            RunError: the checkpoint holds no such states.
        """
        frozen = self.check(checkpoint)
        self._round, self.rates = frozen.round, list(frozen.rates)
        # Functions that were given beside the experiment come last, and may be missing or new.
        for state, kept in zip(self._states, frozen.states, strict=False):
            state.update(kept)

    @staticmethod
    def check(checkpoint: Mapping[str, Any]) -> _Frozen:
        """The states in a checkpoint.

        Raises:
            RunError: they are damaged.
        """
        if _ENTRY not in checkpoint:
            return _Frozen(0, [], [])
        try:
            return msgspec.msgpack.decode(checkpoint[_ENTRY], type=_Frozen)
        except (TypeError, msgspec.MsgspecError) as error:
            raise RunError(f"'{_ENTRY}' holds no states of callbacks: {error}") from error


@contextmanager
def _named(callback: Callback, when: str) -> Iterator[None]:
    """Let an error of a callback name it."""
    try:
        yield
    except CoveyError:
        raise
    except Exception as error:
        raise ProgramError(f"The callback {callback.title()} fails {when}: {described(error)}.") from error
