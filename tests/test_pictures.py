"""Pictures of graphs: their content, their layout, and the errors if there is nothing to draw."""

import numpy as np
import pytest

import covey as package
from covey import view
from covey.decentralized.topology.static import RandomRegular, Ring, Torus
from covey.network.graph import Graph
from covey.parts.errors import DataError, RunError
from covey.parts.parameters import Setting
from covey.runtime.experiment import Experiment
from covey.runtime.runs import Run, RunWriter
from covey.view import graphs
from covey.view.graphs import Pictured, graph_of_experiment, graph_of_run, picture
from covey.view.look import CLASSES, SOFT
from covey.view.positions import columns_of, nearest, positions
from tests.conftest import table

SHARDS = {"partition": {"kind": "shards", "per_node": 2}}
CLIQUES = {"kind": "d-cliques", "size": 4, "swaps": 20}


def tables(topology, nodes=12, task=SHARDS, **program):
    program = {"kind": "gossip", "topology": topology, **program}
    return table(program=program, network={"nodes": nodes}, task=task, rounds=3)


def parts(figure, kind):
    """The collections of a figure by the name of their class."""
    return [found for found in figure.axes[0].collections if type(found).__name__ == kind]


def colours_of(figure):
    from matplotlib.colors import to_hex

    return {to_hex(part.get_facecolor()[0]) for part in parts(figure, "PathCollection") if len(part.get_facecolor())}


@pytest.mark.parametrize(("topology", "lines"), [("ring", 12), ("complete", 66), ({**CLIQUES, "between": "ring"}, 21)])
def test_a_pair_is_one_line_and_a_node_a_pie_of_its_labels(topology, lines):
    shown = graph_of_experiment(Experiment.from_table(tables(topology)))
    figure = picture(shown)
    (edges,) = parts(figure, "LineCollection")
    assert len(edges.get_segments()) == lines
    wedges = sum(len(part.get_paths()) for part in parts(figure, "PathCollection"))
    assert wedges == (shown.labels_NL > 0).sum()
    assert colours_of(figure) == set(CLASSES)
    assert f"{lines} edges" in figure.axes[0].get_title(loc="left")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [str(label) for label in range(10)]


def test_many_nodes_have_the_colour_of_their_main_label_and_none_where_there_is_none(monkeypatch):
    monkeypatch.setattr(graphs, "_PIES", 3)
    labels_NL = np.array([[9, 1, 0], [0, 0, 7], [4, 4, 4], [0, 0, 7]])
    figure = picture(Pictured("x", Graph.undirected(4, np.arange(3), np.arange(1, 4)), labels_NL=labels_NL))
    from matplotlib.colors import to_hex

    nodes = {part.get_label(): part for part in parts(figure, "EllipseCollection")}
    assert {name: len(part.get_offsets()) for name, part in nodes.items()} == {"0": 1, "1": 0, "2": 2, "none": 1}
    assert to_hex(nodes["2"].get_facecolor()[0]) == CLASSES[2]
    assert to_hex(nodes["none"].get_facecolor()[0]) == SOFT


def test_of_more_labels_than_colours_the_rarest_are_others():
    counts_NL = np.ones((3, 30), dtype=np.int64)
    counts_NL[:, 7] = 5
    kept, names = graphs._few(counts_NL)
    assert kept.sum() == counts_NL.sum()
    assert kept.shape == (3, len(CLASSES))
    assert "7" in names
    assert names[-1] == "others"


def test_lines_are_as_wide_as_the_weights_of_merging(tmp_path):
    weights = [0.1, 0.2, 0.4]
    (tmp_path / "edges").write_text("".join(f"{i} {(i + 1) % 3} {weight}\n" for i, weight in enumerate(weights)))
    edges = {"kind": "edges", "file": str(tmp_path / "edges"), "directed": True}
    shown = graph_of_experiment(Experiment.from_table(tables(edges, 3, aggregation="given")))
    assert shown.graph.weights.tolist() == [0.4, 0.1, 0.2]
    figure = picture(shown)
    (lines,) = parts(figure, "LineCollection")
    widths = np.array(lines.get_linewidths())
    np.testing.assert_allclose(widths / widths.max(), [1.0, 0.25, 0.5])
    opacity = lines.get_colors()[:, 3]
    assert opacity.argsort().tolist() == [1, 2, 0]
    assert "wider lines" in figure.axes[0].texts[0].get_text()
    # Three heads of arrows, one at each target.
    heads = parts(figure, "PolyCollection")[0].get_paths()
    ends = np.array([path.vertices[0] for path in heads])
    position_N2 = positions(shown.graph)
    distance_EN = np.linalg.norm(ends[:, None] - position_N2[None], axis=2)
    assert distance_EN.argmin(axis=1).tolist() == shown.graph.targets.tolist()
    assert "3 directed edges" in shown.in_words


