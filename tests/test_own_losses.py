"""A loss of the user's own: a function, a class, a loss of torch by its name."""

import pytest
import torch
from torch.nn import functional as F

from covey.learning.objectives import Objective
from covey.parts.errors import ConfigurationError, CoveyError
from covey.parts.parameters import build, to_table
from covey.runtime.experiment import Experiment
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate

HERE = "tests.test_own_losses"
VALUES = {"dataset": "linear-regression", "model": "linear", "optimizer": {"kind": "sgd", "lr": 0.05}}
SMALL = {"network": {"nodes": 3}, "rounds": 3}


def same(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def focal(outputs, targets, gamma: float = 2.0, *, smoothing: float = 0.0):
    losses = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)
    return (1.0 - (-losses).exp()) ** gamma * losses


class Focal(Objective):
    """The same as a part."""

    gamma: float = 2.0

    def losses(self, outputs, targets):
        return focal(outputs, targets, self.gamma)


def mean(outputs, targets):
    return F.cross_entropy(outputs, targets)


def summed(outputs, targets):
    return F.cross_entropy(outputs, targets).item()


def backwards(outputs, targets):
    return outputs.nonsense


def detached(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none").detach()


def missed(outputs, targets):
    return (outputs.argmax(1) != targets).long()


def lines(outputs, targets):
    raise ValueError("one\nline")


def bare(outputs):
    return outputs.sum()


def run(loss, kernel="auto", **changes):
    tables = table(task={"loss": loss}, engine={"kernel": kernel}, **{**SMALL, **changes})
    world, written = simulate(tables)
    figures = [row for row in written.figures if row[2] in ("loss", "average_model_loss")]
    return models_of(world), figures, world.task.learner.kernel_name


@pytest.mark.parametrize("kernel", ["module", "vmap"])
def test_a_loss_that_is_equal_to_a_built_in_one_gives_the_same_bits(kernel):
    models, figures, used = run("cross-entropy", kernel)
    mine, reported, mine_used = run(f"{HERE}:same", kernel)
    assert used == mine_used == kernel
    assert torch.equal(mine, models)
    assert reported == figures
    # The task's own loss is the same cross-entropy, whose mean is one operation.
    own, _, _ = run("own", kernel)
    assert torch.allclose(own, models, atol=1e-6)


@pytest.mark.parametrize("kernel", ["module", "vmap"])
def test_a_function_and_a_class_of_one_loss_are_the_same(kernel):
    by_function, by_class = (
        run({"kind": f"{HERE}:focal", "gamma": 1.5}, kernel),
        run({"kind": f"{HERE}:Focal", "gamma": 1.5}, kernel),
    )
    assert torch.equal(by_function[0], by_class[0])
    assert by_function[1] == by_class[1]
    assert not torch.equal(by_function[0], run(f"{HERE}:focal", kernel)[0])


def test_the_loss_of_an_evaluation_is_that_of_the_task():
    world, written = simulate(table(task={"loss": f"{HERE}:focal"}, **SMALL))
    learner = world.task.learner
    split = learner.split("test", samples=60)
    for node in world.nodes:
        outputs = learner.kernel.predict([node.model], split.inputs)[0]
        (reported,) = [row[3] for row in written.figures if row[:3] == (node.id, 3, "loss")]
        assert reported == pytest.approx(focal(outputs, split.targets).mean().item(), rel=1e-5)


def test_a_loss_of_torch_is_found_by_its_name():
    task = {**VALUES, "loss": {"kind": "torch.nn:HuberLoss", "delta": 0.5}}
    world, written = simulate(table(task=task, **SMALL))
    split = world.task.learner.split("test", samples=60)
    node = world.nodes[0]
    outputs = world.task.learner.kernel.predict([node.model], split.inputs)[0]
    (reported,) = [row[3] for row in written.figures if row[:3] == (0, 3, "loss")]
    assert reported == pytest.approx(F.huber_loss(outputs, split.targets, delta=0.5).item(), rel=1e-5)
    assert not [row for row in written.figures if row[2] == "rmse"]


def test_hosts_minimise_a_loss_of_the_users_own(tmp_path):
    tables = table(task={"loss": {"kind": f"{HERE}:focal", "gamma": 1.0}}, **SMALL)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, models_of(simulate(tables)[0]), atol=1e-5)


def test_a_loss_of_torch_takes_the_weights_of_classes_as_a_list():
    loss = build(Objective, {"kind": "torch.nn:CrossEntropyLoss", "weight": [1, 2.5, 0]})
    outputs, targets = torch.randn(6, 3), torch.arange(6) % 3
    expected = F.cross_entropy(outputs, targets, torch.tensor([1, 2.5, 0]), reduction="none")
    assert torch.equal(build(Objective, to_table(loss)).losses(outputs, targets), expected)


def test_a_loss_of_torch_is_written_down_and_read_again():
    loss = build(Objective, {"kind": "torch.nn:CrossEntropyLoss", "label_smoothing": 0.1})
    assert to_table(loss) == {"kind": "torch.nn:CrossEntropyLoss", "ignore_index": -100, "label_smoothing": 0.1}
    assert build(Objective, to_table(loss)) == loss
    experiment = Experiment.from_table(table(task={"loss": to_table(loss)}))
    assert Experiment.from_table(experiment.to_table()) == experiment
    experiment.task.loss.label_smoothing = 0.2
    with pytest.raises(ConfigurationError, match=r"The .label_smoothing. of the objective torch\.nn:CrossEntropyLoss"):
        experiment.task.loss.label_smoothing = "much"


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("hinge", "Unknown objective 'hinge'."),
        (
            f"{HERE}:mean",
            f"The model logistic is trained by the objective {HERE}:mean, which must give a loss for each of 16 samples. "
            "Got a tensor of shape () instead: torch's losses do with reduction='none'.",
        ),
        (
            f"{HERE}:summed",
            f"The model logistic is trained by the objective {HERE}:summed, which must give a loss for ",
        ),
        (f"{HERE}:backwards", "The model logistic fails: AttributeError: 'Tensor' object has no attribute 'nonsense'"),
        (f"{HERE}:lines", "The model logistic fails: ValueError: one line ("),
        (
            f"{HERE}:detached",
            f"The model logistic is trained by the objective {HERE}:detached, which must give a loss that is computed "
            "from the outputs by operations of torch. Got one without a gradient instead.",
        ),
        (
            f"{HERE}:missed",
            f"The model logistic is trained by the objective {HERE}:missed, which must give a loss that is",
        ),
        (f"{HERE}:bare", f"The objective {HERE}:bare must take 2 arguments. Got 1."),
        (f"{HERE}:HERE", f"The objective '{HERE}:HERE' is no objective"),
        (
            {"kind": f"{HERE}:focal", "gama": 1},
            f"Unknown key 'gama' of the objective {HERE}:focal; did you mean 'gamma'",
        ),
        (
            {"kind": f"{HERE}:focal", "gamma": "big"},
            f"The 'gamma' of the objective {HERE}:focal must be a number. Got 'big' instead.",
        ),
        ({"kind": "torch.nn:HuberLoss", "reduction": "sum"}, "Unknown key 'reduction' of the objective torch.nn:Huber"),
    ],
)
def test_a_wrong_loss_is_one_line_before_the_run(loss, said):
    with pytest.raises(CoveyError) as caught:
        simulate(table(task={"loss": loss}))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
