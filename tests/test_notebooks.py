"""What covey shows in IPython, in Jupyter and in a plain interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

import covey as package

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
    shell = interactive.InteractiveShell()
    shell.colors = "nocolor"

    def run(text):
        capsys.readouterr()
        shell.run_cell(text)
        captured = capsys.readouterr()
        return captured.out + captured.err

    yield run
    shell.history_manager.end_session()
    shell.cleanup()


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
