"""The HTML page of `covey report`. It loads nothing from elsewhere, so it can be mailed or archived."""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from covey import view
from covey.pages.attacks import attacked
from covey.pages.compact import compact
from covey.pages.style import COLOURS, STYLE
from covey.parts.errors import CoveyError, RunError
from covey.runtime.runs import Run
from covey.view.attacks import roc
from covey.view.comparison import Comparison
from covey.view.epsilons import epsilon_in_words
from covey.view.figures import MOST_BANDS, bands_in_words
from covey.view.graphs import graph_of_run
from covey.view.groups import Group, differing, flat, grouped, names_of_runs
from covey.view.summary import dropped_messages, dropped_nodes, not_finite, spaced, summary_table
from covey.view.words import amount, seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = (
    ("accuracy", "rounds", "Accuracy by round"),
    ("accuracy", "time", "Accuracy by time"),
    ("accuracy", "bytes", "Accuracy by traffic"),
    ("loss", "rounds", "Loss by round"),
    ("average_model_accuracy", "rounds", "The average model"),
    ("consensus_distance", "rounds", "Distance of models from their average"),
)
_OF_AVERAGE = ("average_model_accuracy", "consensus_distance")
"""Figures of the average model, which say something only if several nodes are evaluated."""

_SIZE = (4.9, 3.5)
"""Inches: with this size, the text of figures is about as large as the text around them, on phones, too."""

_LONGEST_TITLE = 70

_OPEN = 3
"""With more runs than this, the details are folded."""

_MOST, _LARGE = 12, 500_000
"""With more runs than this, or more bytes of them, only one run of each experiment has its own section."""

_MAIN = (
    "program", "program.topology", "program.sharing", "program.schedule", "program.aggregation", "task.dataset",
    "task.partition", "task.model", "task.start", "task.loss", "task.augmentation", "task.optimizer",
    "task.optimizer.lr", "task.clip", "task.precision", "task.batch_size", "task.local_steps", "task.local_epochs",
    "network.nodes",
    "network.latency", "network.bandwidth", "network.uplink", "network.downlink", "network.compute", "network.devices",
    "network.loss", "network.churn", "network.energy", "rounds", "duration",
)  # fmt: skip
"""The main settings of an experiment. Parts are shown with their parameters."""


def write_report(runs: Sequence[Run], file: Path, labels: Sequence[str] = ()) -> None:
    """Write the page of some runs.

    Args:
        runs: the runs. The curves of several share the axes.
        file: the path of the page.
        labels: a name for each experiment. By default the keys that differ name it.

    Raises:
        ConfigurationError: there is not one label for each experiment.
        RunError: the file cannot be written.
    """
    groups = grouped(runs, labels=labels)
    called = names_of_runs(groups)
    title = _title(groups, runs)
    body = [
        f"<header><h1>{html.escape(title)}</h1>{_subtitle(runs)}</header><main>",
        _section("results", "Results", _over_seeds(groups) + _summary(runs, called)),
        _section("curves", "Curves", _curves(runs, groups)),
        _section("setup", "Experiments", _setup(groups)),
    ]
    details = _details(runs, groups)
    shown = [run for run in runs if run.folder in details]
    for run in shown:
        name, inner = called[run.folder], details[run.folder]
        if len(runs) > _OPEN:
            inner = f"<details><summary>{html.escape(name)}</summary>{inner}</details>"
        which = "each run" if len(shown) == len(runs) else f"{len(shown)} of the {len(runs)} runs"
        heading = name if 1 < len(runs) <= _OPEN else ""
        if len(runs) == 1 or (len(runs) > _OPEN and run is shown[0]):
            heading = f"Nodes, data and graph{f' of {which}' if len(runs) > 1 else ''}"
        body.append(_section(f"run-{name}", heading, inner))
    content, looks = _with_classes("".join(body))
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)} · covey</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><style>{STYLE}{looks}</style></head>'
        f"<body>{content}</main></body></html>\n"
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"The report {file} cannot be written: {error.strerror}.") from error


