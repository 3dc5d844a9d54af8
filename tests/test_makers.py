"""A third maker of hosts: all that an engine with hosts elsewhere provides."""

import numpy as np
import pytest

import covey
from covey.parts.errors import RunError
from covey.view.groups import grouped
from tests.programs.spawned import Commands, Spawned

TABLES = {
    "rounds": 4,
    "program": {"kind": "gossip", "topology": "ring"},
    "task": {"dataset": "digits", "model": "logistic"},
    "network": {"nodes": 4},
}


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """The hosts that a test has started."""
    monkeypatch.setattr(Commands, "started", [])
    return Commands.started


def test_an_engine_that_makes_its_own_hosts_runs_as_the_simulation_does(tmp_path):
    run = covey.run({**TABLES, "engine": Spawned(nodes_per_process=2)}, out=tmp_path / "run")
    simulated = covey.run(TABLES, out=tmp_path / "simulated")
    assert Commands.started == [0, 1]
    assert np.allclose(run.models, simulated.models, atol=1e-5)
    assert (run.clock, simulated.clock) == ("real", "virtual")
    assert len(grouped([run, simulated])) == 2


def test_what_it_made_is_killed_and_made_again(tmp_path):
    kill = {"kind": "kill", "host": 1, "of": 2, "at": "300ms", "back": "100ms"}
    tables = {"rounds": 120, "program": "tests.programs.spawned:Idle", "faults": [kill], "network": {"nodes": 4}}
    run = covey.run({**tables, "engine": Spawned(nodes_per_process=2)}, out=tmp_path / "run")
    assert run.status == "finished"
    assert Commands.started == [0, 1, 1]
    events = run.events
    (lost,) = events[events["kind"] == "host lost"]["detail"]
    assert lost == "host 1: killed by signal 9"
    assert "host returned" in set(events["kind"])


def test_why_it_failed_is_reported(tmp_path, monkeypatch):
    class Broken(Commands):
        def __init__(self, wanted):
            super().__init__(wanted)
            self.token_file.write_bytes(b"")

    monkeypatch.setattr("tests.programs.spawned.Commands", Broken)
    with pytest.raises(RunError, match=r"^Host \d ended with status 2 before it was ready: covey: .*token"):
        covey.run({**TABLES, "engine": Spawned(nodes_per_process=2)}, out=tmp_path / "run")
