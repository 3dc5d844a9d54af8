"""A reader of untrusted TOML. It refuses texts that are too deep or too long in little time and memory."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covey.parts.errors import cut

_MOST_BYTES = 1 << 24
DEEPEST = 32
"""The greatest depth of nested tables and lists."""
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
# The time that tomllib takes is quadratic in the number of parts of a key.
_DEEP_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{DEEPEST}}}")
_LARGEST = 2**63


def read(path: Path) -> dict[str, Any]:
    """Read the tables of a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the text is not valid or exceeds the limits. The message gives the reason.
    """
    with path.open("rb") as opened:
        content = opened.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
    try:
        return parse(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error


def parse(text: str) -> dict[str, Any]:
    """Parse a text into tables.

    Raises:
        ValueError: the text is not valid or exceeds the limits. The message gives the reason.
    """
    if _DEEP_KEY.search(text):
        raise ValueError(f"a key has more than {DEEPEST} parts")
    try:
        tables = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(cut(str(error))) from error
    except ValueError as error:  # The limit of int() of Python.
        raise ValueError("a number has more than 4,300 digits") from error
    check(tables)
    return tables


_TOO_DEEP = f"more than {DEEPEST} tables and lists are one inside the other"


def check(tables: Mapping[str, Any]) -> None:
    """Refuse tables that exceed the limits, from any source.

    Raises:
        ValueError: the tables are too deep, or an integer needs more than 64 bits.
    """
    left: list[tuple[str, Any, int]] = [("", tables, 0)]
    while left:
        key, value, depth = left.pop()
        if depth > DEEPEST:
            raise ValueError(_TOO_DEEP)
        if isinstance(value, Mapping):
            left += [(name, inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list | tuple):
            left += [(key, inner, depth + 1) for inner in value]
        elif isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            raise ValueError(f"the whole number of {cut(repr(key))} takes more than 64 bits")
