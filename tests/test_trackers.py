"""Writers for TensorBoard, W&B and MLflow, during a run, over a resume, and after it."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import covey as package
from covey.parts.errors import ConfigurationError
from covey.runtime.callbacks.trackers import MLflow, TensorBoard, WandB
from tests import folders
from tests.conftest import table

SMALL = table(rounds=6, network={"nodes": 6}, evaluation={"every": 2, "samples": 60})
WORDS = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}


def expected(run):
    """The figures of a run that a tracker should record: by name, the value after each round."""
    known = {}
    for round, rows in run.metrics.groupby("round"):
        for name in ("accuracy", "loss"):
            known.setdefault(f"{name}/mean", {})[round] = rows[name].mean()
            for word, share in WORDS.items():
                known.setdefault(f"{name}/{word}", {})[round] = np.quantile(rows[name], share)
        known.setdefault("time", {})[round] = rows["time"].max()
    network = run.network.set_index("round").drop(columns="time")
    for name in network:
        known[f"network/{name}"] = network[name].to_dict()
    return known


def events_in(folder):
    """The scalars in the event files of a folder."""
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = loading.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


def assert_same(found, known):
    assert found.keys() == known.keys()
    for name, course in known.items():
        assert found[name] == pytest.approx(course, rel=1e-5), name


def test_tensorboard_has_the_quantiles_of_every_evaluated_round(tmp_path):
    run = package.run({**SMALL, "callback": ["tensorboard"]}, out=tmp_path / "run")
    assert_same(events_in(run.folder / "tensorboard"), expected(run))


def test_tensorboard_has_each_round_once_after_a_resume(tmp_path):
    changes = {"callback": ["tensorboard"], "evaluation": {"every": 1}, "checkpoint": {"every": 2}}
    killed = folders.killed(tmp_path / "run", round=5, **changes)
    run = package.resume(killed)
    assert_same(events_in(run.folder / "tensorboard"), expected(run))


def test_the_events_of_a_finished_run_are_those_of_the_run_itself(tmp_path, covey):
    run = package.run({**SMALL, "callback": ["tensorboard"]}, out=tmp_path / "run")
    code, out, err = covey("export", str(run.folder), "--tensorboard", str(tmp_path / "events"))
    assert (code, out, err) == (0, f"{tmp_path / 'events'}: 3 rounds\n", "")
    assert_same(events_in(tmp_path / "events"), expected(run))


def test_a_run_without_evaluated_rounds_cannot_be_exported_to_tensorboard(tmp_path, covey, monkeypatch):
    (tmp_path / "quiet.py").write_text(
        "from covey import Node, Program\n"
        "class Quiet(Program):\n"
        "    async def run(self, node: Node) -> None:\n"
        "        async for _ in node.rounds():\n"
        "            pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = package.run({"rounds": 2, "program": "quiet:Quiet", "network": {"nodes": 2}}, out=tmp_path / "run")
    code, _, err = covey("export", str(run.folder), "--tensorboard", str(tmp_path / "events"))
    assert (code, err) == (2, f"covey: The run {run.folder} has no evaluated rounds.\n")


class Logged:
    """Stands in for the modules of W&B and MLflow, whose calls were tried with the real ones."""

    def __init__(self):
        self.scalars, self.begun, self.ended, self.params = {}, [], [], {}
        self.id = "abc"

    def log(self, values, step):
        for name, value in values.items():
            self.scalars.setdefault(name, {})[step] = value

    def wandb(self):
        module = ModuleType("wandb")
        finish = lambda exit_code: self.ended.append(exit_code)  # noqa: E731
        run = SimpleNamespace(id=self.id, log=self.log, finish=finish)
        module.init = lambda **settings: (self.begun.append(settings), run)[1]
        return module

    def mlflow(self):
        module = ModuleType("mlflow")
        module.entities = SimpleNamespace(Metric=lambda *parts: parts)
        module.MlflowClient = lambda tracking_uri: SimpleNamespace(
            get_experiment_by_name=lambda name: None,
            create_experiment=lambda name: name,
            create_run=lambda experiment, run_name: (
                self.begun.append((experiment, run_name)),
                SimpleNamespace(info=SimpleNamespace(run_id=self.id)),
            )[1],
            log_param=lambda id, key, value: self.params.update({key: value}),
            log_batch=lambda id, metrics: [self.log({name: value}, step) for name, value, _, step in metrics],
            set_terminated=lambda id, status: self.ended.append(status),
        )
        return module


@pytest.fixture
def logged(monkeypatch):
    found = Logged()
    monkeypatch.setitem(sys.modules, "wandb", found.wandb())
    monkeypatch.setitem(sys.modules, "mlflow", found.mlflow())
    return found


def test_wandb_has_the_figures_and_the_experiment(logged, tmp_path):
    run = package.run({**SMALL, "callback": [{"kind": "wandb", "mode": "offline"}]}, out=tmp_path / "run")
    assert_same(logged.scalars, expected(run))
    (settings,) = logged.begun
    assert (settings["name"], settings["mode"], settings["id"]) == ("run", "offline", None)
    assert settings["config"]["rounds"] == 6
    assert logged.ended == [0]


def test_mlflow_has_the_figures_and_the_experiment(logged, tmp_path):
    run = package.run({**SMALL, "callback": ["mlflow"]}, out=tmp_path / "run")
    assert_same(logged.scalars, expected(run))
    assert logged.begun == [("covey", "run")]
    assert logged.params["task.optimizer.lr"] == "0.3"
    assert logged.ended == ["FINISHED"]


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_resumed_run_continues_in_the_same_run_of_a_tracker(kind, logged, tmp_path):
    changes = {"callback": [kind], "evaluation": {"every": 1}, "checkpoint": {"every": 2}}
    killed = folders.killed(tmp_path / "run", round=5, **changes)
    run = package.resume(killed)
    assert_same(logged.scalars, expected(run))
    if kind == "wandb":
        assert [settings["id"] for settings in logged.begun] == [None, "abc"]
    else:
        assert len(logged.begun) == 1
    assert logged.ended[-1] in (0, "FINISHED")


@pytest.mark.parametrize(("part", "extra"), [(TensorBoard, "tensorboard"), (WandB, "wandb"), (MLflow, "mlflow")])
def test_a_tracker_that_is_not_installed_is_refused_before_the_run(part, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, part.module, None)
    message = rf"^The callback {part.kind} needs {part.module.partition('.')[0]}: pip install 'covey\[{extra}\]'\.$"
    with pytest.raises(ConfigurationError, match=message):
        package.run({**SMALL, "callback": [part.kind]}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
