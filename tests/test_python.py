"""`covey.sweep`, `check` and `list`: the same as the commands of these names."""

import json
from pathlib import Path

import numpy as np
import pytest

import covey as package
from covey.decentralized.gossip import Gossip
from covey.decentralized.topology import Ring
from covey.parts.errors import ConfigurationError, RunError
from tests import folders
from tests.conftest import table

TINY = table(rounds=2, network={"nodes": 6})


@pytest.fixture
def file(in_folder):
    path = in_folder / "experiment.toml"
    experiment = package.Experiment.from_table(TINY)
    path.write_text(__import__("tomli_w").dumps(experiment.to_table()))
    return path


def test_a_sweep_in_python_is_that_of_the_command(file, covey):
    swept = package.sweep(file, {"task.optimizer.lr": [0.1, 0.3], "seed": range(1, 3)}, out="python")
    code, out, err = covey(
        *("sweep", "experiment.toml", "--out", "command", "--json"),
        *("--set", "task.optimizer.lr=0.1,0.3", "--set", "seed=1,2"),
    )
    assert code == 0, err

    def without_folders(records):
        return [{**record, "runs": [run.partition("/")[2] for run in record["runs"]]} for record in records]

    said = [{key: value for key, value in record.items() if key != "short"} for record in swept.records]
    assert without_folders(said) == without_folders(json.loads(out))
    assert [run.folder.name for run in swept] == [path.name for path in sorted((file.parent / "command").iterdir())]
    assert swept.table()[0][:3] == ["configuration", "runs", "accuracy"]
    figure = swept.plot("loss", against="bytes", out="loss.png", labels=["slow", "fast"])
    assert len(figure.axes[0].lines) == 2
    assert {"slow", "fast"} <= {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert Path("loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_takes_arrays_numbers_of_numpy_and_parts(in_folder):
    over = {
        "task.optimizer.lr": np.array([0.125, 0.25]),
        "seed": [np.int64(4)],
        "program.topology": [Ring(), {"kind": "random-regular", "degree": 4}],
    }
    swept = package.sweep(TINY, over, quiet=True)
    assert [(run.experiment["task"]["optimizer"]["lr"], run.experiment["seed"]) for run in swept] == [
        *((0.125, 4), (0.125, 4)),
        *((0.25, 4), (0.25, 4)),
    ]
    assert {run.experiment["program"]["topology"]["kind"] for run in swept} == {"ring", "random-regular"}
    assert repr(swept) == "Sweep('runs/sweep-001', 4 of 4 runs)"


class Slower(Gossip):
    """A program of the user's own."""


def test_a_sweep_over_classes_of_ones_own_names_them(in_folder):
    programs = [{"kind": kind, "topology": "ring"} for kind in ("gossip", Slower)]
    swept = package.sweep(TINY, {"program": programs}, quiet=True)
    assert [run.folder.name for run in swept] == [f"program={name}-topology=ring" for name in ("gossip", "Slower")]
    assert [record["short"] for record in swept.records] == [
        f'program = {{kind = "{name}", topology = "ring"}}' for name in ("gossip", "Slower")
    ]
    assert [group.label for group in package.compare(swept).groups] == ["gossip", "Slower"]


@pytest.mark.parametrize("values", ["1,2", [], 3, {"a": 1}, None])
def test_values_of_a_sweep_that_are_no_list_are_refused(values, in_folder):
    with pytest.raises(ConfigurationError, match=r"The values of 'seed' in a sweep must be a list\. Got "):
        package.sweep(TINY, {"seed": values})
    assert not (in_folder / "runs").exists()


def test_a_run_of_a_sweep_that_fails_is_kept_as_an_error_and_the_others_continue(in_folder, capsys):
    swept = package.sweep(TINY, {"task.model": ["mlp"], "task.optimizer.lr": [1e38, 0.1]})
    assert capsys.readouterr().err.startswith("The run lr=1e_38 failed: ")
    assert len(swept) == 1
    assert repr(swept) == "Sweep('runs/sweep-001', 1 of 2 runs, 1 failed)"
    ((name, error),) = swept.failures.items()
    assert name == "lr=1e_38"
    assert "is not finite" in str(error)


def test_a_sweep_into_a_folder_with_something_in_it_is_refused(in_folder):
    (in_folder / "out").mkdir()
    (in_folder / "out" / "file").touch()
    with pytest.raises(RunError, match="out is not an empty folder"):
        package.sweep(TINY, {"seed": [1]}, out="out")


def test_a_check_in_python_finds_what_the_command_finds(file, covey):
    checked = package.check(file)
    code, out, _ = covey("check", "experiment.toml", "--json")
    assert code == 0
    assert json.loads(json.dumps(dict(checked))) == json.loads(out)
    code, out, _ = covey("check", "experiment.toml")
    said = [line.strip() for line in repr(checked).splitlines()]
    assert said[0] == "experiment run: ok"
    assert set(said[1:]) <= set(out.splitlines())
    assert len(said) > 5


def test_a_check_in_python_refuses_a_mistake_and_sees_a_changed_folder(in_folder):
    with pytest.raises(ConfigurationError, match="Unknown key 'optimiser' of the task; did you mean 'optimizer'"):
        package.check({**TINY, "task": {**TINY["task"], "optimiser": "sgd"}})
    folder = folders.finished(in_folder / "run")
    assert package.check(folder)["status"] == "finished"
    (folder / "graph.npz").write_bytes(b"")
    with pytest.raises(RunError, match=r"graph\.npz"):
        package.check(folder)


@pytest.mark.parametrize("asked", [(), ("topology",), ("topology", "ring"), ("ring",)])
def test_a_list_in_python_has_what_the_command_has(asked, covey):
    found = package.list(*asked)
    assert json.loads(json.dumps([*found], default=str)) == json.loads(covey("list", *asked, "--json")[1])
    assert "ring" in repr(found)
    assert [entry["kind"] for entry in found[:2]] == [entry["kind"] for entry in found][:2]


def test_a_list_in_python_names_the_nearest_kind():
    with pytest.raises(ConfigurationError, match="did you mean 'ring'"):
        package.list("topology", "rnig")
