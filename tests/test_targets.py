"""Targets of several dimensions, and targets that losses and metrics leave out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from covey.data import from_arrays
from covey.learning.batches import plan
from covey.learning.dataset import Data, Split
from covey.learning.datasets.stored import load, store
from covey.learning.learner import Learner
from covey.learning.metrics import Accuracy, MacroF1, Perplexity
from covey.learning.models import MLP, LinearModel, Module
from covey.learning.node import Work
from covey.learning.objectives import L1, MSE, CrossEntropy, OwnLoss
from covey.learning.optimizers import SGD
from covey.learning.partition import IID
from covey.learning.scoring import Scoring
from covey.learning.task import LearningTask
from covey.parts import rng
from covey.parts.errors import CoveyError, DataError
from tests.conftest import models_of, simulate, table
from tests.test_kernels import trained

CLASSES, SIDE = 3, 4
draw = np.random.default_rng(5)
PICTURES = draw.normal(size=(60, 2, SIDE, SIDE)).astype(np.float32)
MASKS = np.where(PICTURES[:, 0] > 0.5, 2, (PICTURES[:, 1] > 0).astype(np.int64))
HOLES = np.where(draw.random(MASKS.shape) < 0.3, -100, MASKS)
TOKENS = draw.integers(0, 7, (60, 5))
NEXT = np.where(np.arange(5) < draw.integers(1, 6, 60)[:, None], (TOKENS + 1) % 7, -100)


class Pixels(nn.Sequential):
    """Scores with classes in the second dimension, as torch has them."""

    def __init__(self):
        super().__init__(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, CLASSES, 1))


class Words(nn.Sequential):
    """Scores with classes in the last dimension."""

    def __init__(self):
        super().__init__(nn.Embedding(7, 8), nn.Linear(8, 7))


class Masked(nn.Module):
    """Scores of the ids of a dict of inputs."""

    def __init__(self):
        super().__init__()
        self.words = Words()

    def forward(self, ids, mask):
        return self.words(ids) * mask.unsqueeze(-1)


def skipping(outputs, targets, ignore_index: int = -100):
    return F.cross_entropy(outputs, targets, reduction="none", ignore_index=ignore_index)


def learner(dataset, model, kernel="auto", **settings):
    task = LearningTask(dataset=dataset, model=model, optimizer=SGD(lr=0.05), batch_size=7, local_epochs=2, **settings)
    data = task.dataset.load(None)
    parts = [part[: len(part) - index] for index, part in enumerate(IID().assign(data, 3, 0))]
    return Learner(task, data, parts, seed=1, kernel=kernel)


DATASETS = {
    "pixels": (lambda: from_arrays(PICTURES, MASKS), Pixels),
    "pixels with holes": (lambda: from_arrays(PICTURES, HOLES), Pixels),
    "words": (lambda: from_arrays(TOKENS, NEXT), Words),
}


@pytest.mark.parametrize("kernel", ["module", "vmap"])
@pytest.mark.parametrize("name", DATASETS)
def test_classes_of_positions_are_learned_as_torch_does(name, kernel):
    dataset, module = DATASETS[name]
    made = learner(dataset(), Module(factory=module), kernel)
    for holder, training in enumerate(trained(made)):
        assert torch.allclose(training.update.model, by_torch(made, holder), atol=1e-5)
        assert 0.5 < training.update.loss < 2.5


def by_torch(made, holder):
    """The same training by torch alone, with the batches that covey draws."""
    module, train = made.module(), made.data.train
    keys = np.array([rng.mix(100 + holder, 0, 0)], dtype=np.uint64)
    drawn = plan(made.parts, np.array([holder]), keys, np.array([made.steps(holder, Work())]), 7).samples[0]
    rule = torch.optim.SGD(module.parameters(), lr=0.05)
    for batch in drawn:
        chosen = torch.from_numpy(batch[batch >= 0])
        scores = module(train.inputs[chosen])
        rule.zero_grad()
        scores = scores if isinstance(module, Pixels) else scores.movedim(-1, 1)
        F.cross_entropy(scores, train.targets[chosen]).backward()
        rule.step()
    return made.layout.flatten(module)


def test_kernels_agree_on_all_options_where_some_targets_are_left_out():
    works = Work(steps=5, proximal=0.3, weights=torch.arange(14) / 10, objective=CrossEntropy(ignore_index=1))
    found = []
    for kernel in ("module", "vmap"):
        made = learner(from_arrays(PICTURES, HOLES), Module(factory=Pixels), kernel)
        made.parts = type(made.parts)([part[:14] for part in map(made.parts.of, range(3))])
        found.append(trained(made, works))
    for left, right in zip(*found, strict=True):
        assert torch.allclose(left.update.model, right.update.model, atol=1e-5)
        assert left.update.loss == pytest.approx(right.update.loss, abs=1e-5)
        assert (left.update.model - left.start).abs().max() > 1e-3


@pytest.mark.parametrize(("model", "loss"), [(LinearModel(), OwnLoss()), (MLP(hidden=[6]), OwnLoss()), (MLP(), L1())])
def test_several_values_are_learned_by_all_kernels_as_torch_does(model, loss):
    x = draw.normal(size=(60, 5)).astype(np.float32)
    dataset = from_arrays(x, x @ draw.normal(size=(5, 3)).astype(np.float32))
    losses = F.mse_loss if loss == OwnLoss() else F.l1_loss
    first, *others = ("module", "vmap") if loss == L1() else ("stacked", "module", "vmap")
    made = learner(dataset, model, first, loss=loss, metrics=["mae"])
    updates = [training.update for training in trained(made)]
    for kernel in others:
        for left, right in zip(updates, trained(learner(dataset, model, kernel, loss=loss)), strict=True):
            assert torch.allclose(left.model, right.update.model, atol=1e-5)
            assert left.loss == pytest.approx(right.update.loss, rel=1e-4)
    split = made.split("test")
    (figures,) = made.evaluate([updates[0].model], split)
    outputs = made.kernel.predict([updates[0].model], split.inputs)[0]
    assert outputs.shape == split.targets.shape == (12, 3)
    assert figures["loss"] == pytest.approx(float(losses(outputs, split.targets)), rel=1e-5)
    assert figures["accuracy"] == pytest.approx(float(((outputs - split.targets).abs() <= 0.5).double().mean()))
    assert figures["mae"] == pytest.approx(float((outputs - split.targets).abs().mean()), rel=1e-5)
    if loss == OwnLoss():
        assert made.judge(outputs, split.targets) == pytest.approx(figures, rel=1e-5)


def test_a_run_is_judged_by_the_targets_that_count(tmp_path):
    inputs = {"ids": TOKENS, "mask": NEXT != -100}
    task = {"dataset": from_arrays(inputs, NEXT), "model": Masked, "metrics": ["perplexity", "accuracy", "macro-f1"]}
    task["metrics"][1] = {"kind": "accuracy", "column": "again"}
    world, written = simulate(table(task=task, rounds=2, network={"nodes": 3}))
    learner = world.task.learner
    split, node = learner.split("test"), world.nodes[0]
    outputs = learner.kernel.predict([node.model], split.inputs)[0]
    loss = float(F.cross_entropy(outputs.movedim(-1, 1), split.targets))
    hits = (outputs.argmax(-1) == split.targets)[split.targets != -100].double().mean()
    reported = {row[2]: row[3] for row in written.figures if row[:2] == (0, 2)}
    assert reported["loss"] == pytest.approx(loss, rel=1e-5)
    assert reported["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert reported["accuracy"] == reported["again"] == pytest.approx(float(hits))
    assert learner.judge(outputs, split.targets) == pytest.approx(
        {**reported, "macro_f1": reported["macro_f1"]}, rel=1e-5
    )
    store(learner.data, tmp_path / "stored")
    assert load(tmp_path / "stored").ignore_index == learner.data.ignore_index == -100


@pytest.mark.parametrize("kernel", ["module", "vmap"])
def test_a_loss_of_ones_own_that_leaves_targets_out_gives_the_same_bits(kernel):
    found = []
    for loss in ("cross-entropy", f"{__name__}:skipping", "torch.nn:CrossEntropyLoss"):
        task = {"dataset": from_arrays(PICTURES, HOLES), "model": Pixels, "loss": loss}
        world, written = simulate(table(task=task, rounds=2, network={"nodes": 3}, engine={"kernel": kernel}))
        found.append((models_of(world), [row for row in written.figures if row[2] in ("loss", "accuracy")]))
    for models, reported in found[1:]:
        assert torch.equal(models, found[0][0])
        assert reported == found[0][1]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=2),
    count=st.integers(1, 6),
    left_out=st.sampled_from([-100, 0, 255]),
    second=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_what_is_left_out_might_as_well_not_be_there(shape, count, left_out, second, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, *shape, 5, generator=generator)
    targets = torch.randint(5, (count, *shape), generator=generator)
    gone = torch.rand(targets.shape, generator=generator) < 0.4
    gone.view(-1)[0] = False
    targets.view(-1)[0] = 1
    targets[gone] = left_out
    kept = targets != left_out
    split = Split(scores, targets)
    metrics = [Accuracy(column="again"), MacroF1(), Perplexity()]
    loss = CrossEntropy(ignore_index=left_out)
    whole = Scoring(Data(split, split, "sequence" if shape else "classes", 5), loss, metrics)
    few = Split(scores[kept], targets[kept])
    rest = Scoring(Data(few, few, "classes", 5), OwnLoss(), metrics)
    outputs = scores.movedim(-1, 1) if second and len(shape) == 2 else scores
    if second and len(shape) == 1:
        outputs = scores if shape[0] == 5 else scores.movedim(-1, 1)
    assert whole.judge(outputs, targets) == pytest.approx(rest.judge(*whole.flat(outputs, targets)), rel=1e-5)
    assert torch.equal(whole.flat(outputs, targets)[0], few.inputs)
    for objective in (loss, MSE()):
        mean = whole.mean_loss(outputs, targets if objective is loss else targets.clamp(0, 4), objective)
        expected = rest.mean_loss(few.inputs, few.targets, objective) if objective is loss else None
        if expected is not None:
            assert torch.allclose(mean, expected, rtol=1e-5)
    assert torch.allclose(
        whole.weighed(whole.losses(outputs, targets), targets).mean(),
        rest.mean_loss(few.inputs, few.targets),
        rtol=1e-5,
    )


def test_a_batch_without_targets_changes_nothing():
    made = learner(
        from_arrays(PICTURES, np.where(np.arange(60)[:, None, None] < 59, HOLES, MASKS)), Module(factory=Pixels)
    )
    on = Split(torch.from_numpy(PICTURES[:8]), torch.full((8, SIDE, SIDE), -100))
    (training, *_) = trained(made, Work(steps=2, on=on))
    assert torch.equal(training.update.model, training.start)
    assert training.update.loss == 0.0


WRONG = {
    "one class left out": (lambda: from_arrays(TOKENS, NEXT[:, 4]), "The 'y' of the data must be classes from 0 on. Got -100 to 6"),
    "all left out": (lambda: from_arrays(TOKENS, np.full_like(TOKENS, -100)), "The 'y' of the data must have a class other than -100, which stands for none"),
    "another class left out": (lambda: from_arrays(TOKENS, NEXT, ignore_index=255), "The 'y' of the data must be classes from 0 on. Got -100 to 6"),
    "too large": (lambda: from_arrays(PICTURES, HOLES, classes=2), "The 'y' of the data must be classes in [0, 2), as in 'classes'. Got 2"),
    "a class a sample": (lambda: from_arrays(TOKENS, NEXT[:, 0], objective="sequence"), "The 'y' of the data must be a class for each position of a sample. Got 60"),
    "not finite": (lambda: from_arrays(TOKENS, np.where(TOKENS == 1, np.nan, 0.5)), "The 'y' of the data must be finite numbers. Got nan in sample "),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_targets_are_one_line(name):
    make, said = WRONG[name]
    with pytest.raises(DataError) as caught:
        make()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            {"dataset": from_arrays(PICTURES, HOLES), "model": nn.Conv2d(2, 2, 1)},
            "The model module predicts (16, 2, 4, 4) for a batch whose targets are (16, 4, 4): it must be (16, 4, 4, 3) "
            "or (16, 3, 4, 4), a score for each class.",
        ),
        (
            {"dataset": from_arrays(TOKENS, np.zeros_like(TOKENS), classes=7), "model": Words,
             "loss": {"kind": "cross-entropy", "ignore_index": 0}},
            "The training targets of the task must have a class other than the 'ignore_index' at some position. Got only 0.",
        ),
        (
            {"dataset": from_arrays(PICTURES, PICTURES[:, 0]), "model": "linear"},
            "The model linear predicts a row of numbers. The targets of a sample have the shape (4, 4): bring a module.",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_targets_is_one_line(task, said):
    with pytest.raises(CoveyError) as caught:
        simulate(table(task=task, network={"nodes": 3}))
    assert str(caught.value) == said
