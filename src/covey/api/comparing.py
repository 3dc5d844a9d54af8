"""Runs in one table: `covey.compare` and `covey compare`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from covey.parts.tracebacks import short_traceback
from covey.runtime.runs import Run, find_runs
from covey.view.comparison import Comparison, compared


@short_traceback()
def compare(
    runs: Path | str | Iterable[Run | Path | str],
    *,
    metrics: Sequence[str] = (),
    labels: Sequence[str] = (),
    each: bool = False,
) -> Comparison:
    """Compare runs in a table, each experiment with mean and standard deviation over its seeds.

    Args:
        runs: the runs, their folders, or folders that hold folders of runs; a sweep as it is.
        metrics: the columns, each the mean of a metric over nodes or a metric of the network. By default accuracy,
            loss, bytes and time.
        labels: a name for each experiment. By default the keys that differ name it.
        each: give every run its own row, even if only seeds differ.

    Returns:
        The table. `records` has its numbers; `to("latex")`, `to("markdown")` and `to("csv")` are texts.

    Raises:
        CoveyError: a folder holds no run, no run has a metric, or there is not one label for each row.
    """
    given = [runs] if isinstance(runs, Path | str) else runs
    found = [one for run in given for one in ([run] if isinstance(run, Run) else find_runs([run]))]
    return compared(found, each=each, labels=labels, metrics=metrics)
