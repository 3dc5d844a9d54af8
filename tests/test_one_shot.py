"""One-shot programs: FedAvg-1, ensembles, and the form of models on the wire."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.federated.ends import wrong_labels
from covey.federated.ensembles import MEANS, joined, weights_by_labels
from covey.federated.model_formats import Float32Models, Int8Models
from covey.messages import wire
from covey.parts.errors import ConfigurationError, ModelError
from covey.parts.parameters import Setting
from covey.runtime.simulation.world import World
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS, pieces_of
from tests.hosts import emulate

UNEVEN = {**BLOBS, "partition": {"kind": "dirichlet", "alpha": 0.3}, "batch_size": 8, "local_steps": 6}
APART = {**UNEVEN, "same_start": False}


def shot(kind="ensemble", task=APART, **changes):
    """The tables of seven clients and a server."""
    program = {"kind": kind, **{name: changes.pop(name) for name in ("mean", "models", "patience") if name in changes}}
    base = {"network": {"nodes": 8}, "rounds": 1, "evaluation": {"every": 1, "samples": None}}
    return table(program=program, task=task, **{**base, **changes})


def judged(written):
    """The accuracy of the server after each round."""
    return [value for node, _, name, value in written.figures if node == 0 and name == "accuracy"]


def test_fedavg_1_is_one_round_of_fedavg():
    once, _ = simulate(shot("fedavg-1", UNEVEN))
    fedavg, _ = simulate(table(program="fedavg", task=UNEVEN, network={"nodes": 8}, rounds=1))
    assert torch.allclose(once.nodes[0].model, fedavg.nodes[0].model, atol=1e-6)


@pytest.mark.parametrize("mean", MEANS)
def test_an_ensemble_is_judged_as_the_mean_of_its_models(mean):
    world, written = simulate(shot(mean=mean, rounds=2))
    learner = world.task.learner
    inputs, targets = learner.splits.taken("test", learner.splits.indices("test", None))
    logits_MBC = torch.stack([learner.kernel.predict([node.model], inputs)[0] for node in world.nodes[1:]]).double()
    counts_MC = torch.tensor(np.stack([node.data.label_counts for node in world.nodes[1:]])).double()
    if mean == "logits":
        said = logits_MBC.sum(0)
    elif mean == "probabilities":
        said = logits_MBC.softmax(-1).sum(0)
    else:
        said = (logits_MBC * (counts_MC / counts_MC.sum(0))[:, None]).sum(0)
    expected = (said.argmax(1) == targets).double().mean().item()
    assert judged(written) == pytest.approx([expected] * 2)
    assert not torch.equal(world.nodes[1].model, world.nodes[2].model)


def test_a_model_takes_a_quarter_of_the_bytes_as_int8():
    task = {**APART, "model": {"kind": "mlp", "hidden": [64]}}
    plain, _ = simulate(shot(task=task))
    packed, _ = simulate(shot(task=task, models="int8"))
    size, scales = len(plain.nodes[1].model), 4
    assert plain.nodes[1].bytes_out - packed.nodes[1].bytes_out == pytest.approx(3 * size - 4 * scales, abs=64)
    assert torch.allclose(models_of(plain)[1:], models_of(packed)[1:], atol=0.02)
    assert not torch.equal(models_of(plain)[1:], models_of(packed)[1:])


def test_int8_models_are_within_half_a_step_and_keep_predictions():
    task = {"model": {"kind": "mlp", "hidden": [32]}, "partition": {"kind": "dirichlet", "alpha": 0.5}}
    task = {**task, "local_steps": 60, "same_start": False}
    plain, _ = simulate(shot(task=task))
    packed, _ = simulate(shot(task=task, models="int8"))
    learner = plain.task.learner
    inputs, _ = learner.splits.taken("test", learner.splits.indices("test", None))
    before, after = (
        learner.kernel.predict([node.model for node in world.nodes[1:]], inputs).argmax(2) for world in (plain, packed)
    )
    assert (before != after).double().mean() < 0.01


@given(
    shapes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4),
    trained=st.integers(1, 4),
    models=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_int8_models_come_back_alone_or_together(shapes, trained, models, seed):
    roles = ["trained" if number < trained else "buffer" for number in range(len(shapes))]
    pieces = pieces_of(shapes, roles)
    setting = Setting(nodes=2, parameters=pieces[-1].stop, pieces=pieces)
    models_KP = torch.randn(models, setting.parameters, generator=torch.Generator().manual_seed(seed))
    form = Int8Models(setting)
    packed = form.pack(models_KP)
    found_KP = form.unpack(packed, models)
    assert {name: expected.count for name, expected in form.expected(models).items()} == {
        name: len(entry) for name, entry in packed.items()
    }
    for k, piece in ((k, piece) for k in range(models) for piece in pieces):
        before, after = models_KP[k, piece.start : piece.stop], found_KP[k, piece.start : piece.stop]
        if piece.role == "buffer":
            assert torch.equal(before, after)
            continue
        # No worse than with the largest magnitude as scale.
        largest = before.abs().max()
        plain = (before / largest * 127).round() / 127 * largest
        assert (after - before).square().sum() <= (plain - before).square().sum() + 1e-9
    alone = torch.cat([form.unpack(form.pack(model[None]), 1) for model in models_KP])
    assert torch.equal(alone, found_KP)
    assert torch.equal(form.unpack(form.pack(torch.zeros(1, setting.parameters)), 1)[0], torch.zeros(len(models_KP[0])))
    whole = Float32Models(setting)
    assert torch.equal(whole.unpack(whole.pack(models_KP), models), models_KP)


@given(models=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_equal_histograms_make_the_weighted_mean_the_mean(models, seed):
    draw = torch.Generator().manual_seed(seed)
    logits_BMC = torch.randn(6, models, 3, generator=draw, dtype=torch.float64)
    labels_MC = torch.randint(0, 9, (3,), generator=draw).expand(models, 3)
    weights_MC = weights_by_labels(labels_MC)
    found = {name: mean(logits_BMC, weights_MC) for name, mean in MEANS.items()}
    assert torch.allclose(found["labels"], found["logits"], atol=1e-6)
    assert torch.allclose(found["probabilities"].exp(), logits_BMC.softmax(2).mean(1))
    order = torch.randperm(models, generator=draw)
    for name, mean in MEANS.items():
        assert torch.allclose(mean(logits_BMC[:, order], weights_MC[order]), found[name])


def test_outputs_that_do_not_fit_name_their_model():
    fine = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"one shape, .* Got \(4, 2\) of model 7 and \(4, 3\) of model 5"):
        joined([fine, fine, torch.zeros(4, 2)], [5, 6, 7])
    with pytest.raises(ModelError, match="The outputs of model 1 are not finite"):
        joined([fine, torch.full((4, 3), torch.nan)])


SPOILED = {
    "codes": torch.zeros(3, dtype=torch.int8),
    "labels": torch.tensor([-1, 2]),
    "samples": -1,
}
HUGE = torch.tensor([1 << 62, 2])
"""Counts whose sum over a few clients is no integer of 64 bits."""


def test_huge_counts_of_labels_do_not_wrap_around():
    assert torch.equal(weights_by_labels(HUGE.expand(4, 2)), torch.full((4, 2), 0.25))
    assert wrong_labels(HUGE)
    assert not wrong_labels(HUGE // (1 << 22))


@pytest.mark.parametrize(("kind", "entry"), [("ensemble", "codes"), ("ensemble", "labels"), ("fedavg-1", "samples")])
def test_a_hostile_client_is_left_out_and_named(kind, entry, monkeypatch):
    post = World.post

    def lying(world, node, receivers, payload, tag, round):
        if node.id == 3:
            payload = {**payload, entry: SPOILED[entry]}
        return post(world, node, receivers, payload, tag, round)

    tables = shot(kind, models="int8", **({"mean": "labels"} if entry == "labels" else {}))
    honest, _ = simulate(tables)
    monkeypatch.setattr(World, "post", lying)
    world, written = simulate(tables)
    rejected = [detail for *_, what, detail in written.happened if what == "rejected"]
    assert len(rejected) == 1
    assert rejected[0].startswith("message of node 3: ")
    if kind == "fedavg-1":
        kept = [node for node in honest.nodes[1:] if node.id != 3]
        total = sum(node.data.samples for node in kept)
        mean = sum(node.model * (node.data.samples / total) for node in kept)
        assert torch.allclose(world.nodes[0].model, mean, atol=1e-6)


def test_a_model_whose_outputs_are_not_finite_is_named(monkeypatch):
    post = World.post

    def lying(world, node, receivers, payload, tag, round):
        if node.id == 3:  # Its numbers are finite, and no product of them is.
            codes, scales = torch.full_like(payload["codes"], 127), torch.full_like(payload["scales"], 3e38)
            payload = {**payload, "codes": codes, "scales": scales}
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", lying)
    with pytest.raises(ModelError, match="The outputs of model 3 are not finite"):
        simulate(shot(models="int8"))


@pytest.mark.parametrize("models", ["float32", "int8"])
def test_both_engines_agree_on_one_shot(models, tmp_path):
    network = {"nodes": 4, "latency": None, "bandwidth": None, "compute": 1e6}
    for kind in ("fedavg-1", "ensemble"):
        tables = shot(kind, models=models, network=network)
        (tmp_path / kind).mkdir()
        (_, here), (_, written) = simulate(tables), emulate(tables, tmp_path / kind)
        assert judged(here) == pytest.approx(judged(written), abs=1e-4)


def test_an_ensemble_is_judged_the_same_after_a_resume():
    tables = shot(rounds=4, checkpoint={"every": 2}, models="int8")
    whole, written = simulate(tables)
    for _, checkpoint in written.checkpoints:
        resumed, again = simulate(tables, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
        assert torch.equal(models_of(whole), models_of(resumed))
        assert judged(again) == judged(written)[-len(judged(again)) :]
        assert judged(again)


REGRESSION = {**APART, "dataset": "linear-regression", "model": "linear", "partition": "iid"}


def test_data_without_classes_are_refused_where_they_are_needed():
    for mean in ("probabilities", "labels"):
        with pytest.raises(ConfigurationError, match=r"The data of the program ensemble must have classes, one for"):
            simulate(shot(mean=mean, task=REGRESSION))
    once, _ = simulate(shot("fedavg-1", {**REGRESSION, "same_start": True}))
    mean = torch.stack([node.model * node.data.samples for node in once.nodes[1:]]).sum(0)
    assert torch.allclose(once.nodes[0].model * sum(node.data.samples for node in once.nodes[1:]), mean, rtol=1e-4)


def test_an_ensemble_of_regressions_is_their_mean():
    world, written = simulate(shot(task=REGRESSION))
    learner = world.task.learner
    inputs, targets = learner.splits.taken("test", learner.splits.indices("test", None))
    said = learner.kernel.predict([node.model for node in world.nodes[1:]], inputs).double().mean(0)
    (loss,) = [value for node, _, name, value in written.figures if node == 0 and name == "loss"]
    assert loss == pytest.approx(float((said.flatten() - targets.flatten()).square().mean()), rel=1e-4)


def test_the_mean_of_probabilities_is_over_classes_at_every_position(tmp_path):
    logits = torch.randn(4, 3, 5, 6)
    found = MEANS["probabilities"](logits, torch.ones(3, 1))
    assert torch.allclose(found.exp(), logits.softmax(-1).mean(1), atol=1e-6)
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "text.npz", x=draw.integers(0, 6, (60, 5)), y=draw.integers(0, 6, (60, 5)))
    dataset = {"kind": "npz", "path": str(tmp_path / "text.npz"), "predict": "sequence"}
    model = {"kind": "char-lstm", "hidden": 4, "layers": 1}
    task = {**APART, "dataset": dataset, "model": model, "partition": "iid", "local_steps": 1}
    assert judged(simulate(shot(mean="probabilities", task=task))[1])
    for refused in ({"kind": "fens"}, {"kind": "ensemble", "mean": "labels"}):
        with pytest.raises(ConfigurationError, match="must have classes, one for each sample"):
            simulate(table(program=refused, task={**task, "validation": 0.2}, network={"nodes": 4}, rounds=2))


PROTECTED = {**UNEVEN, "ldp": {"clip": 1.0, "noise": 1.0}, "validation": 0.2}


@pytest.mark.parametrize(
    ("program", "sent"),
    [
        ({"kind": "ensemble", "mean": "labels"}, "numbers of samples of each class"),
        ({"kind": "fedkd", "distillation": {"weights": "label"}}, "numbers of samples of each class"),
        ({"kind": "fens", "aggregator": "weighted"}, "numbers of samples of each class"),
        ({"kind": "fens"}, "changes by proxy samples for the aggregator mlp"),
        ({"kind": "fens", "aggregator": "voting"}, "counts of proxy samples for the aggregator voting"),
    ],
)
def test_nothing_is_sent_that_the_noise_of_the_task_does_not_protect(program, sent):
    task = {**PROTECTED, "public": {"dataset": BLOBS["dataset"], "samples": 20}}
    with pytest.raises(ConfigurationError, match=f"'ldp' does not protect. Got {sent} instead"):
        simulate(table(program=program, task=task, network={"nodes": 4}, rounds=2))


@pytest.mark.parametrize("program", ["fedavg-1", "ensemble", {"kind": "fens", "aggregator": "average"}])
def test_labels_are_not_sent_where_they_are_not_needed(program, overheard):
    simulate(table(program=program, task=PROTECTED, network={"nodes": 4}, rounds=1))
    assert not any("labels" in message.payload for message in overheard)
