"""Typed payloads: classes that declare the entries of messages.

    class Push(Content):
        model: Annotated[Tensor, MODEL]
        weight: Annotated[float, Within(gt=0, lt="nodes")]
        note: str | None = None

    node.send(peers, Push(model=part, weight=0.5), round=t)
    for push in node.usable(inbox, Push):
        total += push.weight * push.model

A message holds the entries in the order of their declaration, and nothing else of the class. An entry with a default is
optional: it is not sent if it has the default, and has the default if it is absent. Entries are checked when they are
sent, and when they are received. Entries that the class does not declare are ignored.
"""

import inspect
import reprlib
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from covey.messages.payloads import Payload, private
from covey.parts.errors import ConfigurationError, ProgramError, unknown
from covey.parts.nodes import NodeId
from covey.runtime.entries import Numbers, fits, in_words, mistaken, narrowed, wanted_by
from covey.runtime.node import Expected, Message, Node, Wanted

C = TypeVar("C", bound="Content")
_REQUIRED = object()
_RESERVED = frozenset({"check", "message", "others", "sender"})
_DEFAULTS = (type(None), bool, int, float, str, bytes)
"""The types of defaults. All contents of a class share them, so they must not be changeable."""
_Form = Sequence[tuple[str, Wanted, bool]]
"""The name of each entry, its type, and whether a message must hold it."""


@dataclass_transform(kw_only_default=True)
class Content:
    """The entries of one message. Subclasses declare them.

    Args:
        entries: the entries of a message to send.
    """

    _form: ClassVar[_Form] = ()
    _defaults: ClassVar[dict[str, Any]] = {}
    _message: Message | None = None

    def __init_subclass__(cls) -> None:
        hints, plain = typing.get_type_hints(cls, include_extras=True), typing.get_type_hints(cls)
        own = [name for name in inspect.get_annotations(cls) if typing.get_origin(hints[name]) is not ClassVar]
        parents = [parent for parent in reversed(cls.__mro__) if parent is not cls and issubclass(parent, Content)]
        inherited = {name: None for parent in parents for name in parent._defaults if name not in own}
        wanted = {name: _declared(cls, name, hints[name], plain[name]) for name in (*inherited, *own)}
        cls._defaults = {name: getattr(cls, name, _REQUIRED) for name in wanted}
        cls._form = tuple((name, wanted[name], cls._defaults[name] is _REQUIRED) for name in wanted)

    def __init__(self, /, **entries: Any) -> None:
        if entries.keys() != self._defaults.keys():
            self._check_names(entries)
        self.__dict__.update(entries)

    def _check_names(self, entries: Collection[str]) -> None:
        """Raise ProgramError if there are unknown entries, or required ones are missing."""
        name = type(self).__name__
        for entry in entries:
            if entry not in self._defaults:
                raise ProgramError(unknown(f"entry of a {name}: '{entry}'", entry, self._defaults))
        for entry, default in self._defaults.items():
            if default is _REQUIRED and entry not in entries:
                raise ProgramError(f"The '{entry}' of a {name} must be given.")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._defaults and not name.startswith("_"):
            raise ProgramError(unknown(f"entry of a {type(self).__name__}: '{name}'", name, self._defaults))
        super().__setattr__(name, value)

    @classmethod
    def _received(cls, message: Message, *, copy: bool) -> Self:
        """The content of a message with entries of the declared types."""
        content, shared = cls.__new__(cls), message.shared
        values = content.__dict__
        for name in cls._defaults:
            if name in shared:
                values[name] = private(shared[name]) if copy else shared[name]
        values["_message"] = message
        return content

    @property
    def message(self) -> Message:
        """The message, if it was received."""
        if self._message is None:
            raise ProgramError(f"A {type(self).__name__} has a message and a sender only if it was received.")
        return self._message

    @property
    def sender(self) -> NodeId:
        """The sender of the message."""
        return self.message.sender

    @property
    def others(self) -> Payload:
        """The entries of the message that the class does not declare, unchecked. They must not be written to."""
        return {name: entry for name, entry in self.message.shared.items() if name not in self._defaults}

    def check(self, node: Any) -> str | None:
        """The reason for which a node cannot use a received content, as in "its lists differ in length", or None.

        Its entries have the declared types.
        """
        return None

    def __repr__(self) -> str:
        shown = (f"{name}={reprlib.repr(self.__dict__[name])}" for name in self._defaults if name in self.__dict__)
        return f"{type(self).__name__}({', '.join(shown)})"