def _details(runs: Sequence[Run], groups: Sequence[Group]) -> dict[Path, str]:
    """The section of each run by its folder. If all are too large, only one run of each experiment has one."""
    one_each = [group.runs[0] for group in groups][:_MOST]
    found = {run.folder: _of_one(run) for run in (runs if len(runs) <= _MOST else one_each)}
    if sum(map(len, found.values())) > _LARGE:
        found = {run.folder: found[run.folder] for run in one_each}
    while len(found) > 1 and sum(map(len, found.values())) > _LARGE:
        found.popitem()
    return found


def _with_classes(body: str) -> tuple[str, str]:
    """Replace the style attributes of a page by classes, and return the page and the rules of the classes."""
    names: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        return f' class="{names.setdefault(found[1], f"l{len(names):x}")}"'

    return re.sub(' style="([^"<>]*)"', named, body), "".join(f".{name}{{{look}}}" for look, name in names.items())


def _title(groups: Sequence[Group], runs: Sequence[Run]) -> str:
    """The names of the experiments or, if these are long, their number, after the name that all have in common."""
    own = {str(run.experiment.get("name", "run")) for run in runs} - {"run"}
    labels = ", ".join(group.label for group in groups)
    if len(labels) > _LONGEST_TITLE:
        labels = f"{len(runs)} runs" if len(runs) == len(groups) else f"{len(groups)} experiments, {len(runs)} runs"
    return f"{own.pop()}: {labels}" if len(own) == 1 and len(groups) > 1 else labels


def _subtitle(runs: Sequence[Run]) -> str:
    """A line with the main settings that all runs share."""
    tables = [flat(run.experiment) for run in runs]
    shared = [
        [words(table[key]) for key, words in _HEAD.items() if key in table and key not in differing(tables)]
        for table in tables[:1]
    ]
    return f'<p class="lead">{html.escape(" · ".join(shared[0]))}</p>'


_HEAD: dict[str, Callable[[Any], str]] = {
    "program": str,
    "program.topology": str,
    "task.dataset": str,
    "task.model": str,
    "task.partition": "{} partition".format,
    "network.nodes": "{:,} nodes".format,
    "rounds": "{:,} rounds".format,
}


def _section(id: str, heading: str, inner: str) -> str:
    head = f"<h2>{html.escape(heading)}</h2>" if heading else ""
    return f'<section id="{html.escape(re.sub(r"[^A-Za-z0-9_.-]", "-", id))}">{head}{inner}</section>'


def _summary(runs: Sequence[Run], called: Mapping[Path, str]) -> str:
    summaries = [run.summary() for run in runs]
    columns, figures = summary_table(runs, summaries)
    rows = []
    for run, summary, cells in zip(runs, summaries, figures, strict=True):
        rows.append([called[run.folder], *cells, f"{summary['nodes']:,}", f"{summary['rounds']:,}", summary["status"]])
    return _table(("run", *columns, "nodes", "rounds", "status"), rows) + _note(not_finite(summaries))


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def _over_seeds(groups: Sequence[Group]) -> str:
    """A table of means and standard deviations over seeds; empty without several seeds."""
    if all(len(group.runs) == 1 for group in groups):
        return ""
    (_, *columns), rows = Comparison(groups).table()
    return _table(("over seeds: mean ± standard deviation", *columns), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "figures") -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        if len(row) == len(columns)
        else f'<tr><td colspan="{len(columns)}">{html.escape(row[0])}</td></tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


_MOST_LOGGED = 8
"""The greatest number of logged figures that are drawn."""


def _learned(run: Run) -> bool:
    """True if the nodes of a run learn."""
    return "task" in run.experiment or "program" not in run.experiment


def _several(run: Run) -> bool:
    """True if several nodes of a run are evaluated."""
    return run.metrics["node"].nunique() > 1


