"""Samples, outputs and judgements: the further requests of a node to its data and models."""

import re

import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from covey.parts.errors import ConfigurationError, ProgramError
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate
from tests.programs.asking import DOES, DONE

DISTILS = {"kind": "tests.programs.asking:Distils"}
TASK = {
    "dataset": {"kind": "gaussian-blobs", "samples": 240, "test_samples": 60},
    "public": {"dataset": {"kind": "gaussian-blobs", "samples": 50, "seed": 1}},
    "validation": 0.2,
}
QUICK = {"nodes": 4, "latency": None, "bandwidth": None}


def once(does, **changes):
    """The outcome of `Once` in a small simulation, the world, and the rows that were written."""
    tables = table(program={"kind": "tests.programs.asking:Once", "does": does}, task=TASK, network=QUICK)
    world, written = simulate({**tables, **changes})
    return DONE.pop(does), world, written


def doing(what):
    """Do something at node 0."""
    DOES["what"] = what
    return once("what")[0]


@pytest.mark.parametrize("model", ["logistic", "mlp"])
@pytest.mark.parametrize("kernel", ["stacked", "vmap", "module"])
def test_outputs_are_those_of_the_module(kernel, model):
    tables = {"task": {**table(task=TASK)["task"], "model": model}, "engine": {"kind": "simulation", "kernel": kernel}}
    (samples, own, other, both, alone, now), world, _ = once("outputs_of_one_and_of_many", **tables)
    learner = world.task.learner
    module = learner._make(0)
    for model, found in zip((own, other), both, strict=True):
        for name, view in learner.layout.views(model).items():
            module.get_parameter(name).data.copy_(view)
        assert torch.allclose(found, module(samples.inputs), atol=1e-5)
    assert torch.allclose(alone, both[0], atol=1e-6)
    count = len(samples.inputs)
    assert count == learner.parts.sizes[0]
    assert now == pytest.approx(3 * count / world.speeds[0])
    assert world.nodes[0].evaluated == 3 * count


def test_samples_are_drawn_by_key_and_are_the_nodes_own():
    (usual, first, again, second, whole), world, _ = once("samples_by_key")
    data = world.task.learner.data.train
    own = world.task.learner.parts.of(0)
    assert torch.equal(whole.inputs, data.inputs[own])
    assert torch.equal(whole.targets, data.targets[own])
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, second.inputs)
    assert not torch.equal(first.inputs, usual.inputs)
    rows = {(*row, float(y)) for row, y in zip(whole.inputs.tolist(), whole.targets, strict=True)}
    for drawn in (usual, first, second):
        assert {(*row, float(y)) for row, y in zip(drawn.inputs.tolist(), drawn.targets, strict=True)} < rows
        assert len(drawn.inputs) == 5


def test_weights_are_those_of_the_nodes_own_samples():
    update, *_ = once("weighs")
    assert torch.equal(update.model, update.start)
    assert update.loss == 0
    assert update.label_counts.sum() == update.samples


def test_a_program_that_distils_is_the_same_in_both_engines(tmp_path):
    tables = table(program=DISTILS, task=TASK, network=QUICK, rounds=4)
    world, written = simulate(tables)
    outcome, there = emulate(tables, tmp_path)
    assert torch.allclose(models_of(world), outcome.models, atol=1e-5)
    ours, theirs = ({f[:3]: f[3] for f in w.figures if f[0] >= 0} for w in (written, there))
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-4)


def test_an_ensemble_is_evaluated_like_a_model():
    world, written = simulate(table(program=DISTILS, task=TASK, network=QUICK, rounds=4))
    found = [(node, t, value) for node, t, name, value in written.figures if name == "accuracy" and node >= 0]
    # Of every node and round once: in those that are evaluated, too.
    assert sorted({(node, t) for node, t, _ in found}) == sorted((node, t) for node, t, _ in found)
    assert {t for _, t, _ in found} == {1, 2, 3, 4}
    last = {value for _, t, value in found if t == 4}
    assert len(last) == 1  # They all ask the same models.
    assert last != {world.task.evaluate([world.nodes[0].model])[0]["accuracy"]} or last == {1.0}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(split=st.sampled_from(["train", "validation", "test"]), scale=st.sampled_from([0.0, 1.0, 3.0]))
def test_judging_outputs_is_evaluating_the_model_that_gave_them(split, scale):
    async def what(node):
        outputs = await node.predict(node.model * scale, on=node.samples(split))
        return node.judge(outputs, split), await node.evaluate(node.model * scale, split)

    judged, evaluated = doing(what)
    assert judged == pytest.approx(evaluated, abs=1e-5)