def _declared(cls: type[Content], name: str, hint: Any, plain: Any) -> Wanted:
    """The type of entry that an annotation of a content declares.

    Args:
        cls: the class of the content.
        name: the name of the entry.
        hint: the annotation.
        plain: the annotation without what narrows it.

    Raises:
        ConfigurationError: messages cannot hold such entries.
    """
    if name in _RESERVED or name.startswith("_"):
        raise ConfigurationError(
            f"The entries of the content {cls.__name__} must have other names than {', '.join(sorted(_RESERVED))}, and "
            f"no underscore at the front. Got '{name}' instead."
        )
    wanted, default = wanted_by(hint), getattr(cls, name, _REQUIRED)
    if wanted is None or (default is not _REQUIRED and type(default) not in _DEFAULTS):
        raise ConfigurationError(
            f"The '{name}' of the content {cls.__name__} must be declared as an int, float, bool, str, bytes, Tensor "
            f"or np.ndarray, a list of plain values, or one of several such or None; a default must be plain and no "
            f"list. Got {hint!r}{'' if default is _REQUIRED else f' = {default!r}'} instead."
        )
    if default is not _REQUIRED and (words := mistaken(default, plain)):
        raise ConfigurationError(
            f"The default of the '{name}' of the content {cls.__name__} must be {words}. Got {default!r} instead."
        )
    return wanted


def entries_of(payload: Payload | Content, node: Node) -> Payload:
    """The entries of a payload that a node sends.

    Raises:
        ProgramError: the payload is neither a content nor a dict, or an entry of a content is of another type than
            declared.
    """
    if isinstance(payload, dict):
        return payload
    if not isinstance(payload, Content):
        shown = " ".join(reprlib.repr(payload).split())
        raise ProgramError(f"Node {node.id} must send a dict of entries or a Content. Got {shown} instead.")
    found: dict[str, Any] = {}
    for name, wanted, required in payload._form:
        value = getattr(payload, name)
        if not required:
            default = payload._defaults[name]
            if value is default or (type(value) is type(default) and value == default):
                continue
        if not fits(value, wanted, node):
            raise ProgramError(
                f"The '{name}' of a {type(payload).__name__} that node {node.id} sends must be "
                f"{in_words(wanted, node)}. Got {' '.join(reprlib.repr(value).split())} instead."
            )
        found[name] = value
    return found


def usable(
    node: Node,
    messages: Iterable[Message],
    content: type[C] | None,
    entries: Mapping[str, Wanted],
    *,
    copy: bool = True,
) -> list[Any]:
    """Select the messages that a node can use, and reject the others: `Node.usable`.

    Args:
        node: the node.
        messages: the messages.
        content: the class of their content; None if `entries` declares all.
        entries: the entries that must be there and of a type.
        copy: whether the node may write to the tensors of a content.

    Returns:
        The contents or, without a class, the messages.
    """
    if content is not None and not (isinstance(content, type) and issubclass(content, Content)):
        raise ProgramError(f"The class of usable messages must be derived from Content. Got {content!r} instead.")
    form = _form(content, entries) if entries else content._form if content is not None else ()
    found: list[Any] = []
    for message in messages:
        reason = _mismatch(message.shared, form, node)
        if content is None or reason is not None:
            one: Any = message
        else:
            one = content._received(message, copy=copy)
            reason = one.check(node)
            if reason is not None and not isinstance(reason, str):
                name = content.__name__
                raise ProgramError(f"The 'check' of a {name} must return a reason or None. Got {reason!r} instead.")
        if reason is None:
            found.append(one)
        else:
            node.reject(message, reason)
    return found


def _form(content: type[Content] | None, entries: Mapping[str, Wanted]) -> _Form:
    """The entries of a class of contents, some of them with a narrower type and required."""
    # Others need not be hashable, or equal only if they mean the same.
    if not all(type(wanted) is Numbers or type(wanted).__eq__ is object.__eq__ for wanted in entries.values()):
        return _made_form(content, entries)
    key: Any = (content, *entries.items())
    found = _FORMS.get(key)
    if found is None:
        if len(_FORMS) >= _MOST_FORMS:
            _FORMS.clear()
        found = _FORMS[key] = _made_form(content, entries)
    return found


_FORMS: dict[Any, _Form] = {}
"""Forms of `usable`, by class and entries. They would be built anew for every message."""
_MOST_FORMS = 4096


def _made_form(content: type[Content] | None, entries: Mapping[str, Wanted]) -> _Form:
    for name, wanted in entries.items():
        if not isinstance(wanted, Expected | range | type):
            raise ProgramError(f"The wanted '{name}' must be a type, a range or an Expected. Got {wanted!r} instead.")
    if content is None:
        return [(name, wanted, True) for name, wanted in entries.items()]
    for name in entries:
        if name not in content._defaults:
            raise ProgramError(unknown(f"entry of a {content.__name__}: '{name}'", name, content._defaults))
    return [
        (name, narrowed(wanted, entries[name]), True) if name in entries else (name, wanted, required)
        for name, wanted, required in content._form
    ]


def _mismatch(shared: Payload, form: _Form, node: Node) -> str | None:
    """The difference between the entries of a message and the wanted ones; None without one."""
    for name, wanted, required in form:
        if name not in shared:
            if required:
                return f"it has no '{name}'"
        elif not fits(shared[name], wanted, node):
            return f"its '{name}' is not {in_words(wanted, node)}"
    return None
