"""Typed parts that check themselves. The type, bounds, default and meaning of a parameter are declared once.

A part (a program, a topology, a network ...) is a class whose annotated fields are its parameters:

    class EpidemicOracle(Topology):
        kind = "epidemic-oracle"
        degree: int = param("Peers that every node sends to in a round.", ge=1, lt="nodes")

A subclass of `Part` becomes a keyword-only dataclass. Experiment files, `covey list`, error messages and the contract
tests all read this declaration. A bound may be the word "nodes": `check` compares it with the number of nodes.
"""

import copy
import dataclasses
import datetime
import functools
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, dataclass_transform

import numpy as np

from covey.parts import rng
from covey.parts.attributes import assigned_in
from covey.parts.conversion import Convertible, coerce, convert, expectation, with_article
from covey.parts.errors import ConfigurationError, quoted, unknown
from covey.parts.limits import Bound, Limits
from covey.parts.mechanisms import Mechanism
from covey.parts.pieces import Piece


def param(
    doc: str,
    *,
    default: Any = MISSING,
    factory: Callable[[], Any] | None = None,
    ge: Bound = None,
    gt: Bound = None,
    le: Bound = None,
    lt: Bound = None,
    choices: tuple[Any, ...] = (),
) -> Any:
    """Declare a parameter of a part.

    Args:
        doc: one line for `covey list`, `--help` and the docs.
        default: the value if none is given. A parameter without a default is required.
        factory: a function that makes the default, if that is mutable or a part.
        ge, gt, le, lt: bounds of a number; the word "nodes" stands for the number of nodes.
        choices: the values that are allowed, if these are few.
    """
    limits = Limits(doc, ge, gt, le, lt, choices)
    if factory is not None:
        return field(default_factory=factory, metadata={"limits": limits})
    return field(default=default, metadata={"limits": limits})


@dataclass(frozen=True)
class Setting:
    """The facts about an experiment that its parts may use. They are the same in every process of a run."""

    nodes: int
    seed: int = 0
    parameters: int = 0
    """The number of values of the flat model."""
    pieces: tuple[Piece, ...] = ()
    """The tensors of the flat model, in order."""
    holders: tuple[int, ...] | None = None
    """The ids of the nodes that hold data, in order; None if all do."""
    sample_shape: tuple[int, ...] = ()
    """The shape of one input of the model."""
    label_counts: np.ndarray | None = None
    """The samples of each class at each node, nodes x classes; None if the data have no classes."""
    rounds: int = 0
    """The rounds of every node, unless the run ends earlier."""
    training_samples: tuple[int, ...] = ()
    """The samples of one training of the task, for each node that holds data."""
    validation_samples: tuple[int, ...] = ()
    """The validation samples of each node that holds data; empty if the hosts alone know them."""
    classes: int = 0
    """The number of classes of the data; 0 if they have none."""
    public_samples: int = 0
    """The number of samples that all nodes have."""
    protects_samples: bool = False
    """True if the task adds noise to trainings to protect each sample."""
    latency: Callable[[int, int], float] | None = None
    """The delay in seconds from one node to another, as the network states it; None before the parts are prepared."""
    training_joules: np.ndarray | None = None
    """The joules that each node spends on one training of the task; None if energy is not measured."""
    battery_joules: np.ndarray | None = None
    """The joules in the battery of each node; None if the network does not say."""
    devices: int = 0
    """The number of kinds of device, which nodes take in turn; 0 if the network does not say."""
    same_start: bool = True
    """True if all nodes start with the same model."""
    adds_gradients: bool = True
    """True if a training moves a model by a weighted sum of gradients, as SGD does."""
    stateless: bool = True
    """True if the optimizer of the task has no state, such as momentum."""
    clock: str = "virtual"
    """The time that clocks of nodes show: "virtual" in simulation, else "real"."""
    losses: tuple[str, ...] = ()
    """The reasons why a message may never arrive, in words; empty if every message arrives."""
    lossy: bool = False
    """True if single messages are lost at random."""
    ordered: bool = True
    """True if messages keep their order over a link."""
    patient: bool = False
    """True if a round continues without messages that do not arrive in time."""
    largest_update: float | None = None
    """The largest distance by which a training of the task moves a model; None if it is not bounded."""

    @property
    def buffers(self) -> int:
        """The number of values of the flat model that are buffers."""
        return sum(piece.size for piece in self.pieces if piece.role == "buffer")

    def generator(self, purpose: str, *key: int) -> np.random.Generator:
        """A generator of public randomness: every node gets the same numbers for the same purpose and key."""
        return rng.generator(self.seed, purpose, *key)


