"""Runs of one experiment with every combination of some values: `covey.sweep` and `covey sweep`."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from covey.api.making import Making, one_by_one
from covey.api.parallel import check_for_processes, in_processes
from covey.api.planning import Combination, Planned, check_with_data, last, members_in, plan, tables_of
from covey.api.running import new_folder
from covey.parts.errors import ConfigurationError, CoveyError, RunError, quoted
from covey.parts.tracebacks import short_traceback
from covey.runtime.experiment import Experiment
from covey.runtime.runs import Run
from covey.view.cards import Card
from covey.view.comparison import figures_of, in_words, spread_of
from covey.view.summary import not_finite, spaced
from covey.view.terminal import shown
from covey.view.words import counted, time_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@short_traceback()
def sweep(
    experiment: Experiment | Mapping[str, Any] | Path | str,
    over: Mapping[str, Sequence[Any]],
    *,
    out: Path | str | None = None,
    data: Path | str | None = None,
    quiet: bool = False,
    extend: bool = False,
    jobs: int = 1,
) -> "Sweep":
    """Run an experiment with every combination of some values.

    Args:
        experiment: the object, its tables, or its TOML file.
        over: the values of each key, such as `{"program.topology.degree": [2, 4], "seed": [1, 2, 3]}`.
        out: the folder of the run folders; by default a new one under `runs/`.
        data: the data folder; by default `COVEY_DATA`.
        quiet: whether to show no bars, and not to print the error of a failed run.
        extend: continue a sweep in its folder. Finished runs are kept, interrupted ones resumed or, without a
            checkpoint, deleted and begun again; missing ones run. Runs are found by their experiments, so that
            further values, such as a seed, may be given.
        jobs: the number of runs at a time, each in a process of its own. It does not change results.

    Returns:
        The runs, each configuration over its seeds, and the errors of those that failed.

    Raises:
        CoveyError: a mistake in any of the experiments, before the first begins; or a folder that cannot be written.
    """
    planned, folder = plan(tables_of(experiment), over), None if out is None else Path(out)

    def failed(name: str, error: CoveyError) -> None:
        if not quiet:
            print(shown(f"The run {name} failed: {error}"), file=sys.stderr)

    return run_planned(planned, folder, data, failed, quiet=quiet, lines=False, extend=extend, jobs=jobs)


def run_planned(
    planned: Sequence[Planned],
    out: Path | None,
    data: Path | str | None,
    failed: Callable[[str, CoveyError], None],
    *,
    quiet: bool,
    lines: bool,
    extend: bool = False,
    jobs: int = 1,
) -> "Sweep":
    """Run what was planned, until it is interrupted.

    Args:
        planned: the planned runs.
        out: the folder of the run folders; by default a new one.
        data: the data folder.
        failed: called with the name of a run that failed, and the error.
        quiet: whether to show no bars.
        lines: whether to print lines instead where there is no terminal.
        extend: keep or resume the runs that the folder has.
        jobs: the number of runs at a time.

    Raises:
        RunError: the folder is not empty, or cannot be written; or one of its runs is of another experiment.
        ConfigurationError, DataError: a configuration cannot work.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ConfigurationError(f"The 'jobs' of a sweep must be an int of at least 1. Got {quoted(jobs)} instead.")
    folder = out or new_folder("sweep")
    members = members_in(folder, planned, extend=extend)
    waiting = [member for member in members if member.before is None or member.before.status != "finished"]
    if jobs > 1:
        check_for_processes(waiting, jobs)
    check_with_data(waiting, data, quiet=quiet)
    done = {member.name: member.before for member in members if member.before and member not in waiting}
    swept = Sweep(folder, len(planned))
    making = Making(folder, len(planned), data, quiet, lines)
    outcomes = one_by_one(waiting, making) if jobs == 1 else in_processes(waiting, making, jobs)
    with closing(outcomes):
        for member, outcome in outcomes:
            if isinstance(outcome, RunError):
                raise outcome
            if isinstance(outcome, CoveyError):
                # The other combinations still run.
                swept.failures[member.name] = outcome
                failed(member.name, outcome)
            elif outcome is not None:
                done[member.name] = outcome
    swept.members = [(one.planned.combination, done[one.name]) for one in members if one.name in done]
    return swept


@dataclass
class Sweep:
    """The outcome of a sweep.

    Attributes:
        folder: that of the run folders.
        planned: the number of its runs.
        members: the runs that ended or were interrupted, with their combinations.
        failures: the errors of the others, by name.
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
        return f"Sweep({str(self.folder)!r}, {len(self)} of {counted(self.planned, 'run')}{failed})"

    def card(self) -> Card:
        """The table of the configurations, for notebooks and terminals."""
        heads, rows = self.table() if self.members else ([], [])
        failures = [f"{name} failed: {error}" for name, error in self.failures.items()]
        title = self.title if self.members else str(self.folder)
        lead = f"{len(self)} of {counted(self.planned, 'run')}"
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
        titled: bool = True,
        size: tuple[float, float] = (7.0, 4.6),
    ) -> "Figure":
        """Draw a metric, with a line for each configuration: the mean over its seeds, and their spread as a band.

        Args:
            metric: a column of `figures` or `network` of the runs.
            against: the horizontal axis.
            out: a file to save it to, as well.
            labels: a name for each line. By default the keys that differ name it.
            titled: add a title that explains lines and bands; a paper has a caption instead.
            size: width and height in inches. A legend of many lines adds to the height.
        """
        from covey import view

        figure = view.curves(self.runs, metric, against, labels, titled=titled, size=size)
        if out is not None:
            view.save(figure, Path(out))
        return figure

    @property
    def runs(self) -> list[Run]:
        """The runs, in the order of their combinations."""
        return [done for _, done in self.members]

    @property
    def is_interrupted(self) -> bool:
        """Whether it was stopped early, so that it can be continued."""
        return len(self) + len(self.failures) < self.planned or any(done.status == "interrupted" for done in self.runs)

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
        """The folder, and the settings that all runs have in common."""
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
    named = (f"{key if full else last(key)} = {_inline(combination[key])}" for key in keys)
    return ", ".join(named) or "all seeds"


def _inline(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, default=lambda found: getattr(found, "__name__", type(found).__name__))
