"""A curve in a few lines of text, or in a small picture."""

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bits of a braille character: those of its left and of its right column, from above."""


def braille(points: Sequence[Point], across: float, columns: int, rows: int) -> list[str]:
    """The lines of text that draw a curve.

    Args:
        points: the curve, from left to right.
        across: the position of the right edge.
        columns: the number of letters of each line.
        rows: the number of lines.
    """
    cells = [[0x2800] * columns for _ in range(rows)]
    width, height = 2 * columns - 1, 4 * rows - 1
    scaled = _scaled(points, across, width, height)
    dots = [_dot(scaled[0])] if scaled else []
    for (x, y), (to_x, to_y) in pairwise(scaled):
        steps = max(round(max(abs(to_x - x), abs(to_y - y))), 1)
        dots += [_dot((x + (to_x - x) * step / steps, y + (to_y - y) * step / steps)) for step in range(1, steps + 1)]
    for x, y in dots:
        cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
    return ["".join(map(chr, row)) for row in cells]


def svg(points: Sequence[Point], across: float, width: int, height: int) -> str:
    """The picture of a curve, for light and dark pages."""
    coordinates = " ".join(f"{x + 2:.1f},{y + 2:.1f}" for x, y in _scaled(points, across, width - 4, height - 4))
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">'
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" fill="none" stroke="currentColor" '
        f'stroke-opacity="0.25"/><polyline points="{coordinates}" fill="none" stroke="#2a93d5" stroke-width="2" '
        f'stroke-linejoin="round"/></svg>'
    )


def bounds(points: Sequence[Point]) -> tuple[float, float]:
    """The lowest and the highest value of a curve."""
    values = [value for _, value in points]
    return min(values), max(values)


def _scaled(points: Sequence[Point], across: float, width: float, height: float) -> list[Point]:
    """The points in units of the picture, whose top is 0."""
    if not points:
        return []
    low, high = bounds(points)
    span = high - low or 1.0
    return [(min(x / across, 1.0) * width, (high - value) / span * height) for x, value in points]


def _dot(point: Point) -> tuple[int, int]:
    return round(point[0]), round(point[1])
