"""Runs of one experiment with every combination of some values: `covey.sweep` and `covey sweep`."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from covey.api.running import new_folder, resume, run
from covey.parts.errors import ConfigurationError, CoveyError, RunError, quoted
from covey.parts.parameters import Part, to_table
from covey.parts.tracebacks import short_traceback
from covey.runtime.experiment import Experiment, put, read_table
from covey.runtime.prepared import check
from covey.runtime.runs import Run
from covey.runtime.runs.schema import CHECKPOINTS, FACTS, METRICS
from covey.view.cards import Card
from covey.view.comparison import figures_of, in_words, spread_of
from covey.view.progress import ProgressDisplay
from covey.view.summary import not_finite, spaced
from covey.view.words import time_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Combination = dict[str, Any]
"""The values of the keys in one run."""


@short_traceback()
def sweep(
    experiment: Experiment | Mapping[str, Any] | Path | str,
    over: Mapping[str, Sequence[Any]],
    *,
    out: Path | str | None = None,
    data: Path | str | None = None,
    quiet: bool = False,
    extend: bool = False,
) -> "Sweep":
    """Run an experiment with every combination of some values.

    Args:
        experiment: the object, its tables, or its TOML file.
        over: the values of each key, such as `{"program.topology.degree": [2, 4], "seed": [1, 2, 3]}`.
        out: the folder of the run folders; by default a new one under `runs/`.
        data: the data folder; by default `COVEY_DATA`.
        quiet: whether to show no bars.
        extend: continue a sweep in its folder. Finished runs are kept, interrupted ones resumed or, without a
            checkpoint, deleted and begun again; missing ones run.

    Returns:
        The runs, each configuration over its seeds, and the errors of those that failed.

    Raises:
        CoveyError: a mistake in any of the experiments, before the first begins; or a folder that cannot be written.
    """
    planned = plan(tables_of(experiment), over)
    return run_planned(
        planned, None if out is None else Path(out), data, lambda *_: None, quiet=quiet, lines=False, extend=extend
    )


def tables_of(experiment: Experiment | Mapping[str, Any] | Path | str) -> dict[str, Any]:
    """The tables of an experiment, in which keys can be set."""
    if isinstance(experiment, Experiment):
        return experiment.to_table()
    return deepcopy(dict(experiment)) if isinstance(experiment, Mapping) else read_table(experiment)


@dataclass(frozen=True)
class Planned:
    """A run of a sweep.

    Attributes:
        name: that of its folder.
        combination: the value of each key.
        experiment: with these values.
    """

    name: str
    combination: Combination
    experiment: Experiment


def plan(base: Mapping[str, Any], over: Mapping[str, Sequence[Any]]) -> list[Planned]:
    """The runs of a sweep, all of them checked.

    Args:
        base: the tables of the experiment.
        over: the values of each key.

    Raises:
        ConfigurationError: a mistake in one of the experiments, or two that have one name.
    """
    axes = {key: _values(key, values) for key, values in over.items()}
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
        name = "-".join(f"{_last(key)}={_short(combination[key])}" for key in varied) or "run"
        planned.append(Planned(name, combination, experiment))
    names = [one.name for one in planned]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"The values of a sweep must give each run another folder. Got '{name}' for {names.count(name)} runs."
            )
    return planned


def _values(key: str, given: Any) -> list[Any]:
    """The values of a key as TOML has them, of arrays and parts as well."""
    values = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConfigurationError(f"The values of '{key}' in a sweep must be a list. Got {quoted(given)} instead.")
    plain = [value.item() if hasattr(value, "item") else value for value in values]
    return [to_table(value) if isinstance(value, Part) else value for value in plain]


def run_planned(
    planned: Sequence[Planned],
    out: Path | None,
    data: Path | str | None,
    failed: Callable[[str, CoveyError], None],
    *,
    quiet: bool,
    lines: bool,
    extend: bool = False,
) -> "Sweep":
    """Run what was planned, one run after the other, until one is interrupted.

    Args:
        planned: what to run.
        out: the folder of the run folders; by default a new one.
        data: the data folder.
        failed: called with the name of a run that failed, and why.
        quiet: whether to show no bars.
        lines: whether to print lines instead where there is no terminal.
        extend: keep or resume the runs that the folder has.

    Raises:
        RunError: the folder is not empty, or cannot be written; or one of its runs is of another experiment.
    """
    folder = out or new_folder("sweep")
    known = _known_runs(folder, planned) if extend else {}
    if not extend and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{folder} is not an empty folder: give another one with --out.")
    swept = Sweep(folder, len(planned))
    for number, one in enumerate(planned, 1):
        before = known.get(one.name)
        if before is not None and before.status == "finished":
            swept.members.append((one.combination, before))
            continue
        title, experiment = f"[{number}/{len(planned)}] {one.name}", one.experiment
        nodes = experiment.network.nodes
        try:
            with ProgressDisplay(title, experiment.rounds, nodes, silent=quiet, lines=lines) as display:
                if before is not None and any((before.folder / CHECKPOINTS).glob("*")):
                    done = resume(before.folder, data=data, progress=display, quiet=quiet)
                else:
                    if before is not None and before.status != "running":
                        shutil.rmtree(before.folder)  # Without a checkpoint it cannot be resumed.
                    done = run(experiment, out=folder / one.name, data=data, progress=display, quiet=quiet)
        except RunError:
            raise
        except CoveyError as error:
            # The other combinations still run.
            swept.failures[one.name] = error
            failed(one.name, error)
            continue
        swept.members.append((one.combination, done))
        if done.status == "interrupted":
            break
    return swept


def _known_runs(folder: Path, planned: Sequence[Planned]) -> dict[str, Run]:
    """The runs of a sweep that are there already, by name.

    Raises:
        RunError: a run has another experiment than the sweep would give it.
    """
    found: dict[str, Run] = {}
    for one in planned:
        inner = folder / one.name
        if not (inner / METRICS).exists() or not (inner / FACTS).exists():
            continue  # It never began, or was killed before it recorded anything.
        found[one.name] = Run(inner)
        if found[one.name].experiment != one.experiment.to_table():
            raise RunError(f"The run {inner} is of another experiment: give the sweep another folder with --out.")
    return found


@dataclass
class Sweep:
    """The outcome of a sweep.

    Attributes:
        folder: that of the run folders.
        planned: how many runs it has.
        members: those that came to an end or were interrupted, with their combinations.
        failures: why others failed, by name.
    """

    folder: Path
    planned: int
    members: list[tuple[Combination, Run]] = field(default_factory=list)
    failures: dict[str, CoveyError] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"Sweep({str(self.folder)!r}, {len(self)} of {self.planned} runs{failed})"

    def card(self) -> Card:
        """The table of the configurations, for notebooks and terminals."""
        heads, rows = self.table() if self.members else ([], [])
        failures = [f"{name} failed: {error}" for name, error in self.failures.items()]
        title = self.title if self.members else str(self.folder)
        lead = f"{len(self)} of {self.planned} runs"
        return Card(title, lead, heads, rows, remarks=[not_finite(self.summaries), *failures])

    def _repr_html_(self) -> str:
        return self.card().html()

    def __rich__(self) -> Any:
        return self.card().rich()

    def plot(
        self,
        metric: str = "accuracy",
        against: Literal["rounds", "time", "bytes", "energy"] = "rounds",
        out: Path | str | None = None,
        *,
        labels: Sequence[str] = (),
    ) -> "Figure":
        """Draw a metric, with a line for each configuration: the mean over its seeds, and their spread as a band.

        Args:
            metric: a column of `figures` or `network` of the runs.
            against: the horizontal axis.
            out: a file to save it to, as well.
            labels: a name for each line. By default the keys that differ name it.
        """
        from covey import view

        figure = view.curves(self.runs, metric, against, labels)
        if out is not None:
            view.save(figure, Path(out))
        return figure

    @property
    def runs(self) -> list[Run]:
        """The runs, in the order of their combinations."""
        return [done for _, done in self.members]

    @property
    def is_interrupted(self) -> bool:
        """Whether a run was stopped early."""
        return any(done.status == "interrupted" for done in self.runs)

    @cached_property
    def _summaries(self) -> list[dict[str, Any]]:
        return [done.summary() for done in self.runs]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """The summary of each run."""
        if len(self._summaries) != len(self.members):
            del self._summaries
        return self._summaries

    @property
    def varied(self) -> list[str]:
        """The keys of which the runs have several values."""
        keys = self.members[0][0] if self.members else {}
        return [key for key in keys if any(values[key] != self.members[0][0][key] for values, _ in self.members)]

    @property
    def title(self) -> str:
        """The folder, and what all runs have in common of what was set."""
        varied = self.varied
        same = [f"{key} = {_inline(value)}" for key, value in self.members[0][0].items() if key not in varied]
        return ", ".join([f"{self.folder}: mean ± standard deviation over seeds", *same])

    @property
    def records(self) -> list[dict[str, Any]]:
        """Each configuration over its seeds: its runs, and mean and spread of its figures."""
        records: dict[str, dict[str, Any]] = {}
        members: dict[str, list[dict[str, Any]]] = {}
        for (combination, _), summary in zip(self.members, self.summaries, strict=True):
            label = _label(combination, [key for key in combination if key != "seed"], full=True)
            members.setdefault(label, []).append(summary)
            short = _label(combination, [key for key in self.varied if key != "seed"], full=False)
            records.setdefault(label, {"configuration": label, "short": short})
        figures = figures_of(self.summaries)
        for label, summaries in members.items():
            records[label]["runs"] = [summary["run"] for summary in summaries]
            records[label] |= {name: spread_of(map(pick, summaries)) for name, pick in figures.items()}
        return [*records.values()]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(headings, the cells of each configuration)."""
        figures = figures_of(self.summaries)
        heads = ["configuration", "runs", *map(spaced, figures)]
        heads[-1] = time_of({done.clock for done in self.runs})
        rows = [
            [record["short"], str(len(record["runs"])), *(in_words(name, record[name]) for name in figures)]
            for record in self.records
        ]
        return heads, rows


def _label(combination: Combination, keys: Sequence[str], *, full: bool) -> str:
    """Some keys and their values."""
    named = (f"{key if full else _last(key)} = {_inline(combination[key])}" for key in keys)
    return ", ".join(named) or "all seeds"


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _inline(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def _short(value: Any) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, dict):
        return "-".join(_short(inner) if key == "kind" else f"{key}={_short(inner)}" for key, inner in value.items())
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in str(value))
