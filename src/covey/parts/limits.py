"""The bounds and choices of a parameter."""

from dataclasses import dataclass
from typing import Any, Literal

Bound = float | Literal["nodes"] | None


@dataclass(frozen=True)
class Limits:
    """The description, bounds and choices of a parameter."""

    doc: str
    ge: Bound = None
    gt: Bound = None
    le: Bound = None
    lt: Bound = None
    choices: tuple[Any, ...] = ()

    def interval(self) -> str:
        """The bounds in mathematical notation, or an empty string without bounds."""
        low, high = (
            (self.ge if self.ge is not None else self.gt),
            (self.le if self.le is not None else self.lt),
        )
        if low is None and high is None:
            return ""
        left = "[" if self.ge is not None else "("
        right = "]" if self.le is not None else ")"
        return f"{left}{_number(low, '-inf')}, {_number(high, 'inf')}{right}"

    def admits(self, value: float, nodes: int | None = None) -> bool:
        """True if `value` is within the bounds. Bounds that need the number of nodes count only if it is given."""

        def bound(limit: Bound) -> float | None:
            return nodes if limit == "nodes" else limit

        ge, gt, le, lt = bound(self.ge), bound(self.gt), bound(self.le), bound(self.lt)
        return not (
            (ge is not None and not value >= ge)
            or (gt is not None and not value > gt)
            or (le is not None and not value <= le)
            or (lt is not None and not value < lt)
        )

    @property
    def depends_on_nodes(self) -> bool:
        return "nodes" in (self.ge, self.gt, self.le, self.lt)


def _number(value: Bound, missing: str) -> str:
    if value is None:
        return missing
    return f"{value:g}" if isinstance(value, float) else str(value)
