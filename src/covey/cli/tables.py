"""Tables on the terminal, and figures for people."""

from collections.abc import Sequence
from typing import Any

from covey.view.words import amount, seconds


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
    final = summary["final"]
    accuracy, loss = final.get("accuracy"), final.get("loss")
    cells = [f"{accuracy[name]:.3f}" if accuracy else "-" for name in ("mean", "min", "max")]
    cells.append(f"{loss['mean']:.3f}" if loss else "-")
    return [*cells, amount(summary["totals"]["bytes_out"]), seconds(summary["time"])]


SUMMARY_COLUMNS = ("accuracy", "worst node", "best node", "loss", "bytes sent", "virtual time")
