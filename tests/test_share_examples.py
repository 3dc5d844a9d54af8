"""FedBN, personal heads and adapters of low rank: each is a configuration with the promised effect."""

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from covey.learning.dataset import Data, Dataset, Split
from covey.messages import wire
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from tests.conftest import models_of, simulate, stated_bytes

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/systems/share.md").read_text()
FED_BN, PERSONAL_HEADS, ADAPTERS = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", PAGE, flags=re.S)]
NODES, CLASSES, FEATURES = 8, 10, 64


@pytest.fixture(autouse=True)
def digit_models(tmp_path, monkeypatch):
    """The models of the page, as a module."""
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    (tmp_path / "digit_models.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("digit_models", None)


def short(tables, share=None, **task):
    """An example in a few rounds, with another share of the model."""
    program = dict(tables["program"])
    if share is not None:
        program["sharing"] = {**program["sharing"], "share": share}
    task = {**tables["task"], **task}
    return {**tables, "rounds": 20, "program": program, "task": task, "evaluation": {"every": 20}}


class OfOwners(Dataset):
    """Blobs whose samples each belong to one of some owners, who see them or name them in their own ways."""

    def of(self, inputs: torch.Tensor, targets: torch.Tensor, owner: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        draw = np.random.default_rng(1)
        centres = torch.from_numpy(draw.standard_normal((CLASSES, FEATURES), dtype=np.float32))
        parts = []
        for owner in range(NODES):
            targets = torch.from_numpy(draw.permutation(60) % CLASSES)
            noise = torch.from_numpy(draw.standard_normal((60, FEATURES), dtype=np.float32))
            parts.append((*self.of(centres[targets] + 0.8 * noise, targets, owner), torch.full((60,), owner)))
        inputs, targets, owners = (torch.cat(part) for part in zip(*parts, strict=True))
        return Data(Split(inputs, targets), Split(inputs, targets), "classes", CLASSES, owners)


class Seen(OfOwners):
    """Every owner scales and shifts what it sees."""

    def of(self, inputs, targets, owner):
        draw = np.random.default_rng(owner)
        scale, shift = draw.uniform(0.1, 10.0), draw.normal(0.0, 20.0, FEATURES).astype(np.float32)
        return inputs * np.float32(scale) + torch.from_numpy(shift), targets


class Named(OfOwners):
    """Every owner has names of its own for the classes."""

    def of(self, inputs, targets, owner):
        return inputs, torch.from_numpy(np.random.default_rng(owner).permutation(CLASSES))[targets]


def own_accuracy(world):
    """The mean accuracy of the nodes' models, each on the data of its own node."""
    learner = world.task.learner
    models = enumerate(models_of(world))
    return np.mean([learner.evaluate([model], learner.split("train", node))[0]["accuracy"] for node, model in models])


def at_owners(tables, dataset, share):
    """An example in which each node has the data of an owner, trains on them in ten steps a round, and sends in full."""
    tables = {**tables, "program": {**tables["program"], "sharing": {"kind": "full"}}}
    tables = short(tables, share, dataset=dataset, partition="natural", batch_size=20, local_steps=10)
    return {**tables, "network": {"nodes": NODES}}


def test_fed_bn_serves_nodes_that_see_differently():
    own = FED_BN["program"]["sharing"]["share"]
    fed_bn, everything = (simulate(at_owners(FED_BN, Seen(), share))[0] for share in (own, "trained"))
    assert own_accuracy(fed_bn) > own_accuracy(everything) + 0.2
    views = [fed_bn.task.learner.layout.views(node.model) for node in fed_bn.nodes]
    for name in ("norm.weight", "norm.running_mean", "norm.running_var"):
        assert torch.stack([view[name] for view in views]).std(0).min() > 1e-3
    count = FEATURES * 48 + 48 + 48 * 10 + 10
    assert stated_bytes(fed_bn) == 2 * len(wire.encode({"model": torch.zeros(count)}))
    assert {node.bytes_out for node in fed_bn.nodes} == {20 * stated_bytes(fed_bn)}


def test_personal_heads_serve_nodes_that_name_classes_differently():
    own = PERSONAL_HEADS["program"]["sharing"]["share"]
    personal, everything = (simulate(at_owners(PERSONAL_HEADS, Named(), share))[0] for share in (own, "trained"))
    assert own_accuracy(personal) > own_accuracy(everything) + 0.2
    count = FEATURES * 48 + 48 + 2 * 48 + 2 * 48
    assert stated_bytes(personal) == 4 * len(wire.encode({"model": torch.zeros(count)}))


def test_personal_heads_go_with_a_sharing_that_makes_messages_short():
    world, _ = simulate(short(PERSONAL_HEADS))
    stated, sent = stated_bytes(world), np.mean([node.bytes_out for node in world.nodes]) / 20
    assert sent == pytest.approx(stated, rel=0.02)
    heads = [world.task.learner.layout.views(node.model)["head.weight"] for node in world.nodes]
    assert torch.stack(heads).std(0).mean() > 0.01


def test_adapters_of_low_rank_are_all_that_is_sent_and_they_learn(overheard):
    tables = {**short(ADAPTERS), "rounds": 30, "evaluation": {"every": 30}}
    world, written = simulate(tables)
    assert {message.payload["model"].shape for message in overheard} == {(2048,)}
    message, model = (len(wire.encode({"model": torch.zeros(count)})) for count in (2048, 87_050))
    assert (message, model) == (8257, 348_267)
    assert f"in {message:,} bytes, where the model's 87,050 would take {model:,}" in PAGE
    assert stated_bytes(world) == 4 * message
    assert all(node.bytes_out == 30 * 4 * message for node in world.nodes)
    first = world.task.learner.first_model
    views, before = world.task.learner.layout.views(models_of(world)), world.task.learner.layout.views(first)
    for name in ("first.weight", "base.weight", "base.bias", "head.weight"):
        assert torch.equal(views[name], before[name].expand_as(views[name]))
    accuracies = [value for _, t, name, value in written.figures if (name, t) == ("accuracy", 30)]
    assert min(accuracies) > 0.6


def test_check_says_what_is_shared(covey, tmp_path):
    import tomli_w

    (tmp_path / "experiment.toml").write_text(tomli_w.dumps(ADAPTERS))
    code, out, err = covey("check", str(tmp_path / "experiment.toml"))
    assert (code, err) == (0, "")
    line = "8.3 kB with 2,048 trained numbers, of the 87,050 of a model: 'down.weight', 'up.weight'"
    assert f"shared      {line}" in out
    (tmp_path / "experiment.toml").write_text(tomli_w.dumps(PERSONAL_HEADS))
    code, out, err = covey("check", str(tmp_path / "experiment.toml"), "--json")
    assert code == 0
    assert '"buffers": 96' in out


def test_the_pages_examples_are_ready_to_run():
    for tables in (FED_BN, PERSONAL_HEADS, ADAPTERS):
        prepared = prepare(Experiment.from_table(tables), workers=1)
        assert not prepared.program.sharing.selection.is_whole
