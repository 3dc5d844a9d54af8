"""Checked vectors of numbers: the data, bounds and privacy of coordinates."""

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covey.parts.errors import ConfigurationError, DataError, quoted

Floats = NDArray[np.float64]


def vector(values: ArrayLike, name: str, size: int | None, *, ge: float = -np.inf, gt: float = -np.inf) -> Floats:
    """Finite numbers in one row.

    Args:
        values: the numbers.
        name: the name of the parameter.
        size: the number of numbers; None for any.
        ge, gt: bounds of the numbers.

    Raises:
        ConfigurationError: the values are not such numbers.
    """
    found = _array(values)
    if found is None or found.ndim != 1 or not len(found) or (size is not None and len(found) != size):
        count = "numbers in one row" if size is None else f"{size} numbers, one for each coordinate"
        raise ConfigurationError(f"The '{name}' must be {count}. Got {_shown(values)} instead.")
    right = np.isfinite(found) & (found >= ge) & (found > gt)
    if not right.all():
        first = int(np.flatnonzero(~right)[0])
        low = f"({gt:g}" if gt > -np.inf else f"[{ge:g}" if ge > -np.inf else "(-inf"
        raise ConfigurationError(
            f"The '{name}' must be numbers in {low}, inf). Got {found[first]:g} at coordinate {first} instead."
        )
    return found


def positive(value: object, name: str, owner: str) -> float:
    """A positive and finite number.

    Args:
        value: the number.
        name: the name of the parameter.
        owner: the thing that has it.

    Raises:
        ConfigurationError: it is another value.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 < float(value) < np.inf:
        raise ConfigurationError(f"The '{name}' of {owner} must be a float in (0, inf). Got {quoted(value)} instead.")
    return float(value)


def level_of(privacy: ArrayLike, size: int) -> Floats:
    """The privacy v of each coordinate: 0 for absolute privacy, 1 for that of epsilon.

    Raises:
        ConfigurationError: it is neither a number in [0, 1] nor one for each coordinate.
    """
    found = _array(privacy)
    found = np.full(size, found) if found is not None and found.ndim == 0 else vector(privacy, "privacy", size)
    wrong = np.flatnonzero(~((found >= 0) & (found <= 1)))
    if len(wrong):
        first = int(wrong[0])
        raise ConfigurationError(
            f"The 'privacy' must be numbers in [0, 1]. Got {found[first]:g} at coordinate {first} instead."
        )
    return found


def within(data: ArrayLike, low: Floats, high: Floats, *, clip: bool) -> Floats:
    """Data within the bounds of their coordinates.

    Args:
        data: a number for each coordinate.
        low, high: the bounds.
        clip: whether a number outside its bounds becomes the nearest one within. It must be finite all the same.

    Raises:
        DataError: there is another number of coordinates, or one outside its bounds.
    """
    found = _array(data)
    if found is None or found.shape != low.shape:
        raise DataError(f"The data must be {len(low)} numbers, one for each coordinate. Got {_shown(data)} instead.")
    right = np.isfinite(found) & (clip | ((found >= low) & (found <= high)))
    if not right.all():
        first = int(np.flatnonzero(~right)[0])
        raise DataError(
            f"The data must be within their bounds, [{low[first]:g}, {high[first]:g}] at coordinate {first}. "
            f"Got {found[first]:g} instead."
        )
    return np.clip(found, low, high)


def _array(values: ArrayLike) -> Floats | None:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _shown(values: ArrayLike) -> str:
    """A value as messages quote it, with the number of its entries if that is what is wrong."""
    found = _array(values)
    return f"{len(found)} numbers" if found is not None and found.ndim == 1 else quoted(values)
