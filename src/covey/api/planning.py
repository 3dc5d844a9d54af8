"""The runs of a sweep before the first begins: their experiments, their names, and the earlier runs in their folder."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covey.parts.errors import ConfigurationError, CoveyError, RunError, quoted
from covey.parts.parameters import FROM_PYTHON, Part, fields_of, to_table
from covey.runtime.experiment import Experiment, put, read_table
from covey.runtime.prepared import check, prepare
from covey.runtime.runs import Run
from covey.runtime.runs.schema import FACTS, METRICS

Combination = dict[str, Any]
"""The values of the keys in one run."""


def tables_of(experiment: Experiment | Mapping[str, Any] | Path | str) -> dict[str, Any]:
    """The tables of an experiment, in which keys can be set. Parts that no file can hold stay objects."""
    if isinstance(experiment, Experiment):
        return _tables(experiment)
    return dict(experiment) if isinstance(experiment, Mapping) else read_table(experiment)


def _tables(part: Part) -> dict[str, Any]:
    table = to_table(part)
    for name in fields_of(type(part)):
        value = getattr(part, name)
        if isinstance(value, Part):
            table[name] = value if _is_of_python(value) else _tables(value)
    return table


def _is_of_python(part: Part) -> bool:
    """True if a part has something that was given in Python and that its table does not hold."""
    return part.of_python or any(str(value).endswith(FROM_PYTHON) for value in to_table(part).values())


@dataclass(frozen=True)
class Planned:
    """A run of a sweep.

    Attributes:
        name: that of its folder.
        longer: its name with all keys that are set, for a folder where the other name is taken.
        combination: the value of each key.
        experiment: with these values.
    """

    name: str
    longer: str
    combination: Combination
    experiment: Experiment

    @property
    def configuration(self) -> str:
        """The combination without the seed."""
        return repr({key: value for key, value in self.combination.items() if key != "seed"})


def plan(base: Mapping[str, Any], over: Mapping[str, Sequence[Any]]) -> list[Planned]:
    """The runs of a sweep, all of them checked without their data.

    Args:
        base: the tables of the experiment.
        over: the values of each key.

    Raises:
        ConfigurationError: a mistake in one of the experiments, or two that have one name.
    """
    axes = {key: _values(key, values) for key, values in over.items()}
    base = _sharing_data(base)
    # Keys with one value would make names longer without telling runs apart.
    varied = [key for key, values in axes.items() if len(values) > 1]
    planned = []
    for values in itertools.product(*axes.values()):
        combination = dict(zip(axes, values, strict=True))
        table = deepcopy(dict(base))
        for key, value in combination.items():
            put(table, key, deepcopy(value))
        experiment = Experiment.from_table(table)
        check(experiment)
        planned.append(Planned(_named(varied, combination), _named(axes, combination), combination, experiment))
    names = [one.name for one in planned]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"The values of a sweep must give each run another folder. Got '{name}' for {names.count(name)} runs."
            )
    return planned


def _sharing_data(base: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tables with data that were given in Python as one part, so that all runs share the arrays."""
    task = base.get("task")
    if not isinstance(task, Mapping) or isinstance(task.get("dataset", ""), str | Mapping | Part):
        return base
    from covey.learning.dataset import Dataset

    dataset = Dataset.shorthand(task["dataset"])
    return base if dataset is None else {**base, "task": {**task, "dataset": dataset}}


def _values(key: str, given: Any) -> list[Any]:
    """The values of a key as TOML has them, of arrays and parts as well."""
    values = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConfigurationError(f"The values of '{key}' in a sweep must be a list. Got {quoted(given)} instead.")
    plain = [value.item() if hasattr(value, "item") else value for value in values]
    return [to_table(value) if isinstance(value, Part) else value for value in plain]


def _named(keys: Iterable[str], combination: Combination) -> str:
    return "-".join(f"{last(key)}={_short(combination[key])}" for key in keys) or "run"


def last(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2]


def _short(value: Any) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, dict):
        return "-".join(_short(inner) if key == "kind" else f"{key}={_short(inner)}" for key, inner in value.items())
    text = str(getattr(value, "__name__", value))  # A class or a function that was given in Python.
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in text)


@dataclass(frozen=True)
class Member:
    """A run of a sweep and its folder.

    Attributes:
        planned: the run.
        number: its number in the sweep, from 1.
        folder: its folder, which may not exist yet.
        before: the earlier run in the folder; None if it never began.
    """

    planned: Planned
    number: int
    folder: Path
    before: Run | None = None

    @property
    def name(self) -> str:
        return self.folder.name


def members_in(folder: Path, planned: Sequence[Planned], *, extend: bool) -> list[Member]:
    """The runs of a sweep with their folders.

    Args:
        folder: the folder of the run folders.
        planned: the runs.
        extend: find the runs that the folder has, by their experiments; it must be empty otherwise.

    Raises:
        RunError: the folder is not empty, or it has a run of another experiment where one of the sweep would be.
    """
    if not extend:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise RunError(
                f"{folder} is not an empty folder: give another one with --out, or continue its sweep with --extend."
            )
        return [Member(one, number, folder / one.name) for number, one in enumerate(planned, 1)]
    known = _known_runs(folder)
    tables = {run.folder: run.experiment for run in known}
    found = []
    for number, one in enumerate(planned, 1):
        table = one.experiment.to_table()
        before = next((run for run in known if tables[run.folder] == table), None)
        free = [folder / name for name in (one.name, one.longer) if folder / name not in tables]
        if before is None and not free:
            raise RunError(
                f"The run {folder / one.longer} is of another experiment: give the sweep another folder with --out."
            )
        found.append(Member(one, number, free[0] if before is None else before.folder, before))
    return found


def _known_runs(folder: Path) -> list[Run]:
    """The runs in a folder that recorded something."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [Run(inner) for inner in inside if (inner / METRICS).exists() and (inner / FACTS).exists()]


def check_with_data(members: Sequence[Member], data: Path | str | None, *, quiet: bool) -> None:
    """Load the data, the model and the parts of each configuration with its first seed, as before a run.

    Args:
        members: the runs that are to be made.
        data: the data folder.
        quiet: show no progress bar of a download.

    Raises:
        CoveyError: a configuration cannot work.
    """
    firsts = {member.planned.configuration: member for member in reversed(members)}
    for member in reversed(firsts.values()):
        experiment = member.planned.experiment
        settings = {**experiment.engine.compute_settings(), "workers": 1}
        try:
            prepare(experiment, data=None if data is None else Path(data), quiet=quiet, **settings).task.close()
        except CoveyError as error:
            if len(firsts) == 1:
                raise
            raise type(error)(f"{member.name}: {error}") from error
