"""Trainings of asynchronous programs whose results are not needed yet are computed later, and change nothing."""

from typing import Any

import pytest
import torch

from covey.learning.deferred import Deferred
from covey.learning.loaded import LoadedLearning
from covey.learning.mixture import Mixture, depth_of
from covey.parts.errors import ModelError
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World

PROGRAMS: dict[str, dict[str, Any]] = {
    "gossip-learning": {"kind": "gossip-learning", "topology": "complete"},
    "update": {"kind": "gossip-learning", "topology": "complete", "mode": "update"},
    "update-merge": {"kind": "gossip-learning", "topology": "complete", "mode": "update-merge"},
    "epidemic": {"kind": "asynchronous-epidemic", "fanout": 2},
    "ad-psgd": {"kind": "ad-psgd", "topology": "ring"},
    "swarm": {"kind": "swarm"},
    "divshare": {"kind": "divshare", "fanout": 2},
    "fedasync": {"kind": "fedasync"},
    "fedbuff": {"kind": "fedbuff", "buffer": 3},
}


def run(program: dict[str, Any], **changed: Any) -> tuple[World, list[int]]:
    """A world after a short run, and the numbers of trainings that were computed together."""
    task = {"dataset": "digits", "model": "logistic", "batch_size": 8, "local_steps": 1, **changed.pop("task", {})}
    experiment = Experiment.from_table(
        {
            "seed": 3,
            "rounds": 4,
            "program": program,
            "task": task,
            "network": {"nodes": 8, "latency": "5ms", "compute": {"kind": "log-normal", "median": 400, "sigma": 0.5}},
            "evaluation": {"every": 2},
            "engine": {"kind": "simulation", "workers": 1},
            **changed,
        }
    )
    world, sizes = World(prepare(experiment, workers=1)), []
    learner = world.task.learner  # type: ignore[attr-defined]
    train = learner.train
    learner.train = lambda trainings: (sizes.append(len(trainings)), train(trainings))
    world.recorder.log = lambda *row: logged.append(row)  # type: ignore[method-assign]
    logged: list[Any] = []
    world.logged = logged  # type: ignore[attr-defined]
    world.begin()
    world.run()
    return world, sizes


@pytest.mark.parametrize("name", PROGRAMS)
def test_models_losses_and_figures_are_those_of_trainings_computed_at_once(name, monkeypatch):
    later, together = run(PROGRAMS[name])
    monkeypatch.setattr(LoadedLearning, "may_defer", lambda self, prepared: False)
    at_once, apart = run(PROGRAMS[name])
    assert sum(together) == sum(apart)
    for one, other in zip(later.nodes, at_once.nodes, strict=True):
        assert torch.equal(one.model, other.model)
        assert (one.loss is None) == (other.loss is None)
        assert one.loss is None or float(one.loss) == float(other.loss)
        assert (one.round, one.steps, one.samples_used, one.bytes_out) == (
            (other.round, other.steps, other.samples_used, other.bytes_out)
        )
    assert sorted(later.logged, key=repr) == sorted(at_once.logged, key=repr)


def test_idle_nodes_that_merge_and_train_are_computed_together():
    network = {"nodes": 40, "latency": "1ms", "compute": 4000}
    _, sizes = run(PROGRAMS["gossip-learning"], network=network, rounds=6, evaluation={"every": 0})
    assert sum(sizes) / len(sizes) >= 8


def test_a_model_that_is_not_finite_ends_the_run_when_it_is_computed():
    rates = {"optimizer": {"kind": "sgd", "lr": 1e38}}
    with pytest.raises(ModelError, match=r"The model of node \d is not finite after its training in round \d"):
        run(PROGRAMS["gossip-learning"], task={**rates, "local_steps": 3}, evaluation={"every": 0})


def test_an_operation_needs_the_numbers_and_facts_do_not():
    computed = []
    model = Deferred.of(torch.Size([3]), torch.device("cpu"), (2, 0), lambda: (computed.append(1), model.become(value)))
    value = torch.tensor([1.0, 2.0, 4.0])
    mixture = Mixture([torch.zeros(3), model], [0.5, 0.5])
    assert (model.shape, model.dtype, model.device.type, len(model.shape)) == ((3,), torch.float32, "cpu", 1)
    assert isinstance(model, torch.Tensor)
    assert depth_of(model) == (2, 0)
    assert depth_of(mixture) == (2, 1)
    assert not computed
    assert torch.equal(mixture.tensor(), value / 2)
    assert torch.equal(model + 1, value + 1)
    assert model.numpy().tolist() == [1.0, 2.0, 4.0]
    assert float(torch.stack([model, value]).sum()) == 14.0
    assert computed == [1]
    assert depth_of(model) == (0, 0)
