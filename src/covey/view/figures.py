"""Figures of runs, drawn with matplotlib and without a display.

Shapes: N nodes, C classes, E edges.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.errors import ConfigurationError, RunError
from covey.parameters import unknown
from covey.runs import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

AXES = {
    "rounds": "round",
    "time": "virtual time (s)",
    "bytes": "bytes sent by a node",
    "energy": "energy of a node (J)",
}
_COLUMN = {"rounds": "round", "time": "time", "bytes": "bytes_out", "energy": "energy"}
_MOST_EDGES = 20_000


def _figure(width: float = 7.0, height: float = 4.3) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _axes(figure: "Figure") -> Any:
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return axes


def curves(
    runs: Sequence[Run], metric: str = "accuracy", against: str = "rounds", labels: Sequence[str] = ()
) -> "Figure":
    """A metric over the course of runs: the mean over nodes as a line, from the worst to the best node as a band.

    Args:
        runs: one line each.
        metric: a column of `Run.figures` or, for the network as a whole, of `Run.network`.
        against: "rounds", "time", "bytes" or "energy".
        labels: a name for each line; by default what the runs' folders are called.

    Raises:
        ConfigurationError: a run has no such figure.
    """
    figure = _figure()
    axes = _axes(figure)
    for run, label in zip(runs, labels or names(runs), strict=True):
        table = _table(run, metric, against)
        grouped = table.groupby("round")
        x = grouped[_COLUMN[against]].mean()
        y = grouped[metric]
        (line,) = axes.plot(x, y.mean(), label=label, linewidth=1.8)
        if y.size().max() > 1:
            axes.fill_between(x, y.min(), y.max(), alpha=0.15, color=line.get_color(), linewidth=0)
    axes.set_xlabel(AXES[against])
    axes.set_ylabel(metric.replace("_", " "))
    axes.legend(frameon=False, loc="best")
    axes.set_title("mean over nodes; band from worst to best node", fontsize=9, loc="left", color="0.4")
    return figure


def _table(run: Run, metric: str, against: str) -> "pd.DataFrame":
    per_node, network = run.figures, run.network
    column = _COLUMN[against]
    if metric in per_node.columns:
        table = per_node.dropna(subset=[metric])
    elif metric in network.columns:
        # A figure of the whole network is drawn over what its nodes had spent by then, on average.
        spent = run.metrics.drop(columns="node").groupby("round", as_index=False).mean()
        own = network.dropna(subset=[metric])
        table = own[["round", metric]].merge(spent.drop(columns=[metric], errors="ignore"), on="round", how="left")
    else:
        known = sorted({*per_node.columns, *network.columns} - {"round", "node", "time"})
        raise ConfigurationError(unknown(f"metric '{metric}' of the run {run.folder}", metric, known))
    if column not in table.columns:
        raise ConfigurationError(f"The run {run.folder} has no figures of {against} to draw against.")
    if table.empty:
        raise RunError(f"The run {run.folder} has no evaluated round yet.")
    return table


def names(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: its folder's, with the parent's where that is not enough."""
    short = [run.folder.name for run in runs]
    if len(set(short)) == len(short):
        return short
    return [f"{run.folder.parent.name}/{run.folder.name}" for run in runs]


def histogram(run: Run, metric: str = "accuracy") -> "Figure":
    """How a metric is distributed over the nodes at the end."""
    figure = _figure(5.0, 3.2)
    axes = _axes(figure)
    table = run.metrics.dropna(subset=[metric])
    last = table.sort_values("round").groupby("node")[metric].last()
    last = last[np.isfinite(last)]
    if last.empty:
        raise RunError(f"The run {run.folder} has no finite {metric} yet.")
    axes.hist(last, bins=min(30, max(5, len(last) // 3)), color="C0", alpha=0.85)
    axes.axvline(last.mean(), color="0.2", linewidth=1, linestyle="--")
    axes.set_xlabel(f"{metric} of a node at the end (dashed: mean)")
    axes.set_ylabel("nodes")
    return figure


def holdings(run: Run) -> "Figure":
    """Who holds what: a bar a node, of one colour a class; of one colour where there are no classes."""
    counts_NC = run.holdings
    if counts_NC is None:
        raise RunError(f"The run {run.folder} does not say who holds what.")
    if counts_NC.ndim == 1:
        counts_NC = counts_NC[:, None]
    nodes, classes = counts_NC.shape
    figure = _figure(7.0, 3.6)
    axes = _axes(figure)
    axes.grid(visible=False)
    if classes > 20:
        # Bars of so many colours cannot be told apart; a map can.
        image = axes.imshow(counts_NC.T, aspect="auto", interpolation="nearest", cmap="viridis", origin="lower")
        figure.colorbar(image, ax=axes, label="samples")
        axes.set_ylabel("class")
    else:
        from matplotlib import colormaps

        colours = colormaps["tab20" if classes > 10 else "tab10"].colors  # type: ignore[attr-defined]
        bottom = np.zeros(nodes)
        for label in range(classes):
            name = f"{label}" if classes > 1 else None
            axes.bar(
                np.arange(nodes), counts_NC[:, label], 1.0, bottom, color=colours[label % len(colours)], label=name
            )
            bottom += counts_NC[:, label]
        axes.set_ylabel("samples")
        if classes > 1:
            axes.legend(
                title="class",
                frameon=False,
                fontsize=7,
                title_fontsize=8,
                ncols=1,
                loc="center left",
                bbox_to_anchor=(1, 0.5),
            )
    axes.set_xlim(-0.5, nodes - 0.5)
    axes.set_xlabel("node")
    return figure


def graph(run: Run) -> "Figure":
    """The graph of the first round: nodes on a circle where it has no better order, coloured by their main class."""
    found = run.graph
    if found is None:
        raise RunError(f"The run {run.folder} has no graph.")
    nodes, sources, targets = found
    angle = 2 * np.pi * np.arange(nodes) / nodes
    place_N2 = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    once = np.unique(np.stack([np.minimum(sources, targets), np.maximum(sources, targets)], axis=1), axis=0)
    if len(once) > _MOST_EDGES:
        once = once[:: len(once) // _MOST_EDGES + 1]
    figure = _figure(5.2, 5.2)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal")
    from matplotlib.collections import LineCollection

    thin = float(np.clip(60 / max(len(once), 1) ** 0.6, 0.08, 0.9))
    axes.add_collection(LineCollection(place_N2[once], colors="0.45", linewidths=thin, alpha=0.7, zorder=1))
    colour: Any = "C0"
    held = np.asarray(run.holdings) if run.holdings is not None else None
    if held is not None and held.ndim == 2 and len(held) == nodes:
        colour = held.argmax(axis=1)
    size = float(np.clip(3000 / nodes, 2, 60))
    few = held is None or held.ndim < 2 or held.shape[1] <= 10
    x, y = place_N2[:, 0], place_N2[:, 1]
    axes.scatter(x, y, s=size, c=colour, cmap="tab10" if few else "tab20", zorder=2)
    axes.set_title(f"{nodes} nodes; colour: the class that a node holds most of", fontsize=9, color="0.4")
    return figure


def save(figure: "Figure", file: Path) -> None:
    """Write a figure as PNG, SVG or PDF, after the file's ending.

    Raises:
        ConfigurationError: another ending.
        RunError: the file cannot be written.
    """
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigurationError(f"A figure's file must end in .png, .svg or .pdf. Got '{file}' instead.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    except OSError as error:
        raise RunError(f"The figure {file} cannot be written: {error.strerror}.") from error
