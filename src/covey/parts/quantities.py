"""Numbers with a unit: durations, rates, powers, energies."""

import re
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Quantity:
    """A number with a unit, written as a number in the first unit or as a string such as "20ms"."""

    name: str
    units: tuple[tuple[str, float], ...]
    example: str

    def parse(self, text: str) -> float | None:
        """The value of `text` in the base unit, or None if `text` is not such a quantity."""
        match = re.fullmatch(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-zµ/]*)\s*", text)
        if match is None:
            return None
        factor = dict(self.units).get(match[2])
        try:
            return None if factor is None else float(match[1]) * factor
        except ValueError:
            return None


_TIME = (("s", 1.0), ("", 1.0), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("min", 60.0), ("h", 3600.0))
_PREFIXES = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
_RATE = (("", 1.0),) + tuple(
    (prefix + unit, factor * bits)
    for prefix, factor in _PREFIXES
    for unit, bits in (("bit/s", 1.0), ("bps", 1.0), ("B/s", 8.0))
)

Seconds = Annotated[float, Quantity("duration", _TIME, "20ms")]
"""A duration in seconds, or a string such as "20ms", "3s", "10min"."""
_SMALL = (("m", 1e-3), ("u", 1e-6), ("µ", 1e-6), ("n", 1e-9))


def _units(unit: str) -> tuple[tuple[str, float], ...]:
    return (("", 1.0), *((prefix + unit, factor) for prefix, factor in (*_PREFIXES, *_SMALL)))


BitsPerSecond = Annotated[float, Quantity("rate", _RATE, "100Mbit/s")]
"""A data rate in bits per second, or a string such as "100Mbit/s", "12.5MB/s"."""
Watts = Annotated[float, Quantity("power", _units("W"), "5W")]
"""A power in watts, or a string such as "5W", "300mW"."""
Joules = Annotated[float, Quantity("energy", _units("J"), "20nJ")]
"""An energy in joules, or a string such as "20nJ", "1.5kJ"."""
