"""Kernels: all compute what torch computes, and every model trains."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.learning.batches import plan
from covey.learning.dataset import Data, Split
from covey.learning.jobs import Training
from covey.learning.learner import Learner
from covey.learning.models import Module
from covey.learning.node import Work
from covey.learning.optimizers import Optimizer
from covey.learning.partition import IID
from covey.learning.task import LearningTask
from covey.parts import rng
from covey.parts.parameters import build

NO_FOLDER = Path("nowhere")
IMAGES = {"kind": "synthetic-images", "samples": 60, "test_samples": 20, "channels": 3, "side": 16}
OPTIMIZERS = {
    "sgd": {"kind": "sgd", "lr": 0.05},
    "decay": {"kind": "sgd", "lr": 0.05, "weight_decay": 0.1},
    "momentum": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
    "nesterov": {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"kind": "adam", "lr": 0.01},
}
ADAPTIVE = ("char-lstm", "matrix-factorization", "resnet20-gn")
TORCH = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "decay": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


def learner(model="mlp", dataset=IMAGES, holders=3, optimizer="sgd", data=None, **settings):
    task = LearningTask(
        dataset=dataset, model=model, optimizer=build(Optimizer, OPTIMIZERS[optimizer]), batch_size=7, local_epochs=2
    )
    data = data or task.dataset.load(NO_FOLDER)
    parts = IID().assign(data, holders, 0)
    # Unequal parts: the last batch of a pass is smaller, and passes have different numbers of batches.
    parts = [part[: len(part) - index] for index, part in enumerate(parts)]
    return Learner(task, data, parts, seed=1, **settings)


def trained(made, work=None, gradient=""):
    trainings = [
        Training(
            holder, made.initial(holder), stream=100 + holder, round=0, call=0, work=work or Work(), gradient=gradient
        )
        for holder in range(len(made.parts.sizes))
    ]
    made.train(trainings)
    return trainings


def reference(made, holder, optimizer):
    """The same training by torch alone, with the batches that covey draws."""
    module = made._make(0)
    steps = np.array([made.steps(holder, Work())])
    drawn = plan(
        made.parts, np.array([holder]), np.array([rng.mix(100 + holder, 0, 0)], dtype=np.uint64), steps, 7
    ).samples[0]
    rule = TORCH[optimizer](module.parameters())
    for batch in drawn:
        chosen = torch.from_numpy(batch[batch >= 0])
        x = made.data.train.inputs[chosen].float() * made.data.scale + made.data.shift
        rule.zero_grad()
        torch.nn.functional.cross_entropy(module(x), made.data.train.targets[chosen]).backward()
        rule.step()
    return made.layout.flatten(module)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("model", "kernel"),
    [("mlp", "stacked"), ("logistic", "stacked"), ("mlp", "module"), ("gn-lenet", "module"), ("gn-lenet", "vmap")],
)
def test_every_kernel_trains_as_torch_does(model, kernel, optimizer):
    made = learner(model, optimizer=optimizer, kernel=kernel)
    for holder, training in enumerate(trained(made)):
        expected = reference(made, holder, optimizer)
        # Adam divides by what may be tiny, which magnifies rounding.
        assert torch.allclose(training.update.model, expected, atol=2e-3 if optimizer == "adam" else 2e-4)
        assert training.finite
        assert training.update.samples == 2 * made.parts.sizes[holder]


@pytest.mark.parametrize("kernel", ["stacked", "vmap", "module"])
def test_kernels_agree_on_the_proximal_term_and_on_evaluation(kernel):
    plain, made = learner("mlp", kernel="module"), learner("mlp", kernel=kernel)
    work = Work(steps=5, proximal=0.5)
    expected, found = trained(plain, work), trained(made, work)
    for left, right in zip(expected, found, strict=True):
        assert torch.allclose(left.update.model, right.update.model, atol=1e-5)
        assert left.update.loss == pytest.approx(right.update.loss, abs=1e-5)
    models = [training.update.model for training in expected]
    ours = made.evaluate(models, made.split("test"))
    theirs = plain.evaluate(models, plain.split("test"))
    for left, right in zip(ours, theirs, strict=True):
        assert left["accuracy"] == right["accuracy"]
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)


@pytest.mark.parametrize("gradient", ["batch", "all"])
@pytest.mark.parametrize(
    ("model", "kernel"), [("mlp", "stacked"), ("mlp", "module"), ("lenet", "vmap"), ("lenet", "module")]
)
def test_every_kernel_differentiates_as_torch_does(model, kernel, gradient):
    made = learner(model, {**IMAGES, "side": 28}, kernel=kernel, chunk=2, optimizer="momentum")
    for found in trained(made, Work(steps=1), gradient):
        module, samples = made._make(0), made.parts.of(found.holder)
        if gradient == "batch":
            keys = np.array([rng.mix(found.stream, 0, 0)], dtype=np.uint64)
            samples = plan(made.parts, np.array([found.holder]), keys, np.array([1]), 7).samples.ravel()
        x = made.data.train.inputs[samples].float() * made.data.scale + made.data.shift
        loss = torch.nn.functional.cross_entropy(module(x), made.data.train.targets[samples])
        loss.backward()
        expected = torch.cat([parameter.grad.reshape(-1) for parameter in module.parameters()])
        assert torch.allclose(found.update.model, expected, atol=1e-6)
        assert found.update.loss == pytest.approx(float(loss.detach()), rel=1e-5)
        assert found.update.samples == len(samples)
        assert found.slots is None
        assert torch.equal(found.start, made.initial(found.holder))


def sequences():
    tokens = torch.randint(0, 20, (40, 9))
    split = Split(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    return Data(split, split, "sequence", 20)


def ratings():
    pairs = torch.stack([torch.arange(40) % 8, torch.arange(40) % 5], 1)
    split = Split(pairs, (pairs.sum(1) % 5 + 1).float())
    return Data(split, split, "values", 0, sizes={"users": 8, "items": 5})


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("logistic", None),
        ("lenet", {**IMAGES, "side": 32}),
        ("femnist-cnn", {**IMAGES, "channels": 1, "side": 28}),
        ("resnet20-gn", IMAGES),
        ("char-lstm", sequences),
        ("matrix-factorization", ratings),
        ("linear", {"kind": "linear-regression", "samples": 60, "test_samples": 10}),
    ],
)
def test_every_model_learns_its_samples(model, data):
    loaded = data() if callable(data) else None
    made = learner(
        model,
        dataset=data if isinstance(data, dict) else IMAGES,
        data=loaded,
        optimizer="adam" if model in ADAPTIVE else "sgd",
    )
    lr = 0.001 if model == "resnet20-gn" else None
    first = trained(made, Work(steps=1))
    last = trained(made, Work(steps=12, lr=lr))
    assert sum(t.update.loss for t in last) < sum(t.update.loss for t in first)
    metrics = made.evaluate([t.update.model for t in last], made.split("train", 0))
    assert all(np.isfinite(value) for value in metrics[0].values())


def test_the_stated_numbers_of_parameters():
    colour = {**IMAGES, "side": 32}
    assert learner("gn-lenet", colour).layout.size == 89_834
    writers = learner("femnist-cnn", {**IMAGES, "channels": 1, "side": 28, "classes": 62})
    assert writers.layout.size == 1_690_046


def test_buffers_are_part_of_the_flat_model():
    def factory():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 10), torch.nn.BatchNorm1d(10))

    made = learner(Module(factory=factory))
    assert made.layout.size == 7690 + 20 + 20
    assert made.layout.trainable == 7690 + 20
    (training, *_) = trained(made, Work(steps=2))
    buffers = training.update.model[made.layout.trainable :]
    assert not torch.equal(buffers, made.first_model[made.layout.trainable :])


def test_workers_share_no_module():
    one = trained(learner("gn-lenet", holders=6, kernel="module"))
    many = trained(learner("gn-lenet", holders=6, kernel="module", workers=4))
    for left, right in zip(one, many, strict=True):
        assert torch.equal(left.update.model, right.update.model)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("model", ["mlp", "gn-lenet"])
def test_a_gpu_computes_what_the_cpu_computes(model):
    here, there = trained(learner(model)), trained(learner(model, device="cuda"))
    for left, right in zip(here, there, strict=True):
        assert torch.allclose(left.update.model, right.update.model.cpu(), atol=1e-4)


class TwoLayers(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(768, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["lenet", Module(factory=TwoLayers)], ids=["lenet", "linear layers"])
def test_narrow_modules_are_trained_together_to_the_bits_that_they_have_alone(model, optimizer):
    images = {**IMAGES, "side": 32} if model == "lenet" else IMAGES
    made = learner(model, images, holders=5, optimizer=optimizer)
    assert made.kernel_name == "vmap"
    together = trained(made)
    for training in together:
        alone = Training(training.holder, made.initial(training.holder), 100 + training.holder, 0, 0, Work())
        made.train([alone])
        assert torch.equal(alone.update.model, training.update.model)
        assert alone.update.loss == training.update.loss


def test_wide_modules_and_nodes_with_less_than_a_batch_are_trained_one_by_one():
    assert learner("gn-lenet").kernel_name == "module"
    assert learner(Module(factory=TwoLayers), holders=10).kernel_name == "module"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 39), st.sampled_from(["logistic", "mlp"]))
def test_a_model_is_judged_to_the_same_bits_beside_any_number_of_others(count, index, model):
    made = learner(model, holders=3)
    models = [
        made.initial(0) + 0.1 * torch.randn(made.layout.size, generator=torch.Generator().manual_seed(one))
        for one in range(40)
    ]
    together = made.evaluate(models[:count], made.split("test"))
    (alone,) = made.evaluate([models[index % count]], made.split("test"))
    assert together[index % count] == alone
    inputs = made.split("test").inputs
    outputs = made.kernel.predict(models[:count], inputs)
    assert torch.equal(outputs[index % count], made.kernel.predict([models[index % count]], inputs)[0])
