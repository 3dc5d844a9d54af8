"""The types of entries of states and messages, and their declaration by annotations."""

import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NewType, Union

import numpy as np

from covey.parts.errors import ConfigurationError
from covey.parts.limits import Bound, Limits
from covey.runtime.node import Expected, Node, Wanted

_PLAIN = frozenset({bool, int, float, str, bytes, list, type(None)})
_LISTED = frozenset({bool, int, float, str})


@dataclass(frozen=True, slots=True)
class Numbers(Expected):
    """So many numbers in one row: a part of a model."""

    count: int
    dtype: str = "float32"

    def admits(self, value: Any, node: Node) -> bool:
        return getattr(value, "shape", None) == (self.count,) and str(value.dtype).rpartition(".")[2] == self.dtype

    def in_words(self, node: Node) -> str:
        return f"{self.count} {self.dtype} number{'' if self.count == 1 else 's'}"


class Within(Expected):
    """A float, or an int, within bounds. The bound "nodes" is the number of nodes."""

    __slots__ = ("_limits",)

    def __init__(self, *, ge: Bound = None, gt: Bound = None, le: Bound = None, lt: Bound = None) -> None:
        for bound in (ge, gt, le, lt):
            if bound not in (None, "nodes") and (type(bound) not in (int, float) or bound != bound):
                raise ConfigurationError(f"The bounds of a Within must be numbers or 'nodes'. Got {bound!r} instead.")
        self._limits = Limits("", ge, gt, le, lt)

    def admits(self, value: Any, node: Node) -> bool:
        return fits(value, float, node) and self._limits.admits(value, node.nodes)

    def in_words(self, node: Node) -> str:
        return f"a float in {self.interval}"

    @property
    def interval(self) -> str:
        """The bounds in mathematical notation."""
        return self._limits.interval()


@dataclass(frozen=True, slots=True)
class Bytes(Expected):
    """A string of so many bytes."""

    count: int

    def admits(self, value: Any, node: Node) -> bool:
        return type(value) is bytes and len(value) == self.count

    def in_words(self, node: Node) -> str:
        return f"{self.count} bytes"


@dataclass(frozen=True, slots=True)
class Exactly(Expected):
    """One value, which `words` describes."""

    value: bool | int | str | bytes
    words: str

    def admits(self, value: Any, node: Node) -> bool:
        return type(value) is type(self.value) and bool(value == self.value)

    def in_words(self, node: Node) -> str:
        return self.words


@dataclass(frozen=True, slots=True)
class Among(Expected):
    """A list of some of known ids, or of all or none, each once and in their order."""

    ids: Sequence[int]

    def admits(self, value: Any, node: Node) -> bool:
        if type(value) is not list or len(value) > len(self.ids) or not fits(value, _ListOf(int), node):
            return False
        listed = {*value}
        return [id for id in self.ids if id in listed] == value

    def in_words(self, node: Node) -> str:
        return f"a list of some of the ids {', '.join(map(str, self.ids))}, in this order"


@dataclass(frozen=True, slots=True)
class _Narrowed(Expected):
    """A value of a declared type that is also of a narrower one: `Numbers` may be a tensor or an array."""

    declared: Wanted
    narrower: Wanted

    def admits(self, value: Any, node: Node) -> bool:
        return fits(value, self.declared, node) and fits(value, self.narrower, node)

    def in_words(self, node: Node) -> str:
        if self.declared is int and isinstance(self.narrower, Within):
            return f"an int in {self.narrower.interval}"
        return in_words(self.narrower, node)


@dataclass(frozen=True, slots=True)
class _ListOf(Expected):
    """A list whose items are all of one type."""

    item: type

    def admits(self, value: Any, node: Node) -> bool:
        kinds = {*map(type, value)} if type(value) is list else {None}
        return kinds <= ({int, float} if self.item is float else {self.item})

    def in_words(self, node: Node) -> str:
        return f"a list of {self.item.__name__}s"


@dataclass(frozen=True, slots=True)
class _Either(Expected):
    """A value of one of several types."""

    options: tuple[Wanted, ...]

    def admits(self, value: Any, node: Node) -> bool:
        return any(fits(value, option, node) for option in self.options)

    def in_words(self, node: Node) -> str:
        return " or ".join(in_words(option, node) for option in self.options)


def fits(value: Any, wanted: Wanted, node: Node) -> bool:
    """True if a value is of the wanted type. A bool is not an int, and an int is a float."""
    if isinstance(wanted, Expected):
        return wanted.admits(value, node)
    if isinstance(wanted, range):
        return type(value) is int and value in wanted
    if wanted in _PLAIN:
        return type(value) is wanted or (wanted is float and type(value) is int)
    return isinstance(value, wanted)


def in_words(wanted: Wanted, node: Node) -> str:
    """A description of the values that are wanted, as in "an int in [0, 5)"."""
    if isinstance(wanted, Expected):
        return wanted.in_words(node)
    if isinstance(wanted, range):
        return f"an int in [{wanted.start}, {count_in_words(wanted.stop)})"
    if wanted is type(None):
        return "None"
    return f"{'an' if wanted is int else 'a'} {wanted.__name__}"


def count_in_words(number: int) -> str:
    """A number, as a power of two if it is a large one."""
    return f"2**{number.bit_length() - 1}" if number > 1 << 20 and number.bit_count() == 1 else str(number)


def narrowed(declared: Wanted, narrower: Wanted) -> Wanted:
    """The type of the values of both types."""
    within = (
        declared is int
        if isinstance(narrower, range)
        else isinstance(narrower, Expected) and narrower.is_within(declared)
    )
    return narrower if within else _Narrowed(declared, narrower)


def wanted_by(hint: Any) -> Wanted | None:
    """The type of entry that an annotation declares, or None if it declares none.

    Args:
        hint: a type, a list of one plain type, a union of these such as `Tensor | None`, or an `Annotated` with any
            argument of `usable`, such as `Annotated[int, range(5)]`.
    """
    if isinstance(hint, NewType):
        return wanted_by(hint.__supertype__)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        declared = wanted_by(arguments[0])
        narrower = [wanted for wanted in hint.__metadata__ if isinstance(wanted, Expected | range)]
        for one in narrower:
            declared = one if declared is None else narrowed(declared, one)
        return declared
    if origin in (Union, types.UnionType):
        options = [wanted_by(argument) for argument in arguments]
        found = tuple(option for option in options if option is not None)
        return _Either(found) if len(found) == len(options) else None
    if origin is list:
        item = wanted_by(arguments[0])
        return _ListOf(item) if isinstance(item, type) and item in _LISTED else None
    if origin is np.ndarray:
        return np.ndarray
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return hint if isinstance(hint, type) and (hint in _PLAIN or hint is np.ndarray or hint is tensor) else None


def mistaken(default: Any, hint: Any) -> str | None:
    """A description of the values that an annotation without narrower types declares, if a default is none of them."""
    wanted, any_node = wanted_by(hint), typing.cast(Node, None)
    return None if wanted is None or fits(default, wanted, any_node) else in_words(wanted, any_node)
