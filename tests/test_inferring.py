"""`covey infer`, and `covey.infer` from Python."""

import csv
import json
import shutil

import pytest
import torch

import covey
from covey.federated.robust_inference.stored import stored_outputs
from covey.learning.loaded import LoadedLearning
from covey.parts.errors import ConfigurationError, RunError
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from tests.conftest import table

ENSEMBLE = {"kind": "ensemble", "work": {"epochs": 2}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of seven clients with models of their own."""
    tables = table(program=ENSEMBLE, rounds=1)
    tables["network"] = {"nodes": 8}
    tables["task"] = {**tables["task"], "validation": 0.2}
    return covey.run(tables, out=tmp_path_factory.mktemp("runs") / "ensemble")


def test_the_stored_outputs_are_those_of_the_runs_modules(run):
    stored = stored_outputs(run)
    assert stored.clients == [1, 2, 3, 4, 5, 6, 7]
    task = prepare(Experiment.from_table(run.experiment), quiet=True).task
    assert isinstance(task, LoadedLearning)
    data = task.learner.data
    with torch.no_grad():
        outputs = run.module(3)(data.scaled(data.test.inputs)).softmax(-1)
    assert torch.allclose(stored.test.answers[:, 2], outputs, atol=1e-5)
    assert torch.equal(stored.test.labels, data.test.targets)
    few = stored_outputs(run.folder, samples=20)
    assert few.test.answers.shape == (20, 7, 10)
    assert len(few.proxy.labels) == sum(map(len, task.learner.splits.validation))


def test_python_returns_what_is_written(run, tmp_path):
    found = covey.infer(
        run,
        rules=["mean", {"kind": "deepset", "hidden": 8, "steps": 20, "inner_steps": 1}],
        attacks=["sia", {"kind": "pgd-cw", "steps": 3}],
        faulty=2,
        samples=50,
        out=tmp_path / "found",
    )
    assert found.columns == ["rule", "none", "sia", "pgd-cw", "worst", "worst per query", "certified"]
    assert [report.rule for report in found.reports] == ["mean", "deepset (steps=20, hidden=8, inner_steps=1)"]
    assert (found.clients, found.faulty, found.queries) == (7, 2, 50)
    assert json.loads((tmp_path / "found" / "result.json").read_text()) == json.loads(json.dumps(found.table()))
    with (tmp_path / "found" / "table.csv").open() as file:
        written = list(csv.reader(file))
    assert written[0] == found.columns
    assert float(written[1][1]) == found.rows[0][1]
    assert (tmp_path / "found" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_line(run, covey, tmp_path):
    out = tmp_path / "out"
    given = [
        "infer",
        str(run.folder),
        "--rule",
        "mean,trimmed-mean",
        "--faulty",
        "2",
        "--samples",
        "40",
        "--out",
        str(out),
    ]
    code, said, error = covey(*given, "--set", "pgd-cw.steps=2", "--set", "trimmed-mean.trim=1")
    assert code == 0, error
    assert "trimmed-mean (trim=1)" in said
    assert "Accuracy in % of 40 queries to 7 clients; 2 of them may lie." in said
    assert str(out) in said
    code, said, _ = covey(*given, "--attack", "sia", "--json")
    assert {*json.loads(said)["rules"][0]["attacks"]} == {"sia"}
    for wrong, text in {
        ("--faulty", "4"): "The 'faulty' clients must be fewer than half of the 7 that answer. Got 4 instead.",
        ("--rule", "medium"): "Unknown inference-rule 'medium'; did you mean 'median'?",
        ("--set", "lma.steps=2"): "Unknown key 'steps' of the inference-attack lma",
        ("--set", "copur.steps=2"): "or a rule that --rule names: mean, trimmed-mean, logit-flipping,",
    }.items():
        code, _, error = covey(*given, *wrong)
        assert code == 2
        assert text in error


def test_runs_without_what_inference_needs_are_refused(tmp_path):
    tables = table(program=ENSEMBLE, rounds=1)
    tables["network"] = {"nodes": 6}
    run = covey.run(tables, out=tmp_path / "plain")
    with pytest.raises(
        ConfigurationError, match=r"is trained on validation samples of clients, and the run .* has none"
    ):
        covey.infer(run, rules=["mlp"], attacks=["sia"])
    assert [report.rule for report in covey.infer(run, attacks=["sia"], samples=9).reports][-1] == "trimmed-mean"
    tables["output"] = {"models": False}
    run = covey.run(tables, out=tmp_path / "bare")
    with pytest.raises(RunError, match="has no final models"):
        covey.infer(run)


def test_models_that_differ_from_their_checksum_are_refused(run, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(run.folder, folder)
    content = bytearray((folder / "models.npy").read_bytes())
    content[len(content) // 2] ^= 64
    (folder / "models.npy").write_bytes(content)
    with pytest.raises(RunError, match=r"differs from its SHA256SUMS: models\.npy differs"):
        covey.infer(folder, samples=9)
