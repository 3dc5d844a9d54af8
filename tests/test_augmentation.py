"""Augmentation: each change is its definition, only of training batches, and the same with every kernel and engine."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey import api
from covey.data import from_arrays
from covey.learning.augmentation import Augmentation, HorizontalFlip, Noise, RandomCrop, augmented
from covey.learning.dataset import Split
from covey.learning.learner import Learner
from covey.learning.node import Work
from covey.learning.optimizers import SGD
from covey.learning.partition import IID
from covey.learning.task import LearningTask
from covey.parts.errors import ConfigurationError, CoveyError
from covey.parts.parameters import build
from tests import folders
from tests.conftest import models_of, simulate, table
from tests.folders import rows
from tests.hosts import emulate
from tests.test_kernels import trained

HERE = "tests.test_augmentation"
ALL = ["horizontal-flip", {"kind": "random-crop", "padding": 2}, {"kind": "noise", "deviation": 0.1}]
DIGITS = {"augmentation": [{"kind": "noise", "deviation": 0.2}, f"{HERE}:turned"]}


def turned(inputs, generator, share: float = 0.5):
    drawn = torch.rand(len(inputs), generator=generator)
    return torch.where((drawn < share).view(-1, 1, 1, 1), inputs.transpose(-1, -2), inputs)


def unkeyed(inputs, generator):
    return inputs + torch.rand(len(inputs)).view(-1, 1, 1, 1)


def cut(inputs, generator):
    return inputs[:, :, 1:]


def broken(inputs, generator):
    return inputs.nonsense


@settings(max_examples=30, deadline=None)
@given(
    shape=st.sampled_from([(3, 4), (1, 3, 4), (2, 5, 5)]),
    count=st.integers(1, 9),
    padding=st.integers(1, 3),
    key=st.integers(0, 2**62),
)
def test_images_are_moved_whole(shape, count, padding, key):
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
    before, height, width = inputs.clone(), *shape[-2:]
    flipped = augmented([HorizontalFlip()], inputs, key)
    for one, was in zip(flipped, before, strict=True):
        assert torch.equal(one, was) or torch.equal(one, was.flip(-1))
    cropped = augmented([RandomCrop(padding=padding, fill=7.0)], inputs, key)
    for one, was in zip(cropped, before, strict=True):
        padded = torch.full((*shape[:-2], height + 2 * padding, width + 2 * padding), 7.0)
        padded[..., padding : padding + height, padding : padding + width] = was
        windows = padded.unfold(-2, height, 1).unfold(-2, width, 1).reshape(*shape[:-2], -1, height, width)
        assert any(torch.equal(one, window) for window in windows.unbind(len(shape) - 2))
    assert torch.equal(augmented([RandomCrop(padding=padding, fill=7.0)], before.clone(), key), cropped)
    assert torch.equal(augmented([HorizontalFlip(probability=1)], before, key), before.flip(-1))
    assert torch.equal(augmented([HorizontalFlip(probability=0), Noise(deviation=0)], before, key), before)


def test_samples_differ_and_so_do_batches():
    inputs = torch.arange(64.0).view(1, 1, 8, 8).repeat(200, 1, 1, 1)
    first, second = (augmented([RandomCrop(padding=2)], inputs.clone(), key) for key in (2, 4))
    assert len({one.numpy().tobytes() for one in first}) > 20
    assert not torch.equal(first, second)
    assert 60 < sum(torch.equal(one, inputs[0]) for one in augmented([HorizontalFlip()], inputs, 6)) < 140
    assert float((augmented([Noise(deviation=0.5)], inputs, 8) - inputs).std()) == pytest.approx(0.5, rel=0.05)


def learner(model="mlp", augmentation=ALL, **settings):
    dataset = {"kind": "synthetic-images", "samples": 60, "test_samples": 20, "channels": 3, "side": 28}
    task = LearningTask(
        dataset=dataset, model=model, optimizer=SGD(lr=0.05), batch_size=7, local_epochs=2, augmentation=augmentation
    )
    data = task.dataset.load(None)
    parts = [part[: len(part) - index] for index, part in enumerate(IID().assign(data, 3, 0))]
    return Learner(task, data, parts, seed=1, **settings)


@pytest.mark.parametrize(("model", "kernels"), [("mlp", ("stacked", "module")), ("lenet", ("vmap", "module"))])
@pytest.mark.parametrize("weights", [False, True])
def test_kernels_see_the_same_changes(model, kernels, weights):
    work = Work(weights=torch.ones(18)) if weights else Work()
    first, second = (learner(model, kernel=kernel, chunk=2) for kernel in kernels)
    for made in (first, second):
        made.parts = type(made.parts)([made.parts.of(index)[: 18 if weights else 20 - index] for index in range(3)])
    without = trained(learner(model, [], kernel=kernels[0]))
    for left, right, plain in zip(trained(first, work), trained(second, work), without, strict=True):
        assert torch.allclose(left.update.model, right.update.model, atol=1e-4)
        assert left.update.loss == pytest.approx(right.update.loss, abs=1e-4)
        assert (left.update.model - plain.update.model).abs().max() > 1e-3


def test_given_samples_full_gradients_and_evaluations_are_unchanged():
    plain, made = learner(augmentation=[]), learner()
    on = Split(made.data.scaled(made.data.train.inputs[:9]), made.data.train.targets[:9])
    for work, gradient in ((Work(on=on, steps=2), ""), (Work(steps=1), "all")):
        for left, right in zip(trained(plain, work, gradient), trained(made, work, gradient), strict=True):
            assert torch.equal(left.update.model, right.update.model)
    batch = [trained(one, Work(steps=1), "batch")[0].update.model for one in (plain, made)]
    assert not torch.equal(*batch)
    split = made.split("test")
    assert made.evaluate([made.initial(0)], split) == plain.evaluate([made.initial(0)], split)


def test_a_run_is_the_same_with_any_number_of_workers_and_in_hosts(tmp_path):
    task = {**DIGITS, "local_steps": 2}
    found = []
    for engine in ({"workers": 1}, {"workers": 3}, {"workers": 2, "chunk": 3, "kernel": "module"}):
        tables = table(task={**task, "model": {"kind": "mlp", "hidden": [8]}}, rounds=2, network={"nodes": 4})
        found.append(models_of(simulate({**tables, "engine": {"kind": "simulation", **engine}})[0]))
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[0], found[2], atol=1e-5)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, found[0], atol=1e-5)
    assert not torch.allclose(
        found[0], models_of(simulate({**tables, "task": {**tables["task"], "augmentation": []}})[0])
    )


def test_a_resumed_run_is_the_same(tmp_path):
    changes = {"task": {**folders.tiny()["task"], "augmentation": DIGITS["augmentation"][:1]}}
    whole, stopped = (
        folders.finished(tmp_path / "finished", **changes),
        folders.interrupted(tmp_path / "run", **changes),
    )
    assert api.resume(stopped).status == "finished"
    assert rows(stopped) == rows(whole)
    assert (stopped / "models.npy").read_bytes() == (whole / "models.npy").read_bytes()


def test_a_function_is_an_augmentation_with_its_parameters():
    part = build(Augmentation, {"kind": f"{HERE}:turned", "share": 1.0})
    inputs = torch.randn(3, 1, 4, 4)
    assert torch.equal(augmented([part], inputs, 0), inputs.transpose(-1, -2))
    assert torch.equal(
        augmented([Augmentation.shorthand(turned)], inputs, 4),
        augmented([build(Augmentation, f"{HERE}:turned")], inputs, 4),
    )


TEXTS = from_arrays({"ids": np.ones((60, 4), int), "mask": np.ones((60, 4), bool)}, np.arange(60) % 2)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"augmentation": ["mirror"]}, "Unknown augmentation 'mirror'"),
        ({"augmentation": "noise"}, "The 'augmentation' of the task must be a list"),
        ({"augmentation": [{"kind": "random-crop", "padding": 0}]}, "The 'padding' of the augmentation random-crop must be an int in [1, inf)"),
        ({"augmentation": [f"{HERE}:unkeyed"]}, f"The augmentation {HERE}:unkeyed must draw from the 'generator' that it is given"),
        ({"augmentation": [f"{HERE}:cut"]}, f"The augmentation {HERE}:cut must return inputs of (16, 1, 8, 8) and torch.float32. Got (16, 1, 7, 8) of"),
        ({"augmentation": [f"{HERE}:broken"]}, f"The augmentation {HERE}:broken fails: AttributeError"),
        ({"augmentation": [{"kind": f"{HERE}:turned", "shar": 1}]}, f"Unknown key 'shar' of the augmentation {HERE}:turned; did you mean 'share'"),
        ({"augmentation": ["horizontal-flip"], "dataset": "gaussian-blobs"}, "The augmentation horizontal-flip takes images, C x H x W. Got samples of shape (10,)."),
        ({"augmentation": ["noise"]}, "The 'deviation' of the augmentation noise is missing"),
        ({"augmentation": ["horizontal-flip"], "dataset": TEXTS}, "The augmentation horizontal-flip takes one input, and the samples have several: ids, mask."),
    ],
)  # fmt: skip
def test_a_wrong_augmentation_is_one_line_before_the_run(task, said):
    with pytest.raises(CoveyError) as caught:
        simulate(table(task=task))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_targets_of_pixels_would_not_move_with_them():
    pictures = torch.randn(60, 2, 4, 4)
    task = {"dataset": from_arrays(pictures, (pictures[:, 0] > 0).int()), "model": torch.nn.Conv2d(2, 2, 1)}
    with pytest.raises(ConfigurationError, match="moves pixels, and the targets of positions would stay"):
        simulate(table(task={**task, "augmentation": ["random-crop"]}))