@dataclass_transform(kw_only_default=True, field_specifiers=(param,))
class Part(Convertible):
    """A configurable piece of an experiment. The text of this module describes it."""

    family: ClassVar[str] = ""
    """The family, such as "topology" or "sharing". Parts of a family can take each other's place."""
    kind: ClassVar[str] = ""
    """The name in experiment files."""
    handles_arrays: ClassVar[bool] = True
    """True if a part of a program may write to arrays that it received or handed over."""
    sends_samples: ClassVar[bool] = False
    """True if nodes of a program, or of a part of it, send samples of their data, or values that reveal them. `covey
    check` states it. Without it, a message with a view of the result of `node.samples` is refused; copies and other
    values that are computed from samples are not recognised."""
    of_python: ClassVar[bool] = False
    """True if it holds an object that was given in Python, which its table does not hold."""
    usual: ClassVar[str] = ""
    """The kind that a table without a kind means, if the family has one."""
    short: ClassVar[tuple[str, str] | None] = None
    """The kind, and its parameter, that a bare number or quantity means, if the family has a short form."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclass(kw_only=True)(cls)
        cls.__init__ = _recording_derivations(cls)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Check each parameter. Subclasses check combinations, and derive parameters that were left out."""
        made_with: dict[str, Any] = self.__dict__.get("_made_with", {})
        for name, (hint, limits) in fields_of(type(self)).items():
            value = given = getattr(self, name)
            if isinstance(value, Mapping) and isinstance(default := default_of(type(self), name), Part):
                value = build(hint, value, usual=default.title())
            value = coerce(value, hint, limits, name, self.named())
            object.__setattr__(self, name, value)
            if made_with.get(name) is given:
                made_with[name] = value

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a parameter, with the same checks and derived values as at construction.

        Raises:
            ConfigurationError: a value that construction refuses, too, or an unknown attribute.
        """
        cls = type(self)
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif name not in fields_of(cls):
            if not hasattr(cls, name) and name not in assigned_in(cls):
                raise ConfigurationError(unknown(f"key {quoted(name)} of {self.named()}", name, fields_of(cls)))
            object.__setattr__(self, name, value)
        elif "_made_with" in self.__dict__:
            self.__dict__["_made_with"].setdefault(name, value)
            object.__setattr__(self, name, value)
        else:
            self.__dict__.update(cls(**{**self._given(), name: value}).__dict__)

    def check_again(self) -> None:
        """Check the parameters as at construction. A list, or a part among them, may have changed since.

        Raises:
            ConfigurationError: a value is refused.
        """
        type(self)(**self._given())

    def _given(self) -> dict[str, Any]:
        """The parameters as given or assigned, without derived values."""
        given = {name: getattr(self, name) for name in fields_of(type(self))}
        for name, (before, derived) in self.__dict__.get("_derived", {}).items():
            if given[name] == derived:  # Otherwise the user has changed a derived part since.
                given[name] = before
        return given

    @classmethod
    def title(cls) -> str:
        """The name by which `kinds.resolve` finds the class: its kind, or "module:Class"."""
        from covey.parts import kinds

        named = kinds.is_registered(cls) or (cls.family == "" and "kind" in cls.__dict__)
        return cls.kind if named else f"{cls.__module__}:{cls.__qualname__}"

    @classmethod
    def named(cls) -> str:
        """The family and the title, for messages: kinds of different families share names."""
        return f"the {cls.family} {cls.title()}".replace("  ", " ")

    @property
    def place(self) -> str:
        """The name of its parameter in its program, such as "sharing"; its family where it is no parameter of one."""
        found: str = self.__dict__.get("_place", self.family)
        return found

    @classmethod
    def shorthand(cls, value: object) -> Self | None:
        """The part that a bare number or quantity means, or None if the family has no short form for it."""
        if cls.short is None or isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        kind, name = cls.short
        if isinstance(value, str) and not convert(value, _short_form(cls)[0])[1]:
            return None
        return build(cls, {"kind": kind, name: value})

    @classmethod
    def from_value(cls, value: Any) -> tuple[Any, bool]:
        if isinstance(value, cls):
            return value, True
        short = cls.shorthand(value)
        if short is not None:
            return short, True
        if isinstance(value, Mapping) or (isinstance(value, str) and cls.family):
            return build(cls, value), True
        return value, False

    @classmethod
    def expectation(cls) -> str:
        plural = cls.family.endswith("s")
        what = f"a kind of {cls.family}" if plural else with_article(cls.family or "table")
        return f"{what} or {expectation(*_short_form(cls))}" if cls.short else what

    @classmethod
    def alternatives(cls) -> str:
        from covey.parts import kinds

        names = sorted(kinds.known(cls.family)) if cls.family in kinds.built_in() else []
        if names:
            return f" Known: {', '.join(names)}." if len(names) <= _MOST_KINDS else ""
        return "" if cls.family else f" Its keys: {', '.join(sorted(fields_of(cls)))}."

    @classmethod
    def adopt(cls, name: str, found: Any) -> "type[Self] | None":
        """A part made from another object under the user's "module:Name", or None if the family cannot."""
        return None

    @classmethod
    def original(cls) -> type:
        """The object that the title names: the class itself, or the object that it was adopted from."""
        return cls

    def store_given(self, folder: Path) -> None:
        """Write the object that was given in Python, for processes that read the part's table."""

    def check(self, setting: Setting) -> None:
        """Refuse parameters that cannot work in this experiment. Called once before a run, without its data.

        Args:
            setting: the experiment, without model, label counts and the cost of a training.

        Raises:
            ConfigurationError: a parameter cannot work with this number of nodes.
        """
        for name, (hint, limits) in fields_of(type(self)).items():
            value = getattr(self, name)
            numbers = [] if value is None else value if isinstance(value, list) else [value]
            if limits.depends_on_nodes and not all(limits.admits(number, setting.nodes) for number in numbers):
                expected = expectation(hint, limits)
                raise ConfigurationError(
                    f"The '{name}' of {self.named()} must be {expected}. "
                    f"Got {value!r} instead (nodes is {setting.nodes})."
                )
            if isinstance(value, Part):
                value.check(setting)

    def prepare(self, setting: Setting) -> None:
        """Derive values, and refuse parameters that cannot work with the data. Called once before a run, after `check`.

        Raises:
            ConfigurationError: a parameter cannot work with these data or this model.
        """
        for name in fields_of(type(self)):
            value = getattr(self, name)
            if isinstance(value, Part):
                value.prepare(value.scope(setting))

    def findings(self) -> Mapping[str, str]:
        """The lines of `covey check` about this part once it is prepared: a subject and a sentence. By default none."""
        return {}

    def mechanisms(self, setting: Setting) -> Iterable[Mechanism]:
        """The noise by which this part, without those that it is made of, protects data. Called after `prepare`."""
        return ()

    def ready(self, setting: Setting) -> Self:
        """Check and prepare the part, and return it. For settings that are complete already."""
        self.check(setting)
        self.prepare(setting)
        return self

    def scope(self, setting: Setting) -> Setting:
        """The setting with which this part prepares as a member of another part: narrower if it has fewer values."""
        return setting


