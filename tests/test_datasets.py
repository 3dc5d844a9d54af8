"""The data sets that need no files."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from covey.learning.dataset import Dataset
from covey.learning.datasets.digits import Digits
from covey.learning.datasets.synthetic import GaussianBlobs, LinearRegression, SyntheticImages
from covey.parts import kinds
from covey.parts.parameters import build
from tests.published import same

pytestmark = pytest.mark.usefixtures("no_network")


# Digits


def test_digits(tmp_path: Path) -> None:
    data = Digits().load(tmp_path / "never there")
    assert data.train.inputs.shape == (1437, 1, 8, 8)
    assert data.test.inputs.shape == (360, 1, 8, 8)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.targets.dtype == torch.int64
    assert int(data.train.inputs.max()) * data.scale == 1.0
    shares = torch.bincount(data.test.targets) / (
        torch.bincount(data.test.targets) + torch.bincount(data.train.targets)
    )
    assert (shares - 0.2).abs().max() < 0.01


def test_digits_can_be_distinguished() -> None:
    data = Digits().load(Path())
    inputs, tests = data.train.inputs.flatten(1).float(), data.test.inputs.flatten(1).float()
    nearest = torch.cdist(tests, inputs).argmin(1)
    assert (data.train.targets[nearest] == data.test.targets).float().mean() > 0.97


def test_digits_load_at_once_and_without_further_packages() -> None:
    code = (
        "import sys, numpy, torch; before = set(sys.modules); from covey.learning.datasets.digits import Digits;"
        "from pathlib import Path; Digits().load(Path());"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"sklearn", "scipy", "pandas", "matplotlib", "rich", "PIL", "msgspec"} & set(found.split())
    begun = time.process_time()
    Digits().load(Path())
    assert time.process_time() - begun < 0.05


# Made-up data


@pytest.mark.parametrize("cls", [GaussianBlobs, SyntheticImages, LinearRegression])
def test_made_up_data_follow_their_own_seed(cls: type[Dataset]) -> None:
    first, again, other = (cls(samples=50, test_samples=20, seed=seed).load(Path()) for seed in (3, 3, 4))
    assert same(first, again)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert (len(first.train), len(first.test)) == (50, 20)
    assert not torch.equal(first.train.inputs[:20], first.test.inputs)


def test_gaussian_blobs_are_separable_as_far_as_noise_allows() -> None:
    accuracies = []
    for noise in (0.0, 0.5, 5.0):
        data = GaussianBlobs(noise=noise, classes=3, features=8).load(Path())
        assert data.train.inputs.shape == (1000, 8)
        means = torch.stack([data.train.inputs[data.train.targets == label].mean(0) for label in range(3)])
        predicted = torch.cdist(data.test.inputs, means).argmin(1)
        accuracies.append(float((predicted == data.test.targets).float().mean()))
    assert accuracies[0] == 1.0
    assert accuracies[1] > 0.9
    assert 0.3 < accuracies[2] < 0.9


def test_synthetic_images_are_bytes_around_their_class() -> None:
    data = SyntheticImages(samples=300, channels=3, side=32, classes=5, noise=0.1).load(Path())
    assert data.train.inputs.shape == (300, 3, 32, 32)
    assert data.train.inputs.dtype == torch.uint8
    assert torch.bincount(data.train.targets).tolist() == [60] * 5
    nearest = torch.cdist(data.test.inputs.flatten(1).float(), data.train.inputs.flatten(1).float()).argmin(1)
    assert torch.equal(data.train.targets[nearest], data.test.targets)
    clean = SyntheticImages(samples=20, classes=2, noise=0.0).load(Path())
    assert len(torch.unique(clean.train.inputs, dim=0)) == 2


def test_linear_regression_is_linear() -> None:
    data = LinearRegression(samples=200, features=5, noise=0.0).load(Path())
    assert (data.objective, data.classes, data.train.targets.shape) == ("values", 0, (200,))
    weights = torch.linalg.lstsq(data.train.inputs, data.train.targets[:, None]).solution
    assert torch.allclose(data.test.inputs @ weights, data.test.targets[:, None], atol=1e-4)


def test_every_kind_is_there_under_its_name() -> None:
    needs = {"csv": {"path": "x", "target": "y"}, "npz": {"path": "x"}, "npy": {"path": "x"}, "given": {"digest": "0"}}
    needs["private"] = {"shape": [8]}
    for kind, target in kinds.built_in()["dataset"].items():
        dataset = build(Dataset, {"kind": kind, **needs.get({"parquet": "csv"}.get(kind, kind), {})})
        assert type(dataset).kind == kind
        assert type(dataset).__name__ == target.partition(":")[2]
