"""Nodes that are evaluated at moments of time, in any rounds."""

import json

import numpy as np
import pytest

import covey
from covey.parts.errors import ProgramError
from tests.conftest import simulate, table
from tests.examples import IMPATIENT

COLUMNS = [
    *("time", "node", "nodes", "accuracy", "worst_accuracy", "best_accuracy"),
    *("average_model_loss", "average_model_accuracy", "consensus_distance"),
]
TASK = {"dataset": "digits", "model": "logistic", "batch_size": 16}
RING = {"kind": "gossip", "topology": "ring"}
WALKS = {"kind": "gossip-learning", "topology": "ring", "period": "20ms"}


def tables(program, **changes):
    network = {"nodes": 6, "compute": 1024.0}
    return {"program": program, "task": TASK, "network": network, "rounds": 40, **changes}


def test_a_moment_shows_what_the_rounds_until_then_have_brought(tmp_path):
    # A round takes 1/64 s and nothing else: the first moment is within the 11th, the second at the end of the 21st.
    run = covey.run(tables(RING, evaluation={"every": 1, "seconds": 10.5 / 64}), out=tmp_path / "run")
    moments = run.table("moments")
    assert sorted(moments.columns) == sorted(COLUMNS)
    assert moments["time"].tolist() == [10.5 / 64, 21 / 64, 31.5 / 64]
    assert moments["node"].tolist() == [-1] * 3
    assert moments["nodes"].tolist() == [6] * 3
    metrics, networks = run.metrics.set_index("round"), run.network.set_index("round")
    for row, completed in zip(moments.to_dict("records"), (10, 21, 31), strict=True):
        accuracies = metrics.loc[completed]["accuracy"]
        assert row["accuracy"] == pytest.approx(accuracies.mean())
        assert (row["worst_accuracy"], row["best_accuracy"]) == (accuracies.min(), accuracies.max())
        for name in COLUMNS[6:]:
            assert row[name] == pytest.approx(networks.loc[completed][name])


def test_moments_change_nothing_else(tmp_path):
    watched = covey.run(tables(WALKS, evaluation={"seconds": "30ms"}), out=tmp_path / "watched")
    plain = covey.run(tables(WALKS), out=tmp_path / "plain")
    assert np.array_equal(watched.models, plain.models)
    assert watched.commits.equals(plain.commits)
    assert "moments" not in plain.tables
    assert -0.03 < plain.commits["time"].max() - watched.table("moments")["time"].max() < 0.03


def test_hosts_evaluate_together_what_the_simulation_does(tmp_path):
    found = {}
    for engine in ("simulation", {"kind": "emulation", "nodes_per_process": 3}):
        changes = {"engine": engine, "evaluation": {"every": 0, "seconds": "200ms"}}
        run = covey.run(tables(WALKS, **changes), out=tmp_path / f"{len(found)}")
        found[len(found)] = run.table("moments")
    simulated, real = found.values()
    assert sorted(real.columns) == sorted(COLUMNS)
    times = [round(time / 0.2, 6) for time in real["time"]]
    assert times == sorted(set(times)) == [round(time) for time in times]
    assert len(real) >= 2
    assert real["nodes"].max() == 6
    assert (real["worst_accuracy"] <= real["accuracy"]).all()
    assert (real["accuracy"] <= real["best_accuracy"]).all()
    full = real[real["nodes"] == 6].iloc[-1]
    same = simulated.iloc[(simulated["time"] - full["time"]).abs().argmin()]
    assert full["average_model_accuracy"] == pytest.approx(same["average_model_accuracy"], abs=0.15)


@pytest.mark.parametrize("program", [RING, WALKS], ids=["in step", "each by itself"])
def test_a_resumed_run_has_the_moments_of_one_that_was_not(program, tmp_path):
    changes = {"checkpoint": {"every": 12}, "evaluation": {"every": 0, "seconds": "30ms"}}
    run = covey.run(tables(program, **changes), out=tmp_path / "run")
    whole = run.table("moments")
    facts = json.loads((run.folder / "facts.json").read_text())
    (run.folder / "facts.json").write_text(json.dumps({**facts, "status": "running"}))
    again = covey.resume(run.folder).table("moments")
    assert again["time"].tolist() == whole["time"].tolist()
    if program is RING:
        assert again.to_dict("records") == whole.to_dict("records")


def test_who_is_away_is_not_evaluated():
    kill = {"kind": "kill", "nodes": [1, 2], "at": "50ms", "back": "100ms"}
    patient = {**RING, "patience": "20ms"}
    _, written = simulate(table(program=patient, rounds=30, faults=[kill], evaluation={"seconds": 0.02}))
    counts = {round(time, 3): columns["nodes"] for time, _, name, columns in written.added if name == "moments"}
    assert (counts[0.04], counts[0.06], counts[0.14], counts[0.16]) == (12, 10, 10, 12)


def test_moments_keep_no_run_going_whose_nodes_wait_for_ever():
    cut = {"kind": "cut", "nodes": [3], "at": 0.05}
    often = {"kind": "slow", "nodes": [3], "rate": 10, "lasts": 0.01, "compute": 2}
    with pytest.raises(ProgramError, match="wait for messages that cannot arrive"):
        simulate(table(program=IMPATIENT, rounds=100, faults=[cut, often], evaluation={"seconds": 0.01}))


def test_where_nobody_learns_there_are_none(tmp_path):
    program = {"kind": "tests.programs.router:Router"}
    run = covey.run({"program": program, "network": {"nodes": 5}, "evaluation": {"seconds": 0.001}}, out=tmp_path / "r")
    assert "moments" not in run.tables
