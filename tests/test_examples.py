"""The examples, in a short form: fewer rounds and seeds, in an empty folder."""

import json
import os
import re
import runpy
import subprocess
import sys
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


def test_the_example_of_other_worlds_changes_the_time_alone_unless_messages_are_lost(run):
    run("what_if.py")
    runs = [one for one in covey.compare("runs/sweep-001").runs if one.experiment["seed"] == 1]
    summaries = [one.summary() for one in runs]
    assert len({round(summary["time"], 3) for summary in summaries}) >= 3
    losses = [one.experiment["network"]["loss"] for one in runs]
    assert sorted(losses) == [0, 0, 0, 0.1]
    (final,) = {str(summary["final"]) for summary, loss in zip(summaries, losses, strict=True) if not loss}
    assert str(summaries[losses.index(0.1)]["final"]) != final
    assert Path("what-if.png").exists()


def test_the_example_of_a_server_gives_its_best_model_to_plain_torch(run):
    out = run("federated.py")
    assert "| adam |" in out
    assert out.splitlines()[-1].startswith("Its outputs in plain torch: [[")
    assert Path("model.safetensors").exists()


def test_the_example_of_sharings_sends_less_with_each_than_with_whole_models(run):
    run("send_less.py")
    sent = {one.folder.name: one.summary()["totals"]["bytes_out"] for one in covey.compare("runs/sweep-001").runs}
    assert len(sent) == 14
    most = max(sent.values())
    assert {name for name, count in sent.items() if count == most} == {"sharing=full-seed=1", "sharing=full-seed=2"}
    assert Path("send-less.png").exists()


def test_the_example_without_learning_finds_the_mean(run):
    out = run("ask_around.py")
    assert len(out.splitlines()) > 3
    means = covey.compare("runs").runs[0].figures.groupby("round")["mean"].agg(["mean", "std"])
    assert means["mean"].max() - means["mean"].min() < 1e-9
    assert means["std"].iloc[-1] < 0.5 * means["std"].iloc[0]


BOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def read(name: str, folder: Path, *, whole: bool = False) -> tuple[list[list[str]], str]:
    """Run a notebook in an empty folder and a clean environment: the forms of its results, and what it prints."""
    pytest.importorskip("IPython")
    book = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    for cell in book["cells"]:
        cell["source"] = "".join(cell["source"]) if whole else short("".join(cell["source"]))
    (folder / name).write_text(json.dumps(book), encoding="utf-8")
    (folder / "home").mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("notebook.py")), name]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said
    return json.loads(done.stderr.splitlines()[-1]), said


def test_the_notebook_of_a_first_run_shows_tables_and_figures(tmp_path):
    forms, said = read("first_run.ipynb", tmp_path)
    assert [("image/png" in form, "text/html" in form) for form in forms].count((True, False)) == 5
    assert ["text/html", "text/plain"] in forms
    assert "Sweep('runs/sweep-001', 6 of 6 runs)" in said


def test_the_notebook_of_ones_own_gives_one_run_for_three_forms_of_data(tmp_path):
    _, said = read("your_own.ipynb", tmp_path)
    assert "of all points are classified rightly" in said
    assert len([*(tmp_path / "runs").glob("run-*")]) == 3


@pytest.mark.slow
def test_the_notebook_of_three_machines_survives_its_crash(tmp_path):
    _, said = read("three_machines.ipynb", tmp_path, whole=True)
    assert "exit code of the run: 0" in said
    assert "rolled back" in said


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_notebooks_are_kept_without_outputs(book):
    found = json.loads(book.read_text(encoding="utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in found["cells"]]
    assert len(set(ids)) == len(ids) <= 40
    for cell in found["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert "Traceback" not in "".join(cell["source"])


def test_the_list_of_examples_has_all_of_them():
    listed = set(re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text()))
    assert listed >= {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
