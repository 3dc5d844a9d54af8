"""Groups of runs of the same experiment, and the settings in which experiments differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from covey.runtime.runs import Run

_SAME = ("seed", "name", "output", "checkpoint", "engine")
"""Keys that may differ among runs of one experiment."""

_LONGEST = 28


@dataclass(frozen=True)
class Group:
    """Runs of one experiment, which differ only in their seeds."""

    label: str
    runs: tuple[Run, ...]
    settings: Mapping[str, Any]
    """The settings by flat keys such as "task.optimizer.lr", without the seed."""


def grouped(runs: Sequence[Run], *, each: bool = False) -> list[Group]:
    """Group runs by experiment, in order of first appearance.

    Args:
        runs: the runs.
        each: make every run its own group, even if only seeds differ.
    """
    settings = [flat(_settings(run)) for run in runs]
    members: dict[Any, list[int]] = {}
    for index, keys in enumerate(settings):
        members.setdefault(index if each else tuple(sorted((key, str(v)) for key, v in keys.items())), []).append(index)
    chosen = [[runs[index] for index in indices] for indices in members.values()]
    kept = [settings[indices[0]] for indices in members.values()]
    labels = _labels(chosen, kept)
    return [Group(*parts) for parts in zip(labels, map(tuple, chosen), kept, strict=True)]


def _settings(run: Run) -> dict[str, Any]:
    """The settings that define an experiment. Of the engine, only the kind counts."""
    kept = {key: value for key, value in run.experiment.items() if key not in _SAME}
    return kept if run.clock == "virtual" else {**kept, "engine": run.experiment["engine"]["kind"]}


def flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted keys. The kind of a part is the value of the part's own key."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{before}{key}."))
        else:
            found[before.removesuffix(".") if key == "kind" else before + key] = value
    return found


def differing(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values differ among tables."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return [key for key in keys if len({str(table.get(key)) for table in tables}) > 1]


def names(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: its folder, with the parent folder if names would repeat."""
    short = [run.folder.resolve().name for run in runs]
    if len(set(short)) == len(short):
        return short
    return [f"{run.folder.resolve().parent.name}/{name}" for run, name in zip(runs, short, strict=True)]


def _labels(chosen: Sequence[Sequence[Run]], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    first = names([runs[0] for runs in chosen])
    keys = differing(settings)
    own = [str(runs[0].experiment.get("name", "run")) for runs in chosen]
    if all(len(runs) == 1 for runs in chosen) and max(map(len, first)) <= _LONGEST:
        labels = first
    elif len(set(own)) == len(own) > 1:
        labels = own
    elif 0 < len(keys) <= 3:
        last = [key.rpartition(".")[2] for key in keys]
        short = last if len(set(last)) == len(last) else keys
        labels = [
            ", ".join(f"{name} {table[key]}" for name, key in zip(short, keys, strict=True) if key in table)
            for table in settings
        ]
    else:
        labels = own if len(chosen) == 1 else first
    if len(set(labels)) < len(labels):
        labels = [f"{label}, seed {runs[0].experiment.get('seed')}" for label, runs in zip(labels, chosen, strict=True)]
    return [
        f"{label} ({len(runs)} seeds)" if len(runs) > 1 else label for label, runs in zip(labels, chosen, strict=True)
    ]
