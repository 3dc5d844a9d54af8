"""A sweep that is continued in its folder: after a kill, and with a seed more."""

import shutil

import pytest
import torch

import covey
from covey.parts.errors import RunError
from tests import folders

SEEDS = {"seed": [1, 2]}


def stamps(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


def test_a_killed_sweep_continues_with_its_runs_and_takes_a_seed_more(tmp_path):
    whole = covey.sweep(folders.tiny(), {"seed": [1, 2, 3]}, out=tmp_path / "whole", quiet=True)
    swept = tmp_path / "swept"
    folders.finished(swept / "seed=1", seed=1)
    folders.killed(swept / "seed=2", seed=2)
    before = stamps(swept / "seed=1")
    found = covey.sweep(folders.tiny(), {"seed": [1, 2, 3]}, out=swept, quiet=True, extend=True)
    assert [run.status for run in found] == ["finished"] * 3
    assert stamps(swept / "seed=1") == before
    assert [len(run.facts["starts"]) for run in found] == [1, 2, 1]
    for run, other in zip(found, whole, strict=True):
        assert torch.equal(run.models, other.models)


def test_runs_of_another_experiment_are_refused_and_nothing_changes(tmp_path):
    folders.finished(tmp_path / "swept" / "seed=1", seed=1)
    before = stamps(tmp_path / "swept")
    with pytest.raises(RunError, match="seed=1 is of another experiment: give the sweep another folder with --out"):
        covey.sweep(folders.tiny(rounds=5), SEEDS, out=tmp_path / "swept", quiet=True, extend=True)
    with pytest.raises(RunError, match="is not an empty folder"):
        covey.sweep(folders.tiny(), SEEDS, out=tmp_path / "swept", quiet=True)
    assert stamps(tmp_path / "swept") == before
    assert [path.name for path in (tmp_path / "swept").iterdir()] == ["seed=1"]


def test_runs_that_were_killed_before_a_checkpoint_begin_again(tmp_path):
    folders.finished(tmp_path / "other", seed=2)
    (tmp_path / "swept" / "seed=2").mkdir(parents=True)
    shutil.copy(tmp_path / "other" / "run.toml", tmp_path / "swept" / "seed=2")
    (tmp_path / "swept" / "seed=2" / ".lock").touch()
    folders.killed(tmp_path / "swept" / "seed=1", round=2, seed=1)
    found = covey.sweep(folders.tiny(), SEEDS, out=tmp_path / "swept", quiet=True, extend=True)
    assert [run.status for run in found] == ["finished"] * 2
    assert [len(run.facts["starts"]) for run in found] == [1, 1]
    assert torch.equal(found.runs[1].models, covey.Run(tmp_path / "other").models)


def test_a_sweep_of_one_seed_takes_others_and_keeps_its_runs(tmp_path):
    rates = {"task.optimizer.lr": [0.1, 0.3]}
    swept = tmp_path / "swept"
    covey.sweep(folders.tiny(), rates, out=swept, quiet=True)
    before = {name: stamps(swept / name) for name in ("lr=0.1", "lr=0.3")}
    found = covey.sweep(folders.tiny(), {**rates, "seed": [3, 4]}, out=swept, quiet=True, extend=True)
    assert [run.folder.name for run in found] == ["lr=0.1", "lr=0.1-seed=4", "lr=0.3", "lr=0.3-seed=4"]
    assert [len(record["runs"]) for record in found.records] == [2, 2]
    found = covey.sweep(folders.tiny(), {**rates, "seed": [5]}, out=swept, quiet=True, extend=True)
    assert [run.folder.name for run in found] == ["lr=0.1-seed=5", "lr=0.3-seed=5"]
    assert {name: stamps(swept / name) for name in before} == before
    assert len(covey.compare(swept).runs) == 6


def test_an_interrupted_run_with_data_and_a_model_of_python_is_resumed_by_its_sweep(tmp_path):
    base = folders.tiny()
    base["task"] |= {"dataset": (torch.randn(60, 4), torch.arange(60) % 2), "model": torch.nn.Linear(4, 2)}
    whole = covey.sweep(base, {"seed": [1]}, out=tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "tiny", lambda **changes: {**base, **changes})
        folders.interrupted(tmp_path / "swept" / "run", seed=1)
    found = covey.sweep(
        covey.Experiment.from_table(base), {"seed": [1]}, out=tmp_path / "swept", quiet=True, extend=True
    )
    assert [len(run.facts["starts"]) for run in found] == [2]
    assert torch.equal(found.runs[0].models, whole.runs[0].models)
