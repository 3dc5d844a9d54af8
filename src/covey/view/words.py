"""Numbers as text, for people."""

from collections.abc import Collection


def counted(number: int, noun: str) -> str:
    """A number of things, as in "1 round" and "1,024 rounds". The noun is a singular."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def seconds(value: float) -> str:
    """A duration, with a unit that suits it."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def time_of(clocks: Collection[str]) -> str:
    """The name of the time of some clocks, which are "virtual" or "real"."""
    return f"{next(iter(clocks))} time" if len(clocks) == 1 else "time"


def amount(value: float) -> str:
    """A number of bytes, with a unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def rate(value: float) -> str:
    """A number of bits per second, with a unit that suits it."""
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if abs(value) < 1000:
            return f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} Gbit/s"


def figure(value: float | None, digits: int = 3) -> str:
    """A figure of a summary. None means that it is not finite."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < _LARGE else f"{value:.{digits}g}"


_LARGE = 1e6
"""Larger figures have an exponent, so that they do not widen the table."""
