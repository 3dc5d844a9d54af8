"""Run folders: readable while they grow, complete after a kill, and clear errors."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from covey.api import resume
from covey.network.graph import Graph
from covey.parts.errors import RunError
from covey.runtime.runs import Run, RunWriter, latest_checkpoint
from covey.runtime.runs.counting import Moment
from tests.folders import reached, reopened


def commit(node, round, bytes_out=100):
    counted = (round, 10 * round, bytes_out * round, 90 * round, 2 * round, 2 * round, 0, bytes_out * round, 0)
    return (node, round, 0.5 * round, 1.0, *counted, *[0.0] * 4)


def evaluated(node, round, accuracy):
    return [(node, round, "accuracy", accuracy), (node, round, "loss", 1.0 - accuracy)]


@pytest.fixture
def folder(tmp_path):
    """A finished run of three nodes and four rounds, evaluated in rounds 2 and 4."""
    writer = RunWriter.create(tmp_path / "run", {"seed": 1, "program": {"kind": "x"}}, {"program": "x", "nodes": 3})
    for round in range(1, 5):
        writer.commits([commit(node, round) for node in range(3)])
        if round % 2 == 0:
            for node in range(3):
                writer.metrics(evaluated(node, round, 0.1 * round + 0.01 * node))
            writer.metrics([(-1, round, "consensus_distance", 1.0 / round)])
    writer.event(1.0, 2, "left", "in round 1")
    sources, targets, weights = np.array([0, 1, 2]), np.array([1, 0, 0]), np.array([0.125, 0.25, 0.5])
    writer.graph(Graph(3, sources, targets, weights, [np.array([2, 0]), np.array([1])]), True)
    writer.holdings(np.eye(3, dtype=np.int64))
    writer.models(torch.arange(6.0).reshape(3, 2))
    writer.finish("finished", {"time": 2.0})
    return tmp_path / "run"


def test_the_moment_is_found_at_which_an_accuracy_was_reached(folder):
    run = Run(folder)
    assert run.reached(0.21) == {"time": 1.0, "bytes_out": 600.0}
    assert run.reached(0.22) == {"time": 2.0, "bytes_out": 1200.0}
    assert run.reached(0.5) is None


def test_nodes_of_one_moment_count_together(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {"seed": 1}, {"program": "x", "nodes": 2})
    for round, accuracies in ((1, (0.5, 0.9)), (2, (0.9, 0.5))):
        writer.commits([commit(node, round) for node in range(2)])
        for node, accuracy in enumerate(accuracies):
            writer.metrics(evaluated(node, round, accuracy))
    writer.finish("finished", {"time": 1.0})
    run = Run(tmp_path / "run")
    assert run.reached(0.7)["time"] == 0.5
    assert run.reached(0.75) is None


def test_what_was_written_is_read(folder):
    run = Run(folder)
    assert run.status == "finished"
    assert run.experiment["program"]["kind"] == "x"
    assert list(run.metrics.columns[:5]) == ["round", "node", "time", "accuracy", "loss"]
    assert run.metrics[["round", "node"]].to_numpy().tolist() == [[r, n] for r in (2, 4) for n in range(3)]
    assert run.metrics["bytes_out"].tolist() == [200] * 3 + [400] * 3
    assert len(run.commits) == 12
    assert run.network["consensus_distance"].tolist() == [0.5, 0.25]
    assert run.network["time"].tolist() == [1.0, 2.0]
    assert run.events["kind"].tolist() == ["left"]
    assert run.models.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert (run.graph.n, run.graph.sources.tolist(), run.graph.targets.tolist()) == (3, [1, 2, 0], [0, 0, 1])
    assert run.graph.weights.tolist() == [0.25, 0.5, 0.125]
    assert [group.tolist() for group in run.graph.groups] == [[2, 0], [1]]
    summary = run.summary()
    assert summary["totals"]["bytes_out"] == 1200
    assert summary["final"]["accuracy"] == pytest.approx({"mean": 0.41, "min": 0.4, "max": 0.42, "std": 0.0081649658})
    assert summary["network"] == {"consensus_distance": 0.25}
    assert (summary["rounds"], summary["time"]) == (4, 2.0)


def test_metrics_are_of_evaluated_rounds_and_figures_of_all(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, {})
    for round in range(1, 5):
        writer.commits([commit(0, round)])
        writer.metrics([(0, round, "weight", float(round))])
    writer.metrics([*evaluated(0, 2, 0.5), (0, 4, "accuracy", 0.6), (0, 4, "loss", float("nan"))])
    writer.finish("finished", {})
    run = Run(tmp_path / "run")
    assert run.metrics[["round", "accuracy", "weight"]].to_numpy().tolist() == [[2, 0.5, 2.0], [4, 0.6, 4.0]]
    assert run.metrics.index.tolist() == [0, 1]
    assert run.figures["weight"].tolist() == [1.0, 2.0, 3.0, 4.0]
    (line,) = run.plot("weight").axes[0].lines
    assert line.get_xdata().tolist() == [1, 2, 3, 4]


def test_what_is_no_finite_number_is_null_in_json(tmp_path, covey):
    writer = RunWriter.create(tmp_path / "run", {}, {"nodes": 2})
    writer.commits([commit(node, 1) for node in range(2)])
    nan, inf = float("nan"), float("inf")
    writer.metrics([(0, 1, "loss", nan), (1, 1, "loss", nan), (0, 1, "accuracy", inf), (1, 1, "accuracy", 0.5)])
    writer.metrics([(-1, 1, "consensus_distance", nan)])
    writer.finish("finished", {})
    summary = Run(tmp_path / "run").summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["final"]["loss"] == {"mean": None, "min": None, "max": None, "std": None}
    assert summary["final"]["accuracy"] == {"mean": None, "min": 0.5, "max": None, "std": None}
    assert summary["network"] == {"consensus_distance": None}
    assert json.loads(covey("show", str(tmp_path / "run"), "--json")[1]) == summary
    for command in ("show", "compare"):
        code, out, err = covey(command, str(tmp_path / "run"))
        assert (code, err) == (0, "")
        shown = "accuracy, loss, consensus_distance" if command == "show" else "accuracy, loss"
        assert out.endswith(f"\nNot finite, and left out above: {shown}.\n")
    assert covey("report", str(tmp_path / "run"), "--out", str(tmp_path / "report.html"))[0] == 0
    assert "Not finite, and left out above: accuracy, loss." in (tmp_path / "report.html").read_text()


def four_rounds(folder):
    """A run of three nodes, which has not ended."""
    writer = RunWriter.create(folder, {}, {})
    for round in range(1, 5):
        writer.commits([commit(node, round) for node in range(3)])
        if round % 2 == 0:
            for node in range(3):
                writer.metrics(evaluated(node, round, 0.1 * round))
            writer.metrics([(-1, round, "consensus_distance", 1.0 / round)])
    return writer


def test_truncating_forgets_what_came_after_as_soon_as_there_is_something_in_its_index(tmp_path):
    writer = four_rounds(tmp_path / "run")
    writer.truncate(Moment([2, 3, 2], [1.0, 1.5, 1.0]))
    run = Run(tmp_path / "run")
    assert run.commits.groupby("node")["round"].max().tolist() == [4, 4, 4]
    writer.commits([commit(0, 3)])
    writer.flush()
    assert run.commits.groupby("node")["round"].max().tolist() == [3, 3, 2]
    assert run.metrics["round"].unique().tolist() == [2]
    assert run.network["round"].tolist() == [2]
    writer.finish("finished", {})


def test_truncating_twice_forgets_both(tmp_path):
    writer = four_rounds(tmp_path / "run")
    writer.truncate(Moment([3, 3, 2], [1.5, 1.5, 1.0]))
    further = [2, 4, 4]
    writer.truncate(Moment(further, [1.0, 2.0, 2.0]))
    further[:] = [9, 9, 9]
    writer.finish("finished", {})
    assert Run(tmp_path / "run").commits.groupby("node")["round"].max().tolist() == [2, 3, 2]


@pytest.mark.parametrize(
    ("ended", "judged", "last"),
    [
        ([], [], 1),
        ([True, False, False], [], 2),
        ([True, True, True], [], 3),
        ([], [False, True, True], 2),
        ([False, True, False], [False, True, True], 3),
    ],
)
def test_figures_of_the_network_stay_up_to_where_evaluated_nodes_continue(ended, judged, last, tmp_path):
    writer = four_rounds(tmp_path / "run")
    writer.metrics([(-1, round, "average_accuracy", 0.5) for round in (1, 2, 3, 4)])
    writer.truncate(Moment([1, 2, 3], [0.5, 1.0, 1.5], ended, judged))
    writer.metrics([(-1, 9, "average_accuracy", 0.5)])
    writer.finish("finished", {})
    assert Run(tmp_path / "run").network["round"].tolist() == [*range(1, last + 1), 9]


def test_a_run_that_is_stopped_before_it_repeats_anything_keeps_what_it_had(tmp_path):
    writer = four_rounds(tmp_path / "run")
    writer.truncate(Moment([2, 3, 2], [1.0, 1.5, 1.0]))
    writer.finish("interrupted", {})
    assert len(Run(tmp_path / "run").commits) == 12


def test_a_round_that_is_forgotten_is_there_until_it_is_recorded_again(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {"seed": 1}, {"program": "x", "nodes": 2})
    writer.commits([commit(node, round) for node in range(2) for round in (1, 2)])
    writer.metrics(evaluated(0, 1, 0.5))
    for table in ("commits", "metrics"):
        writer.forget(table, [(0, 1)])
    assert len(Run(tmp_path / "run").commits) == 4
    writer.commits([commit(0, 1, bytes_out=7)])
    writer.flush()
    commits = Run(tmp_path / "run").commits
    assert sorted(zip(commits["node"], commits["round"], commits["bytes_out"], strict=True))[0] == (0, 1, 7)
    assert len(commits) == 4
    assert Run(tmp_path / "run").figures.empty
    writer.finish("finished", {})


def test_truncating_forgets_the_events_after_the_moment_from_which_each_node_continues(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, {})
    writer.commits([commit(node, round) for node in range(2) for round in (1, 2)])
    for node in range(3):
        for moment in (0.4, 0.7, 1.2):
            writer.event(moment, node, "left", "")
    writer.truncate(Moment([1, 2, 0], [0.5, 1.0, 0.0]))
    writer.finish("finished", {})
    kept = Run(tmp_path / "run").events
    assert sorted(zip(kept["node"], kept["time"], strict=True)) == [(0, 0.4), (1, 0.4), (1, 0.7)]


def test_truncating_keeps_what_happened_to_hosts(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, {})
    writer.commits([commit(0, round) for round in (1, 2)])
    for kind in ("host lost", "rolled back", "host returned", "stuck"):
        writer.event(1.2, -1, kind, "")
    writer.truncate(Moment([1], [0.5]))
    writer.finish("finished", {})
    assert Run(tmp_path / "run").events["kind"].tolist() == ["host lost", "rolled back", "host returned"]


def test_truncating_reads_the_rows_once_and_not_once_for_every_node(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, {})
    writer.commits([commit(node, round) for round in range(1, 21) for node in range(2000)])
    writer.flush()
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    writer._database.set_progress_handler(count, 1000)
    writer.truncate(Moment([10] * 2000, [5.0] * 2000))
    writer.commits([commit(0, 11)])
    writer.flush()
    assert steps < 5000, "thousands of instructions; one DELETE for every node takes 180,000"
    writer.finish("interrupted", {})
    assert len(Run(tmp_path / "run").commits) == 20_001


def test_a_run_is_read_while_it_grows(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, {})
    writer.commits([commit(0, 1)])
    writer.flush()
    assert len(Run(tmp_path / "run").commits) == 1
    assert len(Run(tmp_path / "run").metrics) == 0
    assert Run(tmp_path / "run").summary()["rounds"] == 1
    writer.commits([commit(0, 2)])
    writer.metrics(evaluated(0, 2, 0.5))
    writer.flush()
    assert Run(tmp_path / "run").metrics["accuracy"].tolist() == [0.5]
    assert Run(tmp_path / "run").status == "running"
    with pytest.raises(RunError, match="is being written by another process"):
        resume(tmp_path / "run")
    writer.finish("finished", {})
    assert Run(tmp_path / "run").status == "finished"


def kill(writer):
    """Leave a run as a writer does whose process is killed."""
    writer._database.close()
    writer._lock.close()


def test_each_start_of_a_run_keeps_its_facts_and_wall_time_adds_up(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("covey.runtime.runs.writer.monotonic", lambda: now)
    folder = tmp_path / "run"
    writer = RunWriter.create(folder, {}, {"torch": "2.8", "nodes": 1})
    assert Run(folder).wall_seconds is None
    now = 5.0
    writer.checkpoint(4, reached([4]))
    now = 9.0
    kill(writer)
    now = 100.0
    kill(reopened(folder, {"torch": "2.8", "nodes": 1}))
    now = 200.0
    writer = reopened(folder, {"torch": "2.9", "nodes": 1})
    now = 207.0
    writer.finish("finished", {"time": 1.0})
    run = Run(folder)
    assert run.facts["starts"] == [
        {"torch": "2.8", "wall_seconds": 5.0},
        {"torch": "2.8", "after_round": 4},
        {"torch": "2.9", "after_round": 4, "wall_seconds": 7.0},
    ]
    assert run.wall_seconds == 12.0
    assert (run.facts["nodes"], run.facts["time"], run.status) == (1, 1.0, "finished")


def test_a_run_with_the_facts_of_one_start_is_read(folder):
    facts = {"torch": "2.8", "nodes": 3, "program": "x", "status": "interrupted", "time": 2.0, "wall_seconds": 3.0}
    (folder / "facts.json").write_text(json.dumps(facts))
    assert Run(folder).wall_seconds == 3.0
    assert Run(folder).facts["starts"] == [{"torch": "2.8", "wall_seconds": 3.0}]


def test_facts_are_whole_although_the_disk_is_full(tmp_path, monkeypatch):
    writer = RunWriter.create(tmp_path / "run", {}, {"nodes": 1})
    before = Run(tmp_path / "run").facts

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        writer.finish("finished", {})
    assert Run(tmp_path / "run").facts == before


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "50%41 of a#b?c"
    writer = RunWriter.create(folder, {}, {})
    writer.commits([commit(0, 1)])
    writer.finish("finished", {})
    assert len(Run(folder).commits) == 1


WRITES = """
import sys
from pathlib import Path
from covey.runtime.runs import RunWriter
writer = RunWriter.create(Path(sys.argv[1]), {}, {})
round = 0
while True:
    round += 1
    writer.commits([(node, round, 1.0, 1.0, 1, 1, 1, 1, 1, 1, 0, 1, 0, *[0.0] * 4) for node in range(50)])
    if round % 20 == 0:
        writer.flush()
        print(round, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_flushed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    flushed = 0
    for _ in range(5):
        flushed = int(child.stdout.readline())
    time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert Run(tmp_path / "run").status == "interrupted"
    database = sqlite3.connect(tmp_path / "run" / "metrics.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    (rows,) = database.execute("SELECT COUNT(*) FROM commits").fetchone()
    assert rows >= flushed * 50
    assert rows % 50 == 0
    assert Run(tmp_path / "run").commits["round"].max() >= flushed


WITHOUT_LOCKS = """
import sys
sys.modules["fcntl"] = None
from pathlib import Path
from covey.runtime.runs import Run, RunWriter
writer = RunWriter.create(Path(sys.argv[1]), {}, {})
print(Run(Path(sys.argv[1])).status)
writer.finish("finished", {})
print(Run(Path(sys.argv[1])).status)
"""


def test_where_there_are_no_locks_runs_are_written_without(tmp_path):
    command = [sys.executable, "-c", WITHOUT_LOCKS, str(tmp_path / "run")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.stdout.split() == ["running", "finished"], child.stderr


def fill(writer):
    for round in range(1000):
        writer.commits([commit(node, round) for node in range(100)])
        writer.flush()


def test_trouble_with_the_disk_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"The run folder .*file/run cannot be made: Not a directory"):
        RunWriter.create(tmp_path / "file" / "run", {}, {})
    with pytest.raises(RunError, match="is not empty"):
        RunWriter.create(tmp_path, {}, {})
    writer = RunWriter.create(tmp_path / "full", {}, {})
    pages = writer._database.execute("PRAGMA page_count").fetchone()[0]
    writer._database.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(RunError, match=r"The run folder .*full cannot be written: database or disk is full"):
        fill(writer)
    with pytest.raises(RunError, match="full"):
        writer.finish("finished", {})
    assert Run(tmp_path / "full").status == "failed"


def test_rows_that_cannot_be_written_do_not_block_the_next(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, {})
    writer.commits([commit(0, 1)])
    writer.metrics([(0, 1, None, 0.5)])
    for _ in range(2):
        with pytest.raises(RunError, match="NOT NULL constraint failed"):
            writer.flush()
    writer._metrics = evaluated(0, 1, 0.5)
    writer.finish("finished", {})
    assert len(Run(tmp_path / "run").commits) == 1


def test_other_folders_are_no_runs(tmp_path):
    with pytest.raises(RunError, match="is not a run folder"):
        Run(tmp_path)
    with pytest.raises(RunError, match="is not a run folder"):
        resume(tmp_path)


def test_the_latest_whole_checkpoint_counts_and_old_ones_go(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, {})
    assert latest_checkpoint(tmp_path / "run") is None
    for round in (10, 20, 30):
        writer.checkpoint(round, {"x": torch.full((3,), float(round)), **reached([round])}, keep=2)
    files = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [file.stem for file in files] == ["round-000000020", "round-000000030"]
    assert latest_checkpoint(tmp_path / "run")[0] == 30
    files[1].write_bytes(files[1].read_bytes()[:-5])
    round, payload = latest_checkpoint(tmp_path / "run")
    assert round == 20
    assert payload["x"].tolist() == [20.0] * 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", "rounds = ", "has no readable run.toml: Invalid value"),
        ("facts.json", "[3]", "has no readable facts.json: "),
        ("facts.json", "{", "has no readable facts.json: "),
        ("metrics.sqlite", "no database" * 100, r"The metrics of .* cannot be read: file is not a database\."),
    ],
)
def test_a_damaged_file_of_a_run_is_named(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(RunError, match=message):
        [Run(folder).experiment, Run(folder).summary()]


@pytest.mark.parametrize("size", [0, 30, 150])
@pytest.mark.parametrize("name", ["graph", "holdings", "models"])
def test_a_damaged_array_of_a_run_is_named(folder, name, size, covey):
    (file,) = folder.glob(f"{name}.np?")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(RunError, match=rf"^The run .* has no readable {file.name}: .+\.$"):
        getattr(Run(folder), name)
    if name != "models":
        code, _, err = covey("plot", str(folder), f"--{name}", "--out", str(folder / "figure.png"))
        assert (code, err.count("\n")) == (2, 1)
    code, _, err = covey("report", str(folder), "--out", str(folder / "report.html"))
    assert code == 0 or err.startswith(f"covey: The run {folder} has no readable {file.name}: ")


def test_exports(folder, tmp_path):
    run = Run(folder)
    assert run.export("csv").splitlines()[0].startswith("round,node,time,accuracy,loss,")
    run.export("parquet", tmp_path / "a.parquet")
    import pandas as pd

    assert pd.read_parquet(tmp_path / "a.parquet").equals(run.metrics)
    with pytest.raises(RunError, match="--out FILE"):
        run.export("parquet")
    with pytest.raises(RunError, match="cannot be written"):
        run.export("csv", tmp_path / "missing" / "a.csv")


def test_a_new_checkpoint_outlives_damaged_ones_of_later_rounds(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, {})
    for round in (20, 30):
        writer.checkpoint(round, {"x": round, **reached([round])}, keep=2)
    folder = tmp_path / "run" / "checkpoints"
    for file in folder.iterdir():
        file.write_bytes(b"damaged")
    assert latest_checkpoint(tmp_path / "run") is None
    (folder / "round-000000007.covey.part").write_bytes(b"killed while it was written")
    writer.checkpoint(10, {"x": 10, **reached([10])}, keep=2)
    assert [file.name for file in folder.iterdir()] == ["round-000000010.covey"]
    round, payload = latest_checkpoint(tmp_path / "run")
    assert (round, payload["x"]) == (10, 10)
