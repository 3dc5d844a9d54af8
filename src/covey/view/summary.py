"""The figures of runs as cells of a table, and the notes below it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from covey.runtime.runs import Run
from covey.view.epsilons import first
from covey.view.words import amount, figure, seconds, time_of


def summary_table(runs: Sequence[Run], summaries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings, and the cells of each run: accuracy (mean, worst, best), loss, metrics if runs learn; bytes; time.

    The last is the epsilon, if a run has one.
    """
    columns = ["bytes sent", time_of({run.clock for run in runs})]
    rows = [[amount(summary["totals"]["bytes_out"]), seconds(summary["time"])] for summary in summaries]
    if any(name in summary["final"] for summary in summaries for name in ("accuracy", "loss")):
        names = metrics_of(summaries)
        columns = ["accuracy", "worst node", "best node", "loss", *map(spaced, names), *columns]
        rows = [[*_learned(summary, names), *row] for summary, row in zip(summaries, rows, strict=True)]
    if any(summary["privacy"] for summary in summaries):
        columns = [*columns, "epsilon"]
        rows = [[*row, first(summary["privacy"])] for summary, row in zip(summaries, rows, strict=True)]
    return columns, rows


def _learned(summary: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    accuracy, *others = (summary["final"].get(name, {}) for name in ("accuracy", "loss", *names))
    cells = [accuracy.get(part) for part in ("mean", "min", "max")] + [other.get("mean") for other in others]
    return [figure(cell) for cell in cells]


def metrics_of(summaries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of the metrics of some runs."""
    return [*dict.fromkeys(name for summary in summaries for name in summary["metrics"])]


def spaced(column: str) -> str:
    """The name of a column, as headings have it."""
    return column.replace("_", " ")


def not_finite(summaries: Sequence[Mapping[str, Any]], shown: Collection[str] | None = None) -> str:
    """A note on metrics that are not finite, for a table that shows some metrics; empty if all are finite."""
    shown = ("accuracy", "loss", *metrics_of(summaries)) if shown is None else shown
    named = dict.fromkeys(
        name
        for summary in summaries
        for name, value in [*summary["final"].items(), *summary["network"].items()]
        if name in shown and (value is None or (isinstance(value, Mapping) and None in value.values()))
    )
    return f"Not finite, and left out above: {', '.join(named)}." if named else ""


_MOST_NAMED = 10
"""The greatest number of nodes that are named."""


def dropped_nodes(summary: Mapping[str, Any]) -> str:
    """A note on the nodes that were dropped because their models were not finite; empty without such nodes."""
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
    return f"Dropped, because their models were not finite: {count}, {named}."


_WHY = {
    "unread": "their receiver did not take them in their round",
    "late": "they arrived after their receiver had ended their round",
    "duplicate": "their sender had already sent a message with that tag in that round",
    "left-over": "their receiver did not take them before the programs ended",
    "ended": "their receiver's program had ended",
    "away": "their receiver was away",
    "unusable": "their receiver could not use them",
    "not-finite": "they contained numbers that are not finite",
    "inbox-full": "the inbox of their receiver was full",
    "too-early": "their round was too far ahead of their receiver's",
}
_HOW = {
    "unread": "Receive a message that was sent with a 'round' by its 'tag' and 'round'.",
    "late": "Wait for such messages with 'receive', or send them without a 'round'.",
    "duplicate": "Give each message of a round another 'tag'.",
    "left-over": "Receive a message that was sent without a 'round' by its 'tag', without a 'round'.",
    "unusable": "The run's events name the senders and the errors.",
    "inbox-full": "Give the engine a larger 'buffer'.",
}
_ON_PURPOSE = ("lost", "cut", "corrupt")
"""Reasons that an experiment asks for."""


def dropped_messages(summary: Mapping[str, Any]) -> str:
    """A note on the reasons why most messages of a run were dropped; empty if most were not."""
    drops = {reason: count for reason, count in summary["drops"].items() if reason not in _ON_PURPOSE}
    count = sum(drops.values())
    sent = max(summary["totals"]["messages_out"], count)
    if 2 * count <= sent:
        return ""
    note = f"Most messages were dropped: {count:,} of {sent:,}"
    first = max(drops, key=lambda reason: drops[reason])
    if drops.keys() - _WHY:
        return f"{note} ({', '.join(drops)})."
    if len(drops) == 1:
        why = f", because {_WHY[first]}."
    else:
        why = ". " + "; ".join(f"{number:,}: {_WHY[reason]}" for reason, number in drops.items()) + "."
    return " ".join(filter(None, (note + why, _HOW.get(first))))
