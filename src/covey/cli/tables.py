"""Tables on the terminal, and figures for people."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from covey.cli.progress import amount, seconds


def print_json(value: Any) -> None:
    """Print JSON; JSON has no NaN and no infinity, so they are null."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def figure(value: float | None, digits: int = 3) -> str:
    """A figure of a summary, which has None for what is no finite number."""
    return "-" if value is None else f"{value:.{digits}f}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are figures."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def summary_row(summary: dict[str, Any]) -> list[str]:
    """The cells of one run: accuracy of the mean, worst and best node, loss, bytes sent, virtual time."""
    accuracy, loss = (summary["final"].get(name, {}) for name in ("accuracy", "loss"))
    cells = [figure(accuracy.get(part)) for part in ("mean", "min", "max")] + [figure(loss.get("mean"))]
    return [*cells, amount(summary["totals"]["bytes_out"]), seconds(summary["time"])]


SUMMARY_COLUMNS = ("accuracy", "worst node", "best node", "loss", "bytes sent", "virtual time")
