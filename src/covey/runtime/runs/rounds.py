"""Aggregates by round, of which at most some hundreds are kept."""

from typing import NamedTuple

_MOST, _NEWEST = 800, 64


class Figure(NamedTuple):
    """A figure in a round: its aggregates over the nodes whose value is a number, and the rows that it has."""

    nodes: int
    total: float
    least: float | None
    most: float | None
    first: int
    """The number of its first row."""
    last: int
    """The number of its last row."""

    @property
    def mean(self) -> float | None:
        """The mean over nodes, or None without any number."""
        return self.total / self.nodes if self.nodes else None

    def with_rows(self, other: "Figure") -> "Figure":
        """The figure with the rows of another one."""
        least = [value for value in (self.least, other.least) if value is not None]
        most = [value for value in (self.most, other.most) if value is not None]
        return Figure(
            self.nodes + other.nodes,
            self.total + other.total,
            min(least, default=None),
            max(most, default=None),
            min(self.first, other.first),
            max(self.last, other.last),
        )


class Rounds:
    """Figures by round. Of many rounds, those at equal distances are kept whole, and the newest ones."""

    def __init__(self) -> None:
        self.entries: dict[int, Figure] = {}
        self.latest = 0
        """The last round."""
        self._first: int | None = None
        self._distance = 1

    def add(self, round: int, figure: Figure) -> None:
        """Add rows of a round. Rows of a round that was left out before are left out, too."""
        if self._first is None:
            self._first = round
        known = self.entries.get(round)
        if known is not None:
            self.entries[round] = known.with_rows(figure)
        elif round > self.latest or self._is_kept(round):
            self.entries[round] = figure
        self.latest = max(self.latest, round)
        if len(self.entries) > _MOST:
            self._thin()

    def _is_kept(self, round: int) -> bool:
        return (round - (self._first or 0)) % self._distance == 0

    def _thin(self) -> None:
        newest = set(sorted(self.entries)[-_NEWEST:])
        while len(self.entries) > _MOST // 2:
            self._distance *= 2
            self.entries = {
                round: entry for round, entry in self.entries.items() if self._is_kept(round) or round in newest
            }
