"""The examples, in a short form: fewer rounds and seeds, in an empty folder."""

import re
import runpy
from pathlib import Path

import pytest

import covey

EXAMPLES = Path(__file__).parent.parent / "examples"
SHORT = ((r"^ROUNDS = \d+", "ROUNDS = 4"), (r"^SEEDS = .*", "SEEDS = [1, 2]"))
"""The lines at the top of an example that a test replaces."""
LONGEST = 120
"""Lines: an example is read in a sitting."""


def short(text: str) -> str:
    """The text of an example with fewer rounds and seeds."""
    for pattern, replaced in SHORT:
        text = re.sub(pattern, replaced, text, flags=re.M)
    return text


@pytest.fixture
def run(in_folder, capsys):
    """Run a script of the examples: what it prints."""

    def script(name: str) -> str:
        text = (EXAMPLES / name).read_text()
        assert len(text.splitlines()) <= LONGEST
        (in_folder / name).write_text(short(text))
        capsys.readouterr()
        runpy.run_path(name, run_name="__main__")
        return capsys.readouterr().out

    return script


def test_the_example_of_a_paper_writes_its_table_and_its_figure(run):
    out = run("paper.py")
    runs = covey.compare("runs/paper").runs
    assert [sum(run.experiment["program"].get("far") == far for run in runs) for far in (None, 0.2, 0.5)] == [2, 2, 2]
    assert {run.status for run in runs} == {"finished"}
    lines = Path("table.tex").read_text().splitlines()
    assert [line.split(" & ")[:2] for line in lines if "pm" in line and "&" in line] == [
        [name, "2"] for name in ("D-PSGD", "lazy, 0.2", "lazy, 0.5")
    ]
    assert Path("figure.pdf").read_bytes().startswith(b"%PDF")
    assert out.startswith("| experiment | runs | accuracy | macro f1 | rare recall |")
    sent = [run.summary()["totals"]["bytes_out"] for run in (runs[-1], runs[0])]
    assert min(sent) < 0.9 * max(sent)
