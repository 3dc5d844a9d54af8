"""Runs in one table: `covey.compare` and `covey compare`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from covey.parts.tracebacks import short_traceback
from covey.runtime.runs import Run, find_runs
from covey.view.comparison import Comparison, compared


@short_traceback()
def compare(
    runs: Run | Path | str | Iterable[Run | Path | str],
    *,
    metrics: Sequence[str] = (),
    labels: Sequence[str] = (),
    each: bool = False,
) -> Comparison:
    """Compare runs in a table, each experiment with mean and standard deviation over its seeds.

    Args:
        runs: a run, its folder, a folder that holds folders of runs, or several of these; a sweep as it is.
        metrics: the columns, each the mean of a metric over nodes or a metric of the network. By default accuracy,
            loss, bytes and time.
        labels: a name for each experiment. By default the keys that differ name it.
        each: give every run its own row, even if only seeds differ.

    Returns:
        The table. `records` has its numbers; `to("latex")`, `to("markdown")` and `to("csv")` are texts.

    Raises:
        CoveyError: a folder holds no run, no run has a metric, or there is not one label for each row.
    """
    return compared(runs_of(runs), each=each, labels=labels, metrics=metrics)


def runs_of(given: Run | Path | str | Iterable[Run | Path | str]) -> list[Run]:
    """The runs of what a user gives: a run, its folder, a folder that holds some, or several of these.

    Raises:
        RunError: a folder is not that of a run and holds none.
    """
    several = [given] if isinstance(given, Run | Path | str) else given
    return [one for run in several for one in ([run] if isinstance(run, Run) else find_runs([run]))]
