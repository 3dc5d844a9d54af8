"""The absences of nodes."""

import itertools
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from covey.network.traces import Trace, parse_number, read_json
from covey.parts.errors import ConfigurationError, quoted
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import Seconds

Absence: TypeAlias = tuple[float, float]
"""The interval in which a node is away, in seconds: [start, end)."""


class Churn(Part):
    """A model of when nodes are away."""

    family: ClassVar[str] = "churn"

    @property
    def has_churn(self) -> bool:
        """True if a node may ever be away."""
        return type(self).absences is not NoChurn.absences

    def absences(self, node: int, setting: Setting) -> Iterator[Absence]:
        """The absences of a node, in order and without overlap. The iterator may be infinite.

        If the node joins late, the first one starts at 0. If it leaves for good, the last one ends at inf.
        """
        raise NotImplementedError


class NoChurn(Churn):
    """Every node is present all the time."""

    kind = "none"

    def absences(self, node: int, setting: Setting) -> Iterator[Absence]:
        return iter(())


class RateChurn(Churn):
    """Nodes leave and return independently. Stays and absences have exponential lengths."""

    kind = "rate"
    mean_up: Seconds = param("The mean length of a stay.", gt=0, lt=math.inf)
    mean_down: Seconds = param("The mean length of an absence.", gt=0, lt=math.inf)
    leave: float = param("The probability that a node that leaves never returns.", default=0.0, ge=0, le=1)
    late: float = param("The probability that a node is away at the start.", default=0.0, ge=0, le=1)

    def absences(self, node: int, setting: Setting) -> Iterator[Absence]:
        generator = setting.generator("churn", node)
        now = 0.0
        if generator.random() < self.late:
            now = generator.exponential(self.mean_down)
            yield 0.0, now
        while True:
            start = now + generator.exponential(self.mean_up)
            if generator.random() < self.leave:
                yield start, math.inf
                return
            now = start + generator.exponential(self.mean_down)
            yield start, now


_ENDS = {"join": "leave", "return": "crash"}
"""The kind of event that each kind of return ends."""


class TraceChurn(Churn):
    """Absences from a CSV file with the columns node, event and time (in seconds).

    After `leave`, a node may `join` again; after `crash`, it may `return`. A node without events is always present. A
    node whose first event is `join` is away until then. The events of one node are in order of time.
    """

    kind = "trace"
    file: Path = param("The CSV file of the events.")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._absences = _read(Trace(self.file), setting.nodes)

    def absences(self, node: int, setting: Setting) -> Iterator[Absence]:
        return iter(self._absences.get(node, ()))


class AvailabilityChurn(Churn):
    """Absences from a JSON file of FedScale's form. Each node with data gets another client; others are always present.

    An entry has the seconds at which a client becomes `active` and `inactive`, in turn, and the `finish_time` after
    which they repeat.
    """

    kind = "availability"
    file: Path = param("The JSON file of the clients.")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        entries = read_json(self.file)
        holders = range(setting.nodes) if setting.holders is None else setting.holders
        if len(entries) < len(holders):
            raise ConfigurationError(
                f"The trace '{self.file}' must have an entry for each of the {len(holders)} nodes with data. "
                f"Got {len(entries)} entries instead."
            )
        drawn = setting.generator("trace").permutation(len(entries)).tolist()
        self._away = {node: _gaps(self.file, *entries[index]) for node, index in zip(holders, drawn, strict=False)}

    def absences(self, node: int, setting: Setting) -> Iterator[Absence]:
        gaps, period = self._away.get(node, ([], math.inf))
        if not gaps or math.isinf(period):
            yield from gaps
            return
        start, end = gaps[0]
        for turn in itertools.count():
            for begin, until in gaps if turn else gaps[1:]:
                if turn * period + begin > end:
                    yield start, end
                    start = turn * period + begin
                end = turn * period + until


def _gaps(path: Path, name: str, entry: dict[str, Any]) -> tuple[list[Absence], float]:
    """The absences of a client within one period, and the period; one without end and inf if it is always away.

    Raises:
        ConfigurationError: the times are missing or not in order.
    """
    period: Any = entry.get("finish_time")
    active, inactive = entry.get("active"), entry.get("inactive")
    listed = isinstance(active, list) and isinstance(inactive, list) and len(active) == len(inactive)
    times = [time for pair in zip(active or [], inactive or [], strict=True) for time in pair] if listed else []
    right = listed and all(_is_time(time) for time in (*times, period)) and period
    if not right or any(before > after for before, after in pairwise([0, *times, period])):
        raise ConfigurationError(
            f"The entry '{name}' of '{path}' must have increasing seconds 'active' and 'inactive', in turn, up to its "
            f"'finish_time'. Got {quoted(active)}, {quoted(inactive)} and {quoted(period)} instead."
        )
    starts, ends = [0.0, *map(float, times[1::2])], [*map(float, times[::2]), float(period)]
    if all(begin == until for begin, until in zip(times[::2], times[1::2], strict=True)):
        return [(0.0, math.inf)], math.inf
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end], float(period)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _read(trace: Trace, nodes: int) -> dict[int, list[Absence]]:
    """The absences of a trace, by node. ConfigurationError if an event cannot follow the previous one."""

    def parse_node(text: str) -> int | None:
        return int(text) if text.isdecimal() and int(text) < nodes else None

    def parse_event(text: str) -> str | None:
        return text if text in ("join", "leave", "crash", "return") else None

    def parse_time(text: str) -> float | None:
        value = parse_number(text)
        return value if value is not None and value >= 0 else None

    ids = trace.parsed("node", f"an int in [0, {nodes})", parse_node)
    names = trace.parsed("event", "one of 'join', 'leave', 'crash', 'return'", parse_event)
    times = trace.parsed("time", "a number in [0, inf)", parse_time)
    events: dict[int, list[tuple[str, float]]] = {}
    for row, node, name, time in zip(trace.rows, ids, names, times, strict=True):
        history = events.setdefault(node, [])
        before, since = history[-1] if history else ("", -math.inf)
        if time <= since:
            problem = f"its {before} is at {since:g}, and the times of a node must increase"
        elif name in _ENDS and before != _ENDS[name] and (before or name == "return"):
            problem = f"only a node whose last event is a {_ENDS[name]} can {name}"
        elif name not in _ENDS and before not in ("", *_ENDS):
            problem = f"it is away since its {before} at {since:g}"
        else:
            history.append((name, time))
            continue
        raise ConfigurationError(
            f"Line {row.line} of '{trace.path}': node {node} cannot {name} at {time:g}: {problem}."
        )
    return {node: _away(history) for node, history in events.items()}


def _away(history: list[tuple[str, float]]) -> list[Absence]:
    """The absences in a valid history of events."""
    first, time = history[0]
    late = [(0.0, time)] if first == "join" and time > 0 else []
    return late + [
        (start, end) for (name, start), (_, end) in pairwise([*history, ("", math.inf)]) if name in _ENDS.values()
    ]
