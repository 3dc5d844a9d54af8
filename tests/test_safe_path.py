"""A folder is not code: files beside an experiment or in the current folder run only if a name asks for them."""

import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from covey.parts import kinds
from covey.parts.errors import ConfigurationError
from covey.runtime.experiment import Experiment
from tests.conftest import table

EXPERIMENT = """
rounds = 1
[program]
kind = "gossip"
topology = "ring"
[task]
dataset = "digits"
model = "logistic"
[network]
nodes = 4
"""
TRAPS = [
    *("pandas", "queue", "numpy", "torch", "msgspec", "random", "resource", "cryptography", "covey_native"),
    "push_sum",
]
"""Names of libraries that covey imports, now or later, and of one that it does not."""
COVEY = str(Path(sys.executable).parent / "covey")
EMULATION = ["--engine", "emulation", "--set", "engine.nodes_per_process=2"]


@pytest.fixture
def trapped(tmp_path):
    """A folder with an experiment, and with modules that say that they were run."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + '\\n')\n")
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    return tmp_path


def covey(folder, *arguments, start=(COVEY,)):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run([*start, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    return ended.returncode, ended.stdout + ended.stderr


def ran(folder):
    """Which of the modules were run."""
    file = folder / "ran"
    return file.read_text().split() if file.exists() else []


@pytest.mark.parametrize(
    "arguments",
    [["check", "experiment.toml"], ["sweep", "experiment.toml", "--set", "seed=1,2"]],
    ids=["check", "sweep"],
)
def test_modules_beside_an_experiment_are_not_run(arguments, trapped):
    code, said = covey(trapped, *arguments)
    assert (code, ran(trapped)) == (0, []), said


@pytest.mark.parametrize(
    "start",
    [[COVEY], pytest.param([sys.executable, "-m", "covey"], marks=pytest.mark.slow)],
    ids=["covey", "python -m covey"],
)
def test_modules_where_covey_is_started_are_run_neither_by_it_nor_by_its_hosts(start, trapped):
    # Python itself imports modules before covey from there: `python -P -m covey` does not.
    code, said = covey(trapped, "run", "experiment.toml", "--out", "run", *EMULATION, start=start)
    assert (code, ran(trapped)) == (0, []), said


def test_a_module_that_is_named_is_found_beside_the_experiment_and_nothing_else_is(trapped):
    (trapped / "sub").mkdir()
    (trapped / "mine.py").write_text("from covey.decentralized.gossip import Gossip\nclass Mine(Gossip):\n    pass\n")
    named = ["--set", "program.kind='mine:Mine'"]
    code, said = covey(trapped / "sub", "run", "../experiment.toml", "--out", "run", *named, *EMULATION)
    assert (code, ran(trapped)) == (0, []), said


READING = [
    ["show", "run"],
    ["compare", "run", "run"],
    ["plot", "run", "--out", "a.png"],
    ["plot", "run", "--graph", "--out", "b.png"],
    ["report", "run"],
    ["export", "run", "--out", "exported"],
    ["check", "run"],
]
RUNNING = [["check", "run/run.toml"], ["plot", "run", "--graph", "--round", "1", "--out", "c.png"]]


def test_reading_a_run_imports_nothing_that_it_names(in_folder, monkeypatch, request):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(kinds, "_folders", [])
    call = request.getfixturevalue("covey")
    (in_folder / "mine_here.py").write_text(
        "from covey.decentralized.gossip import Gossip\nclass Mine(Gossip):\n    pass\n"
    )
    (in_folder / "experiment.toml").write_text(EXPERIMENT)
    changed = ["--set", "program.kind='mine_here:Mine'", "--set", "rounds=2"]
    assert call("run", "experiment.toml", "--out", "run", *changed)[0] == 0
    for commands, imports in ((READING, False), (RUNNING, True)):
        for command in commands:
            sys.modules.pop("mine_here", None)
            code, _, err = call(*command)
            assert (code, "mine_here" in sys.modules) == (0, imports), (command, err)


def test_a_module_of_a_librarys_name_is_the_librarys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(kinds, "_folders", [])
    PathFinder.find_spec("nothing", [str(tmp_path)])  # Python remembers what was in the folder before.
    (tmp_path / "queue.py").write_text("class Mine:\n    pass\n")
    with pytest.raises(ConfigurationError) as caught:
        Experiment.from_table(table(program={"kind": "queue:Mine"}))
    assert str(caught.value) == (
        f"The program 'queue:Mine' does not exist: queue has no Mine. A library has the name of {tmp_path / 'queue.py'}: "
        f"rename your module."
    )


def test_the_folder_is_searched_last_and_only_for_a_name_that_needs_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(kinds, "_folders", [])
    before = [*sys.path]
    file = tmp_path / "beside" / "experiment.toml"
    file.parent.mkdir()
    file.write_text(EXPERIMENT)
    Experiment.from_file(file)
    assert sys.path == before
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        Experiment.from_table(table(program={"kind": "nowhere:Mine"}))
    assert sys.path == [*before, str(file.parent), str(tmp_path)]
