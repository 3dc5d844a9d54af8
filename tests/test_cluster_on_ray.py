"""Hosts as Ray actors, on a Ray of several pretended machines. See CONTRIBUTING.md for how these tests run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import covey
from covey.cli import main
from covey.parts.errors import ConfigurationError, RunError
from covey.runtime.prepared import prepare
from covey.runtime.runs import Run
from tests.programs.counted import COUNTS, Counted, objects
from tests.programs.wandering import Chatting

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

TABLES = {
    "rounds": 8,
    "program": {"kind": "gossip", "topology": "ring"},
    "task": {"dataset": "digits", "model": "logistic", "batch_size": 16},
    "network": {"nodes": 6},
    "evaluation": {"every": 2},
}
LONG = {**TABLES, "rounds": 60, "network": {"nodes": 6, "compute": 160.0}}
STORE = 80 << 20


@pytest.fixture(scope="module")
def machines():
    """Ray with a head and two more machines of one core each, all of them this one."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def on_cluster(tables, folder, **engine):
    return covey.run({**tables, "engine": {"kind": "cluster", "nodes_per_process": 2, **engine}}, out=folder)


def hosts_of(folder: Path, count: int) -> list[int]:
    """The processes of actors, once they all have written rounds."""
    late = time.monotonic() + 90
    while time.monotonic() < late:
        with suppress(RunError):
            if len(Run(folder).commits) >= 12:
                break
        time.sleep(0.1)
    found = subprocess.run(["pgrep", "-f", "ray::(Member|Counted)"], capture_output=True, text=True).stdout.split()
    assert len(found) == count
    return [int(process) for process in found]


def meanwhile(act):
    """Do something while a run goes on, on another thread; returns what ends it."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread.join


def test_a_cluster_ends_as_the_simulation_and_the_emulation_do(machines, tmp_path):
    run = on_cluster(TABLES, tmp_path / "cluster")
    simulated = covey.run(TABLES, out=tmp_path / "simulated")
    emulated = covey.run({**TABLES, "engine": {"kind": "emulation", "nodes_per_process": 2}}, out=tmp_path / "emulated")
    for other in (simulated, emulated):
        assert np.allclose(run.models, other.models, atol=1e-5)
        assert run.summary()["totals"] == other.summary()["totals"]
    assert "2 nodes begin" in (tmp_path / "cluster" / "logs" / "host-2.log").read_text()


def test_data_are_shipped_to_machines_that_have_none(machines, tmp_path):
    data = tmp_path / "x.csv"
    data.write_text("a,b,y\n" + "".join(f"{index % 7},{index % 11},{index % 2}\n" for index in range(120)))
    dataset = {"kind": "csv", "path": str(data), "target": "y"}
    tables = {**TABLES, "task": {**TABLES["task"], "dataset": dataset}}
    simulated = covey.run(tables, out=tmp_path / "simulated")
    experiment = covey.Experiment.from_table(
        {**tables, "engine": {"kind": "cluster", "nodes_per_process": 2, "ship": True}}
    )
    made = prepare(experiment, **experiment.engine.compute_settings())
    data.unlink()
    assert np.allclose(made.experiment.engine.execute(made).models, simulated.models, atol=1e-5)


def test_no_message_passes_ray(machines, tmp_path, monkeypatch):
    shutil.rmtree(COUNTS, ignore_errors=True)
    monkeypatch.setattr("covey.runtime.cluster.member.Member", Counted)
    peak, over = [objects()], threading.Event()

    def look():
        while not over.wait(0.01):
            peak.append(objects())

    join = meanwhile(look)
    run = on_cluster(TABLES, tmp_path / "run")
    over.set()
    join()
    assert run.summary()["totals"]["messages_out"] == 8 * 6 * 2
    counts = [int(file.read_text()) for file in COUNTS.iterdir()]
    shutil.rmtree(COUNTS)
    # Ray knows the first words and the end of each host, and the arguments of the calls that got them.
    assert max(peak) - peak[0] <= 3 * 6
    assert len(counts) == 3
    assert max(counts) <= 6


def test_a_killed_actor_loses_no_committed_metric(machines, tmp_path):
    before = {}

    def kill():
        victim = hosts_of(tmp_path / "run", 3)[1]
        before["rows"] = Run(tmp_path / "run").commits
        os.kill(victim, signal.SIGKILL)

    join = meanwhile(kill)
    run = on_cluster(LONG, tmp_path / "run")
    join()
    assert run.status == "finished"
    assert sorted(run.commits["round"]) == sorted(list(range(1, 61)) * 6)
    kept = run.commits.set_index(["node", "round"]).index
    assert set(before["rows"].set_index(["node", "round"]).index) <= set(kept)
    assert "host lost" in set(run.events["kind"])
    (lost,) = run.events[run.events["kind"] == "host lost"]["detail"]
    assert lost.endswith(": its process was killed or crashed")
    simulated = covey.run(LONG, out=tmp_path / "simulated")
    assert np.allclose(run.models, simulated.models, atol=1e-5)


def test_a_machine_that_is_lost_is_replaced_by_another(machines, tmp_path):
    spare = machines.add_node(num_cpus=2, object_store_memory=STORE)
    machines.wait_for_nodes()

    def lose():
        hosts_of(tmp_path / "run", 3)
        victim = next(node for node in machines.worker_nodes if node is not spare)
        machines.remove_node(victim, allow_graceful=False)

    join = meanwhile(lose)
    run = on_cluster(LONG, tmp_path / "run", placement="strict-spread")
    join()
    assert run.status == "finished"
    simulated = covey.run(LONG, out=tmp_path / "simulated")
    assert np.allclose(run.models, simulated.models, atol=1e-5)
    machines.add_node(num_cpus=1, object_store_memory=STORE)


def test_others_find_an_actor_at_its_new_address(machines, tmp_path):
    kill = {"kind": "kill", "host": 1, "of": 2, "at": "500ms", "back": "100ms"}
    tables = {"rounds": 2000, "program": Chatting(), "faults": [kill], "network": {"nodes": 2}}
    run = on_cluster(tables, tmp_path / "run", nodes_per_process=1)
    assert run.status == "finished"
    assert run.states[0]["back"]


def test_too_few_cores_are_waited_for_and_then_named(machines, tmp_path):
    with pytest.raises(RunError, match=r"hosts are missing after 2 seconds: .*6 hosts ask for 6 cores of \d"):
        on_cluster(TABLES, tmp_path / "run", nodes_per_process=1, wait="2s", cores=1)


def test_a_data_folder_that_a_machine_does_not_have_is_named(machines, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    tables = {
        **TABLES,
        "task": {"dataset": {"kind": "csv", "path": str(data / "x.csv"), "target": "y"}, "model": "logistic"},
    }
    (data / "x.csv").write_text("a,y\n" + "".join(f"{index / 7},{index % 2}\n" for index in range(40)))
    prepared = covey.Experiment.from_table({**tables, "engine": {"kind": "cluster", "nodes_per_process": 3}})
    made = prepare(prepared, **prepared.engine.compute_settings())
    (data / "x.csv").unlink()
    with pytest.raises(covey.CoveyError, match=r"x\.csv.*\(on the machine [\d.]+ of host \d\)"):
        made.experiment.engine.execute(made)


@pytest.mark.parametrize("actors", [1, 2, 3])
def test_a_simulation_is_the_same_whatever_the_number_of_actors(machines, tmp_path, actors):
    engine = {"kind": "simulation", "workers": "ray", "actors": actors, "spread": "always"}
    run = covey.run({**TABLES, "engine": engine}, out=tmp_path / "spread")
    assert np.array_equal(run.models, covey.run(TABLES, out=tmp_path / "alone").models)


def test_logistic_regression_stays_where_it_is(machines):
    found = covey.check({**TABLES, "engine": {"kind": "simulation", "workers": "ray", "actors": 2}})
    assert float(found["expected"].split()[0]) < 1


def test_the_machines_of_a_cluster_are_checked(machines, capsys):
    assert main(["cluster", "check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) >= 3
    for machine in found:
        assert machine["problem"] is None
        assert machine["call"] > 0
        assert machine["bandwidth"] > 1e6
        assert abs(machine["skew"]) < 0.1
        assert machine["versions"]["covey"] == "0.1.0"


SCRIPT = """
import json, sys, covey
try:
    covey.run(json.loads(sys.argv[1]), out=sys.argv[2])
