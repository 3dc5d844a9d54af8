"""Modules of the user's own as models: classes, functions and objects, with arguments that are checked and swept."""

import functools
from dataclasses import dataclass

import pytest
import tomli_w
import torch
from torch import nn

from covey.learning.models import Model
from covey.learning.task import LearningTask
from covey.parts.errors import ConfigurationError, CoveyError
from covey.parts.parameters import build, to_table
from covey.runtime.experiment import Experiment
from covey.runtime.runs import Run
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate

HERE = "tests.test_own_modules"
SMALL = {"network": {"nodes": 3}, "rounds": 2}


class Net(nn.Module):
    """A hidden layer."""

    def __init__(self, hidden: int, *, classes: int = 10, slope: float = 0.0, act=nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, hidden), nn.LeakyReLU(slope), act(), nn.Linear(hidden, classes)
        )

    def forward(self, x):
        return self.layers(x)


@dataclass
class Said:
    """An output like that of transformers."""

    loss: None
    logits: torch.Tensor


class Wordy(Net):
    """Its output is an object."""

    def forward(self, x):
        return Said(None, super().forward(x))


def make(data, hidden: int = 8):
    """A module that fits the data."""
    return Net(hidden, classes=data.classes)


def nothing(hidden: int = 8):
    return hidden


def options(*sizes, hidden=8, **others):
    return Net(hidden)


def trained(model, kernel="module"):
    return models_of(simulate(table(task={"model": model}, engine={"kernel": kernel}, **SMALL))[0])


def test_a_class_a_function_and_an_object_are_the_same_model():
    expected = trained({"kind": f"{HERE}:Net", "hidden": 8})
    torch.manual_seed(0)
    for model in (
        f"{HERE}:make",
        {"kind": f"{HERE}:make", "hidden": 8},
        {"kind": Net, "hidden": 8},
        make,
        functools.partial(Net, 8),
        lambda: Net(8),
        f"{HERE}:options",
    ):
        assert torch.equal(trained(model), expected)
    assert trained(Net(8)).shape == expected.shape


def test_a_class_in_python_is_written_to_files_by_its_name():
    task = LearningTask(dataset="digits", model={"kind": Net, "hidden": 7, "slope": 0.5})
    assert to_table(task.model) == {"kind": f"{HERE}:Net", "hidden": 7, "classes": 10, "slope": 0.5}
    assert build(Model, to_table(task.model)) == task.model
    assert to_table(LearningTask(dataset="digits", model=make).model) == {"kind": f"{HERE}:make", "hidden": 8}


def test_a_width_is_swept(covey, in_folder):
    (in_folder / "x.toml").write_text(
        tomli_w.dumps(table(task={"model": {"kind": f"{HERE}:Net", "hidden": 8}}, **SMALL))
    )
    code, _, _ = covey("sweep", "x.toml", "--set", "task.model.hidden=4,8", "--out", "swept", "--json")
    assert code == 0
    sizes = [len(Run(in_folder / "swept" / f"hidden={hidden}").models[0]) for hidden in (4, 8)]
    assert sizes == [64 * hidden + hidden + hidden * 10 + 10 for hidden in (4, 8)]


@pytest.mark.parametrize("kernel", ["module", "vmap"])
def test_an_output_with_logits_is_its_logits(kernel):
    expected = trained({"kind": f"{HERE}:Net", "hidden": 8}, kernel)
    assert torch.equal(trained({"kind": f"{HERE}:Wordy", "hidden": 8}, kernel), expected)


def test_hosts_make_the_module_with_its_arguments(tmp_path):
    tables = table(task={"model": {"kind": f"{HERE}:Wordy", "hidden": 5, "slope": 0.1}}, **SMALL)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, models_of(simulate(tables)[0]), atol=1e-5)


class Named(nn.Module):
    def __init__(self, build: int = 3) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (f"{HERE}:Net", f"The 'hidden' of the model {HERE}:Net is missing: it must be an int."),
        ({"kind": Net}, f"The 'hidden' of the model {HERE}:Net is missing: it must be an int."),
        (
            {"kind": f"{HERE}:Net", "hidden": "wide"},
            f"The 'hidden' of the model {HERE}:Net must be an int. Got 'wide' ",
        ),
        (
            {"kind": f"{HERE}:Net", "hidden": 4.5},
            f"The 'hidden' of the model {HERE}:Net must be an int. Got 4.5 instead.",
        ),
        ({"kind": f"{HERE}:Net", "hiden": 4}, f"Unknown key 'hiden' of the model {HERE}:Net; did you mean 'hidden'?"),
        ({"kind": f"{HERE}:Net", "hidden": 4, "act": "tanh"}, f"Unknown key 'act' of the model {HERE}:Net."),
        ({"kind": f"{HERE}:Net", "hidden": -1}, f"The model {HERE}:Net fails: RuntimeError: "),
        (f"{HERE}:nothing", f"The model {HERE}:nothing must make a torch.nn.Module. Got 8 instead."),
        (f"{HERE}:Said", f"The model '{HERE}:Said' is no model"),
        (f"{HERE}:Named", f"The model {HERE}:Named has the parameter 'build', which parts have already: rename it."),
        (3, "The 'model' of the task must be a model. Got 3 instead."),
    ],
)
def test_a_wrong_module_is_one_line(model, said):
    with pytest.raises(CoveyError) as caught:
        simulate(Experiment.from_table(table(task={"model": model}, **SMALL)))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_an_argument_is_assigned_as_strictly():
    task = LearningTask(dataset="digits", model={"kind": Net, "hidden": 7})
    with pytest.raises(ConfigurationError, match="The 'hidden' of the model"):
        task.model.hidden = "wide"
    task.model.hidden = 9
    assert task.model.arguments() == {"hidden": 9, "classes": 10, "slope": 0.0}
