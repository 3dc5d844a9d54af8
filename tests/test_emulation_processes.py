"""The emulation in processes of its own: the command, Ctrl-C, and the state after the death of the launcher."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from covey import api
from covey.parts.errors import RunError
from covey.runtime.runs import Run
from tests.hosts import processes_of, token_file

EXPERIMENT = """
rounds = {rounds}
[program]
kind = "gossip"
topology = "ring"
[task]
dataset = "digits"
model = "logistic"
batch_size = 16
[network]
nodes = 6
compute = {compute}
[evaluation]
every = 2
[engine]
kind = "emulation"
"""


def covey(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "covey", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def experiment(folder: Path, *, rounds: int = 4, compute: float = 1e5) -> Path:
    file = folder / "experiment.toml"
    file.write_text(EXPERIMENT.format(rounds=rounds, compute=compute))
    return file


def simulated_as(file: Path, folder: Path) -> Run:
    """The same experiment in virtual time, in this process."""
    tables = tomllib.loads(file.read_text())
    return api.run({**tables, "engine": "simulation"}, out=folder)


def wait_for_rounds(folder: Path, rounds: int) -> None:
    late = time.monotonic() + 60
    while time.monotonic() < late:
        with suppress(RunError):  # Its tables are made a moment after the file.
            if len(Run(folder).commits) >= 6 * rounds:
                return
        time.sleep(0.1)
    raise AssertionError("the run made no progress")


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_run_in_processes_ends_as_the_simulated_one(tmp_path):
    file = experiment(tmp_path)
    run = covey("run", str(file), "--out", "real", "--set", "engine.nodes_per_process=2", folder=tmp_path)
    said, _ = run.communicate(timeout=100)
    assert run.returncode == 0, said
    real, simulated = Run(tmp_path / "real"), simulated_as(file, tmp_path / "simulated")
    assert np.allclose(real.models, simulated.models, atol=1e-5)
    assert real.summary()["totals"] == simulated.summary()["totals"]
    logs = sorted(path.name for path in (tmp_path / "real" / "logs").iterdir())
    assert logs == ["host-0.log", "host-1.log", "host-2.log"]
    assert "2 nodes begin" in (tmp_path / "real" / "logs" / "host-1.log").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the test reads /proc")
def test_ctrl_c_leaves_a_run_that_can_be_resumed_and_no_process(tmp_path):
    file = experiment(tmp_path, rounds=30, compute=160.0)
    run = covey("run", str(file), "--out", "run", folder=tmp_path)
    wait_for_rounds(tmp_path / "run", 3)
    processes = processes_of(run.pid)
    assert processes
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "Resume with: covey run --resume run" in said
    assert not any(map(alive, processes))
    at = min(Run(tmp_path / "run").commits.groupby("node")["round"].max())
    assert at < 30
    resumed = covey("run", "--resume", "run", folder=tmp_path)
    said, _ = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, said
    done = Run(tmp_path / "run")
    assert sorted(done.commits["round"]) == sorted(list(range(1, 31)) * 6)
    assert np.allclose(done.models, simulated_as(file, tmp_path / "whole").models, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the test reads /proc")
def test_the_death_of_the_launcher_leaves_no_orphan(tmp_path):
    run = covey("run", str(experiment(tmp_path, rounds=1000, compute=160.0)), "--out", "run", folder=tmp_path)
    wait_for_rounds(tmp_path / "run", 1)
    processes = processes_of(run.pid)
    assert processes
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=10)
    late = time.monotonic() + 10
    while any(map(alive, processes)) and time.monotonic() < late:
        time.sleep(0.1)
    assert not any(map(alive, processes))


def test_hosts_that_are_not_there_are_named(in_folder, covey):
    file = experiment(in_folder)
    token_file(in_folder)
    more = ["engine.hosts=['127.0.0.1:1', '127.0.0.1:2']", "engine.token_file='token'", "engine.wait=0.5"]
    code, _, said = covey("run", str(file), "--out", "run", *[f"--set={setting}" for setting in more])
    assert code != 0
    absent = ", ".join(f"{number} at 127.0.0.1:{number + 1} (no process listens there)" for number in range(2))
    assert f"2 of 2 hosts are missing after 0.5 seconds: {absent}." in said


def test_a_program_of_the_script_itself_must_move_to_a_module(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import covey\n"
        "class Mine(covey.Program):\n"
        "    async def run(self, node):\n"
        "        pass\n"
        "covey.run({'program': Mine(), 'network': {'nodes': 2}, 'engine': 'emulation'})\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "ConfigurationError: " in done.stderr
    assert "Mine is defined in the script or notebook that was started: the processes of" in done.stderr
