"""The live page over HTTP: its figures are those of `Run`, while runs grow and after they ended, and it harms nothing."""

import json
import os
import shutil
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import covey as package
from covey.runtime.emulation.transport.certificates import make
from covey.runtime.runs import Run, RunWriter, lock
from covey.watch.thinning import largest_triangles
from tests.conftest import table
from tests.folders import contents, interrupted
from tests.watching import TOKEN, page

pytest.importorskip("starlette")


def growing(folder, nodes=3, **facts):
    """A run that is being written, without rows."""
    experiment = {"name": "growing", "seed": 1, "rounds": 40, "program": {"kind": "x"}, "task": {}}
    started = datetime.fromtimestamp(time.time() - 60, UTC).isoformat()
    return RunWriter.create(folder, experiment, {"program": "x", "nodes": nodes, "started": started, **facts})


def add(writer, rounds, nodes=3, sent=100):
    """Add rounds in which the accuracy of a node is its id plus the round, in hundredths."""
    for round in rounds:
        row = (1.0, round, round, sent * round, sent * round, 1, 1, 0, 90 * round, 0, *[0.0] * 4)
        writer.commits([(node, round, float(round + node), *row) for node in range(nodes)])
        writer.metrics([(node, round, "accuracy", (node + round) / 100) for node in range(nodes)])
    writer.flush()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of energy, another one, and one that was interrupted."""
    folder = tmp_path_factory.mktemp("watched")
    power = {"network": {"energy": {"kind": "constant", "power": "5W"}}}
    package.run(table(name="first", **power), out=folder / "first")
    package.run(table(name="second", seed=4, rounds=4), out=folder / "second")
    interrupted(folder / "third", round=3)
    return folder


@pytest.fixture(scope="module")
def served(runs):
    with page(runs) as found:
        yield found


def close(found, wanted):
    return found is None if wanted is None or not np.isfinite(wanted) else found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_the_page_shows_the_figures_of_the_run(served, runs, name):
    run, id = Run(runs / name), served.ids()[name]
    metrics, commits, network = run.metrics, run.commits, run.network
    details = served.get(f"/api/run/{id}")
    assert {figure for figure, of in details["figures"].items() if of == "nodes"} == {
        *run.figure_names,
        "bytes_out",
        "train_loss",
    }
    of_nodes = {**dict.fromkeys(run.figure_names, metrics), "bytes_out": commits, "train_loss": commits}
    if "energy" in of_nodes:
        of_nodes["energy"] = run.figures
    for against, column in (("rounds", 0), ("time", 6), ("bytes", 7)):
        for figure, frame in of_nodes.items():
            points = served.get(f"/api/run/{id}/curve?figure={figure}&against={against}")["points"]
            groups = frame.dropna(subset=[figure]).groupby("round")[figure]
            assert [point[0] for point in points] == list(groups.groups)
            for point, (round, values) in zip(points, groups, strict=True):
                assert close(point[2], values.mean())
                assert (point[1], point[3], point[4]) == (len(values), values.min(), values.max())
                assert point[5] == pytest.approx(values.quantile([0.1, 0.25, 0.5, 0.75, 0.9]).tolist())
                x = {"rounds": round, "time": commits[commits["round"] == round]["time"].mean()}
                x["bytes"] = commits[commits["round"] == round]["bytes_out"].mean()
                assert close(point[column], x[against])
    for figure in set(network.columns) - {"round", "time"}:
        points = served.get(f"/api/run/{id}/curve?figure={figure}&against=rounds")["points"]
        assert [point[2] for point in points] == network[figure].tolist()


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_the_list_of_runs_has_the_summaries(served, runs, name):
    (row,) = [row for row in served.get("/api/runs")["rows"] if row["name"] == name]
    run = Run(runs / name)
    summary = run.summary()
    assert (row["status"], row["nodes"], row["bytes"]) == (run.status, summary["nodes"], summary["totals"]["bytes_out"])
    assert close(row["accuracy"], summary["final"]["accuracy"]["mean"])
    assert close(row["loss"], summary["final"]["loss"]["mean"])
    assert close(row["time"], summary["time"])
    assert row["done"] == pytest.approx(run.commits.groupby("node")["round"].max().mean(), abs=0.01)
    assert served.get(f"/api/run/{row['id']}")["totals"] == summary["totals"]


def test_the_graph_has_the_edges_of_the_run_and_the_latest_accuracies(served, runs):
    run, found = Run(runs / "first"), served.get(f"/api/run/{served.ids()['first']}/graph")
    last = run.metrics.sort_values("round").groupby("node")["accuracy"].last()
    assert found["kind"] == "graph"
    assert found["values"] == pytest.approx(last.tolist(), abs=1e-5)
    assert {frozenset(edge) for edge in found["drawn"]} == {
        frozenset(edge) for edge in zip(run.graph.sources.tolist(), run.graph.targets.tolist(), strict=True)
    }


def test_more_nodes_than_can_be_drawn_are_a_heat_map_of_means(tmp_path, monkeypatch):
    from covey.watch import details

    monkeypatch.setattr(details, "MOST_DRAWN", 5)
    monkeypatch.setattr(details, "_CELLS", 4)
    writer = growing(tmp_path / "run", nodes=10)
    add(writer, [1], nodes=10)
    with page(tmp_path) as served:
        found = served.get(f"/api/run/{served.ids()['run']}/graph")
    writer.finish("finished", {})
    assert found["kind"] == "cells"
    assert (found["each"], found["cells"]) == (3, pytest.approx([0.02, 0.05, 0.08, 0.10]))


def test_a_run_that_keeps_the_rows_of_some_nodes_says_so_and_counts_its_rounds(tmp_path):
    run = package.run(table(rounds=4, output={"commits": 3}), out=tmp_path / "runs" / "some", quiet=True)
    with page(tmp_path / "runs") as served:
        found = served.get(f"/api/run/{served.ids()['some']}")
    assert (run.recorded, found["is_sampled"], found["row"]["done"], found["totals"]) == ("3 of 12", True, 4.0, {})
    last = run.metrics[run.metrics["round"] == 4]
    assert close(found["row"]["accuracy"], last["accuracy"].mean())


def test_differences_are_those_of_the_experiments(served):
    ids = served.ids()
    found = served.get(f"/api/differences?runs={ids['first']},{ids['second']}")
    differs = {key: values for key, *values in found["differs"]}
    assert differs["seed"] == ["3", "4"]
    assert differs["network.energy"] == ["constant", "none"]
    assert not {key for key, _ in found["same"]} & differs.keys()


# ---------------------------------------------------------------------- runs that grow


def test_a_stream_has_the_points_since_a_row_and_a_page_that_slept_catches_up(tmp_path):
    writer = growing(tmp_path / "run")
    add(writer, range(1, 4))
    with page(tmp_path) as served:
        id = served.ids()["run"]
        cursor = served.get(f"/api/run/{id}/curve?figure=accuracy&against=rounds")["cursor"]
        add(writer, range(4, 6))
        writer.event(5.0, 2, "left", "<b>bold</b>")
        writer.flush()
        time.sleep(0.5)
        first = next(served.stream(f"/api/run/{id}/stream?figures=accuracy&since={cursor}"))
        assert [point[0] for point in first["points"]["accuracy"]] == [4, 5]
        assert [point[2] for point in first["points"]["accuracy"]] == pytest.approx([0.05, 0.06])
        assert [(event["kind"], event["detail"]) for event in first["events"]] == [("left", "<b>bold</b>")]
        again = served.stream(f"/api/run/{id}/stream?figures=accuracy&since={first['cursor']}&event=1")
        assert not {"points", "events"} & next(again).keys()
        began = time.monotonic()
        add(writer, [6])
        later = next(again)
        assert [point[0] for point in later["points"]["accuracy"]] == [6]
        assert (later["row"]["done"], later["row"]["status"]) == (6.0, "running")
        assert 60 / 6 * 34 <= later["row"]["left"] < 1000
        add(writer, [7])
        next(again)
        assert time.monotonic() - began > 0.5
        writer.finish("finished", {})
        ended = next(again)
        assert (ended["row"]["status"], ended["row"]["left"]) == ("finished", None)


def test_rows_that_disappear_are_not_shown(tmp_path):
    writer = growing(tmp_path / "run")
    add(writer, range(1, 5))
    with page(tmp_path) as served:
        id = served.ids()["run"]
        curve = f"/api/run/{id}/curve?figure=accuracy&against=rounds"
        cursor = served.get(curve)["cursor"]
        gone = [(node, round) for node in range(3) for round in (3, 4)]
        for name in ("commits", "metrics"):
            writer.forget(name, gone)
        add(writer, [3], sent=200)
        time.sleep(0.5)
        found = served.get(curve)
        assert [point[0] for point in found["points"]] == [1, 2, 3]
        assert found["cursor"].split(".")[0] != cursor.split(".")[0]
        # The page takes its curves anew.
        assert next(served.stream(f"/api/run/{id}/stream?figures=accuracy&since={cursor}"))["points"] is None
        assert served.get(f"/api/run/{id}")["totals"]["bytes_out"] == 3 * 600
    writer.finish("finished", {})


def test_runs_that_come_later_are_found(tmp_path, monkeypatch):
    from covey.watch import folder

    monkeypatch.setattr(folder, "_FRESH", 0.0)
    with page(tmp_path / "runs") as served:
        stream = served.stream("/api/runs/stream")
        assert next(stream)["ids"] == []
        writers = [growing(tmp_path / "runs" / name) for name in ("sweep/a", "sweep/b")]
        assert sorted(served.ids()) == ["sweep/a", "sweep/b"]
        assert len(next(stream)["rows"]) in (1, 2)
        for writer in writers:
            add(writer, [1])
            writer.finish("finished", {})


def test_reading_writes_nothing_and_loads_no_torch(runs, tmp_path):
    folder = Path(shutil.copytree(runs, tmp_path / "runs"))
    before = contents(folder)
    asked = (
        "import sys; from pathlib import Path; from covey.watch.folder import Folder; from covey.watch.server import Server\n"
        "from covey.watch import details\n"
        "folder = Folder(Path(sys.argv[1])); Server(folder)\n"
        "for run in folder.look():\n"
        "    [getattr(details, name)(run) for name in ('of_run', 'events', 'hosts', 'graph', 'attacks')]; run.curve('accuracy', 'time')\n"
        "print({'torch', 'pandas', 'matplotlib'} & sys.modules.keys())\n"
        "status = Path('/proc/self/status'); print([line.split()[1] for line in status.read_text().splitlines() if 'VmHWM' in line])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked, folder], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    loaded, peak = done.stdout.splitlines()
    assert loaded == "set()"
    assert int(peak.strip("[]'")) < 120_000
    assert contents(folder) == before


@given(st.lists(st.floats(-1e12, 1e12) | st.just(float("nan")), max_size=200), st.integers(3, 50))
@settings(max_examples=60)
def test_thinning_keeps_the_ends_the_order_and_the_number(values, most):
    y = np.array(values)
    chosen = largest_triangles(np.arange(len(y), dtype=float), y, most)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == len(y) or len(chosen) <= most
    finite = [index for index, value in enumerate(values) if np.isfinite(value)]
    if finite:
        assert {finite[0], finite[-1]} <= set(chosen)


def test_a_peak_survives_thinning():
    y = np.sin(np.arange(5000) / 300)
    y[2345] = 9.0
    assert 2345 in largest_triangles(np.arange(5000.0), y, 100)


def test_of_many_rounds_some_hundreds_are_kept_whole_and_the_newest(tmp_path):
    writer = growing(tmp_path / "run", nodes=1)
    rounds = range(5, 10_005, 5)
    writer.metrics([(0, round, "accuracy", round / 1e5) for round in rounds])
    writer.commits([(0, round, float(round), 1.0, *[round] * 9, *[0.0] * 4) for round in rounds])
    writer.finish("finished", {})
    course = Run(tmp_path / "run").course()
    course.advance()
    kept, _, means = course.means("accuracy")
    assert 200 < len(kept) <= 800
    assert (kept[0], kept[-1], course.commits) == (5, 10_000, 2000)
    assert means == pytest.approx(kept / 1e5)


# ---------------------------------------------------------------------- wrong input


def test_damaged_runs_are_named_beside_the_others(runs, tmp_path):
    folder = Path(shutil.copytree(runs, tmp_path / "runs"))
    (folder / "first" / "facts.json").write_text("{")
    database = folder / "second" / "metrics.sqlite"
    database.write_bytes(database.read_bytes()[:5000])
    (folder / "third" / "metrics.sqlite").unlink()
    (folder / "third" / "metrics.sqlite").symlink_to(runs / "third" / "metrics.sqlite")
    shutil.copytree(runs / "second", folder / "typed")
    with sqlite3.connect(folder / "typed" / "metrics.sqlite") as changed:
        changed.execute("UPDATE metrics SET value = 'x' WHERE name = 'accuracy' AND round = 4")
    shutil.copytree(runs / "second", folder / "whole")
    with page(folder) as served:
        found = {row["name"]: row for row in served.get("/api/runs")["rows"]}
        assert "no readable facts.json" in found["first"]["problem"]
        assert "cannot be read" in found["second"]["problem"]
        assert "symbolic link" in found["third"]["problem"]
        assert "wrong types" in found["typed"]["problem"]
        assert (found["whole"]["problem"], found["whole"]["status"]) == ("", "finished")
        status, content, _ = served.ask(f"/api/run/{found['third']['id']}")
        assert (status, "symbolic link" in json.loads(content)["problem"]) == (409, True)
        points = served.get(f"/api/run/{found['typed']['id']}/curve?figure=accuracy&against=rounds")["points"]
        assert [point[0] for point in points] == [2]


def test_a_run_of_the_first_format_is_shown(served, tmp_path):
    folder = Path(__file__).parent / "data" / "earlier" / "finished"
    shutil.copytree(folder, tmp_path / "runs" / "earlier")
    with page(tmp_path / "runs") as shown:
        (row,) = shown.get("/api/runs")["rows"]
        assert (row["problem"], row["status"]) == ("", "finished")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e%2fserver.py",
        "/static//etc/passwd",
        "/api/run/..%2f..%2fetc",
        "/api/run/../first",
    ],
)
def test_no_path_leads_out(served, path):
    assert served.ask(path)[0] == 404


def test_unknown_runs_figures_and_axes_are_one_sentence(served):
    id = served.ids()["first"]
    assert served.ask("/api/run/0123456789abcdef")[0] == 404
    for query, sentence in (
        ("figure=nothing&against=rounds", "The run has no figure 'nothing'."),
        ("figure=accuracy&against=luck", "An axis must be one of rounds, time, bytes, energy. Got 'luck' instead."),
    ):
        status, content, _ = served.ask(f"/api/run/{id}/curve?{query}")
        assert (status, json.loads(content)) == (409, {"problem": sentence})


def test_the_page_loads_nothing_from_elsewhere_and_may_not(served):
    for path in ("/", "/compare", "/run/x", "/run/x/graph", "/static/app.js"):
        status, content, headers = served.ask(path)
        assert status == 200
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert b"http://" not in content
        assert b"https://" not in content


def test_other_names_of_this_server_are_refused(served):
    id = served.ids()["first"]
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.0.2.1", ""):
        assert served.ask(f"/api/run/{id}", Host=host)[0] in (400, 421)
    for host in ("localhost:1", "127.0.0.1", "[::1]:9"):
        assert served.ask(f"/api/run/{id}", Host=host)[0] == 200


def test_a_page_at_another_address_needs_the_token_to_read(runs):
    with page(runs, "192.0.2.7", is_private=True) as served:
        at = {"Host": f"192.0.2.7:{served.port}"}
        assert served.ask("/", **at)[0] == 200
        assert served.ask("/api/runs", **at)[0] == 401
        assert served.ask("/api/runs", Authorization="Bearer wrong", **at)[0] == 401
        assert served.ask("/api/runs", Authorization=f"Bearer {TOKEN}", **at)[0] == 200
        assert served.ask("/api/runs", Authorization=f"Bearer {TOKEN}", Host="evil.example")[0] == 421


# ---------------------------------------------------------------------- stopping and resuming

STOPPED = """
import sys, covey
tables = dict(rounds=100000, seed=1, program=dict(kind="gossip", topology="ring"), network=dict(nodes=4),
              task=dict(dataset="digits", model="logistic"), evaluation=dict(every=100000))
