"""The figures of runs as the cells of a table."""

from collections.abc import Iterable, Mapping
from typing import Any

from covey.runs import Run
from covey.view.words import amount, figure, seconds, time_of


def summary_row(summary: Mapping[str, Any]) -> list[str]:
    """The cells of one run: accuracy of the mean, worst and best node, loss, bytes sent, time."""
    accuracy, loss = (summary["final"].get(name, {}) for name in ("accuracy", "loss"))
    cells = [figure(accuracy.get(part)) for part in ("mean", "min", "max")] + [figure(loss.get("mean"))]
    return [*cells, amount(summary["totals"]["bytes_out"]), seconds(summary["time"])]


def summary_columns(runs: Iterable[Run]) -> list[str]:
    """The headings of `summary_row` over some runs."""
    return ["accuracy", "worst node", "best node", "loss", "bytes sent", time_of({run.clock for run in runs})]
