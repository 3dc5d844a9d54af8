"""Figures of runs, drawn with matplotlib and without a display.

Shapes: N nodes, C classes, T moments.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.parts.errors import ConfigurationError, RunError, quoted, unknown
from covey.runtime.runs import Run
from covey.runtime.runs.spent import mean_spent
from covey.view.groups import grouped
from covey.view.look import (
    CLASSES,
    INK,
    LINES,
    MARKERS,
    PAPER,
    legend,
    new_axes,
    new_figure,
    title,
    unit,
    whole_numbers,
)
from covey.view.words import counted, time_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLUMN = {"rounds": "round", "time": "time", "bytes": "bytes_out", "energy": "energy"}
_LABELS = {
    "accuracy": "test accuracy",
    "loss": "test loss",
    "average_model_accuracy": "accuracy of the average model",
    "average_model_loss": "loss of the average model",
    "energy": "energy (J)",
    "consensus_distance": "squared distance to the average",
}
_MOMENTS = 100
_STYLES: tuple[Any, ...] = ("-", (0, (3, 1.2)), (0, (1, 1)))
"""Solid, dashed and dotted lines."""
MOST_BANDS = 4
"""The greatest number of bands that are drawn: more would hide each other."""
_MOST_BARS = 60
"""The greatest number of nodes with a bar each: more bars would be too thin to see."""


def curves(
    runs: Sequence[Run],
    metric: str = "accuracy",
    against: str = "rounds",
    labels: Sequence[str] = (),
    *,
    each: bool = False,
    titled: bool = True,
    size: tuple[float, float] = (7.0, 4.6),
) -> "Figure":
    """Draw a metric over the course of runs.

    A line is the mean over nodes, and its band reaches from the worst to the best node. Runs of one experiment with
    several seeds are one line, their mean, with a darker band of one standard deviation over seeds. Against time, the
    values of all nodes are compared at the same moment, in any rounds.

    Args:
        runs: the runs to draw.
        metric: a column of `Run.figures` or `Run.network`.
        against: "rounds", "time", "bytes" or "energy".
        labels: a name for each line. By default the keys that differ name it.
        each: draw a line for every run, even if only seeds differ.
        titled: add a title that explains lines and bands.
        size: width and height in inches. A legend of many lines adds to the height.

    Raises:
        ConfigurationError: a run does not have the metric, `against` is another word, or there is not one label for
            each line.
    """
    if against not in _COLUMN:
        known = ", ".join(map(repr, _COLUMN))
        raise ConfigurationError(f"The 'against' of a plot must be one of {known}. Got {quoted(against)} instead.")
    figure = new_figure(size)
    axes = new_axes(figure)
    groups = grouped(runs, each=each, labels=labels)
    courses = [_course_of_group(group.runs, metric, against) for group in groups]
    label = against_label(against, max(course["x"].max() for course in courses), {run.clock for run in runs})
    scale, handles = label[1], []
    bands = len(groups) <= MOST_BANDS
    spread_over_nodes = any((course["high"] > course["low"]).any() for course in courses)
    for index, course in enumerate(courses):
        x, colour = course["x"] / scale, LINES[index % len(LINES)]
        if bands and spread_over_nodes:
            axes.fill_between(x, course["low"], course["high"], alpha=0.14, color=colour, linewidth=0)
        if len(groups[index].runs) > 1 and bands:
            low, high = course["mean"] - course["std"], course["mean"] + course["std"]
            axes.fill_between(x, low, high, alpha=0.3, color=colour, linewidth=0)
        (line,) = axes.plot(
            x,
            course["mean"],
            color=colour,
            linewidth=1.8,
            marker=MARKERS[index % len(MARKERS)] if len(groups) > 1 or len(x) == 1 else None,
            markersize=4.5,
            markevery=max(1, len(x) // 8),
            linestyle=_STYLES[index // len(LINES) % len(_STYLES)],
        )
        handles.append(line)
    axes.set_xlabel(label[0])
    axes.set_ylabel(_LABELS.get(metric, metric.replace("_", " ")))
    if against == "rounds":
        whole_numbers(axes.xaxis)
    if len(groups) > 1:
        legend(figure, handles, [group.label for group in groups], handle=2.8)
    if titled:
        several = any(len(group.runs) > 1 for group in groups)
        note = bands_in_words(several=several, over_nodes=spread_over_nodes, shown=bands)
        title(axes, groups[0].label if len(groups) == 1 else "", note)
    return figure


def bands_in_words(*, several: bool, over_nodes: bool, shown: bool) -> str:
    """The meaning of lines and bands, in words."""
    parts = ["line: mean over nodes" if over_nodes else "one figure for the whole network"]
    if several:
        parts[0] += " and seeds" if over_nodes else ", mean over seeds"
    if several and shown:
        parts.append(
            "dark band: standard deviation over seeds" if over_nodes else "band: standard deviation over seeds"
        )
    if over_nodes and shown:
        parts.append(f"{'light ' if several else ''}band: worst to best node")
    return "; ".join(parts)


def against_label(against: str, largest: float, clocks: Collection[str]) -> tuple[str, float]:
    """The label of the horizontal axis, and the divisor of its values.

    Args:
        against: the quantity on the axis.
        largest: its greatest value, which decides the unit.
        clocks: the clocks of the runs, "virtual" or "real".
    """
    if against == "rounds":
        return "round", 1.0
    if against == "energy":
        return "energy of a node, on average (J)", 1.0
    size, name = unit(against, largest)
    return (f"{time_of(clocks)} ({name})" if against == "time" else f"sent by a node, on average ({name})"), size


def _course_of_group(runs: Sequence[Run], metric: str, against: str) -> "pd.DataFrame":
    """The course of runs of one experiment: columns x, mean, low, high and std (over runs), sorted by x."""
    import pandas as pd

    courses = [_course(run, metric, against) for run in runs]
    if len(courses) == 1:
        return courses[0].assign(std=0.0)
    if against == "time":
        start, end = max(course["x"].iloc[0] for course in courses), min(course["x"].iloc[-1] for course in courses)
        moments_T = np.linspace(start, max(end, start), _MOMENTS)
        courses = [
            pd.DataFrame({"x": moments_T, **{name: np.interp(moments_T, course["x"], course[name]) for name in _KEPT}})
            for course in courses
        ]
    together = pd.concat(courses).groupby(level=0)
    shared = together.size() == len(courses)
    if not shared.any():
        raise RunError(f"The runs of {runs[0].folder} and the other seeds have no evaluated round in common.")
    return together.mean().assign(std=together["mean"].std(ddof=1))[shared]


_KEPT = ("mean", "low", "high")


def _course(run: Run, metric: str, against: str) -> "pd.DataFrame":
    """The course of a run: columns x, mean, low and high, one row per round or, against time, per moment."""
    import pandas as pd

    table, of_nodes = _tables(run, metric, against)
    if against == "time" and table is of_nodes:
        return _course_of_time(table, metric)
    y = table.groupby("round")[metric]
    course = pd.DataFrame({"mean": y.mean(), "low": y.min(), "high": y.max()})
    if against == "rounds":
        x = course.index.to_series()
    elif against == "time":
        x = of_nodes.groupby("round")["time"].mean()
    else:
        x = mean_spent(run, of_nodes, _COLUMN[against])
    return course.assign(x=x.astype(float)).sort_values("x")


def _course_of_time(table: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """The course over time. Values of a node are interpolated between its evaluations, and constant after the last."""
    import pandas as pd

    nodes = [part.sort_values("time") for _, part in table.groupby("node")]
    # Moments are those of evaluations: between them, the minimum of interpolated values would be too high.
    means = table.groupby("round")["time"].mean()
    start = float(np.median([part["time"].iloc[0] for part in nodes]))
    moments_T = np.unique(np.clip([*means, table["time"].max()], start, None))
    values_NT = np.stack([np.interp(moments_T, part["time"], part[metric], left=np.nan) for part in nodes])
    return pd.DataFrame(
        {
            "x": moments_T,
            "mean": np.nanmean(values_NT, axis=0),
            "low": np.nanmin(values_NT, axis=0),
            "high": np.nanmax(values_NT, axis=0),
        }
    )


def _tables(run: Run, metric: str, against: str) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """The rows that have the metric, and those of nodes in the same rounds, which have times and costs."""
    per_node, network = run.figures, run.network
    if metric in per_node.columns:
        table = of_nodes = per_node.dropna(subset=[metric])
    elif metric in network.columns:
        table, of_nodes = network.dropna(subset=[metric]), run.metrics
    else:
        raise _unknown_metric(metric, f"the run {run.folder}", per_node, network)
    if _COLUMN[against] not in of_nodes.columns:
        raise ConfigurationError(f"The run {run.folder} has no {against}: draw against rounds, time or bytes.")
    if table.empty:
        raise RunError(f"The run {run.folder} has no evaluated round yet.")
    return table, of_nodes


def _unknown_metric(metric: str, of: str, *tables: "pd.DataFrame") -> ConfigurationError:
    known = {name for table in tables for name in table.columns} - {"round", "node", "time"}
    return ConfigurationError(unknown(f"metric '{metric}' of {of}", metric, known))


def histogram(
    run: Run, metric: str = "accuracy", *, titled: bool = True, size: tuple[float, float] = (5.4, 3.6)
) -> "Figure":
    """Draw the distribution of a metric over nodes at the end.

    Raises:
        ConfigurationError: the run does not have the metric.
    """
    figure = new_figure(size)
    axes = new_axes(figure)
    table = run.metrics
    if metric not in table.columns:
        raise _unknown_metric(metric, f"the nodes of the run {run.folder}", table)
    table = table.dropna(subset=[metric])
    if table.empty:
        raise RunError(f"The run {run.folder} has no evaluated round yet.")
    last = table.sort_values("round").groupby("node")[metric].last()
    last = last[np.isfinite(last)]
    if last.empty:
        raise RunError(f"The run {run.folder} has no finite {metric} yet.")
    axes.hist(last, bins=int(np.clip(2 * len(last) ** 0.5, 5, 40)), color=LINES[0], edgecolor=PAPER, linewidth=0.5)
    axes.axvline(last.mean(), color=INK, linewidth=1.2, linestyle="--")
    axes.annotate(
        f"mean {last.mean():.3f}", (last.mean(), 1), (4, -1), xycoords=("data", "axes fraction"),
        textcoords="offset points", va="bottom", ha="center", fontsize=8.5, color=INK,
    )  # fmt: skip
    axes.set_xlabel(f"{_LABELS.get(metric, metric.replace('_', ' '))} at the end")
    axes.set_ylabel("nodes")
    whole_numbers(axes.yaxis)
    if titled:
        title(axes, f"{run.folder.resolve().name}: {counted(len(last), 'node')}", " ")
    return figure


def holdings(run: Run, *, titled: bool = True, size: tuple[float, float] = (7.0, 4.0)) -> "Figure":
    """Draw the samples of each node: stacked bars by class, a map for many nodes or classes, or sizes only."""
    if run.holdings is None:
        raise RunError(f"The run {run.folder} does not record the samples of its nodes.")
    held = np.asarray(run.holdings)
    counts_NC = held[:, None] if held.ndim == 1 else held
    nodes, classes = counts_NC.shape
    figure = new_figure(size)
    axes = new_axes(figure, grid=classes == 1)
    axes.set_xlabel("node")
    axes.set_ylabel("training samples")
    if classes == 1:
        few = nodes <= _MOST_BARS
        if few:
            axes.bar(np.arange(nodes), counts_NC[:, 0], 0.85, color=LINES[0])
        else:
            axes.stairs(np.sort(counts_NC[:, 0])[::-1], np.arange(nodes + 1) - 0.5, fill=True, color=LINES[0])
            axes.set_xlabel("nodes, from the one with most samples to the one with fewest")
    elif classes > len(CLASSES) or nodes > _MOST_BARS:
        order_N = np.arange(nodes)
        if nodes > _MOST_BARS:
            order_N = np.lexsort((-counts_NC.max(axis=1), counts_NC.argmax(axis=1)))
            axes.set_xlabel("nodes, in the order of the class that they hold most of")
        image = axes.imshow(counts_NC[order_N].T, aspect="auto", interpolation="nearest", cmap="Blues", origin="lower")
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        bar.set_label("training samples", color=INK, size=9.5)
        bar.ax.tick_params(labelcolor=INK, labelsize=9)
        whole_numbers(bar.ax.yaxis)
        bar.outline.set_visible(False)
        axes.set_ylabel("class")
        if classes <= 20:
            axes.set_yticks(range(classes))
    else:
        from matplotlib.patches import Patch

        bottom_N = np.zeros(nodes)
        for label in range(classes):
            held_N = np.flatnonzero(counts_NC[:, label])
            axes.bar(held_N, counts_NC[held_N, label], 0.85, bottom_N[held_N], color=CLASSES[label])
            bottom_N += counts_NC[:, label]
        patches = [Patch(color=CLASSES[label]) for label in range(classes)]
        legend(figure, patches, [*map(str, range(classes))], heading="class")
    whole_numbers(axes.xaxis)
    axes.set_xlim(-0.5, nodes - 0.5)
    if titled:
        total = int(counts_NC.sum())
        title(axes, f"{run.folder.resolve().name}: {counted(total, 'training sample')}, {counted(nodes, 'node')}")
    return figure


def save(figure: "Figure", file: Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix of the file.

    Raises:
        ConfigurationError: the suffix is another.
        RunError: the file cannot be written.
    """
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigurationError(f"A figure's file must end in .png, .svg or .pdf. Got '{file}' instead.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    except OSError as error:
        raise RunError(f"The figure {file} cannot be written: {error.strerror}.") from error
