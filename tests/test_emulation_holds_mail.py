"""Asynchronous programs in an emulation, killed and resumed at any moment: no message is lost or doubled."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from covey.messages import wire
from covey.parts.errors import RunError
from covey.runtime import mail
from covey.runtime.runs import Run, latest_checkpoint
from tests.conftest import simulate, table
from tests.hosts import emulate, processes_of

COUNTS = {
    "seed": 3,
    "rounds": 4000,
    "program": {"kind": "tests.programs.tokens:Tokens", "tokens": 60},
    "network": {"nodes": 5},
    "checkpoint": {"every": 4, "keep": 9},
}
NETWORKS = {
    "under way for long": {"latency": "80ms"},
    "at once": {"latency": 0.0},
    "in uplinks": {"latency": "5ms", "uplink": "40kbit/s"},
    "in downlinks": {"latency": "5ms", "downlink": "20kbit/s"},
    "at equal shares": {"latency": "5ms", "uplink": "40kbit/s", "queue": "fair"},
}
"""The places of messages under way."""
FIRST, *OTHERS = NETWORKS


def due(nodes=5, tokens=60):
    """The tokens that each node of COUNTS is to have."""
    world, _ = simulate(COUNTS)
    return [sorted(node.state["had"]) for node in world.nodes]


def had(outcome):
    return [sorted(state["had"]) for state in outcome.states]


@pytest.mark.parametrize("where", [FIRST, *(pytest.param(where, marks=pytest.mark.slow) for where in OTHERS)])
def test_every_token_comes_once_wherever_a_run_is_resumed(where, tmp_path):
    tables = {**COUNTS, "network": {"nodes": 5, **NETWORKS[where]}}
    outcome, written = emulate(tables, tmp_path)
    assert had(outcome) == due()
    assert len(written.checkpoints) > 1
    held = [mail.unpack(checkpoint) for _, checkpoint in written.checkpoints]
    assert sum(len(one.messages) for one in held) > 0 or where == "at once"
    for _, checkpoint in (written.checkpoints[0], written.checkpoints[-1]):
        again, more = emulate(tables, tmp_path, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
        assert had(again) == due()
        if more.checkpoints:
            assert had(emulate(tables, tmp_path, checkpoint=more.checkpoints[0][1])[0]) == due()


def test_a_simulation_continues_with_what_an_emulation_holds(tmp_path):
    _, written = emulate({**COUNTS, "network": {"nodes": 5, "latency": "80ms"}}, tmp_path)
    world, _ = simulate(COUNTS, checkpoint=written.checkpoints[1][1])
    assert [sorted(node.state["had"]) for node in world.nodes] == due()


LEARNERS = {
    "divshare": {"kind": "divshare", "omega": 0.25, "fanout": 2},
    "gossip-learning": {"kind": "gossip-learning", "topology": "complete", "period": "60ms"},
    "ad-psgd": {"kind": "ad-psgd", "topology": "ring"},
}


def received(*parts):
    """The number of times that each node has received each message: (receiver, sender, number)."""
    frames = [(node, wire.decode(frame)) for part in parts for node, frame in part]
    return Counter((node, frame.sender, frame.number) for node, frame in frames)


@pytest.mark.parametrize("name", LEARNERS)
def test_programs_that_learn_receive_every_message_once(name, tmp_path):
    network = {"nodes": 6, "latency": "60ms", "bandwidth": None, "compute": 300}
    tables = table(program=LEARNERS[name], rounds=12, network=network, checkpoint={"every": 2, "keep": 99})
    tables |= {"observer": {"nodes": [*range(6)], "megabytes": 100}, "evaluation": {"every": 0}}
    whole, written = emulate(tables, tmp_path)
    assert whole.finished
    assert any(mail.unpack(checkpoint).messages for _, checkpoint in written.checkpoints)
    for _, checkpoint in (written.checkpoints[0], written.checkpoints[-1]):
        clocks = checkpoint["clocks"]
        before = [(node, frame) for time, node, frame in written.seen if time <= clocks[node]]
        again, more = emulate(tables, tmp_path, checkpoint=checkpoint)
        assert again.finished
        times = received(before, [row[1:] for row in more.seen])
        assert set(times.values()) == {1}
        # A message sent before its sender's commit arrives, before the cut or after it; an ended node takes none.
        posted, ended = checkpoint["posted"], checkpoint["ended"]
        sent = received([row[1:] for row in written.seen]).keys()
        assert times.keys() >= {(r, s, n) for r, s, n in sent if n < posted[s] and not ended[r]}


EXPERIMENT = """
rounds = 4000
seed = 3
[program]
kind = "tests.programs.tokens:Tokens"
tokens = 400
[network]
nodes = 5
latency = "40ms"
[checkpoint]
every = 10
[engine]
kind = "emulation"
nodes_per_process = 2
"""


def covey(*arguments, folder):
    """The command, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "covey", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def has_checkpoints(folder, later):
    """Until there is a checkpoint of a later round."""
    late = time.monotonic() + 60
    while time.monotonic() < late:
        with suppress(RunError, FileNotFoundError):
            found = latest_checkpoint(folder)
            if found is not None and found[0] > later:
                return found[0]
        time.sleep(0.05)
    raise AssertionError("there is no checkpoint")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the test reads /proc")
def test_killed_with_all_processes_again_and_again_a_run_loses_no_message_and_doubles_none(tmp_path):
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    arguments, at = ["experiment.toml", "--out", "run"], 0
    for wait in (0.0, 0.35, 0.1, 0.6):
        run = covey("run", *arguments, folder=tmp_path)
        at = has_checkpoints(tmp_path / "run", at)
        time.sleep(wait)
        for process in [run.pid, *processes_of(run.pid)]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        run.communicate(timeout=10)
        arguments = ["--resume", "run"]
    run = covey("run", *arguments, folder=tmp_path)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    world, _ = simulate({**COUNTS, "program": {**COUNTS["program"], "tokens": 400}})
    assert [sorted(state["had"]) for state in Run(tmp_path / "run").states] == [
        sorted(node.state["had"]) for node in world.nodes
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the test reads /proc")
def test_when_a_host_is_killed_all_go_back_to_the_last_cut_and_no_message_is_lost(tmp_path):
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    run, at = covey("run", "experiment.toml", "--out", "run", folder=tmp_path), 0
    for wait in (0.2, 0.5):
        at = has_checkpoints(tmp_path / "run", at)
        time.sleep(wait)
        os.kill(processes_of(run.pid)[-1], signal.SIGKILL)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    done = Run(tmp_path / "run")
    assert done.events["kind"].tolist().count("rolled back") == 2
    world, _ = simulate({**COUNTS, "program": {**COUNTS["program"], "tokens": 400}})
    assert [sorted(state["had"]) for state in done.states] == [sorted(node.state["had"]) for node in world.nodes]