@pytest.mark.parametrize("split", ["test", "public"])
def test_labels_of_what_is_not_the_nodes_own_stay_hidden(split):
    async def what(node):
        return node.samples(split, 5)

    assert doing(what).targets is None


def wrong(**work):
    async def what(node):
        await node.train(**work)

    return what


def of(function):
    async def what(node):
        found = function(node)
        return await found if hasattr(found, "__await__") else found

    return what


INPUTS, CLASSES = torch.zeros(6, 10), torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (wrong(stepps=1), "A training has no 'stepps'. Known: batch_size, correction, epochs,"),
        (wrong(steps=0), "The 'steps' of a training must be an int of at least 1. Got 0 instead."),
        (wrong(steps=1, epochs=1), "A training has both 'steps' and 'epochs': give one."),
        (wrong(proximal=-1.0), "The 'proximal' of a training must be a number of at least 0. Got -1.0 instead."),
        (wrong(batch_size=True), "The 'batch_size' of a training must be an int of at least 1. Got True instead."),
        (wrong(objective="hinge"), "Unknown objective 'hinge'"),
        (
            wrong(weights=torch.ones(3)),
            "The 'weights' of a training must be 48 float32 numbers. Got torch.float32 of (3,)",
        ),
        (wrong(correction=torch.ones(3)), "The 'correction' of a training must be 44 float32 numbers."),
        (wrong(on=INPUTS), "The 'on' of a training must be samples, (inputs, targets). Got torch.float32 of (6, 10)"),
        (wrong(on=(INPUTS, None)), "The 'on' of a training must have targets"),
        (
            wrong(on=(INPUTS[:, :3], CLASSES)),
            "The inputs of 'on' must be 1 or more of shape (10,). Got torch.float32 of",
        ),
        (
            wrong(on=(INPUTS, CLASSES[:2])),
            "The targets of 'on' must be one for each of 6 samples. Got torch.int64 of (2,)",
        ),
        (wrong(on=(INPUTS, CLASSES + 9)), "The targets of 'on' must be classes in [0, 4). Got some in [9, 9] instead."),
        (
            wrong(on=(INPUTS, torch.zeros(6, 4))),
            "for the task's own loss. Got torch.float32 of (6, 4) instead: name an",
        ),
        (
            of(lambda node: node.samples("secret")),
            "The 'split' must be one of 'train', 'validation', 'test', 'public'.",
        ),
        (
            of(lambda node: node.samples("train", 0)),
            "The 'count' of samples must be None or an int of at least 1. Got 0.",
        ),
        (
            of(lambda node: node.predict([], on=INPUTS)),
            "The models must be 1 or more of 44 numbers. Got [].",
        ),
        (of(lambda node: node.predict(torch.zeros(3), on=INPUTS)), "must be 1 or more of 44 numbers. Got [(3,)]."),
        (
            of(lambda node: node.judge(torch.zeros(3, 4))),
            "The 'outputs' to judge do not fit: the model that gave them predicts",
        ),
        (of(lambda node: node.judge(INPUTS, "public")), "must be one of 'train', 'validation', 'test'. Got 'public'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(what, words):
    with pytest.raises((ProgramError, ConfigurationError), match=re.escape(words)) as caught:
        doing(what)
    assert "\n" not in str(caught.value)


def test_public_samples_must_be_named_and_fit():
    async def what(node):
        node.samples("public")

    DOES["what"] = what
    task = {name: value for name, value in TASK.items() if name != "public"}
    with pytest.raises(ProgramError, match="The task has no 'public' samples"):
        once("what", task=table(task=task)["task"])
    task = table(task={**TASK, "public": {"dataset": {"kind": "gaussian-blobs", "features": 3}}})["task"]
    with pytest.raises(ConfigurationError, match=r"The 'public' of the task must have samples of the shape \(10,\)"):
        once("what", task=task)


@pytest.mark.parametrize(("name", "sends"), [("Once", False), ("Shows", True)])
def test_check_says_what_is_minimised_and_whether_samples_are_sent(name, sends, covey, in_folder):
    tables = table(program={"kind": f"tests.programs.asking:{name}", "does": "x"}, task={**TASK, "loss": "l1"})
    (in_folder / "x.toml").write_text(tomli_w.dumps(tables))
    code, out, _ = covey("check", "x.toml")
    assert code == 0
    assert re.search(r"the kernel (module|vmap) minimises the loss l1$", out, re.M)
    assert ("THE NODES OF THIS PROGRAM SEND SAMPLES" in out) == sends
