"""Names of experiments by their differences, and texts that stay inside their figures."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from covey import view
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.runtime.runs import Run, RunWriter
from covey.view.differences import named_by_difference
from covey.view.graphs import Pictured, picture
from covey.view.look import new_axes, new_figure, title, wrapped

RING = {"program": {"kind": "gossip", "topology": {"kind": "ring"}}, "rounds": 9}


def sharing(**table):
    return {"program": {"kind": "gossip", "sharing": table}}


@pytest.mark.parametrize(
    ("tables", "names"),
    [
        ([{"rounds": 1}, {"rounds": 2}], ["rounds 1", "rounds 2"]),
        ([sharing(kind="full"), sharing(kind="random", budget=0.1)], ["full", "random"]),
        (
            [sharing(kind="full"), *(sharing(kind="random", budget=b, seeded=True) for b in (0.1, 0.25))],
            ["full", "random (budget 0.1)", "random (budget 0.25)"],
        ),
        (
            [{**sharing(kind=kind), "task": {"optimizer": {"kind": "sgd", "lr": lr}}} for kind in "ab" for lr in (1, 0.5)],
            ["sharing a, lr 1", "sharing a, lr 0.5", "sharing b, lr 1", "sharing b, lr 0.5"],
        ),
        ([{"a": {"lr": 1}, "b": {"lr": 1}}, {"a": {"lr": 2}, "b": {"lr": 1}}], ["lr 1", "lr 2"]),
        ([{"a": {"lr": 1}, "b": {"lr": 1}}, {"a": {"lr": 2}, "b": {"lr": 3}}], ["a lr 1, b lr 1", "a lr 2, b lr 3"]),
        ([{"p": {"overlap": True}}, {"p": {"overlap": False}}], ["overlap", "no overlap"]),
        ([{"network": {}}, {"network": {"local_loss": 0.1}}], ["no local loss", "local loss 0.1"]),
        ([{"faults": []}, {"faults": [{"kind": "crash", "at": 3.0}]}], ["no faults", "faults crash (at 3)"]),
        ([sharing(kind="full"), sharing(kind="mine:Lazy", far=0.1)], ["full", "Lazy"]),
        ([sharing(kind="full"), sharing(kind="a:Lazy"), sharing(kind="b:Lazy")], ["full", "a:Lazy", "b:Lazy"]),
        # Defaults that follow from another key say nothing beside it, and everything without it.
        (
            [{"program": {"topology": t, "aggregation": a}} for t, a in (("x", "m"), ("y", "n"), ("z", "n"))],
            ["topology x", "topology y", "topology z"],
        ),
        ([{"program": {"aggregation": a}} for a in ("m", "n")], ["aggregation m", "aggregation n"]),
    ],
)  # fmt: skip
def test_experiments_are_named_by_what_differs(tables, names):
    assert named_by_difference(tables) == names


SCALARS = st.one_of(st.integers(0, 3), st.booleans(), st.sampled_from(["ring", "star"]))
PARTS = st.fixed_dictionaries({"kind": st.sampled_from(["a", "b"])}, optional={"budget": SCALARS, "level": SCALARS})
TABLES = st.fixed_dictionaries(
    {"rounds": st.integers(1, 3), "program": PARTS}, optional={"task": PARTS, "loss": SCALARS}
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(TABLES, min_size=1, max_size=6))
def test_names_differ_where_experiments_of_the_same_types_do(tables):
    names = named_by_difference(tables)
    assert len(names) == len(tables)
    for first, table in zip(names, tables, strict=True):
        for second, other in zip(names, tables, strict=True):
            # Numbers and words in one key: 1 and True are no two values.
            assert (first == second) == (table == other) or _types(table) != _types(other)


def _types(table):
    return {key: _types(value) if isinstance(value, dict) else type(value) for key, value in table.items()}


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text("abcW .-_", max_size=60), st.sampled_from([0.5, 2.0]))
def test_lines_are_as_wide_as_they_may_be_and_lose_nothing(text, inches):
    from covey.view.look import _width

    lines = wrapped(text, 10, inches)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(len(line) == 1 or _width(line, 10) <= inches for line in lines)


def outside(figure):
    """The texts that a figure cuts."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    edge, renderer = figure.bbox, canvas.get_renderer()
    # Labels of ticks beyond an axis are there, and not drawn.
    ticks = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()}
    shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text not in ticks]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    assert len(boxes) >= 2
    return [text for text, box in boxes if box.x0 < -1 or box.x1 > edge.x1 + 1 or box.y0 < -1 or box.y1 > edge.y1 + 1]


LONG = "a name without any end, with-words-that-go-on-and-on-and-on-and-on-and-on-and-on-and-on, " * 2


def finished(folder: Path, **table) -> Run:
    writer = RunWriter.create(folder, {"name": "x", **table}, {})
    for node in range(3):
        writer.commits([(node, round, float(round), 1.0, *[round] * 8, 0, *[0.0] * 4) for round in (1, 2)])
        writer.metrics([(node, round, "accuracy", 0.1 * round + 0.2 * node) for round in (1, 2)])
    writer.holdings(np.ones((3, 10), dtype=int))
    writer.finish("finished", {})
    return Run(folder)


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_figures_cut_no_title_and_no_legend(width, tmp_path):
    runs = [finished(tmp_path / f"{number}", rounds=number) for number in range(3)]
    figure = view.curves(runs, labels=[LONG, "b", LONG], size=(width, 4.0))
    assert outside(figure) == []
    assert figure.get_figheight() > 4.0
    texts = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    assert [text.replace(" ", "") for text in texts] == [label.replace(" ", "") for label in (LONG, "b", LONG)]
    named = finished(tmp_path / ("folder-" * 20 + "end"))
    for drawn in (view.curves([named]), view.histogram(named), view.holdings(named)):
        assert outside(drawn) == []
    assert outside(view.holdings(named, size=(width, 3.0))) == []
    chain = Pictured(LONG, Graph.undirected(5, np.arange(4), np.arange(1, 5)))
    assert outside(picture(chain, size=(width, 4.0))) == []


def test_lines_of_one_colour_have_marks_of_their_own(tmp_path):
    runs = [finished(tmp_path / f"{number}", rounds=number) for number in range(14)]
    lines = view.curves(runs).axes[0].lines
    looks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(looks) == 14


def test_a_title_continues_in_a_second_line():
    axes = new_axes(new_figure((3.0, 2.0)))
    title(axes, LONG, LONG)
    assert "\n" in axes.get_title(loc="left")


def test_labels_are_one_for_each_line(tmp_path, covey):
    folders = [
        str(finished(tmp_path / f"{seed}-{rounds}", rounds=rounds, seed=seed).folder)
        for rounds in (1, 2)
        for seed in (1, 2)
    ]
    runs = [Run(folder) for folder in folders]
    figure = view.curves(runs, labels=["mine", "theirs"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mine", "theirs"]
    with pytest.raises(ConfigurationError) as error:
        view.curves(runs, labels=["mine"])
    assert str(error.value) == ("Labels must be as many as the experiments, 2: rounds 1; rounds 2. Got 1 instead.")
    page = tmp_path / "page.html"
    code, _, err = covey("report", *folders, "--label", "mine", "--label", "the <others>", "--out", str(page))
    assert (code, err) == (0, "")
    assert "the &lt;others&gt;, seed 2" in page.read_text()
    code, _, err = covey("plot", *folders, *["--label", "a"] * 3, "--out", str(tmp_path / "figure.svg"))
    assert (code, err.count("\n")) == (2, 1)
    assert "Got 3 instead" in err
