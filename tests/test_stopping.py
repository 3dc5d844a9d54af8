"""SIGTERM, which clusters and containers send, is Ctrl-C: in every command, in the launcher and in its hosts."""

import os
import signal
import time
from pathlib import Path

import pytest

from covey import api
from covey.cli import demo
from covey.learning.node import LearningProgram
from covey.parts.parameters import param
from covey.runtime.experiment import Experiment
from covey.runtime.runs import Run
from tests.conftest import table
from tests.hosts import processes_of, token_file
from tests.test_emulation_processes import alive, covey, experiment, wait_for_rounds

SIGNALS = [signal.SIGINT, signal.SIGTERM]


class Stops(LearningProgram):
    """Sends its own process a signal in some rounds, one signal a node."""

    number: int = param("Which.")
    at: list[int] = param("The rounds, a node each.")

    async def run(self, node):
        async for t in node.rounds():
            node.model = (await node.train()).model
            if node.id < len(self.at) and t == self.at[node.id] and "sent" not in node.state:
                os.kill(os.getpid(), self.number)
                node.state["sent"] = True


def stopping(number, *at, rounds=6, **changes):
    program = {"kind": "tests.test_stopping:Stops", "number": int(number), "at": list(at)}
    return table(program=program, rounds=rounds, **changes)


@pytest.fixture
def file(in_folder):
    import tomli_w

    def write(tables):
        (in_folder / "experiment.toml").write_text(tomli_w.dumps(tables))
        return "experiment.toml"

    return write


@pytest.mark.parametrize("number", SIGNALS)
def test_a_simulation_stops_where_it_can_be_resumed(number, file, request):
    call = request.getfixturevalue("covey")
    handlers = [signal.getsignal(known) for known in SIGNALS]
    code, _, err = call("run", file(stopping(number, 2)), "--out", "run")
    assert code == 130
    assert "Resume with: covey run --resume run" in err
    assert Run("run").status == "interrupted"
    assert call("run", "--resume", "run")[0] == 0
    assert Run("run").status == "finished"
    assert [signal.getsignal(known) for known in SIGNALS] == handlers


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_stops_at_once(number, file, request):
    call = request.getfixturevalue("covey")
    code, _, err = call("run", file(stopping(number, 2, 2)), "--out", "run")
    assert (code, err.splitlines()[-1]) == (130, "covey: stopped.")
    assert Run("run").status == "interrupted"


def test_a_sweep_stops_with_its_run(file, request):
    call = request.getfixturevalue("covey")
    tables = stopping(signal.SIGTERM, 2)
    assert call("sweep", file(tables), "--out", "sweep", "--set", "seed=1,2")[0] == 130
    assert [path.name for path in Path("sweep").iterdir()] == ["seed=1"]


def test_the_demo_stops_with_its_first_run(in_folder, monkeypatch, request):
    call = request.getfixturevalue("covey")
    monkeypatch.setattr(demo, "experiment", lambda name: Experiment.from_table(stopping(signal.SIGTERM, 2)))
    code, _, err = call("demo", "--out", "demo")
    assert code == 130
    assert "Resume with: covey run --resume demo/d-psgd" in err
    assert [path.name for path in Path("demo").iterdir()] == ["d-psgd"]


def test_a_command_that_runs_nothing_ends_too(monkeypatch, request):
    call = request.getfixturevalue("covey")
    monkeypatch.setattr(api, "new_folder", lambda stem: os.kill(os.getpid(), signal.SIGTERM))
    assert call("demo")[0] == 130


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the test reads /proc")
def test_a_signal_to_all_processes_at_once_leaves_an_emulation_that_can_be_resumed(tmp_path):
    file = experiment(tmp_path, rounds=30, compute=160.0)
    run = covey("run", str(file), "--out", "run", folder=tmp_path)
    wait_for_rounds(tmp_path / "run", 3)
    processes = processes_of(run.pid)
    for process in [*processes, run.pid]:
        os.kill(process, signal.SIGTERM)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "Resume with: covey run --resume run" in said
    assert not any(map(alive, processes))
    stopped = Run(tmp_path / "run")
    assert stopped.commits.groupby("node")["round"].max().nunique() == 1
    assert stopped.events.empty


def test_a_host_that_waits_for_launchers_ends(tmp_path):
    token_file(tmp_path)
    host = covey("host", "--listen", "127.0.0.1:0", "--token-file", "token", folder=tmp_path)
    assert host.stdout.readline().startswith("covey host listens on")
    began = time.monotonic()
    host.send_signal(signal.SIGTERM)
    host.communicate(timeout=20)
    assert host.returncode == 130
    assert time.monotonic() - began < 10
