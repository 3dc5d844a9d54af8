"""Typed state: classes that declare the values of a node which survive a crash or a resumption.

    class Progress(State):
        age: int = 0
        momentum: Tensor | None = None
        given: dict[NodeId, Tensor] = {}

    kept = node.keep(Progress)
    kept.age += 1

Fields are entries of `node.state`, which checkpoints and `run.states` hold: here "age", "momentum" and, for the value
of node 3, "given.3". The entries of a part's state begin with the part's path in the program, such as "sharing.". A
value is checked when it is assigned, and when it comes from a checkpoint.
"""

import copy
import inspect
import operator
import reprlib
import typing
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, ClassVar

from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.nodes import NodeId
from covey.runtime.entries import fits, in_words, mistaken, wanted_by
from covey.runtime.node import Node, Wanted

_MISSING = object()


class _Fields(type):
    """The metaclass of states, which forbids attributes other than fields, so that a misspelt one is an error."""

    def __new__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> "_Fields":
        return super().__new__(cls, name, bases, {"__slots__": (), **members})


class State(metaclass=_Fields):
    """Typed entries of a node's state. Subclasses declare them.

    Args:
        node: the node.
        of: the path of the part that owns them; "" for the program.
    """

    __slots__ = ("_node", "_prefix")

    _fields: ClassVar[dict[str, "_Field"]] = {}

    def __init_subclass__(cls) -> None:
        hints, plain = typing.get_type_hints(cls, include_extras=True), typing.get_type_hints(cls)
        parents = [parent for parent in reversed(cls.__mro__) if parent is not cls and issubclass(parent, State)]
        inherited = {name: field for parent in parents for name, field in parent._fields.items()}
        declared = [name for name in inspect.get_annotations(cls) if typing.get_origin(hints[name]) is not ClassVar]
        own = [*declared, *(name for name in inherited if name in cls.__dict__ and name not in declared)]
        cls._fields = {**inherited, **{name: _field(cls, name, hints[name], plain[name]) for name in own}}
        for name in own:
            setattr(cls, name, cls._fields[name])

    def __init__(self, node: Node, of: str = "") -> None:
        self._node = node
        self._prefix = f"{of}." if of else ""
        for field in self._fields.values():
            field.begin(self)


class _Field:
    """A field of a state."""

    def __init__(self, name: str, wanted: Wanted, default: Any) -> None:
        self.name = name
        self.wanted = wanted
        self.default = default
        """The initial value; _MISSING without one. None means that there is no entry."""

    def begin(self, state: State) -> None:
        """Check the value of a checkpoint, or set the default."""
        name = state._prefix + self.name
        if name in state._node.state:
            self.check(state, self.name, state._node.state[name])
        elif self.default is not _MISSING:
            self.first(state)

    def first(self, state: State) -> Any:
        """The value of a field without an entry. Unless it is None, it becomes an entry."""
        if self.default is _MISSING:
            raise ProgramError(f"The '{self.name}' in the state of node {state._node.id} has no value yet.")
        if self.default is None:
            return None
        value = state._node.state[state._prefix + self.name] = copy.copy(self.default)
        return value

    def __get__(self, state: State | None, owner: type[State]) -> Any:
        if state is None:
            return self
        value = state._node.state.get(state._prefix + self.name, _MISSING)
        return self.first(state) if value is _MISSING else value

    def __set__(self, state: State, value: Any) -> None:
        self.check(state, self.name, value)
        if value is None and self.default is None:
            self.__delete__(state)
        else:
            state._node.state[state._prefix + self.name] = value

    def __delete__(self, state: State) -> None:
        state._node.state.pop(state._prefix + self.name, None)

    def check(self, state: State, name: str, value: Any) -> None:
        """Raise ProgramError if a value is not of the declared type."""
        if not fits(value, self.wanted, state._node):
            shown = " ".join(reprlib.repr(value).split())
            raise ProgramError(
                f"The '{name}' in the state of node {state._node.id} must be {in_words(self.wanted, state._node)}. "
                f"Got {shown} instead."
            )


class _FieldOfPeers(_Field):
    """A field with one value per peer."""

    def begin(self, state: State) -> None:
        for peer, value in self.__get__(state, type(state)).items():
            self.check(state, f"{self.name}.{peer}", value)

    def __get__(self, state: State | None, owner: type[State]) -> Any:
        return self if state is None else _ByPeer(state, self)

    def __set__(self, state: State, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise ProgramError(
                f"The '{self.name}' in the state of node {state._node.id} must be a dict of peers. "
                f"Got {' '.join(reprlib.repr(value).split())} instead."
            )
        new = dict(value)
        self.__delete__(state)
        self.__get__(state, type(state)).update(new)

    def __delete__(self, state: State) -> None:
        found = self.__get__(state, type(state))
        for peer in [*found]:
            del found[peer]


class _ByPeer(MutableMapping[NodeId, Any]):
    """The values of a field by peer, each a separate entry."""

    __slots__ = ("_field", "_prefix", "_state")

    def __init__(self, state: State, field: _FieldOfPeers) -> None:
        self._state, self._field = state, field
        self._prefix = f"{state._prefix}{field.name}."

    def __getitem__(self, peer: NodeId) -> Any:
        value = self._state._node.state.get(f"{self._prefix}{peer}", _MISSING)
        if value is _MISSING:
            raise KeyError(peer)
        return value

    def __setitem__(self, peer: NodeId, value: Any) -> None:
        id = operator.index(peer)
        self._field.check(self._state, f"{self._field.name}.{id}", value)
        self._state._node.state[f"{self._prefix}{id}"] = value

    def __delitem__(self, peer: NodeId) -> None:
        del self._state._node.state[f"{self._prefix}{peer}"]

    def __iter__(self) -> Iterator[NodeId]:
        start = len(self._prefix)
        names = [name for name in self._state._node.state if name.startswith(self._prefix)]
        return (NodeId(int(name[start:])) for name in names)

    def __len__(self) -> int:
        return sum(name.startswith(self._prefix) for name in self._state._node.state)

    def __repr__(self) -> str:
        return repr(dict(self))


def _field(cls: type[State], name: str, hint: Any, plain: Any) -> _Field:
    """The field that an annotation of a state declares.

    Args:
        cls: the class of the state.
        name: the name of the field.
        hint: the annotation.
        plain: the annotation without what narrows it.

    Raises:
        ConfigurationError: checkpoints cannot hold such values.
    """
    default = cls.__dict__.get(name, _MISSING)
    by_peer = typing.get_origin(hint) in (dict, MutableMapping) and wanted_by(typing.get_args(hint)[0]) is int
    wanted = wanted_by(typing.get_args(hint)[1] if by_peer else hint)
    if wanted is None or (by_peer and default not in (_MISSING, {})):
        raise ConfigurationError(
            f"The '{name}' of the state {cls.__name__} must be declared as an int, float, bool, str, bytes, Tensor or "
            f"np.ndarray, a list of plain values, one of several such or None, or a dict of such by peer, which is "
            f"empty at first. Got {hint!r}{'' if default is _MISSING else f' = {default!r}'} instead."
        )
    if default is not _MISSING and not by_peer and (words := mistaken(default, plain)):
        raise ConfigurationError(
            f"The default of the '{name}' of the state {cls.__name__} must be {words}. Got {default!r} instead."
        )
    return (_FieldOfPeers if by_peer else _Field)(name, wanted, default)
