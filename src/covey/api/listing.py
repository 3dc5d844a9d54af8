"""The parts that experiments can be made of: `covey.list` and `covey list`."""

import builtins
import json
import typing
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, overload

from covey.parts import kinds
from covey.parts.conversion import expectation
from covey.parts.errors import ConfigurationError, unknown
from covey.parts.parameters import Part, default_of, fields_of, is_required, to_table
from covey.parts.tracebacks import short_traceback
from covey.view.cards import Card

Kind = tuple[str, str]
"""(family, kind)."""


def described(family: str, kind: str) -> dict[str, Any]:
    """A kind and its parameters, as in `covey list --json`."""
    cls = kinds.load(family, kind)
    summary = (cls.__doc__ or "").strip().splitlines()[0]
    return {"family": family, "kind": kind, "summary": summary, "parameters": _parameters(cls)}


def _parameters(cls: type[Part]) -> "builtins.list[dict[str, Any]]":
    found = []
    for name, (hint, limits) in fields_of(cls).items():
        entry: dict[str, Any] = {"name": name, "is": expectation(hint, limits), "doc": limits.doc}
        entry["required"] = is_required(cls, name)
        if not entry["required"]:
            entry["default"] = _default(cls, name)
        table = _table_of(hint)
        if table is not None:
            entry["keys"] = _parameters(table)
        found.append(entry)
    return found


def _table_of(hint: Any) -> type[Part] | None:
    """The part that a parameter is, if it is of no family, so that no other entry has its keys."""
    options = [option for option in (hint, *typing.get_args(hint)) if isinstance(option, type)]
    return next((option for option in options if issubclass(option, Part) and not option.family), None)


def _default(cls: type[Part], name: str) -> Any:
    value = default_of(cls, name)
    return to_table(value) if isinstance(value, Part) else value


def in_words(parameter: dict[str, Any]) -> str:
    """A parameter in one line."""
    default = "required" if parameter["required"] else f"default {json.dumps(parameter['default'], default=str)}"
    return f"{parameter['name']}: {parameter['is']} ({default}). {parameter['doc']}"


def parameters_in_words(entry: dict[str, Any]) -> Iterator[str]:
    """A line for each parameter of a kind; those of a table have its name before theirs, as in `plateau.window`."""
    for parameter in entry["parameters"]:
        yield in_words(parameter)
        inner = [{**key, "name": f"{parameter['name']}.{key['name']}"} for key in parameter.get("keys", ())]
        yield from parameters_in_words({"parameters": inner})


class Kinds(Sequence[dict[str, Any]]):
    """Kinds of parts, each with its parameters; a part is imported when it is looked at.

    Args:
        chosen: the families and the kinds.
    """

    def __init__(self, chosen: Sequence[Kind]) -> None:
        self.chosen = tuple(chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Kinds": ...
    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Kinds":
        return Kinds(self.chosen[index]) if isinstance(index, slice) else described(*self.chosen[index])

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        """The names of the kinds, by family."""
        found: dict[str, tuple[str, ...]] = {}
        for family, kind in self.chosen:
            found[family] = (*found.get(family, ()), kind)
        return found

    def __repr__(self) -> str:
        if len(self.families) > 1:
            return "\n".join(f"{family}: {', '.join(known)}" for family, known in self.families.items())
        lines = []
        for entry in self:
            lines.append(f"{entry['family']} {entry['kind']}: {entry['summary']}")
            lines += [f"    {line}" for line in parameters_in_words(entry)]
        return "\n".join(lines)

    def card(self) -> Card:
        """The kinds as a table, for notebooks and terminals."""
        if len(self.families) > 1:
            return Card(
                "", "", ("family", "kinds"), [(f, ", ".join(k)) for f, k in self.families.items()], figures=False
            )
        rows = [
            row
            for entry in self
            for row in ((entry["kind"], entry["summary"]), *(("", line) for line in parameters_in_words(entry)))
        ]
        return Card(", ".join(self.families), "", rows=rows, figures=False)

    def _repr_html_(self) -> str:
        return self.card().html()

    def __rich__(self) -> Any:
        return self.card().rich()


@short_traceback()
def list(family: str | None = None, kind: str | None = None) -> Kinds:
    """The kinds of parts that experiments can be made of.

    Args:
        family: one family, such as "topology"; by default all. A kind may be named without its family.
        kind: one kind of it, such as "ring".

    Raises:
        ConfigurationError: there is no such family or kind.
    """
    return Kinds(_chosen(family, kind))


def _chosen(family: str | None, kind: str | None) -> Sequence[Kind]:
    """The family and kind of each entry to list. A kind may be given without its family."""
    if family is None:
        return [(family, kind) for family in kinds.built_in() for kind in kinds.known(family)]
    if family not in kinds.built_in():
        found = [(name, family) for name, known in kinds.built_in().items() if family in known]
        if kind is not None or not found:
            configured = kinds.configured("program", family)
            if configured is not None:
                raise ConfigurationError(f"The program '{family}' is no kind: it is {configured}.")
            every = {*kinds.built_in(), *(kind for known in kinds.built_in().values() for kind in known)}
            known = every if kind is None and get_close_matches(family, every, cutoff=0.5) else kinds.built_in()
            raise ConfigurationError(unknown(f"family '{family}'", family, known))
        return found
    if kind is None:
        return [(family, kind) for kind in kinds.known(family)]
    if kind not in kinds.known(family):
        raise ConfigurationError(unknown(f"{family} '{kind}'", kind, kinds.known(family)))
    return [(family, kind)]
