"""The figures of runs as the cells of a table, and what is to be said below it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from covey.runtime.runs import Run
from covey.view.words import amount, figure, seconds, time_of


def summary_table(runs: Sequence[Run], summaries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(headings, the cells of each run): accuracy of the mean, worst and best node, and loss, where somebody learns;
    bytes sent, time."""
    columns = ["bytes sent", time_of({run.clock for run in runs})]
    rows = [[amount(summary["totals"]["bytes_out"]), seconds(summary["time"])] for summary in summaries]
    if any(name in summary["final"] for summary in summaries for name in ("accuracy", "loss")):
        columns = ["accuracy", "worst node", "best node", "loss", *columns]
        rows = [[*_learned(summary), *row] for summary, row in zip(summaries, rows, strict=True)]
    return columns, rows


def _learned(summary: Mapping[str, Any]) -> list[str]:
    accuracy, loss = (summary["final"].get(name, {}) for name in ("accuracy", "loss"))
    return [figure(accuracy.get(part)) for part in ("mean", "min", "max")] + [figure(loss.get("mean"))]


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


_WHY = {
    "unread": "nobody took them in the round that they were for",
    "late": "they came after their receiver had ended that round",
    "duplicate": "their sender had sent one with that tag in that round before",
    "left-over": "nobody took them before the programs ended",
    "ended": "their receiver's program had ended",
    "away": "their receiver was away",
    "unusable": "their receiver could not use them",
    "not-finite": "they held numbers that are not finite",
    "inbox-full": "there was no room for them",
    "too-early": "they were for a round far ahead",
}
_HOW = {
    "unread": "Take what is sent with a 'round' by the same 'tag' and 'round'.",
    "late": "Wait for it with 'receive', or send it without a 'round'.",
    "duplicate": "Give each message of a round a 'tag' of its own.",
    "left-over": "Take what is sent without a 'round' by the same 'tag' and without a 'round'.",
    "unusable": "The run's events name the senders and what was wrong.",
    "inbox-full": "Give the engine a larger 'buffer'.",
}
_ON_PURPOSE = ("lost", "cut", "corrupt")
"""Reasons that an experiment asks for."""


def dropped_messages(summary: Mapping[str, Any]) -> str:
    """Why most messages of a run were dropped; empty where most were not."""
    drops = {reason: count for reason, count in summary["drops"].items() if reason not in _ON_PURPOSE}
    count = sum(drops.values())
    sent = max(summary["totals"]["messages_out"], count)
    if 2 * count <= sent:
        return ""
    said = f"Most of what was sent was dropped: {count:,} of {sent:,} messages"
    first = max(drops, key=lambda reason: drops[reason])
    if drops.keys() - _WHY:
        return f"{said} ({', '.join(drops)})."
    if len(drops) == 1:
        why = f", for {_WHY[first]}."
    else:
        why = ". " + "; ".join(f"{number:,}: {_WHY[reason]}" for reason, number in drops.items()) + "."
    return " ".join(filter(None, (said + why, _HOW.get(first))))
