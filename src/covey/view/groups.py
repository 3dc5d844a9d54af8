"""Groups of runs of the same experiment, and the settings in which experiments differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covey.parts.errors import ConfigurationError
from covey.runtime.runs import Run
from covey.view.differences import named_by_difference

_SAME = ("seed", "name", "output", "checkpoint", "engine")
"""Keys that may differ among runs of one experiment."""

_LONGEST = 60
"""The greatest length of a name by differing keys, unless folders have longer names."""


@dataclass(frozen=True)
class Group:
    """Runs of one experiment, which differ only in their seeds."""

    name: str
    """The short name of the experiment among the others."""
    label: str
    """The name with the number of seeds, or the label of the user."""
    runs: tuple[Run, ...]
    settings: Mapping[str, Any]
    """The settings by flat keys such as "task.optimizer.lr", without the seed."""


def grouped(runs: Sequence[Run], *, each: bool = False, labels: Sequence[str] = ()) -> list[Group]:
    """Group runs by experiment, in order of first appearance.

    Args:
        runs: the runs.
        each: make every run its own group, even if only seeds differ.
        labels: a label for each group. By default the keys that differ name it.

    Raises:
        ConfigurationError: there are more or fewer labels than groups.
    """
    settings = [flat(_settings(run)) for run in runs]
    members: dict[Any, list[int]] = {}
    for index, keys in enumerate(settings):
        members.setdefault(index if each else tuple(sorted((key, str(v)) for key, v in keys.items())), []).append(index)
    chosen = [[runs[index] for index in indices] for indices in members.values()]
    kept = [settings[indices[0]] for indices in members.values()]
    if labels and len(labels) != len(chosen):
        raise ConfigurationError(
            f"Labels must be as many as the experiments, {len(chosen)}: {'; '.join(_names(chosen, seeds=each))}. "
            f"Got {len(labels)} instead."
        )
    own = labels or _names(chosen, seeds=each)
    shown = labels or [_with_seeds(name, runs) for name, runs in zip(own, chosen, strict=True)]
    return [Group(*parts) for parts in zip(own, shown, map(tuple, chosen), kept, strict=True)]


def _with_seeds(name: str, runs: Sequence[Run]) -> str:
    return f"{name} ({len(runs)} seeds)" if len(runs) > 1 else name


def _settings(run: Run, *, seeds: bool = False) -> dict[str, Any]:
    """The settings that define an experiment, and the seed if asked for. Of the engine, only the kind counts."""
    experiment = run.experiment
    kept = {key: value for key, value in experiment.items() if key not in _SAME}
    if seeds:
        kept["seed"] = experiment.get("seed")
    return kept if run.clock == "virtual" else {**kept, "engine": experiment["engine"]["kind"]}


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


def _names(chosen: Sequence[Sequence[Run]], *, seeds: bool) -> list[str]:
    """A name for each group: the experiment's if all are distinct, else the keys that differ, else the folder's."""
    own = [str(runs[0].experiment.get("name", "run")) for runs in chosen]
    if len(set(own)) == len(own):
        return own
    found = named_by_difference([_settings(runs[0], seeds=seeds) for runs in chosen])
    folders = names([runs[0] for runs in chosen])
    long = max(map(len, found)) > max(_LONGEST, *map(len, folders))
    return folders if long or len(set(found)) < len(found) else found


def names_of_runs(groups: Sequence[Group]) -> dict[Path, str]:
    """The name of each run by its folder: its group's, with the seed if the group has several runs."""
    found: dict[Path, str] = {}
    for group in groups:
        if len(group.runs) == 1:
            found[group.runs[0].folder] = group.name
            continue
        seeds = [run.experiment.get("seed") for run in group.runs]
        folders = names(group.runs)
        for run, seed, folder in zip(group.runs, seeds, folders, strict=True):
            found[run.folder] = f"{group.name}, seed {seed}" if seeds.count(seed) == 1 else folder
    return found
