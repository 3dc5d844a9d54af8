"""Synthetic data sets of any size and difficulty, reproducible by their seeds.

Shapes: S samples, F features, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from covey.learning.dataset import Data, Dataset, Split
from covey.parts import rng
from covey.parts.machine import demand
from covey.parts.parameters import param


def _demand(dataset: Dataset, samples: int, classes: int, numbers: int) -> None:
    """Refuse a data set that exceeds the memory."""
    demand(4.0 * numbers * (samples + classes), f"The data of {dataset.named()}")


class GaussianBlobs(Dataset):
    """Classes that are normal distributions around random centres."""

    kind = "gaussian-blobs"
    samples: int = param("The number of training samples.", default=1000, ge=1)
    test_samples: int = param("The number of test samples.", default=500, ge=1)
    features: int = param("The number of features.", default=10, ge=1)
    classes: int = param("The number of classes.", default=4, ge=2)
    noise: float = param("The standard deviation within a class; that of centres is 1.", default=0.5, ge=0, le=1e6)
    seed: int = param("The seed of the data, independent of the experiment's seed.", default=0, ge=0)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        _demand(self, self.samples + self.test_samples, self.classes, self.features)
        generator = rng.generator(self.seed, self.kind)
        centres = generator.standard_normal((self.classes, self.features), dtype=np.float32)

        def split(samples: int) -> Split:
            labels = generator.permutation(np.arange(samples) % self.classes)
            inputs = generator.standard_normal((samples, self.features), dtype=np.float32)
            inputs *= np.float32(self.noise)
            inputs += centres[labels]
            return Split(torch.from_numpy(inputs), torch.from_numpy(labels))

        return Data(split(self.samples), split(self.test_samples), "classes", self.classes)


class SyntheticImages(Dataset):
    """Classes that are random pictures of coarse squares. A sample is the picture of its class with noise."""

    kind = "synthetic-images"
    samples: int = param("The number of training samples.", default=1000, ge=1)
    test_samples: int = param("The number of test samples.", default=500, ge=1)
    channels: int = param("The number of channels.", default=1, ge=1)
    side: int = param("The width and height in pixels.", default=28, ge=1)
    classes: int = param("The number of classes.", default=10, ge=2)
    noise: float = param(
        "The standard deviation of the noise, where white is 1 and black 0.", default=0.3, ge=0, le=1e6
    )
    seed: int = param("The seed of the data, independent of the experiment's seed.", default=0, ge=0)
    squares: ClassVar[int] = 7
    """The number of squares along a side, if it has as many pixels."""

    def sources(self, folder: Path) -> Sequence[Path] | None:
        return ()

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        _demand(self, self.samples + self.test_samples, self.classes, self.channels * self.side**2)
        generator = rng.generator(self.seed, self.kind)
        coarse = generator.random((self.classes, self.channels, self.squares, self.squares), dtype=np.float32)
        index = np.arange(self.side) * self.squares // self.side
        pictures = 255 * coarse[:, :, index[:, None], index[None, :]]

        def split(samples: int) -> Split:
            labels = generator.permutation(np.arange(samples) % self.classes)
            images = np.empty((samples, self.channels, self.side, self.side), dtype=np.uint8)
            for at in range(0, samples, 256):  # The noise of all samples at once would take four times their memory.
                clean = pictures[labels[at : at + 256]]
                noise = generator.standard_normal(clean.shape, dtype=np.float32)
                clean += 255 * np.float32(self.noise) * noise
                images[at : at + 256] = np.rint(clean.clip(0, 255))
            return Split(torch.from_numpy(images), torch.from_numpy(labels))

        return Data(split(self.samples), split(self.test_samples), "classes", self.classes, scale=1 / 255)


class LinearRegression(Dataset):
    """A linear function of normal features, with normal noise."""

    kind = "linear-regression"
    samples: int = param("The number of training samples.", default=1000, ge=1)
    test_samples: int = param("The number of test samples.", default=500, ge=1)
    features: int = param("The number of features.", default=10, ge=1)
    noise: float = param(
        "The standard deviation of the noise; that of the function is about 1.", default=0.1, ge=0, le=1e6
    )
    seed: int = param("The seed of the data, independent of the experiment's seed.", default=0, ge=0)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        _demand(self, self.samples + self.test_samples, 0, self.features)
        generator = rng.generator(self.seed, self.kind)
        weights = generator.standard_normal(self.features, dtype=np.float32) / np.float32(np.sqrt(self.features))

        def split(samples: int) -> Split:
            inputs = generator.standard_normal((samples, self.features), dtype=np.float32)
            noise = generator.standard_normal(samples, dtype=np.float32)
            return Split(torch.from_numpy(inputs), torch.from_numpy(inputs @ weights + np.float32(self.noise) * noise))

        return Data(split(self.samples), split(self.test_samples), "values", 0)
