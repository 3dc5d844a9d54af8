"""Short names for experiments, made of the keys that differ."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

_FOLLOW = ("program.aggregation", "evaluation.every")
"""Keys with defaults that depend on other keys. They are left out if the other keys distinguish the experiments."""

_NOTHING = object()


class _Word(NamedTuple):
    """One differing key of one experiment."""

    path: str
    text: str
    """The value. Of a part it is the kind, with the keys that differ among parts of that kind in brackets."""
    is_part: bool


def named_by_difference(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each experiment by the keys that differ and their values. Of a dotted key, only the last part is shown.

    Args:
        tables: experiments as nested tables.
    """
    words = _words(tables, "")
    paths = list(dict.fromkeys(word.path for line in words for word in line))
    for path in _FOLLOW:
        kept = [[word for word in line if word.path != path] for line in words]
        if path in paths and all(
            words[first] == words[second]
            for first in range(len(words))
            for second in range(first)
            if kept[first] == kept[second]
        ):
            words = kept
            paths.remove(path)
    alone = len(paths) == 1
    keys = _short(paths)
    return [", ".join(_in_words(word, keys[word.path], alone) for word in line) for line in words]


def _in_words(word: _Word, key: str, alone: bool) -> str:
    if word.text in ("", "no"):
        return f"{word.text} {key}".strip()
    return word.text if alone and word.is_part else f"{key} {word.text}"


def _short(paths: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, or as many parts from its end as distinguish it from the others."""
    found: dict[str, str] = {}
    for path in paths:
        parts = path.split(".")
        count = next(
            (
                count
                for count in range(1, len(parts))
                if sum(other.split(".")[-count:] == parts[-count:] for other in paths) == 1
            ),
            len(parts),
        )
        found[path] = " ".join(parts[-count:]).replace("_", " ")
    return found


def _words(tables: Sequence[Mapping[str, Any]], before: str) -> list[list[_Word]]:
    """The differing keys of each table."""
    words: list[list[_Word]] = [[] for _ in tables]
    for key in dict.fromkeys(key for table in tables for key in table if key != "kind"):
        values = [table.get(key, _NOTHING) for table in tables]
        if all(value == values[0] for value in values):
            continue
        path = before + key
        if all(isinstance(value, Mapping) for value in values) and len({value.get("kind") for value in values}) == 1:
            found = _words(values, f"{path}.")
        else:
            found = [[_Word(path, *described)] for described in _described(values)]
        for line, new in zip(words, found, strict=True):
            line += new
    return words


def _described(values: Sequence[Any]) -> list[tuple[str, bool]]:
    """The text of each value, and whether the value is a part."""
    texts = ["" if isinstance(value, Mapping) else _value(value) for value in values]
    kinds = [str(value.get("kind", "")) if isinstance(value, Mapping) else None for value in values]
    distinct = {kind for kind in kinds if kind is not None}
    for kind in distinct:
        name = _name(kind, distinct)
        members = [index for index, other in enumerate(kinds) if other == kind]
        inner = named_by_difference([values[index] for index in members])
        for index, words in zip(members, inner, strict=True):
            texts[index] = f"{name} ({words})" if words else name
    return [(text, kind is not None) for text, kind in zip(texts, kinds, strict=True)]


def _name(kind: str, kinds: Collection[str]) -> str:
    """A kind; of a user's own "module:Class", the class alone if no other of the kinds has that name."""
    own = kind.rpartition(":")[2]
    return own if [other.rpartition(":")[2] for other in kinds].count(own) == 1 else kind


def _value(value: Any) -> str:
    """A value as a short text: "" for True, "no" for False and for a missing value."""
    if value is True:
        return ""
    if value is False or value is _NOTHING or value == []:
        return "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " + ".join(_value(inner) or "yes" for inner in value)
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {_value(inner)}".strip() for key, inner in value.items() if key != "kind")
        return f"{value.get('kind', '')} ({rest})" if rest else str(value.get("kind", ""))
    return str(value)
