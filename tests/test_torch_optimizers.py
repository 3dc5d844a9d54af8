"""Optimisers of torch by name, mixed precision, and the kernels that they cost."""

import json
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from torch import nn
from torch.nn import functional as F

from covey import api
from covey.learning.batches import plan
from covey.learning.learner import Learner
from covey.learning.node import Work
from covey.learning.optimizers import Optimizer
from covey.learning.partition import IID
from covey.learning.task import LearningTask
from covey.parts import machine, rng
from covey.parts.errors import CoveyError
from covey.parts.parameters import build, to_table
from tests import folders
from tests.conftest import models_of, simulate, table
from tests.folders import rows
from tests.hosts import emulate
from tests.test_kernels import trained

ADAMW = {"kind": "torch.optim:AdamW", "lr": 0.01, "weight_decay": 0.1}
RULES = {
    "AdamW": ADAMW,
    "SGD": {"kind": "torch.optim:SGD", "lr": 0.05, "momentum": 0.9},
    "NAdam": {"kind": "torch.optim:NAdam", "betas": [0.8, 0.9]},
    "Adafactor": {"kind": "torch.optim:Adafactor"},
    "Rprop": {"kind": "torch.optim:Rprop", "state": "keep"},
}


class Counting(torch.optim.Optimizer):
    """An optimiser of the user's own, in torch's form, whose state has a number."""

    def __init__(self, params, lr: float = 0.1, slower: float = 1.0):
        super().__init__(params, {"lr": lr, "slower": slower})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                parameter.add_(parameter.grad, alpha=-group["lr"] / state["count"] ** group["slower"])


class Strange(Counting):
    def step(self, closure=None):
        super().step()
        for state in self.state.values():
            state["which"] = "this"


