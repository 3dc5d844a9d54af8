"""Sweeps from the command line: their values, their names and their mistakes."""

import json
import os
import signal
from pathlib import Path

import pytest

from covey.cli.running import _values
from covey.learning.learner import Learner
from covey.runtime.runs import Run
from tests.test_cli import EXPERIMENT


@pytest.fixture
def file(in_folder):
    path = in_folder / "experiment.toml"
    path.write_text(EXPERIMENT)
    return path


def test_a_sweep_shows_seeds_as_mean_and_spread(file, covey):
    settings = ("--set", "program.topology.degree=2,4", "--set", "seed=1,2,3", "--set", "rounds=2")
    code, out, err = covey("sweep", "experiment.toml", *settings, "--out", "s", "--json")
    assert code == 0, err
    table = json.loads(out)
    assert [entry["configuration"] for entry in table] == [
        f"program.topology.degree = {degree}, rounds = 2" for degree in (2, 4)
    ]
    assert all(len(entry["runs"]) == 3 and entry["accuracy"]["std"] > 0 for entry in table)


def test_a_sweep_finds_a_mistake_in_any_of_its_experiments_before_the_first_begins(file, covey, in_folder):
    code, _, err = covey("sweep", "experiment.toml", "--set", "program.topology.degree=2,25", "--out", "s")
    assert code == 2
    assert err == (
        "covey: The 'degree' of the topology epidemic-oracle must be an int in [1, nodes). "
        "Got 25 instead (nodes is 20).\n"
    )
    assert not (in_folder / "s").exists()


def test_a_sweep_takes_kinds_and_inline_tables(file, covey):
    tables = 'program.topology=ring,{kind = "epidemic-local", degree = 2},{kind = "epidemic-local", degree = 3}'
    code, out, err = covey("sweep", "experiment.toml", "--set", tables, "--set", "rounds=1", "--out", "s", "--json")
    assert code == 0, err
    assert len(json.loads(out)) == 3


def test_a_sweep_names_the_keys_of_tables_in_its_folders(file, covey, in_folder):
    tables = "task.optimizer={kind='sgd',lr=0.1},{kind='sgd',momentum=0.1}"
    code, _, err = covey("sweep", "experiment.toml", "--set", tables, "--set", "rounds=1", "--out", "s")
    assert code == 0, err
    assert {path.name for path in (in_folder / "s").iterdir()} == {"optimizer=sgd-lr=0.1", "optimizer=sgd-momentum=0.1"}


@pytest.mark.parametrize(
    ("values", "name"), [("rounds=2,2", "rounds=2"), ("program.topology=ring,{kind='ring'}", "topology=ring")]
)
def test_runs_of_a_sweep_with_one_name_are_refused_before_the_first_begins(values, name, file, covey, in_folder):
    code, _, err = covey("sweep", "experiment.toml", "--set", values, "--out", "s")
    sentence = f"The values of a sweep must give each run another folder. Got '{name}' for 2 runs."
    assert (code, err) == (2, f"covey: {sentence}\n")
    assert not (in_folder / "s").exists()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("ring,complete", ["ring", "complete"]),
        (" 1, 0.5 ,20ms,true,", [1, 0.5, "20ms", True, ""]),
        ("'a,b',\"c,'d\",'say \"x, y\"'", ["a,b", "c,'d", 'say "x, y"']),
        ('"with \\" in it, and a comma",2', ['with " in it, and a comma', 2]),
        ("\n{a = 1},\n{a = 2},\nring\n", [{"a": 1}, {"a": 2}, "ring"]),
        ("[1, 2],[[3, 4], [5]],[]", [[1, 2], [[3, 4], [5]], []]),
        (
            "ring,{kind = 'redrawn', every = 2, topology = {kind = 'epidemic-local', degree = 2}},{kind = 'a]b,c'}",
            [
                "ring",
                {"kind": "redrawn", "every": 2, "topology": {"kind": "epidemic-local", "degree": 2}},
                {"kind": "a]b,c"},
            ],
        ),
    ],
)
def test_the_values_of_a_sweep_are_divided_by_commas_outside_of_toml_values(text, values):
    assert _values(text) == values


def test_a_swept_table_is_a_new_one_for_each_run(file, covey):
    settings = ["--set", "program.topology={kind='epidemic-local', degree=2}", "--set", "program.topology.degree=3,4"]
    code, out, err = covey("sweep", "experiment.toml", *settings, "--set", "rounds=1", "--out", "s", "--json")
    assert code == 0, err
    topologies = [Run(entry["runs"][0]).experiment["program"]["topology"] for entry in json.loads(out)]
    assert topologies == [{"kind": "epidemic-local", "degree": degree} for degree in (3, 4)]


def test_a_run_that_fails_leaves_the_others_their_table(file, covey):
    rates = "task.optimizer.lr=0.1,1e38"
    code, out, err = covey("sweep", "experiment.toml", "--set", "task.model=mlp", "--set", rates, "--set", "rounds=2")
    assert code == 2
    assert "lr = 0.1" in out
    assert "covey: lr=1e_38: " in err
    nodes = "network.nodes=20,9000"
    code, out, err = covey("sweep", "experiment.toml", "--set", nodes, "--set", "rounds=2", "--out", "s")
    assert (code, out) == (2, "")
    assert err.startswith("covey: nodes=9000: ")
    assert not Path("s").exists()


def test_a_key_of_a_sweep_that_is_set_twice_is_refused(file, covey):
    code, _, err = covey("sweep", "experiment.toml", "--set", "seed=1,2", "--set", "seed=3,4")
    assert (code, err) == (2, "covey: A sweep must set a key once, to all of its values. Got 'seed' twice.\n")


def test_an_interrupted_sweep_says_how_it_is_continued(file, covey, monkeypatch):
    train = Learner.train

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        train(*arguments)

    arguments = ("sweep", "experiment.toml", "--set", "seed=1,2", "--set", "rounds=4", "--out", "s")
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train", interrupted)
        code, _, err = covey(*arguments)
    assert (code, err.splitlines()[-1]) == (
        130,
        "Interrupted. Continue with the same settings and: --out s --extend",
    )
    assert covey(*arguments, "--extend")[0] == 0
    assert [Run(Path("s") / name).status for name in ("seed=1", "seed=2")] == ["finished"] * 2
