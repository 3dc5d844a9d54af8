"""The attributes that the methods of a class assign, read from their byte code."""

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType

_ASSIGNED: dict[type, frozenset[str]] = {}


def assigned_in(cls: type) -> frozenset[str]:
    """The names of the attributes that methods of a class or of its bases assign."""
    if cls not in _ASSIGNED:
        members = [member for owner in cls.__mro__ for member in vars(owner).values()]
        _ASSIGNED[cls] = frozenset(name for member in members for code in _codes(member) for name in _stored(code))
    return _ASSIGNED[cls]


def _codes(member: object) -> Iterator[CodeType]:
    """The code of a method, a static or class method, or a property."""
    if isinstance(member, property):
        for function in (member.fget, member.fset):
            yield from _codes(function)
        return
    if isinstance(member, staticmethod | classmethod | functools.cached_property):
        member = member.func if isinstance(member, functools.cached_property) else member.__func__
    if callable(member):
        function = inspect.unwrap(member)
        if inspect.isfunction(function):
            yield function.__code__


def _stored(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _stored(constant)
