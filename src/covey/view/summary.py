"""The figures of runs as the cells of a table, and what is to be said below it."""

from collections.abc import Collection, Iterable, Mapping
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


def not_finite(summaries: Iterable[Mapping[str, Any]], shown: Collection[str] = ("accuracy", "loss")) -> str:
    """What is said below a table of runs that shows some metrics; empty where all of them are finite."""
    named = dict.fromkeys(
        name
        for summary in summaries
        for name, value in [*summary["final"].items(), *summary["network"].items()]
        if name in shown and (value is None or (isinstance(value, Mapping) and None in value.values()))
    )
    return f"Not finite, and left out above: {', '.join(named)}." if named else ""


_MOST_NAMED = 10
"""More nodes than this are not named."""


def dropped_nodes(summary: Mapping[str, Any]) -> str:
    """Which nodes left a run, for their models were no longer finite; empty where none did."""
    dropped = summary["dropped_nodes"]
    if not dropped:
        return ""
    after: dict[int, list[str]] = {}
    for one in dropped:
        after.setdefault(one["round"], []).append(str(one["node"]))
    if len(dropped) <= _MOST_NAMED:
        named = "; ".join(f"{', '.join(nodes)} after round {round}" for round, nodes in after.items())
    else:
        named = f"the first after round {min(after)}, the last after round {max(after)}; `covey show --json` names all"
    count = f"{len(dropped):,} of {summary['nodes']:,} nodes"
    return f"Dropped, their models being no longer finite: {count}, {named}."
