"""The page on runs, as a browser shows it, and the figures on it."""

import html
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import rc_context

import covey as package
from covey import view
from covey.network.graph import Graph
from covey.pages import page, write_report
from covey.runtime.experiment import Experiment
from covey.runtime.runs import Run, RunWriter
from covey.view.graphs import graph_of_run
from covey.view.groups import flat, grouped
from tests.conftest import table

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def experiment(**changes):
    return table(
        **{"rounds": 4, "program": {"kind": "gossip", "topology": {"kind": "epidemic-oracle", "degree": 3}}} | changes
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of one experiment, and one run of another."""
    folder = tmp_path_factory.mktemp("runs")
    made = [package.run(experiment(seed=seed), out=folder / f"three-{seed}") for seed in (1, 2, 3)]
    four = {"kind": "gossip", "topology": {"kind": "epidemic-oracle", "degree": 4}}
    return [*made, package.run(experiment(program=four), out=folder / "four-1")]


def commit(node, round, time):
    return (node, round, time, 1.0, round, round, 100 * round, 100 * round, 1, 1, 0, 90 * round, 0, *[0.0] * 4)


def crowd(folder, nodes=1000, degree=8, undirected=False):
    """A finished run of many nodes, as its writer would leave it."""
    generator = np.random.default_rng(0)
    sources = np.repeat(np.arange(nodes), degree)
    writer = RunWriter.create(
        folder, {"seed": 1, "program": {"kind": "x"}, "task": {}}, {"program": "x", "nodes": nodes}
    )
    for round in (5, 10):
        writer.commits([commit(node, round, float(round)) for node in range(nodes)])
        writer.metrics([(n, round, "accuracy", float(a)) for n, a in enumerate(generator.uniform(size=nodes))])
    targets = (sources + generator.integers(1, nodes, len(sources))) % nodes
    writer.graph((Graph.undirected if undirected else Graph)(nodes, sources, targets), False)
    writer.holdings(generator.integers(0, 9, (nodes, 10)))
    writer.finish("finished", {})
    return Run(folder)


def browse(page, *flags):
    """The output of a browser for a page, and its complaints."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={page.parent / 'browser'}", *flags, page.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(page.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


CHECK = """
<script>
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const outside = [...document.querySelectorAll('figure svg text')].filter(text => {
  const [inner, outer] = [text, text.ownerSVGElement].map(one => one.getBoundingClientRect());
  return inner.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1);
}).map(text => text.textContent);
const asked = performance.getEntriesByType('resource').length;
document.title = JSON.stringify({wide, outside, asked});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [500, pytest.param(1400, marks=pytest.mark.slow)])
def test_a_browser_shows_the_page_whole_and_asks_no_network(runs, tmp_path, width):
    write_report(runs[2:], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    (tmp_path / "checked.html").write_text(text.replace("</body>", CHECK + "</body>"))
    shown, complaints = browse(tmp_path / "checked.html", f"--window-size={width},1000", "--dump-dom")
    assert complaints == []
    found = re.search(r"<title>(.*?)</title>", shown)
    assert html.unescape(found[1]) == '{"wide":0,"outside":[],"asked":0}'
    for part in ("results", "curves", "setup"):
        assert f'<section id="{part}">' in shown


def test_a_page_has_everything_and_refers_to_nothing_outside(runs, tmp_path):
    write_report(runs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6 + 4 * 3
    for words in ("degree 3 (3 seeds)", "degree 3, seed 2", "over seeds: mean ± standard deviation", "epidemic-oracle (degree 4)",
                  "Accuracy of the nodes at the end", "Samples of each node", "Graph: 12 nodes, 18 edges",
                  "sent by a node and round", "virtual time", "prefers-color-scheme: dark", "batch_size = 16", "program.sharing", "task.loss"):  # fmt: skip
        assert words in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page.replace('xmlns:xlink="', "").replace('xlink:href="data:', ""))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {(i, "") for i in ids} | {
        ("", i) for i in ids
    }


def test_a_page_shows_the_parts_of_programs_and_what_a_task_has_beside_its_defaults():
    augmentation = ["horizontal-flip", {"kind": "noise", "deviation": 0.5}]
    program = {"kind": "fedavg", "server_optimizer": "momentum"}
    tables = {"program": program, "task": {"model": "lenet", "augmentation": augmentation, "clip": 2.0}}
    shown = page._with_parameters(Experiment.from_table(experiment(**tables)).to_table())
    assert "server_optimizer momentum" in shown["program"]
    assert shown["task.augmentation"] == "horizontal-flip (probability 0.5), noise (deviation 0.5)"
    assert shown["task.clip"] == "2"
    assert "task.start" not in shown


def test_a_page_on_a_thousand_nodes_stays_small(tmp_path):
    write_report([crowd(tmp_path / "crowd")], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6
    assert len(page) < 300_000


def test_each_run_adds_little_to_a_page(tmp_path):
    """Nine runs take less than 600 kB, with pies of ten labels for each of 64 nodes."""
    runs = [crowd(tmp_path / name, 64, 4, undirected=True) for name in "ab"]
    sizes = []
    for count in (1, 2):
        write_report(runs[:count], tmp_path / "report.html")
        sizes.append((tmp_path / "report.html").stat().st_size)
    assert sizes[0] + 8 * (sizes[1] - sizes[0]) < 600_000
    assert "labels that a node holds" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_page_that_is_too_large_shows_one_run_of_each_experiment_and_then_fewer(runs, tmp_path, monkeypatch):
    for most, words in ((500_000, "of each run"), (100_000, "of 2 of the 4 runs"), (10, "of 1 of the 4 runs")):
        monkeypatch.setattr(page, "_LARGE", most)
        write_report(runs, tmp_path / "report.html")
        assert f"Nodes, data and graph {words}</h2>" in (tmp_path / "report.html").read_text()


def test_a_report_needs_nothing_of_the_command_line():
    code = "import covey, sys; covey.report; print([name for name in sys.modules if name.startswith('covey.cli')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_a_report_in_python_is_that_of_the_command(runs, tmp_path, covey):
    folders = [str(run.folder) for run in runs[2:]]
    with rc_context({"svg.hashsalt": "the same ids in both"}):
        labels = ("--label", "three", "--label", "four")
        assert covey("report", *folders, *labels, "--out", str(tmp_path / "a.html"))[0] == 0
        page = package.report([folders[0], runs[3]], out=tmp_path / "new" / "b.html", labels=["three", "four"])
        assert page == tmp_path / "new" / "b.html"
        assert page.read_bytes() == (tmp_path / "a.html").read_bytes()
        pages = [package.report(one, out=tmp_path / "c.html").read_bytes() for one in (runs[3], folders[1])]
        assert pages[0] == pages[1] != page.read_bytes()


def test_a_report_that_cannot_be_written_is_refused_in_one_line(runs, tmp_path):
    with pytest.raises(package.CoveyError, match="Labels must be as many"):
        package.report(runs, out=tmp_path / "a.html", labels=["three"])
    with pytest.raises(package.CoveyError, match="is not a run folder: it has no metrics"):
        package.report(tmp_path / "nowhere", out=tmp_path / "a.html")
    with pytest.raises(package.CoveyError, match=r"The report .* cannot be written: Is a directory"):
        package.report(runs[3], out=tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_runs_are_grouped_by_their_experiment(runs):
    groups = grouped(runs)
    assert [(group.label, len(group.runs)) for group in groups] == [("degree 3 (3 seeds)", 3), ("degree 4", 1)]
    labels = ["degree 3, seed 1", "degree 3, seed 2", "degree 3, seed 3", "degree 4, seed 3"]
    assert [group.label for group in grouped(runs, each=True)] == labels
    assert [group.label for group in grouped(runs[:2])] == ["run (2 seeds)"]
    assert flat({"a": {"kind": "x", "b": 1}, "c": 2}) == {"a": "x", "a.b": 1, "c": 2}
    assert graph_of_run(runs[0]).in_words == "12 nodes, 18 edges in round 0"


def drawn(figure):
    """(horizontal values, heights) of the first line."""
    line = figure.axes[0].lines[0]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_curves_over_seeds_are_their_mean_and_bytes_have_a_unit(runs):
    x, y = drawn(view.curves(runs[:3]))
    expected = np.mean([run.metrics.groupby("round")["accuracy"].mean() for run in runs[:3]], axis=0)
    assert x.tolist() == [2, 4]
    np.testing.assert_allclose(y, expected)
    assert len(view.curves(runs[:3], each=True).axes[0].lines) == 3
    figure = view.curves(runs[:1], against="bytes")
    assert figure.axes[0].get_xlabel() == "sent by a node, on average (kB)"
    np.testing.assert_allclose(drawn(figure)[0][-1], runs[0].metrics["bytes_out"].max() / 1000)


def test_against_time_every_node_counts_as_it_is_at_that_moment(tmp_path):
    """A node that is ten times faster has its late rounds beside the early ones of the other."""
    writer = RunWriter.create(tmp_path / "run", {}, {})
    for node, pace in ((0, 1.0), (1, 10.0)):
        writer.commits([commit(node, round, pace * round) for round in (1, 2, 3)])
        writer.metrics([(node, round, "accuracy", 0.1 * round) for round in (1, 2, 3)])
    writer.finish("finished", {})
    x, y = drawn(view.curves([Run(tmp_path / "run")], against="time"))
    assert x[-1] == 30.0
    fast, slow = np.interp(x, [1, 2, 3], [0.1, 0.2, 0.3]), np.interp(x, [10, 20, 30], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(y, np.where(x < 10, fast, (fast + slow) / 2))


def test_a_page_on_one_evaluated_node_has_no_figures_of_many(tmp_path):
    program = {"kind": "fedavg", "clients": 2}
    run = package.run(experiment(program=program, rounds=2), out=tmp_path / "run")
    write_report([run], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "Accuracy by traffic" in text
    assert not [missing for missing in ("Unknown metric", "average model", "nodes at the end") if missing in text]


def test_an_unknown_axis_is_one_line(runs):
    with pytest.raises(package.CoveyError, match=r"must be one of 'rounds', 'time', .* Got 'byte' instead\.$"):
        runs[0].plot("accuracy", against="byte")