except covey.CoveyError as error:
    print(type(error).__name__, error)
"""


def alone(tables, folder: Path, *, env=None, before=None) -> str:
    """The output of a run in a process of its own, which starts Ray."""
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(tables), str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**environment, **(env or {})}
    )
    if before is not None:
        before(process.pid)
    said, _ = process.communicate(timeout=200)
    return said


def descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for each in map(int, child.read_text().split()):
            found += [each, *descendants(each)]
    return found


def test_a_head_that_dies_leaves_a_run_that_can_be_resumed(tmp_path):
    folder = tmp_path / "run"
    tables = {**LONG, "rounds": 2000, "engine": {"kind": "cluster", "nodes_per_process": 6}}

    def kill_head(pid):
        hosts_of_run(folder)
        for process in descendants(pid):
            if "gcs_server" in Path(f"/proc/{process}/comm").read_text():
                os.kill(process, signal.SIGKILL)

    said = alone(tables, folder, before=kill_head)
    assert "The head of the Ray cluster at" in said
    assert f"Resume with: covey run --resume {folder}" in said
    assert list((folder / "checkpoints").glob("*.covey"))


def hosts_of_run(folder: Path) -> None:
    late = time.monotonic() + 120
    while time.monotonic() < late:
        with suppress(RunError):
            if len(Run(folder).commits) >= 100:
                return
        time.sleep(0.2)
    raise AssertionError("the run made no progress")


def test_more_cores_than_this_machine_has_are_refused_at_once(tmp_path):
    tables = {**TABLES, "engine": {"kind": "cluster", "nodes_per_process": 1, "cores": 4}}
    said = alone(tables, tmp_path / "run")
    assert "ConfigurationError 6 hosts ask for 24 cores of " in said
    assert "'nodes_per_process'" in said
    assert ConfigurationError.__name__ in said


def test_a_host_that_takes_too_much_memory_is_named_with_its_peak(tmp_path):
    tables = {**LONG, "rounds": 3000, "engine": {"kind": "cluster", "nodes_per_process": 6, "restarts": 0}}
    # Ray's memory monitor acts as soon as a machine uses this much, which it does at once.
    said = alone(
        tables, tmp_path / "run", env={"RAY_memory_usage_threshold": "0.02", "RAY_memory_monitor_refresh_ms": "500"}
    )
    assert "killed by Ray for memory" in said
