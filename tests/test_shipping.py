"""Data that a process gets from another one in place of files."""

import numpy as np
import pytest
import torch

from covey.learning.jobs import Training
from covey.learning.node import Work
from covey.parts.errors import ConfigurationError
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare

TABLES = {
    "program": {"kind": "gossip", "topology": "ring"},
    "task": {
        "dataset": "digits",
        "model": "logistic",
        "batch_size": 8,
        "partition": {"kind": "dirichlet", "alpha": 0.5},
    },
    "network": {"nodes": 6},
}


def prepared(tables, **more):
    return prepare(Experiment.from_table(tables), **more).task


@pytest.mark.parametrize("validation", [0.0, 0.25])
def test_a_process_trains_its_nodes_as_one_with_all_data_does_and_has_no_others_samples(validation):
    tables = {**TABLES, "task": {**TABLES["task"], "validation": validation}}
    whole = prepared(tables)
    part = prepared(tables, shipped=(whole.common_shipment(), whole.shipment([2, 3])))
    here, there = whole.learner, part.learner
    assert part.signature() == whole.signature()
    assert np.array_equal(there.label_counts, here.label_counts)
    assert np.array_equal(there.parts.samples, here.parts.samples)
    assert all(map(np.array_equal, there.splits.validation, here.splits.validation))
    own = np.concatenate([kept for index in (2, 3) for kept in (here.parts.of(index), here.splits.validation[index])])
    others = np.setdiff1d(np.arange(len(here.data.train)), own)
    assert len(others) > 100
    assert torch.equal(there.data.train.inputs[own], here.data.train.inputs[own])
    assert not there.data.train.inputs[others].any()
    assert not there.data.train.targets[others].any()
    assert torch.equal(there.data.test.inputs, here.data.test.inputs)
    found = []
    for learner in (here, there):
        trainings = [Training(index, learner.first_model, 5, 1, 0, Work(steps=9)) for index in (2, 3)]
        learner.train(trainings)
        found.append(torch.stack([training.update.model for training in trainings]))
    assert torch.equal(*found)


def test_data_that_cannot_be_shipped_are_refused():
    public = {"dataset": "digits", "samples": 10}
    task = prepared({**TABLES, "task": {**TABLES["task"], "public": public}})
    with pytest.raises(ConfigurationError, match=r"^With 'ship', the data of the task must be one data set in memory"):
        task.common_shipment()