def test_with_equal_weights_the_figure_says_which():
    figure = picture(graph_of_experiment(Experiment.from_table(tables("ring"))))
    assert figure.axes[0].texts[0].get_text() == "each neighbour's model is merged with weight 0.333"


def test_edges_between_groups_are_fainter_than_those_within():
    shown = graph_of_experiment(Experiment.from_table(tables(CLIQUES)))
    figure = picture(shown)
    (lines,) = parts(figure, "LineCollection")
    assert len(shown.graph.groups) == 3
    group_N = np.empty(12, dtype=int)
    for number, members in enumerate(shown.graph.groups):
        group_N[members] = number
    sources_E, targets_E, _ = graphs._once(shown.graph)
    between_E = group_N[sources_E] != group_N[targets_E]
    opacity_E = lines.get_colors()[:, 3]
    assert between_E.sum() == 3
    assert opacity_E[between_E].max() < opacity_E[~between_E].min()


def test_the_line_of_a_pair_has_the_mean_of_its_two_weights():
    sources, targets = np.array([0, 1, 1, 2]), np.array([1, 0, 2, 1])
    lines = graphs._once(Graph(3, sources, targets, np.array([0.2, 0.4, 0.6, 0.8])))
    assert [part.tolist() for part in lines] == [[0, 1], [1, 2], pytest.approx([0.3, 0.7])]


def drawn(topology, nodes):
    topology.ready(Setting(nodes))
    return topology.at(0)


def test_members_of_a_group_are_nearer_to_each_other_than_to_others():
    for groups in (5, 37, 100):
        members = np.random.default_rng(0).permutation(groups * 10).reshape(groups, 10)
        graph = Graph(groups * 10, np.array([0]), np.array([1]), groups=list(members))
        position_N2 = positions(graph)
        centres = position_N2[members].mean(axis=1)
        apart = np.linalg.norm(position_N2[:, None] - centres[None], axis=2).argmin(axis=1)
        assert all((apart[group] == number).all() for number, group in enumerate(members))


@pytest.mark.parametrize(
    "graph", [drawn(RandomRegular(degree=10), 1000), drawn(Ring(), 1000), Graph(70, *np.zeros((2, 0), dtype=int))]
)
def test_positions_are_the_same_each_time_finite_and_apart(graph):
    position_N2 = positions(graph)
    assert np.array_equal(position_N2, positions(graph))
    assert np.linalg.norm(position_N2, axis=1).max() < 1.05
    assert nearest(position_N2) > 0.2 / graph.n**0.5


def test_a_grid_is_known_by_its_edges_and_a_ring_is_none():
    assert columns_of(drawn(Torus(rows=4), 24)) == 6
    assert columns_of(drawn(Torus(rows=8), 24)) == 3
    assert columns_of(drawn(Ring(), 24)) is None
    position_N2 = positions(drawn(Torus(rows=4), 24))
    assert [len(np.unique(position_N2[:, axis].round(6))) for axis in (0, 1)] == [6, 4]
    # An edge around the border is two short lines.
    (lines,) = parts(picture(Pictured("x", drawn(Torus(rows=4), 24))), "LineCollection")
    assert len(lines.get_segments()) == 48 + 4 + 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    epidemic = tables({"kind": "epidemic-local", "degree": 3})
    return {
        "epidemic": package.run(epidemic, out=folder / "epidemic"),
        "cliques": package.run(tables(CLIQUES), out=folder / "cliques"),
        "fedavg": package.run({**epidemic, "program": "fedavg"}, out=folder / "fedavg"),
    }


