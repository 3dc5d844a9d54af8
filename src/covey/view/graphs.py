"""Pictures of graphs: edges, weights, groups, and the labels of nodes.

Shapes: N nodes, L labels, E edges, T points of a line.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.network.graph import Graph, Ids
from covey.parts.errors import ConfigurationError, DataError, RunError
from covey.parts.parameters import Setting
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.runs import Run
from covey.view.look import CLASSES, LINES, PAPER, RULE, SOFT, legend, new_axes, new_figure, title
from covey.view.positions import Floats, columns_of, nearest, positions
from covey.view.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Outline

_PIES, _PIES_IN_SMALL = 128, 64
"""The greatest numbers of nodes that are drawn as pies, in a figure of six inches and in a narrower one. Of more nodes,
the main label is drawn."""
_MAIN = 0.4
"""The least fraction of a node's samples that makes a label its main label."""
_AS_PICTURE = 1500
"""More edges or nodes than this are rasterized, as they would make a vector file large."""
_OTHERS = "others"
_INK = 0.3
"""The fraction of the paper that edges may darken: the more edges, the fainter each."""


@dataclass(frozen=True)
class Pictured:
    """A graph and the facts that its picture shows."""

    name: str
    graph: Graph
    """The graph, with the weights of merging if they are known."""
    round: int | None = None
    """The round of the graph, or None if all rounds have the same."""
    labels_NL: Ids | None = None
    """The samples of each label at each node, if known."""

    @property
    def in_words(self) -> str:
        """The numbers of nodes, edges and groups, in words."""
        graph, count = self.graph, len(self.graph.sources)
        edges = counted(count // 2, "edge") if graph.is_undirected else counted(count, "directed edge")
        groups = f", {len(graph.groups):,} groups" if len(graph.groups) > 1 else ""
        return f"{counted(graph.n, 'node')}, {edges}{groups}{'' if self.round is None else f' in round {self.round}'}"


def graph_of_run(run: Run, round: int = 0) -> Pictured:
    """The graph of a round of a run.

    Raises:
        RunError: the program has no topology.
        ConfigurationError: the round does not exist.
    """
    graph, held = run.graph, run.holdings
    if graph is None:
        raise RunError(f"The program of the run {run.folder} has no topology, so there is no graph to draw.")
    labels_NL = held if held is not None and held.ndim == 2 and len(held) == graph.n else None
    if round:
        experiment = Experiment.from_table(run.experiment)
        _check_round(round, experiment)
        if not run.graph_is_static:
            graph = _without_data(experiment, labels_NL, round)
            if graph is None:
                raise RunError(
                    f"The run {run.folder} does not record the labels of its nodes, which the graph of round {round} "
                    f"depends on."
                )
    return Pictured(run.folder.resolve().name, graph, None if run.graph_is_static else round, labels_NL)


def graph_of_experiment(experiment: Experiment, round: int = 0, data: Path | None = None) -> Pictured:
    """The graph of a round of an experiment. Its data are loaded, because labels colour the nodes.

    Raises:
        ConfigurationError: the experiment cannot work, or has no topology or no such round.
        DataError: the graph depends on the data, and these are not available.
    """
    topology = getattr(experiment.program, "topology", None)
    if topology is None:
        raise ConfigurationError(
            f"The program {experiment.program.title()} has no topology, so there is no graph to draw."
        )
    _check_round(round, experiment)
    try:
        prepared = prepare(experiment, data=data, **{**experiment.engine.compute_settings(), "workers": 1})
    except DataError:
        graph, labels_NL = _without_data(experiment, None, round), None
        if graph is None:
            raise
    else:
        prepared.task.close()
        graph, labels_NL = prepared.program.graph(round), prepared.setting.label_counts
        assert graph is not None
    return Pictured(topology.title(), graph, None if topology.static else round, labels_NL)


def _check_round(round: int, experiment: Experiment) -> None:
    if not 0 <= round < experiment.rounds:
        raise ConfigurationError(
            f"The 'round' of a graph must be an int in [0, {experiment.rounds}). Got {round} instead."
        )


def _without_data(experiment: Experiment, labels_NL: Ids | None, round: int) -> Graph | None:
    """The graph of a round, or None if it depends on labels that are not known."""
    program = copy.deepcopy(experiment.program)
    nodes, rounds = experiment.network.nodes, experiment.rounds
    program.check(Setting(nodes, experiment.seed, label_counts=labels_NL, rounds=rounds))
    topology = getattr(program, "topology", None)
    return program.graph(round) if topology is None or topology.can_be_drawn() else None


def graph(
    source: Run | Experiment,
    round: int = 0,
    *,
    data: Path | None = None,
    titled: bool = True,
    size: tuple[float, float] = (6.0, 6.4),
) -> "Figure":
    """Draw the graph of a round: nodes coloured by labels, groups together, the width of lines by merging weight.

    Args:
        source: the run or the experiment.
        round: the round, from 0.
        data: the data folder of an experiment; by default, that of the environment.
        titled: add a title with the facts of the graph.
        size: width and height in inches.

    Raises:
        CoveyError: the graph does not exist.
    """
    found = graph_of_run(source, round) if isinstance(source, Run) else graph_of_experiment(source, round, data)
    return picture(found, titled=titled, size=size)


def picture(shown: Pictured, *, titled: bool = True, size: tuple[float, float] = (6.0, 6.4)) -> "Figure":
    """Draw a graph."""
    figure = new_figure(size)
    axes = new_axes(figure, grid=False)
    axes.set_axis_off()
    axes.margins(0)
    # The axes stay as wide as the figure, whatever the graph is: its title begins where they do.
    axes.set_aspect("equal", adjustable="datalim")
    main_N = None if shown.labels_NL is None else shown.labels_NL.argmax(axis=1)
    position_N2 = positions(shown.graph, main_N)
    radius = float(np.clip((0.4 if shown.graph.is_undirected else 0.3) * nearest(position_N2), 0.006, 0.085))
    if len(shown.graph.groups) > 1:
        _draw_groups(axes, shown.graph, position_N2, radius)
    inches = 0.5 * min(size[0], size[1] - 0.8)
    _draw_edges(axes, shown.graph, position_N2, radius, inches)
    handles, names, heading = _draw_nodes(axes, shown, position_N2, radius)
    low_2, high_2 = position_N2.min(axis=0) - 2.2 * radius, position_N2.max(axis=0) + 2.2 * radius
    axes.update_datalim([low_2, high_2])
    axes.autoscale_view()
    if handles:
        legend(figure, handles, names, heading=heading)
    if titled:
        title(axes, f"{shown.name}: {shown.in_words}", _weights_in_words(shown.graph))
    return figure


def _weights_in_words(graph: Graph) -> str:
    weights_E = graph.weights
    if weights_E is None or not len(weights_E):
        return ""
    low, high = f"{weights_E.min():.3g}", f"{weights_E.max():.3g}"
    if low == high:
        return f"each neighbour's model is merged with weight {low}"
    return f"{'wider lines: greater ' if _differ(weights_E) else ''}weights of merging, from {low} to {high}"


def _differ(weights_E: Floats) -> bool:
    """True if weights differ enough for lines to show it."""
    return bool(weights_E.max() > 1.2 * weights_E.min())


# ---------------------------------------------------------------------- groups and edges


def _draw_groups(axes: Any, graph: Graph, position_N2: Floats, radius: float) -> None:
    """Draw a disc behind each group."""
    centres = np.array([position_N2[members].mean(axis=0) for members in graph.groups])
    widths = [
        np.linalg.norm(position_N2[members] - centre, axis=1).max()
        for members, centre in zip(graph.groups, centres, strict=True)
    ]
    _circles(axes, centres, np.array(widths) + 1.7 * radius, facecolors=RULE, alpha=0.45, zorder=0.5)


def _draw_edges(axes: Any, graph: Graph, position_N2: Floats, radius: float, inches: float) -> None:
    """Draw edges: straight lines in undirected graphs, else arcs with an arrowhead, bent to the left."""
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.colors import to_rgba_array

    directed = not graph.is_undirected
    sources_E, targets_E, weights_E = _once(graph)
    if not len(sources_E):
        return
    strength_E = weights_E / weights_E.max()
    group_N = np.arange(graph.n)
    for number, members in enumerate(graph.groups):
        group_N[members] = graph.n + number
    between_E = (group_N[sources_E] != group_N[targets_E]) & (len(graph.groups) > 1)
    lines_ET2 = np.stack([position_N2[sources_E], position_N2[targets_E]], axis=1)
    if directed:
        lines_ET2 = _arcs(lines_ET2, radius)
    elif columns_of(graph) is not None:
        lines_ET2, drawn_E = _stubs(lines_ET2, nearest(position_N2))
        strength_E, between_E = strength_E[drawn_E], between_E[drawn_E]
    width = float(np.clip(14 / len(lines_ET2) ** 0.5, 0.35, 1.5))
    widths_E = width * (np.maximum(2 * strength_E, 0.3) if _differ(strength_E) else np.ones(len(strength_E)))
    ink_E = np.linalg.norm(np.diff(lines_ET2, axis=1), axis=2).sum(axis=1) * widths_E / 72 / (np.pi * inches)
    opacity_E = np.empty(len(ink_E))
    for which_E, most in ((between_E, 0.45), (~between_E, 0.85)):
        opacity_E[which_E] = np.clip(_INK / max(ink_E[which_E].sum(), 1e-9), 0.05, most)
    opacity_E = np.round(opacity_E * (0.4 + 0.6 * strength_E), 2)
    as_picture = len(lines_ET2) > _AS_PICTURE
    if directed:
        heads_E32 = _heads(lines_ET2, min(radius, 0.02 + 0.2 / len(lines_ET2) ** 0.5) * (0.4 + 0.6 * strength_E))
        lines_ET2[:, -1] = heads_E32[:, 1:].mean(axis=1)
        heads = PolyCollection(
            list(heads_E32), facecolors=to_rgba_array(SOFT, np.minimum(1.6 * opacity_E, 1.0)), edgecolors="none",
            zorder=1.1, rasterized=as_picture,
        )  # fmt: skip
        axes.add_collection(heads, autolim=False)
    lines = LineCollection(
        list(lines_ET2), linewidths=widths_E, colors=to_rgba_array(SOFT, opacity_E), zorder=1, rasterized=as_picture
    )
    axes.add_collection(lines, autolim=False)


def _once(graph: Graph) -> tuple[Ids, Ids, Floats]:
    """Sources, targets and weights of the lines. An undirected graph has one line per pair, of the mean weight."""
    weights_E = np.ones(len(graph.sources)) if graph.weights is None else np.abs(graph.weights)
    if not weights_E.any():
        weights_E = np.ones(len(weights_E))
    if not graph.is_undirected:
        return graph.sources, graph.targets, weights_E
    pair_E = np.minimum(graph.sources, graph.targets) * graph.n + np.maximum(graph.sources, graph.targets)
    forth_E, back_E = (
        way_E[np.argsort(pair_E[way_E])]
        for way_E in (np.flatnonzero(graph.sources < graph.targets), np.flatnonzero(graph.sources > graph.targets))
    )
    return graph.sources[forth_E], graph.targets[forth_E], (weights_E[forth_E] + weights_E[back_E]) / 2


def _arcs(lines_E22: Floats, radius: float) -> Floats:
    """Lines bent to the left, so that opposite edges are apart. They end at the border of the target."""
    start_E2, end_E2 = lines_E22[:, 0], lines_E22[:, 1]
    along_E2 = end_E2 - start_E2
    bend_E2 = (start_E2 + end_E2) / 2 + 0.12 * np.stack([-along_E2[:, 1], along_E2[:, 0]], axis=1)
    last_E2 = end_E2 - bend_E2
    end_E2 = end_E2 - 1.15 * radius * last_E2 / np.maximum(np.linalg.norm(last_E2, axis=1, keepdims=True), 1e-9)
    at_T11 = np.linspace(0, 1, 12)[:, None, None]
    arcs_TE2 = (1 - at_T11) ** 2 * start_E2 + 2 * at_T11 * (1 - at_T11) * bend_E2 + at_T11**2 * end_E2
    return np.asarray(arcs_TE2.transpose(1, 0, 2))


def _heads(lines_ET2: Floats, size_E: Floats) -> Floats:
    """The triangle at the end of each line, E x 3 x 2."""
    tip_E2 = lines_ET2[:, -1]
    back_E2 = lines_ET2[:, -2] - tip_E2
    back_E2 = 2 * size_E[:, None] * back_E2 / np.maximum(np.linalg.norm(back_E2, axis=1, keepdims=True), 1e-9)
    side_E2 = 0.4 * np.stack([-back_E2[:, 1], back_E2[:, 0]], axis=1)
    return np.stack([tip_E2, tip_E2 + back_E2 + side_E2, tip_E2 + back_E2 - side_E2], axis=1)


def _stubs(lines_E22: Floats, unit: float) -> tuple[Floats, Ids]:
    """The lines of a grid, and the edge of each. An edge that wraps around is two stubs, one at each end."""
    along_E2 = lines_E22[:, 1] - lines_E22[:, 0]
    length_E1 = np.linalg.norm(along_E2, axis=1, keepdims=True)
    around_E = length_E1[:, 0] > 1.5 * unit
    out_E2 = 0.55 * unit * along_E2 / length_E1
    leaving_E22 = np.stack([lines_E22[:, 0], lines_E22[:, 0] - out_E2], axis=1)
    coming_E22 = np.stack([lines_E22[:, 1], lines_E22[:, 1] + out_E2], axis=1)
    near, around = np.flatnonzero(~around_E), np.flatnonzero(around_E)
    lines = [lines_E22[near], leaving_E22[around], coming_E22[around]]
    return np.concatenate(lines), np.concatenate([near, around, around])


# ---------------------------------------------------------------------- nodes


def _draw_nodes(axes: Any, shown: Pictured, position_N2: Floats, radius: float) -> tuple[list[Any], list[str], str]:
    """Draw nodes by their labels, and return the marks, names and heading of the legend."""
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D

    n, as_picture = shown.graph.n, shown.graph.n > _AS_PICTURE
    if shown.labels_NL is None or not shown.labels_NL.any():
        _circles(axes, position_N2, np.full(n, radius), facecolors=LINES[0], zorder=2, rasterized=as_picture)
        return [], [], ""
    counts_NL, names = _few(shown.labels_NL)
    share_NL = counts_NL / np.maximum(counts_NL.sum(axis=1, keepdims=True), 1)
    colours = [CLASSES[-1] if name == _OTHERS else CLASSES[position] for position, name in enumerate(names)]
    if n <= (_PIES if axes.figure.get_figwidth() >= 6 else _PIES_IN_SMALL):
        heading = "labels that a node holds"
        _circles(axes, position_N2, np.full(n, 1.18 * radius), facecolors=PAPER, zorder=1.8)
        empty_N = ~share_NL.any(axis=1)
        _circles(axes, position_N2[empty_N], np.full(empty_N.sum(), radius), facecolors=RULE, zorder=1.9)
        end_NL = np.cumsum(share_NL, axis=1)
        for label, colour in enumerate(colours):
            wedges = [
                _wedge(position_N2[node], radius, end_NL[node, label] - share_NL[node, label], share_NL[node, label])
                for node in np.flatnonzero(share_NL[:, label])
            ]
            axes.add_collection(
                PathCollection(wedges, facecolors=colour, edgecolors="none", zorder=2, label=names[label]),
                autolim=False,
            )
    else:
        heading = f"label of at least {_MAIN:.0%} of a node's samples"
        main_N = np.where(share_NL.max(axis=1) >= _MAIN, share_NL.argmax(axis=1), len(names))
        if (main_N == len(names)).any():
            colours, names = [*colours, SOFT], [*names, "none"]
        for label, colour in enumerate(colours):
            of_N = main_N == label
            _circles(
                axes, position_N2[of_N], np.full(of_N.sum(), radius), facecolors=colour, zorder=2, label=names[label],
                rasterized=as_picture,
            )  # fmt: skip
    handles = [Line2D([], [], color=colour, marker="o", markersize=6, linestyle="") for colour in colours]
    return handles, names, heading


def _wedge(centre_2: Floats, radius: float, start: float, share: float) -> "Outline":
    """The part of a pie that begins at a share of the circle, clockwise from the top."""
    from matplotlib.path import Path as Outline

    # A Bézier curve of a quarter of a circle is off by at most 0.03 %.
    arc = Outline.wedge(90 - 360 * (start + share), 90 - 360 * start, max(1, int(np.ceil(4 * share))))
    return Outline(centre_2 + radius * np.asarray(arc.vertices), arc.codes)


def _few(counts_NL: Ids) -> tuple[Ids, list[str]]:
    """The counts and names of the most frequent labels, as many as there are colours, and of all others together."""
    labels = np.flatnonzero(counts_NL.any(axis=0))
    if counts_NL.shape[1] <= len(CLASSES):
        return counts_NL, [str(label) for label in range(counts_NL.shape[1])]
    if len(labels) <= len(CLASSES):
        return counts_NL[:, labels], [str(label) for label in labels]
    order = np.argsort(-counts_NL.sum(axis=0), kind="stable")
    kept = np.sort(order[: len(CLASSES) - 1])
    others_N1 = np.delete(counts_NL, kept, axis=1).sum(axis=1, keepdims=True)
    return np.concatenate([counts_NL[:, kept], others_N1], axis=1), [*(str(label) for label in kept), _OTHERS]


def _circles(axes: Any, centres: Floats, radii: Floats, **how: Any) -> None:
    """Draw discs whose radii are in units of the axes."""
    from matplotlib.collections import EllipseCollection

    discs = EllipseCollection(
        2 * radii, 2 * radii, np.zeros(len(radii)), units="xy", offsets=centres, offset_transform=axes.transData,
        edgecolors="none", **how,
    )  # fmt: skip
    axes.add_collection(discs, autolim=False)
