"""Short pictures of runs, experiments and tables, in HTML for notebooks and for terminals of rich.

Colours are those of the page, so that a card fits light and dark surroundings.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from covey.parts.errors import CoveyError
from covey.parts.parameters import Part, fields_of, is_required
from covey.runtime.runs import Run
from covey.view.sparkline import Point, svg
from covey.view.summary import dropped_messages, dropped_nodes, not_finite
from covey.view.terminal import shown
from covey.view.words import amount, counted, figure, seconds

if TYPE_CHECKING:
    from rich.console import Group

    from covey.runtime.experiment import Experiment

_CELL = "padding:.15em .9em .15em 0;border-bottom:1px solid rgba(128,128,128,.35);vertical-align:top"


@dataclass(frozen=True)
class Card:
    """A title, a sentence, a table and remarks.

    Attributes:
        title: the name of the subject.
        lead: its main facts.
        columns: the headings of the table; empty for none.
        rows: the cells. The first of each row is text, the others are figures.
        figures: True if all cells but the first of each row are figures.
        remarks: lines below the table.
        picture: an SVG picture, for HTML only.
    """

    title: str
    lead: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figures: bool = True
    remarks: Sequence[str] = ()
    picture: str = ""

    def html(self) -> str:
        """The card as HTML."""
        parts = [f'<div style="font-weight:600">{_escaped(self.title)}</div>', f"<div>{_escaped(self.lead)}</div>"]
        if self.rows:
            head = "".join(self._cell("th", index, text) for index, text in enumerate(self.columns))
            body = "".join(
                f"<tr>{''.join(self._cell('td', index, text) for index, text in enumerate(row))}</tr>"
                for row in self.rows
            )
            header = f"<thead><tr>{head}</tr></thead>" if self.columns else ""
            parts.append(
                f'<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:.5em 0;'
                f'font-variant-numeric:tabular-nums">{header}<tbody>{body}</tbody></table></div>'
            )
        parts.append(self.picture)
        parts += [f'<div style="opacity:.75">{_escaped(remark)}</div>' for remark in filter(None, self.remarks)]
        return f'<div style="line-height:1.45">{"".join(parts)}</div>'

    def _cell(self, tag: str, index: int, text: str) -> str:
        align = "right" if index and self.figures else "left"
        fold = "normal" if index or self.figures else "nowrap"
        style = f"text-align:{align};white-space:{fold};{_CELL}"
        return f'<{tag} style="{style}">{_escaped(text)}</{tag}>'

    def rich(self) -> "Group":
        """The card for `rich.print`."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = [Text(shown(self.title), style="bold"), Text(shown(self.lead))]
        if self.rows:
            table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(self.columns))
            for index in range(len(self.rows[0])):
                heading = shown(self.columns[index]) if self.columns else ""
                table.add_column(Text(heading), justify="right" if index and self.figures else "left")
            for row in self.rows:
                table.add_row(*(Text(shown(cell)) for cell in row))
            parts.append(table)
        parts += [Text(shown(remark), style="dim") for remark in filter(None, self.remarks)]
        return Group(*parts)


def _escaped(text: str) -> str:
    return html.escape(shown(text))


_SPREAD = ("mean", "min", "max", "std")


def of_run(run: Run) -> Card:
    """The card of a run: its status, totals, final figures, and the curve of its accuracy or loss."""
    summary = run.summary()
    totals = summary["totals"]
    lead = ", ".join(
        [
            summary["status"],
            summary["program"],
            counted(summary["nodes"], "node"),
            counted(summary["rounds"], "round"),
            f"{seconds(summary['time'])} {summary['clock']}",
            f"{amount(totals['bytes_out'])} sent in {counted(totals['messages_out'], 'message')}",
        ]
    )
    rows = [[metric, *(figure(values[part]) for part in _SPREAD)] for metric, values in summary["final"].items()]
    return Card(
        title=str(run.folder),
        lead=lead,
        columns=("at the end", "mean", "min", "max", "spread"),
        rows=rows,
        remarks=(not_finite([summary], summary["final"]), dropped_nodes(summary), dropped_messages(summary)),
        picture=_curve(run, summary["rounds"]),
    )


def _curve(run: Run, rounds: int) -> str:
    """The mean accuracy over nodes by round, or the loss if there is no accuracy."""
    table = run.metrics
    for name in ("accuracy", "loss"):
        if name in table:
            means = table.groupby("round")[name].mean().dropna()
            points: list[Point] = [(float(round), float(value)) for round, value in means.items()]  # type: ignore[arg-type]
            if len(points) > 1:
                caption = f"{name} by round: {figure(points[0][1])} to {figure(points[-1][1])}"
                return f"<div>{svg(points, rounds, 360, 90)}<div><small>{caption}</small></div></div>"
    return ""


def of_experiment(experiment: "Experiment") -> Card:
    """The card of an experiment: the keys that differ from their defaults."""
    lead = (
        f"{counted(experiment.rounds, 'round')}, {counted(experiment.network.nodes, 'node')}, seed {experiment.seed}, "
        f"{experiment.engine.kind}"
    )
    rows = []
    for name in fields_of(type(experiment)):
        value = getattr(experiment, name)
        if name in ("name", "seed", "rounds") or value is None or value == []:
            continue
        if isinstance(value, Part) and not value.family:
            rows += [[f"{name}.{key}", inner] for key, inner in _set(value).items()]
        elif name == "task":
            rows += [[f"{name}.{key}", inner] for key, inner in _set(value, all_parts=True).items()]
        else:
            rows.append([name, _in_words(value)])
    return Card(title=f"experiment {experiment.name}", lead=lead, rows=rows, figures=False)


def _set(part: Part, *, all_parts: bool = False) -> dict[str, str]:
    """The parameters of a part that differ from their defaults, in words."""
    found, usual = {}, _with_defaults(part)
    for name in fields_of(type(part)):
        value = getattr(part, name)
        if value != usual.get(name) or (all_parts and isinstance(value, Part)):
            found[name] = _in_words(value)
    return found


def _with_defaults(part: Part) -> dict[str, Any]:
    """The values of the parameters of a part of which only the required ones are set."""
    names, required = fields_of(type(part)), {}
    for name in names:
        if is_required(type(part), name):
            required[name] = getattr(part, name)
    try:
        usual = type(part)(**required)
    except CoveyError:  # The required values do not fit the defaults of the others.
        return {}
    return {name: getattr(usual, name) for name in names if name not in required}


def _in_words(value: Any) -> str:
    """A value in few letters."""
    if isinstance(value, Part):
        inner = ", ".join(f"{name} {words}" for name, words in _set(value).items())
        return f"{value.title()} ({inner})" if inner else value.title()
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