_MOST_KINDS = 12
"""With more kinds than this, a message about a value that is none lists none."""


def _recording_derivations(cls: type[Part]) -> Callable[..., None]:
    """The constructor of a part that also records which parameters the part derived, and from which values."""
    construct = cls.__init__

    @functools.wraps(construct)
    def init(self: Part, *values: Any, **named: Any) -> None:
        if type(self) is not cls:
            construct(self, *values, **named)
            return
        given = self.__dict__["_made_with"] = {}
        construct(self, *values, **named)
        del self.__dict__["_made_with"]
        changed = {name: (value, now) for name, value in given.items() if (now := getattr(self, name)) is not value}
        self.__dict__["_derived"] = {name: (value, copy.deepcopy(now)) for name, (value, now) in changed.items()}

    return init


def parts_of(part: Part) -> Iterator[Part]:
    """A part and, recursively, the parts among its parameters."""
    yield part
    for name in fields_of(type(part)):
        value = getattr(part, name)
        for entry in value if isinstance(value, list | tuple) else [value]:
            if isinstance(entry, Part):
                yield from parts_of(entry)


def give_places(part: Part, place: str = "") -> None:
    """Tell all that a part is made of where it stands: "sharing", "sharing.inner", "sharing.others.0" ..."""
    part._place = place
    inside = f"{place}." if place else ""
    for name in fields_of(type(part)):
        value = getattr(part, name)
        if isinstance(value, Part):
            give_places(value, inside + name)
        elif isinstance(value, list | tuple):
            for index, entry in enumerate(value):
                if isinstance(entry, Part):
                    give_places(entry, f"{inside}{name}.{index}")


P = typing.TypeVar("P", bound=Part)

_FIELDS: dict[type, dict[str, tuple[Any, Limits]]] = {}


def fields_of(cls: type) -> dict[str, tuple[Any, Limits]]:
    """The parameters of a part class, in order of declaration: name -> (type, limits)."""
    if cls not in _FIELDS:
        hints = typing.get_type_hints(cls, include_extras=True)
        _FIELDS[cls] = {
            f.name: (hints[f.name], f.metadata.get("limits") or Limits("")) for f in dataclasses.fields(cls) if f.init
        }
    return _FIELDS[cls]