class Convolutions(nn.Sequential):
    """Weights of four dimensions, which kernels keep in channels_last."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))


def learner(optimizer, model=Convolutions, **settings):
    dataset = {"kind": "synthetic-images", "samples": 60, "test_samples": 20, "channels": 3, "side": 8}
    precision = settings.pop("precision", "float32")
    task = LearningTask(
        dataset=dataset,
        model=model,
        optimizer=build(Optimizer, optimizer),
        batch_size=7,
        local_epochs=2,
        precision=precision,
    )
    data = task.dataset.load(None)
    parts = [part[: len(part) - index] for index, part in enumerate(IID().assign(data, 3, 0))]
    return Learner(task, data, parts, seed=1, **settings)


def by_torch(made, holder, rule_of, mixed=False):
    """The same training by torch alone."""
    module, train = made.module(), made.data.train
    keys = np.array([rng.mix(100 + holder, 0, 0)], dtype=np.uint64)
    drawn = plan(made.parts, np.array([holder]), keys, np.array([made.steps(holder, Work())]), 7).samples[0]
    rule = rule_of(module.parameters())
    for batch in drawn:
        chosen = torch.from_numpy(batch[batch >= 0])
        rule.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            scores = module(made.data.scaled(train.inputs[chosen]))
        F.cross_entropy(scores.float(), train.targets[chosen]).backward()
        rule.step()
    return made.layout.flatten(module)


@pytest.mark.parametrize("name", RULES)
def test_a_training_is_that_of_torch(name):
    made, keys = learner(RULES[name], chunk=2), {"kind", "state"}
    arguments = {key: value for key, value in RULES[name].items() if key not in keys}
    for holder, training in enumerate(trained(made)):
        expected = by_torch(made, holder, lambda parameters: getattr(torch.optim, name)(parameters, **arguments))
        assert torch.allclose(training.update.model, expected, atol=1e-4)
        assert (training.update.delta).abs().max() > 1e-3
        assert bool(training.slots) == (RULES[name].get("state") == "keep")


@pytest.mark.parametrize(
    "rule", [ADAMW, {"kind": "torch.optim:NAdam"}, {"kind": "tests.test_torch_optimizers:Counting"}]
)
def test_a_resumed_run_with_kept_state_is_the_same(tmp_path, rule):
    changes = {"task": {**folders.tiny()["task"], "optimizer": {**rule, "state": "keep"}}}
    whole, stopped = (
        folders.finished(tmp_path / "finished", **changes),
        folders.interrupted(tmp_path / "run", **changes),
    )
    assert api.resume(stopped).status == "finished"
    assert rows(stopped) == rows(whole)
    assert (stopped / "models.npy").read_bytes() == (whole / "models.npy").read_bytes()


def test_a_kept_state_continues_and_a_reset_one_begins_anew():
    found = {}
    for state in ("keep", "reset"):
        tables = table(task={"optimizer": {**ADAMW, "state": state}}, rounds=3, network={"nodes": 3})
        found[state] = models_of(simulate(tables)[0])
    assert not torch.allclose(found["keep"], found["reset"], atol=1e-4)


@pytest.mark.parametrize("task", [{"optimizer": ADAMW}, {"precision": "bf16"}])
def test_hosts_and_workers_compute_the_same(tmp_path, task):
    tables = table(task=task, network={"nodes": 3}, rounds=2)
    expected = models_of(simulate(tables)[0])
    assert torch.equal(models_of(simulate({**tables, "engine": {"kind": "simulation", "workers": 2}})[0]), expected)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, expected, atol=1e-5)


def test_mixed_precision_trains_as_autocast_does_and_evaluates_in_float32():
    rule = {"kind": "sgd", "lr": 0.05}
    mixed, usual = learner(rule, precision="bf16"), learner(rule, kernel="module")
    for holder, (training, plain) in enumerate(zip(trained(mixed), trained(usual), strict=True)):
        expected = by_torch(mixed, holder, lambda parameters: torch.optim.SGD(parameters, lr=0.05), mixed=True)
        assert torch.allclose(training.update.model, expected, atol=2e-3)
        assert training.update.model.dtype == torch.float32
        assert 1e-5 < (training.update.model - plain.update.model).abs().max() < 2e-2
    split = mixed.split("test")
    assert mixed.evaluate([mixed.initial(0)], split) == usual.evaluate([usual.initial(0)], split)


def test_it_is_written_down_and_read_again():
    rule = build(Optimizer, {"kind": "torch.optim:AdamW", "betas": [0.8, 0.9]})
    assert to_table(rule)["betas"] == [0.8, 0.9]
    assert build(Optimizer, to_table(rule)) == rule
    assert build(Optimizer, to_table(build(Optimizer, "torch.optim:Adafactor"))) == build(
        Optimizer, "torch.optim:Adafactor"
    )
    assert rule.lr == 0.001
    assert build(Optimizer, {**to_table(rule), "schedule": {"kind": "cosine", "rounds": 4}}).schedule.rounds == 4


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 32, 3), nn.Flatten(), nn.Linear(32 * 36, 10))


@pytest.mark.parametrize(
    ("task", "kernel", "said"),
    [
        ({}, "stacked", None),
        ({"optimizer": ADAMW}, "module", "not stacked or vmap: the optimizer torch.optim:AdamW is one of torch"),
        ({"precision": "bf16"}, "module", "not stacked or vmap: the precision is bf16"),
        ({"loss": "mse", "batch_size": 10_000}, None, "not stacked: the loss is mse"),
        ({"model": f"{__name__}:Wide"}, "module", f"not stacked: the model {__name__}:Wide is no dense network of covey's with all "),
    ],
)  # fmt: skip
def test_check_says_why_the_faster_kernel_is_not_chosen(covey, in_folder, task, kernel, said):
    (in_folder / "x.toml").write_text(tomli_w.dumps(table(task=task)))
    code, out, err = covey("check", "x.toml", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert kernel in (None, found["kernel"])
    assert (not found["why_not"]) == (said is None)
    if said is not None:
        words = " ".join(covey("check", "x.toml")[1].split())
        assert said in words
        assert ("training computes in bf16" in words) == ("precision" in task)


@pytest.mark.parametrize("able", [True, False, None])
def test_check_says_where_mixed_precision_saves_no_time(covey, in_folder, monkeypatch, able):
    monkeypatch.setattr(machine, "multiplies_bf16", lambda: able)
    (in_folder / "x.toml").write_text(tomli_w.dumps(table(task={"precision": "bf16"})))
    words = " ".join(covey("check", "x.toml")[1].split())
    assert ("it saves no time here: this processor has no instructions" in words) == (able is False)


@pytest.mark.parametrize(("flags", "able"), [("fpu amx_bf16 sse", True), ("fpu avx512f", False)])
def test_the_processor_says_whether_it_multiplies_bf16(monkeypatch, flags, able):
    monkeypatch.setattr(Path, "read_text", lambda path: f"model name : x\nflags : {flags}\n")
    assert machine.multiplies_bf16.__wrapped__() is able


@pytest.mark.parametrize(
    ("task", "engine", "said"),
    [
        ({"optimizer": "torch.optim:Adan"}, {}, "The optimizer 'torch.optim:Adan' does not exist: torch.optim has no Adan."),
        ({"optimizer": "torch.optim:LBFGS"}, {}, "The optimizer torch.optim:LBFGS evaluates the loss several times a step"),
        ({"optimizer": "torch.optim:SparseAdam"}, {}, "The optimizer torch.optim:SparseAdam fails: RuntimeError"),
        ({"optimizer": {**ADAMW, "momentum": 0.9}}, {}, "Unknown key 'momentum' of the optimizer torch.optim:AdamW"),
        ({"optimizer": {**ADAMW, "lr": "fast"}}, {}, "The 'lr' of the optimizer torch.optim:AdamW must be a number. Got 'fast'"),
        ({"optimizer": {**ADAMW, "betas": [2.0, 0.9]}}, {}, "The optimizer torch.optim:AdamW fails: ValueError: Invalid beta"),
        ({"optimizer": {"kind": "torch.optim:Rprop", "weight_decay": 0.1}}, {}, "The optimizer torch.optim:Rprop has no 'weight_decay'. Got 0.1."),
        ({"optimizer": {"kind": f"{__name__}:Strange", "state": "keep"}}, {}, f"The optimizer {__name__}:Strange has the state 'which' of type str"),
        ({"optimizer": ADAMW}, {"kernel": "stacked"}, "The kernel stacked steps flat models, as sgd, adam and optimizers of your own do, not torch."),
        ({"precision": "bf16"}, {"kernel": "vmap"}, "The kernel vmap computes in float32 only, and the 'precision' of the task is bf16."),
        ({"precision": "fp16"}, {}, "The 'precision' of the task must be one of 'float32', 'bf16'. Got 'fp16' instead."),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line_before_the_run(task, engine, said):
    with pytest.raises(CoveyError) as caught:
        simulate(table(task=task, engine=engine))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
