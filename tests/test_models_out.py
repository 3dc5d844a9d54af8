"""Models taken out of a run: the same numbers, and the same predictions, in plain torch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import covey
from covey.cli import main
from covey.learning.dataset import Data, Dataset, Split
from covey.learning.models import Model
from covey.parts.errors import RunError
from covey.parts.kinds import known, load

IMAGES = {"kind": "synthetic-images", "samples": 60, "test_samples": 20, "channels": 3, "side": 16}


class Words(Dataset):
    kind = "tests.test_models_out:Words"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        tokens = torch.randint(0, 20, (40, 9), generator=torch.Generator().manual_seed(1))
        split = Split(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        return Data(split, split, "sequence", 20)


class Ratings(Dataset):
    kind = "tests.test_models_out:Ratings"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        pairs = torch.stack([torch.arange(40) % 8, torch.arange(40) % 5], 1)
        split = Split(pairs, (pairs.sum(1) % 5 + 1).float())
        return Data(split, split, "values", 0, sizes={"users": 8, "items": 5})


class Awkward(nn.Module):
    """Buffers of all kinds, a frozen layer, tied weights and a mask that no average could take."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 16 * 16, 12)
        self.norm = nn.BatchNorm1d(12)
        self.tied = nn.Linear(12, 12)
        self.again = self.tied
        self.last = nn.Linear(12, 10)
        self.last.weight.requires_grad_(False)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, x):
        return (
            self.last(torch.relu(self.again(self.tied(torch.relu(self.norm(self.first(x.flatten(1)))))))) + self.mask[0]
        )


DATA = {
    "lenet": {**IMAGES, "side": 32},
    "femnist-cnn": {**IMAGES, "channels": 1, "side": 28},
    "gn-lenet": {**IMAGES, "side": 32},
    "char-lstm": Words(),
    "matrix-factorization": Ratings(),
    "linear": {"kind": "linear-regression", "samples": 60, "test_samples": 10},
}


def ran(folder, model, dataset=None, **changes):
    task = {"dataset": dataset or DATA.get(model, IMAGES), "model": model, "batch_size": 8, "local_steps": 2}
    network = {"nodes": 4}
    program = {"kind": "gossip", "topology": "ring"}
    tables = {"rounds": 3, "seed": 5, "program": program, "task": task, "network": network, **changes}
    return covey.run(tables, out=folder)


def figures_of(module, data, run):
    """(accuracy or None, loss) of a module on the test data, by torch alone."""
    inputs = json.loads(run.layout)["inputs"]
    x = data.test.inputs
    x = x.float() * inputs["scale"] + inputs["shift"] if x.dtype == torch.uint8 else x
    with torch.no_grad():
        scores, targets = module(x), data.test.targets
    if data.objective == "values":
        return None, float(nn.functional.mse_loss(scores, targets))
    scores, targets = scores.flatten(0, -2), targets.flatten()
    return float((scores.argmax(1) == targets).float().mean()), float(nn.functional.cross_entropy(scores, targets))


@pytest.mark.parametrize(
    "model", [*known("model"), Awkward()], ids=lambda model: model if isinstance(model, str) else "own"
)
def test_a_model_is_the_same_in_plain_torch(model, tmp_path):
    run = ran(tmp_path / "run", model)
    own = not isinstance(model, str)
    dataset = DATA.get("own" if own else model, IMAGES)
    data = (
        load("dataset", dataset["kind"])(**{k: v for k, v in dataset.items() if k != "kind"})
        if isinstance(dataset, dict)
        else dataset
    ).load(tmp_path)
    final = run.metrics.groupby("node").last()
    for node in range(4):
        module = run.module(node, into=Awkward() if own else None)
        # Every number of the flat model is in the module, bit for bit.
        held = {
            name: tensor.detach()
            for name, tensor in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items()
        }
        entries = {e["name"]: e for e in json.loads(run.layout)["entries"]}
        flat = torch.full_like(run.models[node], float("nan"))
        for name, tensor in held.items():
            if name in entries and entries[name]["role"] != "constant":
                flat[entries[name]["start"] :][: tensor.numel()] = tensor.reshape(-1)
        assert torch.equal(flat, run.models[node])
        accuracy, loss = figures_of(module, data, run)
        assert loss == pytest.approx(final.loc[node, "loss"], rel=1e-4, abs=1e-5)
        if accuracy is not None:
            assert accuracy == pytest.approx(final.loc[node, "accuracy"], abs=1e-6)


def test_average_and_best_are_those_of_the_evaluated_nodes(tmp_path):
    run = ran(tmp_path / "run", "mlp", evaluation={"nodes": 3})
    final = run.metrics.groupby("node").last()
    assert len(final) == 3
    lies = {entry["name"]: entry for entry in json.loads(run.layout)["entries"]}
    average, best = run.state_dict(), run.state_dict("best")
    for name, tensor in average.items():
        piece = slice(lies[name]["start"], lies[name]["start"] + tensor.numel())
        mean = run.models.double()[sorted(final.index)].mean(0)[piece]
        assert np.allclose(tensor.reshape(-1).numpy(), mean.numpy(), atol=1e-7)
        chosen = final["accuracy"].idxmax()
        assert torch.equal(best[name].reshape(-1), run.models[int(chosen)][piece])


def test_a_file_holds_the_model_and_what_its_inputs_are(tmp_path):
    run = ran(tmp_path / "run", Awkward())
    assert main(["export", str(run.folder), "--models", str(tmp_path / "two.safetensors"), "--node", "2"]) == 0
    tensors = load_file(tmp_path / "two.safetensors")
    expected = run.state_dict(2)
    assert tensors.keys() == expected.keys() == Awkward().state_dict().keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert tensors["mask"].tolist() == [0.0, float("-inf")]
    module = Awkward()
    module.load_state_dict(tensors)
    with safe_open(tmp_path / "two.safetensors", "pt") as file:
        assert json.loads(file.metadata()["inputs"])["shape"] == [3, 16, 16]
        assert file.metadata()["node"] == "2"


def test_mistakes_are_one_line(tmp_path, capsys):
    run = ran(tmp_path / "run", "mlp")
    for which, why in (
        (4, "has the nodes 0 to 3. Got 4"),
        (-1, "Got -1"),
        ("worst", 'a node, "average", "best" or "kept". Got'),
        (True, "Got True"),
    ):
        with pytest.raises(RunError, match=why):
            run.state_dict(which)
    with pytest.raises(RunError, match="does not fit the module: "):
        run.module(0, into=nn.Linear(2, 2))
    assert main(["export", str(run.folder), "--models", str(tmp_path / "no" / "such.safetensors")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["export", str(run.folder), "--models", "x.safetensors", "--node", "worst"]) == 2
    own = ran(tmp_path / "own", Awkward())
    with pytest.raises(RunError, match="give the module with 'into'"):
        own.module(0)
    without = ran(tmp_path / "without", "mlp", output={"models": False})
    with pytest.raises(RunError, match="has no models"):
        without.state_dict(0)


def test_every_model_family_member_has_data_here():
    assert all(issubclass(load("model", kind), Model) for kind in known("model"))
