"""The code, commands and experiments of the documents work."""

import copy
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import covey
from covey import view
from covey.cli.parser import make_parser
from covey.learning.models import Module
from covey.learning.node import LearningNode
from covey.messages import wire
from covey.parts import kinds
from covey.runtime.experiment import Experiment, assign
from covey.runtime.prepared import check
from covey.runtime.runs import Run
from tests.conftest import models_of, simulate, table
from tests.untrained import Mixed

ROOT = Path(__file__).parent.parent


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), flags=re.M | re.S)


@pytest.fixture
def algorithms(in_folder, monkeypatch):
    """The modules that the guide and the pages of systems show, in the current folder."""
    pages = [
        "docs/write-an-algorithm.md",
        "docs/federated.md",
        *(str(page.relative_to(ROOT)) for page in (ROOT / "docs/systems").glob("*.md")),
    ]
    for text in (text for page in pages for text in blocks(page, "python")):
        name = re.match(r"# (\w+\.py)\n", text)
        if name:
            (in_folder / name[1]).write_text(text)
            sys.modules.pop(name[1].removesuffix(".py"), None)
    monkeypatch.syspath_prepend(str(in_folder))


def test_the_experiment_of_the_readme_runs_and_its_python_works(in_folder):
    (in_folder / "experiment.toml").write_text(blocks("README.md", "toml")[0])
    (python,) = [text for text in blocks("README.md", "python") if "from_file" in text]
    names: dict = {}
    exec(python.replace("experiment.rounds = 50", "experiment.rounds = 3"), names)
    assert names["run"].models.shape == (100, 650)
    assert (in_folder / "accuracy.png").exists()


def test_the_notebook_of_the_readme_shows_a_figure(in_folder):
    (python,) = [text for text in blocks("README.md", "python") if "covey.run({" in text]
    lines = [line for line in python.replace('"rounds": 50', '"rounds": 2').splitlines() if line]
    assert len(lines) <= 10
    names: dict = {}
    exec("\n".join([*lines[:-1], f"shown = {lines[-1]}"]), names)
    assert names["shown"]._repr_png_().startswith(b"\x89PNG")


def test_the_first_screen_of_the_readme_has_the_two_commands():
    screen = (ROOT / "README.md").read_text().splitlines()[:25]
    assert {line.split("#")[0].strip() for line in screen} >= {"make demo", "make test"}


def test_push_sum_of_the_readme_is_short_and_learns(in_folder, monkeypatch):
    (text,) = [text for text in blocks("README.md", "python") if "PushSum" in text]
    assert len(text.splitlines()) < 40
    (in_folder / "push_sum_of_readme.py").write_text(text)
    monkeypatch.syspath_prepend(str(in_folder))
    program = {"kind": "push_sum_of_readme:PushSum", "topology": "exponential"}
    world, written = simulate(table(program=program, rounds=20))
    last = [value for _, t, name, value in written.figures if (t, name) == (20, "average_model_accuracy")]
    assert last[0] > 0.8
    models = models_of(world)
    assert (models - models.mean(0)).norm() < 0.2 * models.norm()


def test_the_algorithms_of_the_guide_run(algorithms):
    push_sum = {"kind": "push_sum:PushSum", "topology": "exponential"}
    _, written = simulate(table(program=push_sum, rounds=4))
    assert {name for _, _, name, _ in written.figures} >= {"weight", "accuracy"}
    average = {"kind": "average:Average", "topology": "ring"}
    world, _ = simulate(table(program=average, task={"model": Module(factory=Mixed), "dataset": "gaussian-blobs"}))
    views = world.task.learner.layout.views(models_of(world))
    assert torch.equal(
        views["frozen.weight"][3], world.task.learner.layout.views(world.task.learner.first_model)["frozen.weight"]
    )
    assert {node.bytes_out for node in world.nodes} == {6 * 2 * len(wire.encode({"model": torch.zeros(114)}))}
    for model in ("logistic", Module(factory=Mixed)):
        signs = {"kind": "gossip", "topology": "ring", "sharing": "signs:Signs"}
        world, written = simulate(table(program=signs, task={"model": model, "dataset": "gaussian-blobs"}))
        assert not [kind for _, _, kind, _ in written.happened if kind == "rejected"]
        assert 0 < world.nodes[0].bytes_out < 0.5 * 6 * 2 * world.task.model_bytes + 12 * 200
    widening = {"kind": "gossip", "topology": {"kind": "widening:Widening", "width": 3}}
    world, _ = simulate(table(program=widening, rounds=4))
    assert {node.messages_out for node in world.nodes} == {12}
    code = "The 'width' of the topology widening:Widening must be an int in [1, nodes). Got 0 instead."
    with pytest.raises(Exception, match=re.escape(code)):
        Experiment.from_table(table(program={"kind": "gossip", "topology": {"kind": "widening:Widening", "width": 0}}))


