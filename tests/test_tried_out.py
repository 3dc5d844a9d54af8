"""An error of a model, its data or the device is one line, before a run begins."""

import dataclasses

import pytest
import torch
from torch import nn

from covey.learning.dataset import Dataset
from covey.learning.datasets.synthetic import LinearRegression
from covey.learning.models import Module
from covey.parts.errors import DataError, ModelError
from tests.conftest import begun, simulate, table
from tests.test_kernels import IMAGES, learner

VALUES = {"kind": "linear-regression", "samples": 70, "test_samples": 20}
TEXT = """
rounds = 2
[program]
kind = "gossip"
topology = "ring"
[task]
dataset = {dataset}
model = "{model}"
batch_size = 16
[network]
nodes = 4
[engine]
kind = "{engine}"
"""


class Row(nn.Module):
    """Predicts a number a sample, with a dimension of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 1)

    def forward(self, x):
        return self.layer(x)


class Number(Row):
    def forward(self, x):
        return super().forward(x).squeeze()


class Mean(Row):
    """Predicts one number for all samples."""

    def forward(self, x):
        return super().forward(x).mean()


class Two(Row):
    """Gives two things."""

    def forward(self, x):
        return x, super().forward(x)


class Failing(nn.Module):
    """Fails, in training or where it is evaluated."""

    def __init__(self, *, trains):
        super().__init__()
        self.layer, self.trains = nn.Linear(10, 1), trains

    def forward(self, x):
        if self.training != self.trains:
            raise ValueError("oh")
        return self.layer(x).squeeze(1)


class Detached(Row):
    def forward(self, x):
        return super().forward(x).squeeze(1).detach()


class Stuck(nn.Module):
    """Predicts three classes, at each of four indices where there are some."""

    def __init__(self, *shape):
        super().__init__()
        self.shape, self.weights = shape, nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        return self.weights.expand(len(x), *self.shape)


PREDICTS = "The model module predicts "


@pytest.mark.parametrize("kernel", ["auto", "module", "vmap"])
@pytest.mark.parametrize(
    ("factory", "dataset", "said"),
    [
        (Row, VALUES, PREDICTS + "(7, 1) for a batch whose targets are (7,): it must be (7,), a number per sample."),
        (Mean, VALUES, PREDICTS + "() for a batch whose targets are (7,): it must be (7,), a number per sample."),
        (Two, VALUES, "The model module must return a tensor. Got a tuple instead."),
        (
            lambda: Stuck(3),
            IMAGES,
            PREDICTS + "(7, 3) for a batch whose targets are (7,): it must be (7, 10), a score for each class.",
        ),
        (
            lambda: Stuck(10, 4),
            IMAGES,
            PREDICTS + "(7, 10, 4) for a batch whose targets are (7,): it must be (7, 10), a score for each class.",
        ),
    ],
)
def test_predictions_of_another_shape_than_the_targets_are_refused(factory, dataset, said, kernel):
    with pytest.raises(ModelError) as caught:
        learner(Module(factory=factory), dataset, kernel=kernel)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (lambda: Failing(trains=False), "The model module fails: ValueError: oh ("),
        (lambda: Failing(trains=True), "The model module fails: ValueError: oh ("),
        (Detached, "The model module fails: RuntimeError: element 0 of tensors does not require grad"),
        (lambda: nn.Linear(3, 1), "The model module fails: RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_a_model_that_fails_is_refused(factory, said):
    with pytest.raises(ModelError) as caught:
        learner(Module(factory=factory), VALUES)
    assert str(caught.value).startswith(said)


class Normalized(nn.Sequential):
    """Fails in training on one sample alone."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.BatchNorm1d(10), nn.Linear(10, 1), nn.Flatten(0))


def test_a_model_that_fails_on_the_batch_of_the_node_with_fewest_samples_is_refused():
    task = {"dataset": {**VALUES, "samples": 7}, "model": Module(factory=Normalized)}
    with pytest.raises(ModelError, match="Expected more than 1 value per channel"):
        begun(table(task=task, network={"nodes": 4}))
    begun(table(task={**task, "dataset": {**VALUES, "samples": 8}}, network={"nodes": 4}))


def test_one_sample_may_be_predicted_without_a_dimension():
    made = learner(Module(factory=Number), {**VALUES, "samples": 24, "test_samples": 1})
    (figures,) = made.evaluate([made.first_model], made.split("test"))
    assert 0 < figures["rmse"] < 10


def test_a_model_that_predicts_otherwise_in_a_later_batch_is_reported():
    class Moody(Row):
        def forward(self, x):
            predicted = super().forward(x)
            return predicted if len(x) < 16 else predicted.squeeze(1)

    task = {"dataset": {**VALUES, "test_samples": 40}, "model": Module(factory=Moody), "local_epochs": 1}
    tables = table(task=task, network={"nodes": 3})
    with pytest.raises(ModelError, match=r"predicts \(7, 1\) for a batch whose targets are \(7,\)"):
        simulate(tables)


class Rows(Dataset):
    """Targets with a dimension of their own, or of another type."""

    made: str = "rows"

    def load(self, folder, *, quiet=True):
        data = LinearRegression(samples=70, test_samples=20).load(folder)
        targets = data.train.targets
        change = {"rows": targets.unsqueeze(1), "double": targets.double(), "few": targets[1:]}[self.made]
        return dataclasses.replace(data, train=dataclasses.replace(data.train, targets=change))


@pytest.mark.parametrize(
    ("made", "got"),
    [("rows", "float32 of (70, 1)"), ("double", "float64 of (70,)"), ("few", "float32 of (69,)")],
)
def test_targets_of_another_shape_are_refused(made, got):
    with pytest.raises(DataError) as caught:
        learner("linear", Rows(made=made))
    assert str(caught.value) == (
        f"The training targets of the dataset tests.test_tried_out:Rows must be float32 of (70,), a number per sample. "
        f"Got {got} instead."
    )


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("mps", "torch finds no MPS device, which only Macs have. Use 'cpu'."),
        ("cuda", "torch finds no CUDA device. Use 'cpu'."),
        ("cuda:77", "torch finds no CUDA device. Use 'cpu'."),
        ("meta", None),
        ("gpu", None),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_here_is_refused_before_data_are_loaded(device, why, tmp_path, covey):
    file = tmp_path / "experiment.toml"
    file.write_text(TEXT.format(dataset='"mnist"', model="logistic", engine="simulation"))
    code, _, err = covey("check", str(file), "--set", f"engine.device={device}", "--data", str(tmp_path))
    assert code == 2
    expected = f"The 'device' of the engine is {device}, but {why}"
    if why is None:
        expected = f"The 'device' of the engine must be cpu, cuda or mps. Got '{device}' instead."
    assert err == f"covey: {expected}\n"


@pytest.mark.parametrize("engine", ["simulation", "emulation"])
def test_check_and_run_say_that_a_model_does_not_fit(engine, tmp_path, monkeypatch, covey):
    (tmp_path / "rows_of_one.py").write_text(
        "import torch\nclass Row(torch.nn.Linear):\n    def __init__(self): super().__init__(10, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "experiment.toml"
    file.write_text(TEXT.format(dataset='"linear-regression"', model="rows_of_one:Row", engine=engine))
    said = "The model rows_of_one:Row predicts (16, 1) for a batch whose targets are (16,)"
    for command in (["check"], ["run", "--out", str(tmp_path / "run")]):
        code, _, err = covey(command[0], str(file), *command[1:])
        assert code == 2
        assert err.count("\n") == 1
        assert said in err
    assert not (tmp_path / "run").exists()
