"""Data sets that are made up, for tests, benchmarks and first steps."""

from pathlib import Path

import numpy as np
import torch

from covey import rng
from covey.parameters import param
from covey.task.dataset import Data, Dataset, Split


def _split(inputs: np.ndarray, targets: np.ndarray, test: int) -> tuple[Split, Split]:
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
    return Split(x[test:], y[test:]), Split(x[:test], y[:test])


class GaussianBlobs(Dataset):
    """Points around a random centre for each class."""

    kind = "gaussian-blobs"
    samples: int = param("How many training samples.", default=1000, ge=1)
    test_samples: int = param("How many test samples.", default=200, ge=1)
    features: int = param("The dimension of a point.", default=16, ge=1)
    classes: int = param("How many classes.", default=10, ge=2)
    spread: float = param("The standard deviation around a centre; the centres have 1.", default=1.0, ge=0)
    seed: int = param("What it is made from.", default=0, ge=0)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        generator = rng.generator(self.seed, self.kind)
        total = self.samples + self.test_samples
        centres = generator.standard_normal((self.classes, self.features))
        labels = generator.integers(self.classes, size=total)
        points = centres[labels] + self.spread * generator.standard_normal((total, self.features))
        train, test = _split(points.astype(np.float32), labels.astype(np.int64), self.test_samples)
        return Data(train, test, "classes", self.classes)


class SyntheticImages(Dataset):
    """Bytes in the shape of images: a random template for each class, and noise."""

    kind = "synthetic-images"
    samples: int = param("How many training samples.", default=1000, ge=1)
    test_samples: int = param("How many test samples.", default=200, ge=1)
    channels: int = param("How many channels.", default=3, ge=1)
    side: int = param("Height and width.", default=32, ge=1)
    classes: int = param("How many classes.", default=10, ge=2)
    noise: float = param("The standard deviation of the noise, in steps of a byte.", default=40.0, ge=0)
    seed: int = param("What it is made from.", default=0, ge=0)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        generator = rng.generator(self.seed, self.kind)
        total, shape = self.samples + self.test_samples, (self.channels, self.side, self.side)
        templates = generator.integers(64, 192, size=(self.classes, *shape))
        labels = generator.integers(self.classes, size=total)
        images = templates[labels] + self.noise * generator.standard_normal((total, *shape), dtype=np.float32)
        train, test = _split(images.clip(0, 255).astype(np.uint8), labels.astype(np.int64), self.test_samples)
        return Data(train, test, "classes", self.classes, scale=1.0 / 127.5, shift=-1.0)


class LinearRegression(Dataset):
    """One number a sample: a random linear function of the features, and noise."""

    kind = "linear-regression"
    samples: int = param("How many training samples.", default=1000, ge=1)
    test_samples: int = param("How many test samples.", default=200, ge=1)
    features: int = param("How many features.", default=16, ge=1)
    noise: float = param("The standard deviation of the noise.", default=0.1, ge=0)
    seed: int = param("What it is made from.", default=0, ge=0)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        generator = rng.generator(self.seed, self.kind)
        total = self.samples + self.test_samples
        inputs = generator.standard_normal((total, self.features))
        truth = inputs @ generator.standard_normal(self.features) + self.noise * generator.standard_normal(total)
        train, test = _split(inputs.astype(np.float32), truth.astype(np.float32), self.test_samples)
        return Data(train, test, "values", 0)