def test_the_callback_of_the_docs_stops_its_run(in_folder, capsys):
    (python,) = blocks("docs/callbacks.md", "python")
    names: dict = {}
    exec(python, names)
    assert names["run"].status == "finished"
    assert capsys.readouterr().out.startswith("10 0.")
    (toml,) = blocks("docs/callbacks.md", "toml")
    assert [callback.kind for callback in Experiment.from_table({**table(), **tomllib.loads(toml)}).callback] == [
        "early-stopping",
        "tensorboard",
    ]


def test_the_demo_is_what_it_says(in_folder, covey):
    code, out, err = covey("demo", "--out", "demo")
    assert code == 0, err
    runs = [Run(Path("demo") / name) for name in ("d-psgd", "epidemic-learning")]
    static, epidemic = [run.summary() for run in runs]
    assert static["totals"]["bytes_out"] == epidemic["totals"]["bytes_out"]
    assert epidemic["final"]["accuracy"]["mean"] > static["final"]["accuracy"]["mean"] > 0.85
    assert epidemic["final"]["accuracy"]["min"] > static["final"]["accuracy"]["min"]
    assert (in_folder / "demo" / "accuracy.png").exists()
    for part in ("d-psgd", "accuracy", "figure: demo/accuracy.png"):
        assert part in out
    view.save(view.histogram(runs[0]), Path("h.pdf"))


def test_documents_name_only_files_that_exist():
    documents = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "experiments/*/README.md", "examples/README.md")
    for document in (path for pattern in documents for path in ROOT.glob(pattern)):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


SYSTEMS = [
    pytest.param(text, id=f"{page.stem}-{index}")
    for page in sorted((ROOT / "docs/systems").glob("*.md"))
    for index, text in enumerate(blocks(str(page.relative_to(ROOT)), "toml"))
]


@pytest.mark.parametrize("text", SYSTEMS)
def test_the_experiments_of_the_systems_run(text, algorithms):
    tables = tomllib.loads(text)
    tables["rounds"] = 2
    tables["network"] = {**tables["network"], "nodes": min(16, tables["network"]["nodes"])}
    experiment = Experiment.from_table(tables)
    if experiment.task is None or experiment.task.dataset.kind in ("digits", "synthetic-images", "gaussian-blobs"):
        world, _ = simulate(tables)
        # Asynchronous clients of a server make as many rounds as they can.
        whole = world.program.synchronous or world.nodes[0].role != "server"
        assert all(node.round == 2 for node in world.nodes if whole or node.role == "server")
    else:
        check(experiment)


def test_the_page_of_parts_has_all_kinds():
    page = (ROOT / "docs/parts.md").read_text()
    missing = [
        f"{family} {kind}" for family, kind in covey.list().chosen if family != "task" and f"`{kind}`" not in page
    ]
    assert not missing


def test_federated_methods_are_configured_as_their_page_says():
    base = tomllib.loads((ROOT / "experiments/epidemic-learning/digits.toml").read_text())
    base["task"].pop("local_steps", None)
    rows = [line.split("|") for line in (ROOT / "docs/federated.md").read_text().splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {6}
    shown = [name for row in rows[2:] for name in re.findall("`([^`]+)`", row[2])]
    for name in shown:
        tables = copy.deepcopy(base)
        assign(tables, name)
        Experiment.from_table(tables)
    assert len(shown) > 20


def test_parts_of_a_federated_round_can_be_ones_own(algorithms):
    (text,) = [text for text in blocks("docs/federated.md", "toml") if "own_parts" in text]
    base = tomllib.loads(text) | {"rounds": 4}
    world, written = simulate(base)
    assert world.nodes[0].state["server_optimizer.momentum"].shape == (650,)
    accuracy = [value for _, _, name, value in written.figures if name == "accuracy"]
    assert accuracy[-1] > 0.4
    staleness = {"kind": "own_parts:Recent", "most": 5}
    world, _ = simulate(base | {"program": {"kind": "own_parts:MedianOfThree", "staleness": staleness}})
    assert world.nodes[0].round == 4
    lie = {"kind": "robust-inference", "rule": "mean", "faulty": 1, "liars": 1, "lie": "own_parts:Undecided"}
    simulate(base | {"rounds": 1, "program": lie})


def test_the_names_of_covey_beside_those_of_other_frameworks_are_its_own():
    base = tomllib.loads((ROOT / "experiments/epidemic-learning/digits.toml").read_text())
    base["program"] = {"kind": "gossip", "topology": "ring"}
    base["task"].pop("local_steps", None)
    rows = [
        line.split("|") for line in (ROOT / "docs/from-other-frameworks.md").read_text().splitlines() if "|" in line
    ]
    assert {len(row) for row in rows} == {7}
    for name in (name for row in rows[2:] for name in re.findall("`([^`]+)`", row[5])):
        if " = " in name:
            tables = copy.deepcopy(base)
            assign(tables, name)
            Experiment.from_table(tables)
        elif name.startswith("covey "):
            make_parser().parse_args(name.split()[1:])
        elif name.startswith("covey."):
            assert getattr(covey, name.removeprefix("covey."))
        elif name.startswith("node."):
            assert callable(getattr(LearningNode, name.removeprefix("node.")))
        else:
            assert name in kinds.known("callback") or name == "async def run(self, node)"
