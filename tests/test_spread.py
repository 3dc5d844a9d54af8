"""Trainings of a simulation in other processes, here in this one: the same results to the bit."""

import numpy as np
import pytest

import covey
from covey.parts.errors import ConfigurationError
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.task import Gain

TABLES = {
    "rounds": 4,
    "program": {"kind": "gossip", "topology": "ring"},
    "task": {"dataset": "digits", "model": "logistic", "batch_size": 8},
    "network": {"nodes": 7},
}
OPTIMIZERS = [
    {"kind": "sgd", "lr": 0.1},
    {"kind": "sgd", "lr": 0.1, "momentum": 0.9},
    {"kind": "adam", "state": "keep"},
]


class Crew:
    """A crew whose processes are tasks of this one, each loaded anew."""

    def __init__(self, tables, count, seconds=0.0):
        self.count = self.processors = count
        self.seconds, self.given = seconds, []
        experiment = Experiment.from_table(tables)
        self.tasks = [prepare(experiment, **experiment.engine.compute_settings()).task for _ in range(count)]

    def train(self, given):
        self.given.append({home: len(batch["of"]) for home, batch in given.items()})
        return {home: self.tasks[home].answer(batch) for home, batch in given.items()}

    def way(self, models):
        return self.seconds


def spread(tables, count, *, seconds=0.0, always=True):
    """The models of a run whose trainings a crew computes, and the crew."""
    experiment = Experiment.from_table(tables)
    prepared = prepare(experiment, **experiment.engine.compute_settings())
    crew = Crew(tables, count, seconds)
    gain = prepared.task.spread(crew, here=1, always=always)
    return experiment.engine.execute(prepared).models, crew, gain


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "momentum", "adam"])
def test_it_does_not_matter_who_computes(optimizer):
    tables = {**TABLES, "task": {**TABLES["task"], "optimizer": optimizer}}
    experiment = Experiment.from_table(tables)
    alone = experiment.engine.execute(prepare(experiment, **experiment.engine.compute_settings())).models
    for count in (1, 2, 3):
        models, crew, _ = spread(tables, count)
        assert np.array_equal(models, alone)
        assert sum(sum(each.values()) for each in crew.given) == 4 * 7
        assert all(len(each) == count for each in crew.given)


def test_trainings_that_no_table_describes_stay_here():
    gradients = {**TABLES, "program": {"kind": "gradient-tracking", "topology": "ring"}}
    experiment = Experiment.from_table(gradients)
    alone = experiment.engine.execute(prepare(experiment, **experiment.engine.compute_settings())).models
    models, _, _ = spread(gradients, 2)
    assert np.array_equal(models, alone)


def test_trainings_stay_here_where_their_way_takes_longer():
    models, crew, gain = spread(TABLES, 2, seconds=100.0, always=False)
    assert gain.ratio < 1
    assert crew.given == []
    faster, crew, gain = spread(TABLES, 2, seconds=0.0, always=False)
    assert gain.ratio == pytest.approx(2.0)
    assert crew.given
    assert np.array_equal(models, faster)


def test_the_gain_in_words():
    words = Gain(0.002, 0.0005, 1.6).in_words()
    assert (
        words == "1.6 times the speed of this machine alone: a training takes 2 ms, and its model 0.5 ms there and back"
    )


def test_a_program_that_learns_nothing_has_nothing_to_spread():
    experiment = Experiment.from_table({"program": "tests.programs.spawned:Idle", "network": {"nodes": 2}})
    with pytest.raises(
        ConfigurationError, match=r"^The 'workers' of the engine must be a number: the nodes learn nothing"
    ):
        prepare(experiment).task.spread(None, here=1)


def test_workers_are_a_number_or_ray():
    assert Experiment.from_table({**TABLES, "engine": {"kind": "simulation", "workers": "ray"}}).engine.workers == "ray"
    with pytest.raises(covey.CoveyError, match="'workers'"):
        Experiment.from_table({**TABLES, "engine": {"kind": "simulation", "workers": "dask"}})
    with pytest.raises(covey.CoveyError, match="'workers'"):
        Experiment.from_table({**TABLES, "engine": {"kind": "simulation", "workers": 0}})
