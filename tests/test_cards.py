"""The tables of runs, experiments, sweeps, checks and kinds in notebooks and terminals."""

import io
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import covey as package
from covey.view.cards import Card
from tests.conftest import table

ASK = """
from covey import Node, Program
class Ask(Program):
    async def run(self, node: Node) -> None:
        async for _ in node.rounds():
            node.log(heard=float(node.id))
"""


def tables_in(page):
    """The cells of the tables of a page, row by row."""
    return [["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(page).iter("tr")]


def on_terminal(shown, width):
    screen = io.StringIO()
    Console(file=screen, width=width, force_terminal=False).print(shown)
    return screen.getvalue().splitlines()


@pytest.fixture
def run(in_folder):
    return package.run(table(rounds=4, network={"nodes": 6}), out="run")


def test_the_card_of_a_run_has_its_final_figures_and_its_curve(run):
    page = run._repr_html_()
    final = run.summary()["final"]
    rows = tables_in(page)
    assert rows[0] == ["at the end", "mean", "min", "max", "spread"]
    assert {row[0]: row[1] for row in rows[1:]} == {name: f"{values['mean']:.3f}" for name, values in final.items()}
    means = run.metrics.groupby("round")["accuracy"].mean()
    assert f"accuracy by round: {means.iloc[0]:.3f} to {means.iloc[-1]:.3f}" in page
    assert "<polyline" in page
    assert repr(run) == "Run('run', finished)"


def test_the_card_of_a_run_that_learns_nothing_has_its_own_figures(in_folder, monkeypatch):
    (in_folder / "asks_itself.py").write_text(ASK)
    run = package.run({"rounds": 2, "program": "asks_itself:Ask", "network": {"nodes": 3}}, out="run")
    assert tables_in(run._repr_html_())[1] == ["heard", "1.000", "0.000", "2.000", "0.816"]
    assert "<polyline" not in run._repr_html_()


def test_the_card_of_an_experiment_has_what_differs_from_the_defaults():
    experiment = package.Experiment.from_table(table())
    rows = dict(tables_in(experiment._repr_html_()))
    assert rows["program"] == "gossip (topology ring)"
    assert rows["task.optimizer"] == "sgd (lr 0.3)"
    assert rows["network.nodes"] == "12"
    assert rows["evaluation.samples"] == "60"
    assert not {"network.loss", "network.queue", "checkpoint.keep", "observer", "faults"} & rows.keys()
    assert repr(experiment) == "Experiment('run', gossip, 12 nodes, 6 rounds, seed 3)"


@pytest.mark.parametrize("width", [60, 120])
def test_cards_fit_a_terminal(width, run):
    swept = package.sweep(table(rounds=1, network={"nodes": 6}), {"seed": [1, 2]}, out="swept")
    shown = [run, package.Experiment.from_table(run.experiment), swept, package.check(run.experiment)]
    for one in [*shown, package.list("topology", "ring"), package.list()]:
        lines = on_terminal(one, width)
        assert len(lines) > 1
        assert all(len(line) <= width for line in lines)
        assert tables_in(one._repr_html_())


def test_cards_take_the_colours_of_their_page(run):
    pages = run._repr_html_() + package.list()._repr_html_()
    colours = set(re.findall(r"#[0-9a-f]{6}|rgba\([^)]*\)|(?:fill|stroke)=\"(\w+)\"", pages))
    assert "color:" not in pages
    assert colours <= {"", "currentColor", "none"}


@given(st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=2), st.booleans())
def test_no_text_of_a_card_is_html(cells, figures):
    card = Card(cells[0], cells[1], cells, [cells], figures=figures, remarks=cells)
    found = tables_in(card.html())
    assert found[0] == found[1]
    assert all(text.isprintable() for text in found[1])
    assert [text for text in cells if text.isprintable()] == [
        text for text, given in zip(found[1], cells, strict=True) if given.isprintable()
    ]
