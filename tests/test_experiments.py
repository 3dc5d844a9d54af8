"""The studies: their files are valid, and their commands can be pasted into a shell."""

import ast
import importlib.util
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey import api
from covey.api import sweeps
from covey.cli.parser import make_parser
from covey.parts.errors import RunError
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import check

ROOT = Path(__file__).parent.parent
FILES = sorted(path for path in ROOT.glob("experiments/*/*.toml") if not path.name.endswith(".study.toml"))


def script_of_studies():
    """`experiments/measure.py`, as a module."""
    spec = importlib.util.spec_from_file_location("measure", ROOT / "experiments" / "measure.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


measure = script_of_studies()


def commands(readme: Path) -> list[list[str]]:
    """The arguments of each command of a study, as a shell understands them."""
    shown = "".join(re.findall(r"^```sh\n(.*?)^```", readme.read_text(), flags=re.M | re.S))
    said = "{ printf '%s\\0' \"$@\"; printf '\\036'; }"
    script = f"set -efu\ncovey() {said}\npython() {said}\n{shown}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return [command.split("\0")[:-1] for command in done.stdout.split("\x1e")[:-1]]


STUDIES = {readme.parent.name: commands(readme) for readme in sorted(ROOT.glob("experiments/*/README.md"))}
SHOWN = [arguments for shown in STUDIES.values() for arguments in shown]
SCRIPTS = [arguments for arguments in SHOWN if arguments[0].endswith(".py")]
COMMANDS = [arguments for arguments in SHOWN if not arguments[0].endswith(".py")]
SWEEPS = [arguments for arguments in COMMANDS if arguments[0] == "sweep"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_file_of_a_study_is_valid_without_its_data(file):
    check(Experiment.from_file(file))


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
def test_the_commands_of_a_study_are_commands(arguments):
    make_parser().parse_args(arguments)
    assert [argument for argument in arguments if argument.endswith(".toml") and not (ROOT / argument).exists()] == []


@pytest.mark.parametrize("arguments", SWEEPS, ids=lambda arguments: arguments[1])
def test_a_sweep_of_a_study_begins(arguments, covey, in_folder, monkeypatch):
    def begun(*_, **__):
        raise RunError("all experiments are valid")

    monkeypatch.setattr(sweeps, "check_with_data", begun)
    (in_folder / "experiments").symlink_to(ROOT / "experiments")
    assert covey(*arguments, "--json") == (2, "", "covey: all experiments are valid\n")


MEASURED = [measure.Study.read(file) for file in sorted(ROOT.glob("experiments/*/*.study.toml"))]
LISTED = [
    pytest.param(study, each, id=f"{study.file.parent.name} {study.name} {each.title}")
    for study in MEASURED
    for each in study.listed()
]


@pytest.mark.parametrize(("study", "each"), LISTED)
def test_the_configurations_of_a_study_are_valid(study, each):
    check(study.experiment_of(each, seed=1))


@pytest.mark.parametrize("study", MEASURED, ids=lambda study: f"{study.file.parent.name} {study.name}")
def test_a_study_names_each_configuration_once_and_evaluates_the_rounds_that_it_shows(study):
    listed = study.listed()
    assert len({each.folder for each in listed}) == len({each.settings for each in listed}) == len(listed)
    for experiment in (study.experiment_of(each, seed=1) for each in listed):
        assert all(experiment.evaluation.due(t, experiment.rounds) for t in study.rounds)


@pytest.fixture
def small_study(in_folder):
    """The file of a study of two topologies, which takes a second."""
    (in_folder / "small.toml").write_text(
        'rounds = 4\nprogram = { kind = "gossip", topology = "ring" }\n'
        'task = { dataset = "digits", model = "logistic" }\n'
        'network = { nodes = 4, energy = "5W" }\nevaluation = { every = 2 }\n'
    )
    (in_folder / "small.txt").write_text('# Families.\nring | | "ring"\n\nall | slow, wide | "complete" | 0.01\n')
    file = in_folder / "small.study.toml"
    file.write_text(
        'experiment = "small.toml"\nconfigurations = "small.txt"\nseeds = [1, 2]\nuntil = 0.3\n'
        'sets = ["program.topology", "task.optimizer.lr"]\nagainst = "rounds"\nrounds = [2, 4]\n'
    )
    return file


@pytest.fixture
def begun(monkeypatch):
    """The commands of the runs that the script begins, which are run in this process: processes take long to start."""
    commands = []

    def run(arguments):
        commands.append(arguments)
        options = make_parser().parse_args(["run", *arguments])
        api.run(Experiment.from_file(options.file, options.overrides), out=options.out)
        return ""

    monkeypatch.setattr(measure, "in_own_process", run)
    return commands


def measured(monkeypatch, capsys, *arguments):
    """(exit, standard output, standard error) of the script."""
    monkeypatch.setattr(sys, "argv", ["measure.py", *map(str, arguments)])
    try:
        measure.main()
    except SystemExit as ended:
        return ended.code, *capsys.readouterr()
    return 0, *capsys.readouterr()


def test_a_study_runs_what_is_missing_and_shows_what_came_of_it(small_study, begun, monkeypatch, capsys):
    here = small_study.parent
    code, _, err = measured(monkeypatch, capsys, small_study, "--seeds", 1, "--runs", "found", "--only", "r*")
    assert (code, err) == (0, "[1/1] ring-s1\n")
    code, out, _ = measured(monkeypatch, capsys, small_study, "--runs", "found")
    assert code == 0
    assert len(begun) == 4
    assert sorted(path.name for path in (here / "found" / "small").iterdir()) == [
        "all_slow_wide-s1", "all_slow_wide-s2", "ring-s1", "ring-s2"
    ]  # fmt: skip
    head, _, ring, wide = out.splitlines()
    assert head.startswith("| configuration | round 2 | worst node | round 4 | worst node | average model | messages")
    assert [cell.strip() for cell in ring.split("|")[7:9]] == ["8", "100.0%"]
    assert [cell.strip() for cell in wide.split("|")[7:9]] == ["12", "150.0%"]
    rows = (here / "small.csv").read_text().splitlines()
    assert rows[0].split(",")[:5] == ["family", "label", "runs", "accuracy_2", "accuracy_2_std"]
    assert rows[2].endswith('"program.topology=""complete""; task.optimizer.lr=0.01"')
    assert (here / "small.png").exists()


@pytest.mark.parametrize("against", ["bytes", "energy"])
def test_a_study_counts_what_was_spent(small_study, against, begun, monkeypatch, capsys):
    small_study.write_text(small_study.read_text().replace('"rounds"', f'"{against}"').replace("rounds = [2, 4]", ""))
    assert measured(monkeypatch, capsys, small_study, "--seeds", 1, "--runs", "found", "--set", "rounds=2")[0] == 0
    run = measure.Run(Path("found/small/ring-s1"))
    spent = run.metrics[run.metrics["round"] == 2][measure.COSTS[against].column].sum()
    row = (small_study.parent / "small.csv").read_text().splitlines()[1].split(",")
    assert float(row[8]) == pytest.approx(spent / measure.COSTS[against].size, rel=1e-4)
    assert row[9] == "1"


def test_a_study_takes_no_runs_of_another_experiment(small_study, begun, monkeypatch, capsys):
    only = (small_study, "--only", "ring", "--seeds", 1, "--runs", "found")
    assert measured(monkeypatch, capsys, *only)[0] == 0
    code, _, err = measured(monkeypatch, capsys, *only, "--set", "rounds=6")
    assert code == "Some configurations have no finished run."
    assert "ring-s1 holds another experiment: give another folder with --runs" in err.replace("\n", " ")


def test_a_study_leaves_alone_what_somebody_else_runs(small_study, begun, monkeypatch, capsys):
    only = (small_study, "--only", "ring", "--seeds", 1, "--runs", "found")
    measured(monkeypatch, capsys, *only)
    monkeypatch.setattr(measure.Run, "status", "running")
    code, _, err = measured(monkeypatch, capsys, *only)
    assert code == "Some configurations have no finished run."
    assert "ring-s1 is being run by another process" in err
    assert len(begun) == 1


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("small.study.toml", "until", "till", "must have the keys experiment, configurations, sets, seeds, until, against"),
        ("small.study.toml", '= "rounds"', '= "hours"', "must be one of bytes, energy, rounds. Got 'hours' instead."),
        ("small.study.toml", "[2, 4]", "[3]", "No models of .* were evaluated after round 3."),
        ("small.txt", '| | "ring"', '| | "ring" | 1 | 2', "must be a family, a label and up to 2 values. Got 'ring"),
        ("small.txt", '| | "ring"', "", "must be a family, a label and up to 2 values. Got 'ring ' instead."),
        ("small.txt", '"complete"', '"completely"', "Unknown topology 'completely'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_study_is_named(small_study, file, old, new, message, begun, monkeypatch, capsys):
    path = small_study.parent / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    code, _, _ = measured(monkeypatch, capsys, small_study, "--seeds", 1, "--runs", "found", "--set", "rounds=4")
    assert re.search(message, code)


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), min_size=1, max_size=40))
def test_numbers_of_a_figure_hide_neither_each_other_nor_a_mark(indices):
    room, size = (0.0, 0.0, 300.0, 200.0), (9.0, 7.0)
    centres = measure.beside(indices, [size] * len(indices), room)
    for number, (x, y) in enumerate(centres):
        assert size[0] / 2 <= x <= 300 - size[0] / 2
        assert size[1] / 2 <= y <= 200 - size[1] / 2
        for other_x, other_y in centres[:number]:
            assert abs(x - other_x) >= size[0] - 1e-6 or abs(y - other_y) >= size[1] - 1e-6
        for mark_x, mark_y in indices:
            assert abs(x - mark_x) >= size[0] / 2 or abs(y - mark_y) >= size[1] / 2


@pytest.mark.parametrize("arguments", SCRIPTS, ids=" ".join)
def test_the_scripts_of_a_study_are_there(arguments):
    compile((ROOT / arguments[0]).read_text(), arguments[0], "exec")
    assert [argument for argument in arguments if argument.endswith(".toml") and not (ROOT / argument).exists()] == []


def test_every_study_says_how_it_was_made():
    assert STUDIES.keys() == {folder.name for folder in (ROOT / "experiments").iterdir() if folder.is_dir()}
    assert all(STUDIES.values())


SCRIPTS = [
    file for room in ("experiments", "bench", "fuzz", "examples") for file in sorted((ROOT / room).rglob("*.py"))
]


def test_scripts_import_only_names_that_exist():
    missing = []
    for file in SCRIPTS:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "covey":
                module = import_module(node.module)
                submodules = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ()))}
                missing += [
                    f"{file.name}: {node.module}.{each.name}"
                    for each in node.names
                    if not hasattr(module, each.name) and each.name not in submodules
                ]
    assert SCRIPTS
    assert not missing