covey.run(tables, out=sys.argv[1], quiet=True)
"""


def post(served, id, what, **headers):
    return served.ask(f"/api/run/{id}/{what}", method="POST", **headers)


def test_only_this_page_with_the_token_stops_and_resumes(served):
    id = served.ids()["second"]
    right = {"Authorization": f"Bearer {TOKEN}"}
    for what in ("stop", "resume"):
        assert post(served, id, what)[0] == 401
        assert post(served, id, what, Authorization="Bearer x")[0] == 401
        assert post(served, id, what, Origin="http://evil.example", **right)[0] == 403
        assert post(served, id, what, Origin="null", **right)[0] == 403
        assert post(served, id, what, Sec_Fetch_Site="cross-site", **right)[0] == 403
        assert served.ask(f"/api/run/{id}/{what}", **right)[0] == 405
        status, content, _ = post(served, id, what, Origin=served.origin, Sec_Fetch_Site="same-origin", **right)
        assert (status, "finished" in json.loads(content)["problem"]) == (409, True)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="locks are listed by Linux alone")
def test_a_run_is_stopped_and_resumed_with_the_token_alone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", STOPPED, tmp_path / "runs" / "run"])
    try:
        with page(tmp_path / "runs") as served:
            while not any(row["done"] > 0 for row in served.get("/api/runs")["rows"]):
                assert process.poll() is None
                time.sleep(0.2)
            id = served.ids()["run"]
            right = {"Authorization": f"Bearer {TOKEN}"}
            assert post(served, id, "resume", **right)[0] == 409
            assert process.poll() is None
            assert post(served, id, "stop", Origin=served.origin, Sec_Fetch_Site="same-origin", **right)[0] == 200
            assert process.wait(timeout=60) == 0
            time.sleep(0.5)
            assert served.get(f"/api/run/{id}")["row"]["status"] == "interrupted"
            assert post(served, id, "stop", **right)[0] == 409
            before = served.get(f"/api/run/{id}")["row"]["done"]
            assert post(served, id, "resume", **right)[0] == 200
            while served.get(f"/api/run/{id}")["row"]["done"] <= before:
                assert served.server.control.failure(served.server.folder.run(id)) == ""
                time.sleep(0.2)
            assert post(served, id, "stop", **right)[0] == 200
            while served.get(f"/api/run/{id}")["row"]["status"] == "running":
                time.sleep(0.2)
    finally:
        process.kill()
        process.wait()


def test_the_holder_of_a_lock_is_found_by_the_lock_alone(tmp_path):
    (tmp_path / ".lock").write_text("1")
    if not os.path.isdir("/proc/self/fdinfo"):
        pytest.skip("locks are listed by Linux alone")
    assert lock.holder(tmp_path) is None
    held = lock.acquire(tmp_path)
    assert lock.holder(tmp_path) == os.getpid()
    held.close()
    with open(tmp_path / ".lock", "rb"):
        assert lock.holder(tmp_path) is None


# ---------------------------------------------------------------------- the command


def test_wrong_addresses_and_folders_are_one_sentence(covey, in_folder):
    import socket

    assert (
        covey("watch", "nothing")[2]
        == "covey: There is no folder nothing. Give the folder of a run, or one that holds folders of runs.\n"
    )
    code, _, said = covey("watch", ".", "--listen", "192.0.2.1:8765")
    assert (code, "Give --token" in said, "--certs DIR" in said) == (2, True, True)
    assert 'An address must be "host:port"' in covey("watch", ".", "--listen", "here")[2]
    assert "The page cannot be at 192.0.2.1:8765" in covey("watch", ".", "--listen", "192.0.2.1:8765", "--token")[2]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, said = covey("watch", ".", "--listen", f"127.0.0.1:{port}")
    assert code == 2
    assert said.startswith(f"covey: 127.0.0.1:{port} is in use. 127.0.0.1:")
    free = int(said.rpartition(":")[2])
    assert port < free < port + 200


def test_without_the_extra_the_command_names_it(covey, in_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert covey("watch", ".")[2] == "covey: covey watch needs starlette and uvicorn: pip install 'covey[view]'.\n"


def test_the_page_beside_a_run_ends_with_it(tmp_path):
    command = [sys.executable, "-m", "covey", "watch", "runs", "--listen", "127.0.0.1:0", "--ends-with-input"]
    beside = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    said = beside.stderr.readline()
    assert "holds no run yet" in said
    assert "#token=" in said
    beside.stdin.close()
    assert beside.wait(timeout=30) == 0


def test_a_page_with_the_certificate_of_a_host_is_encrypted(tmp_path, covey):
    make(tmp_path / "certs", ["127.0.0.1:7000"], days=1)
    options = ["--listen", "127.0.0.1:0", "--certs"]
    refused = covey("watch", str(tmp_path), *options, str(tmp_path / "certs" / "launcher"))[2]
    assert "is the launcher's" in refused
    assert str(tmp_path / "certs" / "host-0") in refused
    folder = tmp_path / "certs" / "host-0"
    command = [sys.executable, "-m", "covey", "watch", ".", *options, str(folder), "--token", "--ends-with-input"]
    beside = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    link, token = beside.stderr.readline().split("resume runs: ")[1].strip().split("/#token=")
    trusted = ssl.create_default_context(cafile=str(folder / "authority.pem"))
    request = urllib.request.Request(f"{link}/api/runs", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, context=trusted) as answer:
        assert json.loads(answer.read())["rows"] == []
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{link}/api/runs", context=trusted)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(link)
    beside.stdin.close()
    assert beside.wait(timeout=30) == 0
