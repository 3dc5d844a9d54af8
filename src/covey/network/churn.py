"""When nodes are away."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, TypeAlias

from covey.network.traces import Trace, parse_number
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import Seconds

Absence: TypeAlias = tuple[float, float]
"""From when until when a node is away, in seconds: [start, end)."""


class Churn(Part):
    """The absences of the nodes."""

    family: ClassVar[str] = "churn"

    @property
    def has_churn(self) -> bool:
        """Whether a node may ever be away."""
        return type(self).absences is not NoChurn.absences

    def absences(self, node: int, setting: Setting) -> Iterator[Absence]:
        """The absences of a node, one after the other and apart; there may be no end to them.

        The first starts at 0 where the node joins late; the last ends at inf where it leaves for good.
        """
        raise NotImplementedError


class NoChurn(Churn):
    """Every node is there all the time."""

    kind = "none"

    def absences(self, node: int, setting: Setting) -> Iterator[Absence]:
        return iter(())


class RateChurn(Churn):
    """Every node comes and goes by itself; both stays and absences have exponential lengths."""

    kind = "rate"
    mean_up: Seconds = param("How long a node stays, on average.", gt=0, lt=math.inf)
    mean_down: Seconds = param("How long it is away, on average.", gt=0, lt=math.inf)
    leave: float = param("The probability that who goes away never comes back.", default=0.0, ge=0, le=1)
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
"""Which event each kind of coming back puts an end to."""


class TraceChurn(Churn):
    """Read from a CSV file with the columns node, event and time (in seconds).

    A node leaves and may join again; it crashes and may return. Who has no event stays all the time; whose first
    event is to join is away until then. The events of one node stand in the order of time.
    """

    kind = "trace"
    file: Path = param("The CSV file of the events.")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._absences = _read(Trace(self.file), setting.nodes)

    def absences(self, node: int, setting: Setting) -> Iterator[Absence]:
        return iter(self._absences.get(node, ()))


def _read(trace: Trace, nodes: int) -> dict[int, list[Absence]]:
    """The absences that a trace tells of, by node; ConfigurationError where its events cannot follow one another."""

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
