"""`covey new`: the experiment of its folder runs at once, and its files are in covey's package."""

import os
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from covey.parts import kinds
from covey.runtime.runs import Run

NAMES = {"README.md", "algorithm.py", "data.py", "experiment.toml", "test_algorithm.py"}
BIN = str(Path(sys.executable).parent)


def in_shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in which `covey` and `python` are those of this environment."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=environment, cwd=folder)


def test_the_printed_commands_run_the_experiment_and_its_tests(in_folder, covey, own_modules, monkeypatch):
    code, out, err = covey("new", "my work")
    assert (code, err) == (0, "")
    assert {path.name for path in Path("my work").iterdir()} == NAMES
    run, test = [line.strip() for line in out.splitlines() if line.startswith("  ")]
    assert run == "cd 'my work' && covey run experiment.toml"
    monkeypatch.chdir("my work")
    code, _, err = covey("run", "experiment.toml")
    assert code == 0, err
    summary = Run(in_folder / "my work" / "runs" / "run-s1-001").summary()
    assert (summary["status"], summary["rounds"]) == ("finished", 100)
    assert summary["final"]["accuracy"]["mean"] > 0.8
    tested = in_shell(f"{test} -q", in_folder)
    assert tested.returncode == 0, tested.stdout
    assert "3 passed" in tested.stdout


@pytest.fixture
def own_modules(monkeypatch):
    """Modules of the folder that this process imports are forgotten in the end."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(kinds, "_folders", [])
    yield
    for name in ("algorithm", "data"):
        sys.modules.pop(name, None)


def test_the_folder_also_runs_in_processes_and_from_elsewhere(in_folder, covey, own_modules):
    assert covey("new", "mine")[0] == 0
    small = [f"--set={key}" for key in ("network.nodes=6", "rounds=2")]
    code, _, err = covey("run", "mine/experiment.toml", "--engine", "emulation", "--out", "run", *small)
    assert code == 0, err
    assert Run(in_folder / "run").summary()["status"] == "finished"


@pytest.mark.parametrize("taken", ["mine/file", "mine"])
def test_a_folder_that_is_taken_is_refused_in_one_line_and_left_alone(in_folder, covey, taken):
    Path(taken).parent.mkdir(exist_ok=True)
    Path(taken).write_text("mine")
    code, out, err = covey("new", "mine")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("covey: The folder mine ")
    assert [path.name for path in Path("mine").parent.glob("mine*/*")] == (["file"] if taken == "mine/file" else [])
    assert Path(taken).read_text() == "mine"


def test_an_empty_folder_is_filled_where_one_stands(in_folder, covey):
    code, out, _ = covey("new", ".")
    assert (code, "  covey run experiment.toml" in out.splitlines()) == (0, True)
    assert {path.name for path in in_folder.iterdir()} == NAMES


def test_the_template_is_data_of_the_package():
    template = files("covey.cli").joinpath("template")
    assert {file.name for file in template.iterdir() if file.is_file()} == NAMES
    patterns = package_data()
    package = Path(str(files("covey")))
    declared = {path for pattern in patterns for path in package.glob(pattern)}
    assert {package / "cli" / "template" / name for name in NAMES} <= declared


def package_data() -> list[str]:
    """The patterns of the files that a wheel holds beside the modules."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    patterns: list[str] = tomllib.loads(text)["tool"]["setuptools"]["package-data"]["covey"]
    return patterns
