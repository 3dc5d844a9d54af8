"""The output of covey in IPython, in Jupyter and in a plain interpreter."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import covey as package
from covey.runtime.experiment import Progress
from covey.view.progress import ProgressDisplay
from covey.view.sparkline import braille, svg

TYPO = """
import covey
covey.run({"program": {"kind": "gossip", "topologie": "ring"}, "network": {"nodes": 4}})
"""
SENTENCE = "Unknown key 'topologie' of the program gossip; did you mean 'topology'?"
FAILS = """
import covey
class Fails(covey.Program):
    async def run(self, node):
        async for _ in node.rounds():
            self.divide(node)
    def divide(self, node):
        return node.id / 0
"""
RUN_FAILS = """
import covey
covey.run({"program": "fails_at_once:Fails", "network": {"nodes": 3}})
"""
COVEY = str(Path(package.__file__).parent)


@pytest.fixture
def cell(in_folder, capsys):
    """Run a cell of a notebook: what it shows."""
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    shell = interactive.InteractiveShell.instance()
    shell.colors = "nocolor"

    def run(text):
        capsys.readouterr()
        shell.run_cell(text)
        captured = capsys.readouterr()
        return captured.out + captured.err

    yield run
    shell.history_manager.end_session()
    shell.cleanup()
    shell.clear_instance()


def test_a_typo_is_one_line_in_a_notebook(cell):
    shown = cell(TYPO)
    assert len(shown.splitlines()) == 1
    assert shown.startswith(f"ConfigurationError: {SENTENCE}")


def test_what_fails_in_a_program_is_one_line_and_the_users_own_frames_in_a_notebook(cell, in_folder, monkeypatch):
    (in_folder / "fails_at_once.py").write_text(FAILS)
    shown = cell(RUN_FAILS)
    first, *rest = shown.splitlines()
    assert first.startswith(
        "ProgramError: The program fails_at_once:Fails fails at node 0 in round 0: ZeroDivisionError"
    )
    assert [line.strip() for line in rest if line.startswith("    ")] == [
        "self.divide(node)",
        "return node.id / 0",
        "~~~~~~~~^~~",
    ]
    assert COVEY not in shown


@pytest.mark.parametrize(("script", "lines", "last"), [(TYPO, 4, SENTENCE), (RUN_FAILS, 17, "ZeroDivisionError")])
def test_a_plain_traceback_has_no_frame_of_covey(script, lines, last, in_folder):
    (in_folder / "fails_at_once.py").write_text(FAILS)
    (in_folder / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert COVEY not in done.stderr
    assert len(done.stderr.splitlines()) <= lines
    assert last in done.stderr.splitlines()[-1]


RUN = """
import covey
task = {"dataset": "digits", "model": "logistic", "batch_size": 16}
tables = {"rounds": 4, "task": task, "program": {"kind": "gossip", "topology": "ring"}, "network": {"nodes": 4}}
run = covey.run({**tables, "evaluation": {"every": 1}}, %s)
"""


class Shown:
    """The displays of a cell, by the id under which each is replaced."""

    def __init__(self):
        self.pages = {}
        self.updates = 0

    def publish(self, data, metadata=None, *, transient=None, update=False, **rest):
        assert update == (transient["display_id"] in self.pages)
        self.pages[transient["display_id"]] = data
        self.updates += update


@pytest.fixture
def shown(cell, monkeypatch):
    """The displays of a notebook's cells."""
    from IPython import get_ipython

    shell, shown = get_ipython(), Shown()
    monkeypatch.setattr(shell, "kernel", object(), raising=False)
    monkeypatch.setattr(shell.display_pub, "publish", shown.publish)
    return shown


@pytest.mark.parametrize("watch", [True, False])
def test_a_run_in_a_notebook_shows_one_bar_that_is_replaced(watch, cell, shown):
    assert cell(RUN % f"watch={watch}") == ""
    (page,) = shown.pages.values()
    assert shown.updates >= 1
    assert "width:100.0%" in page["text/html"]
    assert ("<polyline" in page["text/html"]) == watch
    assert page["text/plain"].startswith("run-s1-001: round 4/4, ")


def test_a_run_in_a_notebook_is_quiet_where_it_is_asked_to_be(cell, shown):
    assert cell(RUN % "quiet=True") == ""
    assert not shown.pages


def test_a_run_of_a_script_shows_nothing_where_nobody_looks(in_folder, capsys):
    exec(RUN % "watch=True", {})
    assert capsys.readouterr() == ("", "")


def test_the_curve_on_a_terminal_is_that_of_the_accuracy_from_where_there_is_one():
    from rich.console import Console

    console = Console(width=100, force_terminal=True, color_system=None, record=True, file=io.StringIO())
    display = ProgressDisplay("run", 40, 8, watch=True)
    for round, accuracy in enumerate((None, None, 0.25, 0.5, 0.5, 0.75)):
        display(Progress(10.0 * round, 40, 1.0, 1, 2.0 - round, accuracy))
    console.print(display)
    lines = console.export_text().splitlines()
    assert lines[-6].endswith("0.750")
    assert lines[-1].endswith("0.250")
    assert any("\u2801" <= letter <= "\u28ff" for letter in lines[-1])


FIGURES = st.floats(-1e6, 1e6)


@given(st.lists(FIGURES, min_size=1, max_size=30), st.integers(2, 40), st.integers(1, 9))
def test_a_curve_fills_its_place_from_its_lowest_to_its_highest_value(values, columns, rows):
    points = [(float(index), value) for index, value in enumerate(values)]
    lines = braille(points, max(len(values) - 1, 1), columns, rows)
    assert [len(line) for line in lines] == [columns] * rows
    assert lines[0].strip("\u2800")
    if max(values) > min(values):
        assert lines[-1].strip("\u2800")
        assert all(line[-1] != "\u2800" for line in lines[:1] if values[-1] == max(values))
    places = [
        tuple(map(float, place.split(",")))
        for place in svg(points, 30.0, 50, 20).split('points="')[1].split('"')[0].split()
    ]
    assert all(2 <= x <= 48 and 2 <= y <= 18 for x, y in places)
