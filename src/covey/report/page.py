"""The page that `covey report` writes: everything is inside it, so it can be mailed or archived."""

import html
import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from covey import view
from covey.cli.progress import amount
from covey.cli.tables import SUMMARY_COLUMNS, summary_row
from covey.errors import CoveyError, RunError
from covey.runs import Run
from covey.view.figures import names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.2rem; font-size: 1.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr td { border-top: 1px solid #eee; }
thead th { border-bottom: 2px solid #ccc; } .scroll { overflow-x: auto; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.pictures figure { margin: 0; flex: 1 1 22rem; } figure svg { width: 100%; height: auto; }
figcaption { color: #666; font-size: .85rem; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .85rem; }
.note { color: #666; }
"""


def write_report(runs: Sequence[Run], file: Path) -> None:
    """Write the page.

    Args:
        runs: what it is on; with several, their curves share the axes.
        file: where it goes.

    Raises:
        RunError: the file cannot be written.
    """
    title = "covey: " + ", ".join(names(runs))
    body = [f"<h1>{html.escape(title)}</h1>", _summary(runs), "<h2>Curves</h2>", _curves(runs)]
    for run, name in zip(runs, names(runs), strict=True):
        body += [f"<h2>{html.escape(name)}</h2>", _of_one(run)]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>"
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page)
    except OSError as error:
        raise RunError(f"The report {file} cannot be written: {error.strerror}.") from error


def _summary(runs: Sequence[Run]) -> str:
    rows = []
    for run, name in zip(runs, names(runs), strict=True):
        summary = run.summary()
        rows.append([name, summary["status"], f"{summary['nodes']}", f"{summary['rounds']}", *summary_row(summary)])
    return _table(("run", "status", "nodes", "rounds", *SUMMARY_COLUMNS), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _curves(runs: Sequence[Run]) -> str:
    pictures = [
        _picture(partial(view.curves, runs, metric, against), f"{metric.replace('_', ' ')} against {against}")
        for metric, against in (
            ("accuracy", "rounds"),
            ("accuracy", "time"),
            ("accuracy", "bytes"),
            ("loss", "rounds"),
            ("average_model_accuracy", "rounds"),
            ("consensus_distance", "rounds"),
        )
    ]
    return f'<div class="pictures">{"".join(pictures)}</div>'


def _of_one(run: Run) -> str:
    import tomli_w

    summary = run.summary()
    totals = summary["totals"]
    spent = (
        f"<p>{amount(totals['bytes_out'])} sent in {totals['messages_out']:,} messages, {amount(totals['bytes_in'])} "
        f"received, {totals['dropped']:,} messages dropped; {totals['steps']:,} training steps on "
        f"{totals['samples']:,} samples.</p>"
    )
    pictures = [
        _picture(lambda: view.histogram(run), "accuracy of the nodes at the end"),
        _picture(lambda: view.holdings(run), "who holds what"),
        _picture(lambda: view.graph(run), "who talks to whom, in the first round"),
    ]
    facts: dict[str, Any] = run.facts
    listed = _table(("fact", "value"), [[name, str(value)] for name, value in facts.items()])
    config = html.escape(tomli_w.dumps(run.experiment))
    return (
        f'{spent}<div class="pictures">{"".join(pictures)}</div>'
        f"<details><summary>Configuration</summary><pre>{config}</pre></details>"
        f"<details><summary>Where it ran</summary>{listed}</details>"
    )


def _picture(draw: "Callable[[], Figure]", caption: str) -> str:
    """A figure as inline SVG, or why there is none."""
    try:
        figure = draw()
    except CoveyError as error:
        return f'<p class="note">No figure of {html.escape(caption)}: {html.escape(str(error))}</p>'
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Every figure numbers its clip paths and markers anew; on one page they must differ.
    mark = f"f{crc32(svg.encode())}-"
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', lambda found: found[1] + mark, svg)
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"
