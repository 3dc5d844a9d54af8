"""The studies: their files are valid, and their commands can be pasted into a shell."""

import re
import subprocess
from pathlib import Path

import pytest

from covey import api
from covey.cli.parser import make_parser
from covey.engines.prepared import check
from covey.errors import RunError
from covey.experiment import Experiment, assign, read_table

ROOT = Path(__file__).parent.parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.glob("experiments/*/*.toml"))


def commands(readme: Path) -> list[list[str]]:
    """The arguments of each command of a study, as a shell understands them."""
    shown = "".join(re.findall(r"^```sh\n(.*?)^```", readme.read_text(), flags=re.M | re.S))
    said = "{ printf '%s\\0' \"$@\"; printf '\\036'; }"
    script = f"set -efu\ncovey() {said}\npython() {said}\n{shown}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return [command.split("\0")[:-1] for command in done.stdout.split("\x1e")[:-1]]


STUDIES = {readme.parent.name: commands(readme) for readme in sorted(ROOT.glob("experiments/*/README.md"))}
SHOWN = [arguments for shown in STUDIES.values() for arguments in shown]
SCRIPTS = [arguments[0] for arguments in SHOWN if arguments[0].endswith(".py")]
COMMANDS = [arguments for arguments in SHOWN if not arguments[0].endswith(".py")]
SWEEPS = [arguments for arguments in COMMANDS if arguments[0] == "sweep"]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_file_of_a_study_is_valid_without_its_data(file):
    check(Experiment.from_file(ROOT / file))


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
def test_the_commands_of_a_study_are_commands(arguments):
    make_parser().parse_args(arguments)
    assert [argument for argument in arguments if argument.endswith(".toml") and not (ROOT / argument).exists()] == []


@pytest.mark.parametrize("arguments", SWEEPS, ids=lambda arguments: arguments[1])
def test_a_sweep_of_a_study_begins(arguments, covey, in_folder, monkeypatch):
    def begun(*_, **__):
        raise RunError("all experiments are valid")

    monkeypatch.setattr(api, "run", begun)
    (in_folder / "experiments").symlink_to(ROOT / "experiments")
    assert covey(*arguments, "--json") == (2, "", "covey: all experiments are valid\n")


LISTED = [
    pytest.param(file.with_suffix(".toml"), line.split("|")[2], id=f"{file.stem} {line[:40].strip()}")
    for file in sorted(ROOT.glob("experiments/*/*.txt"))
    for line in file.read_text().splitlines()
    if not line.startswith("#")
]
"""The experiment and the sharing of each line of the lists of sharings."""


@pytest.mark.parametrize(("file", "sharing"), LISTED)
def test_the_sharings_of_a_list_are_valid(file, sharing):
    table = read_table(file)
    assign(table, f"program.sharing={sharing}")
    check(Experiment.from_table(table))


def test_a_list_of_sharings_names_each_once():
    for file in ROOT.glob("experiments/*/*.txt"):
        lines = [line.split("|") for line in file.read_text().splitlines() if not line.startswith("#")]
        for parts in ([tuple(map(str.strip, line[:2])) for line in lines], [line[2].strip() for line in lines]):
            assert len(parts) == len(set(parts))


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_of_a_study_are_there(script):
    compile((ROOT / script).read_text(), script, "exec")


def test_every_study_says_how_it_was_made():
    assert STUDIES.keys() == {folder.name for folder in (ROOT / "experiments").iterdir() if folder.is_dir()}
    assert all(STUDIES.values())
