"""Several runs in one table: each experiment in a row, with mean and standard deviation over its seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev
from typing import Any

from covey.parts.errors import ConfigurationError, unknown
from covey.runtime.runs import Run
from covey.view.cards import Card
from covey.view.groups import Group, grouped
from covey.view.summary import metrics_of, not_finite, spaced
from covey.view.words import amount, counted, figure, seconds, time_of

Pick = Callable[[Mapping[str, Any]], float | None]
"""A figure of a summary."""
Spread = dict[str, float] | None
"""The mean and the standard deviation of a figure over runs; None if no run has it."""


def _of(metric: str, part: str) -> Pick:
    def pick(summary: Mapping[str, Any]) -> float | None:
        value: float | None = summary["final"].get(metric, {}).get(part)
        return value

    return pick


def _named(metric: str) -> Pick:
    """The mean over nodes of a metric, or the figure of the network of that name."""
    of_nodes = _of(metric, "mean")

    def pick(summary: Mapping[str, Any]) -> float | None:
        value: float | None = of_nodes(summary) if metric in summary["final"] else summary["network"].get(metric)
        return value

    return pick


LEARNED: dict[str, Pick] = {
    "accuracy": _of("accuracy", "mean"),
    "worst node": _of("accuracy", "min"),
    "best node": _of("accuracy", "max"),
    "loss": _of("loss", "mean"),
}
SPENT: dict[str, Pick] = {
    "bytes sent": lambda summary: float(summary["totals"]["bytes_out"]),
    "time": lambda summary: float(summary["time"]),
}


def figures_of(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Pick]:
    """The default columns of a table of some runs: accuracy, loss and metrics if nodes learn, bytes and time."""
    if not any(name in summary["final"] for summary in summaries for name in ("accuracy", "loss")):
        return SPENT
    return {**LEARNED, **{name: _of(name, "mean") for name in metrics_of(summaries)}, **SPENT}


def spread_of(values: Iterable[float | None]) -> Spread:
    """The mean and the sample standard deviation of the known values."""
    known = [value for value in values if value is not None]
    return {"mean": mean(known), "std": stdev(known) if len(known) > 1 else 0.0} if known else None


def in_words(name: str, found: Spread) -> str:
    """A figure with its standard deviation, which is left out if it rounds to zero."""
    if found is None:
        return "-"
    form = {"bytes sent": amount, "time": seconds}.get(name, figure)
    average, spread = form(found["mean"]), form(found["std"])
    return average if float(spread.split()[0]) == 0 else f"{average} ± {spread}"


@dataclass(repr=False)
class Comparison:
    """Runs in a table, one row an experiment.

    Attributes:
        groups: the runs of each row.
        metrics: the metrics to show instead of the default columns.
    """

    groups: Sequence[Group]
    metrics: Sequence[str] = ()

    @cached_property
    def summaries(self) -> list[list[dict[str, Any]]]:
        """The summary of each run, by row."""
        return [[run.summary() for run in group.runs] for group in self.groups]

    @property
    def runs(self) -> list[Run]:
        """All runs, row by row."""
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def figures(self) -> dict[str, Pick]:
        """The columns of the table.

        Raises:
            ConfigurationError: no run has one of the metrics.
        """
        every = [summary for row in self.summaries for summary in row]
        known = {name for summary in every for name in (*summary["final"], *summary["network"])}
        for metric in self.metrics:
            if metric not in known:
                raise ConfigurationError(unknown(f"metric '{metric}' of the runs", metric, known))
        if self.metrics:
            return {metric: _named(metric) for metric in self.metrics}
        return figures_of(every)

    @cached_property
    def spreads(self) -> list[dict[str, Spread]]:
        """The figures of each row."""
        return [{name: spread_of(map(pick, row)) for name, pick in self.figures.items()} for row in self.summaries]

    @property
    def records(self) -> list[dict[str, Any]]:
        """Each row as numbers: the name, the folders of the runs, and mean and standard deviation of each figure."""
        return [
            {"configuration": group.name, "runs": [str(run.folder) for run in group.runs], **spreads}
            for group, spreads in zip(self.groups, self.spreads, strict=True)
        ]

    @property
    def has_seeds(self) -> bool:
        """Whether a row has several runs."""
        return any(len(group.runs) > 1 for group in self.groups)

    @property
    def title(self) -> str:
        """A line above the table."""
        return "mean ± standard deviation over seeds" if self.has_seeds else "runs"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The headings, and the cells of each row. The number of runs is a column if an experiment has several."""
        heads = [time_of({run.clock for run in self.runs}) if name == "time" else spaced(name) for name in self.figures]
        rows = []
        for group, spreads in zip(self.groups, self.spreads, strict=True):
            count = [str(len(group.runs))] if self.has_seeds else []
            rows.append([group.name, *count, *(in_words(name, found) for name, found in spreads.items())])
        return ["experiment", *(["runs"] if self.has_seeds else []), *heads], rows

    @property
    def remarks(self) -> list[str]:
        """Lines below the table."""
        every = [summary for row in self.summaries for summary in row]
        repeated = [group.name for group in self.groups if _has_one_seed_twice(group)]
        note = f"Counted twice, as runs with equal seeds: {', '.join(repeated)}." if repeated else ""
        return [not_finite(every, self.metrics or None), note]

    def card(self) -> Card:
        """The table for notebooks and terminals."""
        heads, rows = self.table()
        return Card(
            self.title,
            f"{counted(len(self.runs), 'run')} of {counted(len(self.groups), 'experiment')}",
            heads,
            rows,
            remarks=self.remarks,
        )

    def __repr__(self) -> str:
        return self.to("markdown")

    def _repr_html_(self) -> str:
        return self.card().html()

    def __rich__(self) -> Any:
        return self.card().rich()

    def to(self, form: str) -> str:
        """The table as text: "latex", "markdown" or "csv"."""
        from covey.view.typesetting import FORMS

        return FORMS[form](self)


def _has_one_seed_twice(group: Group) -> bool:
    seeds = [run.experiment.get("seed") for run in group.runs]
    return len(set(seeds)) < len(seeds)


def compared(
    runs: Sequence[Run], *, each: bool = False, labels: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Comparison:
    """Compare runs. The arguments are those of `covey.compare`."""
    return Comparison(grouped(runs, each=each, labels=labels), metrics)
