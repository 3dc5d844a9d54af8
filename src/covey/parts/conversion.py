"""The declared types of parameters: their conversion from values of a file, and their descriptions."""

import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from covey.parts.errors import ConfigurationError, quoted
from covey.parts.limits import Limits
from covey.parts.quantities import Quantity

_LARGEST = 2**63
"""The bound of whole numbers: they have 64 bits in TOML, in arrays and in the run's database."""
_LONGEST_PATH = 4096


class Convertible:
    """A class that parameters may be declared with, and that makes itself from the values of a file."""

    @classmethod
    def from_value(cls, value: Any) -> tuple[Any, bool]:
        """The converted value, and True if it fits the class."""
        return value, isinstance(value, cls)

    @classmethod
    def expectation(cls) -> str:
        """A description of the values that fit the class."""
        return "a value"

    @classmethod
    def alternatives(cls) -> str:
        """A sentence on the values that fit the class, after a message; empty if there is nothing to list."""
        return ""


def expectation(hint: Any, limits: Limits) -> str:
    """A description of the values that are allowed, as in "an int in [1, nodes)"."""
    if limits.choices:
        return "one of " + ", ".join(repr(choice) for choice in limits.choices)
    interval = limits.interval()
    suffix = f" in {interval}" if interval else ""
    origin = typing.get_origin(hint)
    if origin is Annotated and isinstance(hint.__metadata__[0], Quantity):
        quantity: Quantity = hint.__metadata__[0]
        return f'{with_article(quantity.name)} such as "{quantity.example}"{suffix}'
    if origin in (Union, types.UnionType):
        options = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return " or ".join(expectation(option, limits) for option in options)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if origin in (list, tuple):
        return f"a list, each {expectation(typing.get_args(hint)[0], limits)}"
    if isinstance(hint, type) and issubclass(hint, Convertible):
        return hint.expectation()
    names = {int: "an int", float: "a number", bool: "true or false", str: "a string", Path: "a path"}
    number = hint in (int, float)
    return names.get(hint, "a table" if origin is dict or hint is dict else "a value") + (suffix if number else "")


def with_article(name: str) -> str:
    """A noun after "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def coerce(value: Any, hint: Any, limits: Limits, name: str, owner: str) -> Any:
    """Bring `value` to the declared type and check its bounds.

    Raises:
        ConfigurationError: the value does not fit. The text names the key, the right values, and the value.
    """
    made, fits = convert(value, hint)
    if fits and limits.choices:
        fits = made in limits.choices
    if fits and not limits.choices:
        numbers = made if isinstance(made, list | tuple) else [made]
        fits = all(
            limits.admits(number)
            for number in numbers
            if isinstance(number, int | float) and not isinstance(number, bool)
        )
    if not fits:
        raise ConfigurationError(
            f"The '{name}' of {owner} must be {expectation(hint, limits)}. Got {quoted(value)} instead.{_known(hint)}"
        )
    return made


def _known(hint: Any) -> str:
    """A sentence on the parts that a type allows; empty if it is no type of parts."""
    options = [option for option in (hint, *typing.get_args(hint)) if isinstance(option, type)]
    return "".join(option.alternatives() for option in options if issubclass(option, Convertible))


def convert(value: Any, hint: Any) -> tuple[Any, bool]:
    """The converted value, and True if it has the type `hint`."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value, True
    if origin is Annotated:
        quantity = hint.__metadata__[0]
        if isinstance(quantity, Quantity) and isinstance(value, str):
            parsed = quantity.parse(value)
            return parsed, parsed is not None
        return convert(value, typing.get_args(hint)[0])
    if origin in (Union, types.UnionType):
        for option in typing.get_args(hint):
            made, fits = convert(value, option)
            if fits:
                return made, True
        return value, False
    if hint is type(None):
        return None, value is None
    if origin is Literal:
        return value, value in typing.get_args(hint)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return value, False
        item = typing.get_args(hint)[0]
        converted = [convert(entry, item) for entry in value]
        return origin(made for made, _ in converted), all(fits for _, fits in converted)
    if origin is dict or hint is dict:
        return value, isinstance(value, Mapping)
    if isinstance(hint, type) and issubclass(hint, Convertible):
        return hint.from_value(value)
    if hint is bool:
        return value, isinstance(value, bool)
    if hint is int:
        return value, isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    if hint is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        fits = fits and (abs(value) < _LARGEST if isinstance(value, int) else not math.isnan(value))
        return (float(value), True) if fits else (value, False)
    if hint is Path:
        fits = isinstance(value, str | Path) and len(str(value)) <= _LONGEST_PATH and "\0" not in str(value)
        return (Path(value), True) if fits else (value, False)
    if isinstance(hint, type):
        return value, isinstance(value, hint)
    return value, True
