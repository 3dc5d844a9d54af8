"""Parts made of functions and classes of a user's own: their parameters are those of the signature."""

import copy
import inspect
import types
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, TypeVar

from covey.parts.errors import ConfigurationError, described
from covey.parts.parameters import Part, fields_of, param

_PLAIN = (bool, int, float, str)


class Wrapped(Part):
    """A part that calls a function or class of the user's own."""

    wraps: ClassVar[Callable[..., Any]]
    """The function or class."""
    takes: ClassVar[tuple[str, ...]] = ()
    """The names of its parameters that the part has."""
    asks: ClassVar[frozenset[str]] = frozenset()
    """The names of its parameters that the part gives by itself."""

    @classmethod
    def title(cls) -> str:
        return cls.kind

    @classmethod
    def original(cls) -> type:
        return cls.wraps  # type: ignore[return-value]

    def arguments(self) -> dict[str, Any]:
        """The arguments of one call, by name."""
        return {name: copy.deepcopy(getattr(self, name)) for name in self.takes}


W = TypeVar("W", bound=Wrapped)

_made: dict[tuple[type, str], type[Wrapped]] = {}
"""The classes of parts, so that equal tables make equal parts."""


def wrapped(
    base: type[W], name: str, found: Callable[..., Any], *, positions: int = 0, asks: Collection[str] = ()
) -> type[W]:
    """A class of parts whose parameters are those of a function or class.

    Args:
        base: its base class.
        name: its kind, under which the function or class was found.
        found: the function or class.
        positions: the number of parameters, from the front, that the part gives by position.
        asks: the names of parameters that the part gives by itself, where the signature has them.

    Raises:
        ConfigurationError: there is no signature, or one with other parameters than a part can have.
    """
    known = _made.get((base, name))
    if known is not None and known.wraps is found:
        return known  # type: ignore[return-value]
    parameters = _parameters(base, name, found)
    if len(parameters) < positions:
        raise ConfigurationError(f"The {base.family} {name} must take {positions} arguments. Got {len(parameters)}.")
    members: dict[str, Any] = {"kind": name, "wraps": staticmethod(found), "__doc__": inspect.getdoc(found)}
    members["asks"] = frozenset(one.name for one in parameters if one.name in asks)
    hints = {}
    for parameter in parameters[positions:]:
        if parameter.name in asks or not _can_be_written(parameter.default):
            continue
        if hasattr(base, parameter.name) and parameter.name not in fields_of(base):
            raise ConfigurationError(
                f"The {base.family} {name} has the parameter '{parameter.name}', which parts have already: rename it."
            )
        hints[parameter.name] = hint = _hint(parameter)
        members[parameter.name] = _field(parameter.default, hint)
    members["takes"], members["__annotations__"] = tuple(hints), hints
    _made[base, name] = made = type(getattr(found, "__name__", name), (base,), members)
    return made


def _parameters(base: type[Part], name: str, found: Callable[..., Any]) -> Sequence[inspect.Parameter]:
    """The parameters of a function or class, but not `*these` and `**those`."""
    try:
        try:
            signature = inspect.signature(found, eval_str=True)
        except NameError:  # An annotation that only type checkers see.
            signature = inspect.signature(found)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The {base.family} {name} has no signature: {described(error)}.") from error
    return [parameter for parameter in signature.parameters.values() if not str(parameter).startswith("*")]


def _can_be_written(default: Any) -> bool:
    """Whether a file can hold a default; a parameter with another one keeps it."""
    if isinstance(default, list | tuple):
        return None not in default and all(map(_can_be_written, default))
    return default is None or default is inspect.Parameter.empty or type(default) in _PLAIN


def _hint(parameter: inspect.Parameter) -> Any:
    """The type of a parameter: that of its annotation where parts know such a type, else that of its default."""
    default = parameter.default
    if _is_known(parameter.annotation):
        return parameter.annotation if default is not None else parameter.annotation | None
    return type(default) if type(default) in _PLAIN else Any


def _is_known(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return all(one is type(None) or _is_known(one) for one in arguments)
    if origin is typing.Literal:
        return all(type(one) in _PLAIN for one in arguments)
    return _is_known(arguments[0]) if origin is list else hint in _PLAIN


def _field(default: Any, hint: Any) -> Any:
    doc = "A parameter of the signature." if hint is not Any else "A parameter of the signature, of any type."
    if default is inspect.Parameter.empty:
        return param(doc)
    if isinstance(default, list):
        return param(doc, factory=lambda: list(default))
    return param(doc, default=default)
