"""Runs in a table: seeds as mean and spread, folders of runs, and texts for papers."""

import csv
import io
import re
import shutil
import subprocess
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

import covey as package
from covey.parts.errors import ConfigurationError, RunError
from covey.runtime.runs import RunWriter, find_runs
from covey.view.typesetting import _LATEX, _latex, _markdown

ACCURACY = {(0.1, 1): 0.50, (0.1, 2): 0.54, (0.1, 3): 0.61, (0.02, 1): 0.30, (0.02, 2): 0.34}


def finished(folder, lr, seed, accuracy, name="x_1"):
    optimizer = {"kind": "sgd", "lr": lr}
    writer = RunWriter.create(folder, {"name": name, "seed": seed, "task": {"optimizer": optimizer}}, {})
    for node in range(2):
        writer.commits([(node, 1, 4.0, 1.0, *[0] * 2, 2000, *[0] * 5, 0, *[0.0] * 4)])
        writer.metrics([(node, 1, "accuracy", accuracy + 0.1 * node), (node, 1, "f1_macro", accuracy)])
    writer.metrics([(-1, 1, "consensus_distance", 2.0)])
    writer.finish("finished", {})


@pytest.fixture
def folder(in_folder):
    """Five runs of two experiments, and things that are no runs."""
    for (lr, seed), accuracy in ACCURACY.items():
        finished(in_folder / "sweep" / f"lr={lr}-seed={seed}", lr, seed, accuracy)
    (in_folder / "sweep" / "killed").mkdir()
    (in_folder / "sweep" / "killed" / ".lock").touch()
    (in_folder / "sweep" / "figure.png").touch()
    return in_folder / "sweep"


def test_a_folder_of_runs_stands_for_its_runs_in_natural_order(folder, in_folder):
    finished(folder / "deep" / "er" / "run-2", 0.3, 1, 0.5)
    finished(folder / "deep" / "er" / "run-10", 0.3, 1, 0.5)
    names = [run.folder.name for run in find_runs([folder, folder / "lr=0.1-seed=3"])]
    deep = ["run-2", "run-10"]
    shallow = [f"lr={lr}-seed={seed}" for lr, seed in ((0.02, 1), (0.02, 2), (0.1, 1), (0.1, 2), (0.1, 3))]
    assert names == [*deep, *shallow, "lr=0.1-seed=3"]
    for empty in (folder / "killed", in_folder / "nowhere"):
        with pytest.raises(RunError, match="is not a run folder: it has no metrics"):
            find_runs([empty])


def test_links_to_runs_are_not_followed(folder, in_folder):
    (in_folder / "other").mkdir()
    (in_folder / "other" / "link").symlink_to(folder / "lr=0.1-seed=3")
    with pytest.raises(RunError):
        find_runs([in_folder / "other"])


def test_each_row_is_an_experiment_over_its_seeds(folder, covey):
    found = package.compare(folder)
    for lr, record in zip((0.02, 0.1), found.records, strict=True):
        values = [accuracy + 0.05 for (rate, _), accuracy in ACCURACY.items() if rate == lr]
        assert record["configuration"] == f"lr {lr}"
        assert record["accuracy"] == pytest.approx({"mean": mean(values), "std": stdev(values)})
        assert len(record["runs"]) == len(values)
    code, out, err = covey("compare", "sweep")
    assert (code, err) == (0, "")
    assert out.startswith("mean ± standard deviation over seeds\nexperiment  runs")
    assert re.search(r"lr 0.1 +3 +0.600 ± 0.056 ", out)
    assert len(covey("compare", "sweep", "--each")[1].splitlines()) == 3 + 5
    assert "lr 0.02, seed 2" in covey("compare", "sweep", "--each")[1]
    one = covey("compare", "sweep/lr=0.1-seed=1")[1]
    assert "±" not in one
    assert "runs\nexperiment  accuracy" in one
    twice = covey("compare", "sweep/lr=0.1-seed=1", "sweep")[1]
    assert "Counted twice, as runs with equal seeds: lr 0.1." in twice
    assert len(package.compare([folder, package.Run(folder / "lr=0.1-seed=1")]).runs) == 6


def test_a_comparison_is_a_table_in_a_terminal_too(folder):
    lines = repr(package.compare(folder)).splitlines()
    assert lines[0].startswith("| experiment | runs | accuracy |")
    assert len(lines) == 4


