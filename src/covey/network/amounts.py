"""The short form of a part: one number, or one number with a unit."""

import re


def is_amount(value: object) -> bool:
    """Whether `value` is a number, or a string that begins like one ("20ms"), rather than the name of a kind."""
    if isinstance(value, str):
        return re.match(r"\s*[-+]?\.?\d", value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)