def _curves(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    labels = [group.label for group in groups]
    names = [*dict.fromkeys(name for run in runs for name in run.metric_names)]
    averaged = [set(run.network) if _several(run) else set() for run in runs]
    usual = [curve for curve in _CURVES if curve[0] not in _OF_AVERAGE or all(curve[0] in known for known in averaged)]
    chosen = [*usual, *((name, "rounds", f"{spaced(name).capitalize()} by round") for name in names)]
    if not any(map(_learned, runs)):
        logged = {name: None for run in runs for name in run.figure_names}
        chosen = [(name, "rounds", f"{name} by round") for name in [*logged][:_MOST_LOGGED]]
    pictures = [
        _picture(partial(view.curves, runs, metric, against, labels, titled=False, size=_SIZE), caption)
        for metric, against, caption in chosen
    ]
    if not pictures:
        return _note("Nothing was logged in rounds.")
    note = bands_in_words(
        several=any(len(group.runs) > 1 for group in groups), over_nodes=True, shown=len(groups) <= MOST_BANDS
    )
    return f'{_note(f"{note[0].upper()}{note[1:]}.")}<div class="pictures">{"".join(pictures)}</div>'


def _setup(groups: Sequence[Group]) -> str:
    """Tables of the main settings, with a column for each experiment where they differ."""
    tables = [_with_parameters(group.runs[0].experiment) for group in groups]
    unlike = set(differing(tables))
    others = [key for key in differing([group.settings for group in groups]) if key.partition(".")[0] == "evaluation"]
    if len(groups) == 1 or not unlike:
        rows = [[key, tables[0][key]] for key in _MAIN if key in tables[0]]
        return _table(("setting", "value"), [*rows, _seeds(groups)], "words")
    shared = [[key, tables[0][key]] for key in _MAIN if key in tables[0] and key not in unlike]
    apart = [[key, *(table.get(key, "–") for table in tables)] for key in (*_MAIN, *others) if key in unlike]
    return _table(("differs", *(group.label for group in groups)), apart, "words") + _table(
        ("the same for all", "value"), [*shared, _seeds(groups)], "words"
    )


def _seeds(groups: Sequence[Group]) -> list[str]:
    seeds = sorted({int(run.experiment.get("seed", 0)) for group in groups for run in group.runs})
    return ["seed" if len(seeds) == 1 else "seeds", ", ".join(map(str, seeds))]


def _with_parameters(table: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """The main settings of an experiment in words. A part is its kind and, in brackets, its parameters."""
    found: dict[str, str] = {}
    for key, value in table.items():
        name = before + key
        if isinstance(value, Mapping) and name in _MAIN:
            apart = [inner for inner in value if f"{name}.{inner}" in _MAIN]
            found[name] = str(value.get("kind", "")) + _parameters_in_words(value, apart)
        elif name in _MAIN and value not in (None, []):
            found[name] = _in_words(value)
        if isinstance(value, Mapping):
            found.update(_with_parameters(value, f"{name}."))
    return found


def _in_words(value: Any, key: str = "") -> str:
    if isinstance(value, Mapping):
        return str(value.get("kind", "")) + _parameters_in_words(value)
    if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
        return ", ".join(map(_in_words, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if key == "seconds":
            return seconds(value)
        if key == "rate":
            return f"{value / 1e6:g} Mbit/s"
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _parameters_in_words(part: Mapping[str, Any], apart: Sequence[str] = ()) -> str:
    words = [f"{key} {_in_words(value, key)}" for key, value in part.items() if key != "kind" and key not in apart]
    return f" ({', '.join(words)})" if words else ""


def _of_one(run: Run) -> str:
    import tomli_w

    summary = run.summary()
    totals, nodes, rounds = summary["totals"], max(summary["nodes"], 1), max(summary["rounds"], 1)
    facts = [
        (amount(totals["bytes_out"]), "sent in all"),
        (amount(totals["bytes_out"] / nodes / rounds), "sent by a node and round"),
        (f"{totals['messages_out']:,}", "messages sent"),
        (f"{totals['dropped']:,}", "messages dropped"),
        (f"{totals['steps']:,}", "training steps"),
        (f"{totals['samples']:,}", "samples trained on"),
    ]
    happened = run.events["kind"].value_counts().drop("dropped", errors="ignore")
    facts += [(f"{count:,}", f"times a node {kind}") for kind, count in happened.items() if count]
    tiles = "".join(f"<div><b>{html.escape(value)}</b><span>{html.escape(str(of))}</span></div>" for value, of in facts)
    pictures = []
    if _learned(run):
        spread = partial(view.histogram, run, titled=False, size=_SIZE)
        pictures = [
            *([_picture(spread, "Accuracy of the nodes at the end")] if _several(run) else []),
            _picture(partial(view.holdings, run, titled=False, size=_SIZE), "Samples of each node"),
            _picture(
                partial(view.graph, run, titled=False, size=(_SIZE[0], _SIZE[0])),
                "Graph" if run.graph is None else f"Graph: {graph_of_run(run).in_words}",
            ),
        ]
    config = html.escape(tomli_w.dumps(run.experiment))
    where = _where(run)
    return (
        f'<div class="tiles">{tiles}</div>{_privacy(summary)}'
        f"{_note(dropped_nodes(summary))}{_note(dropped_messages(summary))}"
        f'<div class="pictures">{"".join(pictures)}</div>{_attacks(run)}'
        f"<details><summary>The whole experiment, as a file</summary><pre>{config}</pre></details>"
        f"<details><summary>Environment</summary>{where}</details>"
    )


def _privacy(summary: Mapping[str, Any]) -> str:
    """The epsilons of a run, in words."""
    return "".join(_note(f"Privacy: {epsilon_in_words(stated)}.") for stated in summary["privacy"])


def _attacks(run: Run) -> str:
    """The results of attacks on a run; empty without any."""
    try:
        found = attacked(run)
    except RunError as error:
        return _note(str(error))
    shown = []
    for one in found:
        pictures = ""
        if one.curves:
            pictures += _picture(partial(roc, one.result(), titled=False), f"Members recognised by {one.kind}")
        if one.picture is not None:
            caption = "Originals and their reconstructions"
            shows = f'<figcaption>{caption}</figcaption><img alt="{caption}" src="{one.picture}">'
            pictures += f'<figure class="wide">{shows}</figure>'
        shown.append(
            f"<h3>Attack: {html.escape(one.kind)}</h3><p>{html.escape(one.meaning)}</p>"
            f'{_table(one.columns, one.rows)}<div class="pictures">{pictures}</div>'
        )
    return "".join(shown)


def _where(run: Run) -> str:
    """Tables of the facts of a run and of each of its starts."""
    facts = {**run.facts, "wall_seconds": run.wall_seconds}
    starts = facts.pop("starts")
    facts.pop("privacy", None)  # The page has it in words.
    names = dict.fromkeys(name for start in starts for name in start)
    rows = [[name, *(_fact(start.get(name, "–")) for start in starts)] for name in names]
    columns = [f"start {number}" for number in range(1, len(starts) + 1)]
    return _table(("fact", "value"), [[name, _fact(value)] for name, value in facts.items()], "words") + _table(
        ("fact", *columns), rows, "words"
    )


def _fact(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _picture(draw: "Callable[[], Figure]", caption: str) -> str:
    """A figure as inline SVG, or a note with the error."""
    from matplotlib import rc_context

    try:
        figure = draw()
    except CoveyError as error:
        return _note(f"{caption}: {error}")
    buffer = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    # Text is kept as text: it is smaller, can be searched, and takes the page's font and colours.
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", dpi=110, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.S)
    svg = svg[svg.index("<svg") :]
    for colour, name in COLOURS.items():
        svg = svg.replace(f"{colour}", f"var(--{name})")
    # Ids of clip paths and markers restart in every figure. On one page they must differ.
    svg = compact(svg, f"f{crc32(svg.encode()):x}-")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(caption)}" ', 1)
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{svg}</figure>"