def test_a_run_and_its_experiment_have_the_same_graph_in_every_round(runs):
    for name, rounds in (("epidemic", (0, 2)), ("cliques", (0, 2))):
        for round in rounds:
            kept, would = (
                graph_of_run(runs[name], round),
                graph_of_experiment(Experiment.from_table(runs[name].experiment), round),
            )
            for part in ("sources", "targets", "weights"):
                np.testing.assert_array_equal(getattr(kept.graph, part), getattr(would.graph, part))
            assert [group.tolist() for group in kept.graph.groups] == [group.tolist() for group in would.graph.groups]
            np.testing.assert_array_equal(kept.labels_NL, would.labels_NL)
            assert (kept.round, would.round) == ((None, None) if name == "cliques" else (round, round))
    first, third = (graph_of_run(runs["epidemic"], round).graph for round in (0, 2))
    assert first.sources.tolist() != third.sources.tolist() or first.targets.tolist() != third.targets.tolist()


def test_the_label_dependent_graph_of_a_run_needs_no_data(runs, monkeypatch):
    redrawn = {"kind": "redrawn", "topology": CLIQUES, "every": 1}
    run = package.run(tables(redrawn), out=runs["cliques"].folder.parent / "redrawn")
    would = graph_of_experiment(Experiment.from_table(run.experiment), 1)
    monkeypatch.setattr(graphs, "prepare", None)
    assert graph_of_run(run, 1).graph.sources.tolist() == would.graph.sources.tolist()


def test_data_that_are_not_there_cost_the_colours_alone_unless_the_graph_needs_them(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise DataError("Downloading it failed.")

    monkeypatch.setattr(graphs, "prepare", broken)
    shown = graph_of_experiment(Experiment.from_table(tables("ring")))
    assert (shown.labels_NL, len(shown.graph.sources)) == (None, 24)
    assert not picture(shown).legends
    with pytest.raises(DataError, match="Downloading it failed"):
        graph_of_experiment(Experiment.from_table(tables(CLIQUES)))


def test_the_command_draws_runs_and_experiments(runs, covey, in_folder):
    (in_folder / "experiment.toml").write_bytes((runs["cliques"].folder / "run.toml").read_bytes())
    for source in (runs["cliques"].folder, "experiment.toml"):
        code, out, err = covey("plot", str(source), "--graph", "--round", "2", "--out", "graph.png")
        assert (code, out, err) == (0, "graph.png\n", "")
        assert (in_folder / "graph.png").read_bytes()[:4] == b"\x89PNG"
    assert covey("plot", str(runs["epidemic"].folder), "--graph", "--round", "1", "--out", "graph.svg")[0] == 0


def test_what_cannot_be_drawn_gets_one_line(runs, covey, in_folder):
    (in_folder / "server.toml").write_bytes((runs["fedavg"].folder / "run.toml").read_bytes())
    lines = {
        (str(runs["fedavg"].folder), "--graph"): f"The program of the run {runs['fedavg'].folder} has no topology",
        ("server.toml", "--graph"): "The program fedavg has no topology, so there is no graph to draw.",
        ("nothing.toml", "--graph"): "nothing.toml",
        (
            str(runs["epidemic"].folder),
            "--graph",
            "--round",
            "3",
        ): "The 'round' of a graph must be an int in [0, 3). Got 3",
        (str(runs["cliques"].folder), "--graph", "--round", "-1"): "must be an int in [0, 3). Got -1 instead.",
        (str(runs["cliques"].folder), "--round", "1"): "--round chooses the graph to draw: give --graph as well.",
        ("server.toml",): "server.toml is an experiment: only --graph draws experiments.",
    }
    for arguments, line in lines.items():
        code, _, err = covey("plot", *arguments, "--out", "graph.png")
        assert code == 2
        assert err.startswith("covey: ")
        assert err.count("\n") == 1
        assert line in err, arguments
    assert not (in_folder / "graph.png").exists()


def test_a_damaged_graph_is_named(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {"rounds": 3}, {})
    writer.graph(Graph(2, np.array([0]), np.array([1])), static=True)
    writer.finish("finished", {})
    np.savez(tmp_path / "run" / "graph.npz", n=2)
    with pytest.raises(RunError, match=r"^The run .* has no readable graph.npz: .+\.$"):
        view.graph(Run(tmp_path / "run"))