def default_of(cls: type, name: str) -> Any:
    """The default of a parameter of a part class, or MISSING if the parameter is required."""
    declared = next(f for f in dataclasses.fields(cls) if f.name == name)
    return declared.default if declared.default_factory is MISSING else declared.default_factory()


def is_required(cls: type, name: str) -> bool:
    """True if a parameter of a part class has no default."""
    return default_of(cls, name) is MISSING


def _short_form(family: type[Part]) -> tuple[Any, Limits]:
    """The type and limits of the number that the short form of a family takes."""
    from covey.parts import kinds

    assert family.short is not None
    kind, name = family.short
    return fields_of(kinds.load(family.family, kind))[name]


def build(family: type[P], table: Any, *, usual: str = "") -> P:
    """Make the part that a table or a bare kind of an experiment file describes.

    Args:
        family: the base class of the parts that are allowed, or the part itself if there is one kind only.
        table: {"kind": ..., parameters...}, or the kind alone.
        usual: the kind that a table without a kind means. By default that is the kind of the family's short form.

    Raises:
        ConfigurationError: an unknown kind or key, or a missing or wrong parameter.
    """
    from covey.parts import kinds

    if isinstance(table, str):
        table = {"kind": table}
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"The {family.family or family.title()} must be a table. Got {quoted(table)} instead.")
    values = dict(table)
    for key, value in values.items():
        if isinstance(value, str) and value.endswith(FROM_PYTHON):
            raise ConfigurationError(
                f"The '{key}' of the {family.family} was an object of Python "
                f"({value.removesuffix(FROM_PYTHON)[1:]}), which a file cannot hold. Give it from Python."
            )
    cls: type[P] = family
    assumed = ""
    if family.family in kinds.built_in():
        usual = usual or family.usual or (family.short[0] if family.short else "")
        every = ", ".join(sorted(kinds.known(family.family)))
        if "kind" not in values and not usual:
            raise ConfigurationError(f"The {family.family} has no 'kind'. Known: {every}.")
        if "kind" not in values:
            assumed = f" That kind is the default, of {every}."
        cls = kinds.resolve(family, values.pop("kind", usual))
    known = fields_of(cls)
    for key in values:
        if key not in known:
            raise ConfigurationError(
                unknown(f"key {quoted(key)} of {cls.named()}", key, known) + assumed + _elsewhere(cls, key)
            )
    for key, (hint, limits) in known.items():
        if key not in values and is_required(cls, key):
            raise ConfigurationError(
                f"The '{key}' of {cls.named()} is missing: it must be {expectation(hint, limits)}."
            )
    return cls(**values)


def _elsewhere(cls: type[Part], key: str) -> str:
    """A sentence on the parameter of a part whose own key an unknown one is; empty if there is none."""
    for name in fields_of(cls):
        default = default_of(cls, name)
        if isinstance(default, Part) and key in fields_of(type(default)):
            return f" Write {name} = {{ {key} = ... }}."
    return ""


def unknown_kind(family: type[Part], name: str, known: Iterable[str]) -> str:
    """The message for an unknown kind of a family."""
    from covey.parts import kinds

    what = f"{family.family} {quoted(name)}"
    configured = kinds.configured(family.family, name)
    if configured is not None:
        return f"Unknown {what}: it is {configured}."
    if family.short:
        hint, _ = _short_form(family)
        what += f", which is neither a kind nor {expectation(hint, Limits(''))}"
    return f'{unknown(what, name, known)} Your own is written "module:Class".'


def to_table(part: Part, *, nothing: Any = None) -> dict[str, Any]:
    """The part as a table that `build` turns into an equal part.

    Args:
        part: the part to write down.
        nothing: the value that replaces None. If it is None itself, such parameters are left out.
    """
    table: dict[str, Any] = {} if part.family == "" else {"kind": part.title()}
    for name in fields_of(type(part)):
        value = getattr(part, name)
        value = nothing if value is None else _plain(value, nothing)
        if value is not None:
            table[name] = value
    return table


_WRITABLE = str | int | float | datetime.date | datetime.time
"""The types of values, beside tables and lists, that a file can hold."""
FROM_PYTHON = " given in Python>"
"""The end of the string that replaces an object which a file cannot hold."""


def _plain(value: Any, nothing: Any) -> Any:
    if isinstance(value, Part):
        return to_table(value, nothing=nothing)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(entry, nothing) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(entry, nothing) for name, entry in value.items()}
    if value is nothing or value is None or isinstance(value, _WRITABLE):
        return value
    return f"<{type(value).__module__}.{type(value).__qualname__}{FROM_PYTHON}"