def test_metrics_of_nodes_and_of_the_network_are_columns(folder, covey):
    found = package.compare(folder, metrics=["f1_macro", "consensus_distance"])
    assert [*found.records[1]] == ["configuration", "runs", "f1_macro", "consensus_distance"]
    assert found.records[1]["f1_macro"]["mean"] == pytest.approx(0.55)
    assert found.records[1]["consensus_distance"] == {"mean": 2.0, "std": 0.0}
    with pytest.raises(ConfigurationError, match="Unknown metric 'f1-macro' of the runs; did you mean 'f1_macro'"):
        package.compare(folder, metrics=["f1-macro"]).table()
    assert covey("compare", "sweep", "--metric", "none")[0] == 2


def test_accuracies_are_reached_on_average_over_seeds(folder, covey):
    code, out, err = covey("compare", "sweep", "--reach", "0.37")
    assert (code, err) == (0, "")
    assert re.search(r"lr 0.02 +4.0 s \(1 of 2 runs\) +4.0 kB", out)
    assert re.search(r"lr 0.1 +4.0 s +4.0 kB", out)


def test_csv_has_the_numbers_of_the_records(folder, covey):
    code, out, err = covey("compare", "sweep", "--table", "csv", "--label", 'a,"b"', "--label", "b")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["experiment"] for row in rows] == ['a,"b"', "b"]
    assert [row["runs"] for row in rows] == ["2", "3"]
    for row, record in zip(rows, package.compare(folder).records, strict=True):
        for name in ("accuracy", "worst node", "bytes sent", "time"):
            assert float(row[f"{name.replace(' ', '_')}_mean"]) == record[name]["mean"]
            assert float(row[f"{name.replace(' ', '_')}_std"]) == record[name]["std"]
        assert row["loss_mean"] == row["loss_std"] == ""


def test_markdown_has_a_cell_for_each_figure(folder, covey):
    out = covey("compare", "sweep", "--table", "markdown", "--metric", "f1_macro", "--label", "a|b", "--label", "*b*")[
        1
    ]
    assert out.splitlines() == [
        "| experiment | runs | f1 macro |",
        "| --- | ---: | ---: |",
        "| a\\|b | 2 | 0.320 ± 0.028 |",
        "| \\*b\\* | 3 | 0.550 ± 0.056 |",
    ]


def test_a_table_in_latex_is_as_it_goes_into_a_paper(folder, covey):
    out = covey("compare", "sweep", "--table", "latex", "--metric", "f1_macro", "--label", "50% & x_1", "--label", "b")[
        1
    ]
    assert out.splitlines()[2:] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"experiment & runs & f1~macro \\",
        r"\midrule",
        r"50\% \& x\_1 & 2 & 0.320~$\pm$~0.028 \\",
        r"b & 3 & 0.550~$\pm$~0.056 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    code, _, err = covey("compare", "sweep", "--table", "latex", "--reach", "0.5")
    assert (code, err) == (2, "covey: --table prints a table for a paper: give neither --reach nor --json.\n")


@given(st.text())
def test_latex_takes_any_name(text):
    """The text without escapes has no character that LaTeX reads as a command."""
    kept = _latex(text)
    for escape in sorted(_LATEX.values(), key=len, reverse=True):
        kept = kept.replace(escape, "")
    assert not set(kept) & set('\\{}$&#%_~^"')
    assert "\n" not in kept


@given(st.text())
def test_a_cell_of_markdown_never_ends_early(text):
    cell = _markdown(text)
    assert "|" not in re.sub(r"\\.", "", cell)
    assert "\n" not in cell


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
@pytest.mark.parametrize("package_line", ["", r"\usepackage{booktabs}"])
def test_latex_compiles_with_and_without_booktabs(folder, covey, in_folder, package_line):
    if package_line and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("no booktabs here")
    labels = ['\\{}$&#%_~^<>|"±–', "b"]
    out = covey("compare", "sweep", "--table", "latex", *(part for label in labels for part in ("--label", label)))[1]
    (in_folder / "table.tex").write_text(out)
    paper = rf"\documentclass{{article}}{package_line}\begin{{document}}\input{{table.tex}}\end{{document}}"
    (in_folder / "paper.tex").write_text(paper)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        capture_output=True,
        text=True,
        cwd=in_folder,
    )
    assert done.returncode == 0, done.stdout[-2000:]
