"""Data sets that are made up: as large, as hard and as reproducible as one asks for.

Shapes: S samples, F features, C classes.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from covey.learning.dataset import Data, Dataset, Split
from covey.parts import rng
from covey.parts.machine import demand
from covey.parts.parameters import param


def _demand(dataset: Dataset, samples: int, classes: int, numbers: int) -> None:
    """Refuse more samples, of so many numbers each, than there is memory for."""
    demand(4.0 * numbers * (samples + classes), f"The data of {dataset.named()}")


class GaussianBlobs(Dataset):
    """Every class is a normal distribution around a centre of its own."""

    kind = "gaussian-blobs"
    samples: int = param("How many training samples.", default=1000, ge=1)
    test_samples: int = param("How many test samples.", default=500, ge=1)
    features: int = param("How many features a sample has.", default=10, ge=1)
    classes: int = param("How many classes.", default=4, ge=2)
    noise: float = param("The deviation within a class; between centres it is 1.", default=0.5, ge=0, le=1e6)
    seed: int = param("What the data are drawn from, apart from the experiment's seed.", default=0, ge=0)

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
    """Every class is a random picture of coarse squares; its samples are that picture with noise."""

    kind = "synthetic-images"
    samples: int = param("How many training samples.", default=1000, ge=1)
    test_samples: int = param("How many test samples.", default=500, ge=1)
    channels: int = param("How many channels a pixel has.", default=1, ge=1)
    side: int = param("The width and height in pixels.", default=28, ge=1)
    classes: int = param("How many classes.", default=10, ge=2)
    noise: float = param(
        "The deviation of a pixel from its class's picture; white is 1, black 0.", default=0.3, ge=0, le=1e6
    )
    seed: int = param("What the data are drawn from, apart from the experiment's seed.", default=0, ge=0)
    squares: ClassVar[int] = 7
    """How many squares a picture has in a row, if it has as many pixels."""

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        _demand(self, self.samples + self.test_samples, self.classes, self.channels * self.side**2)
        generator = rng.generator(self.seed, self.kind)
        coarse = generator.random((self.classes, self.channels, self.squares, self.squares), dtype=np.float32)
        index = np.arange(self.side) * self.squares // self.side
        pictures = 255 * coarse[:, :, index[:, None], index[None, :]]

        def split(samples: int) -> Split:
            labels = generator.permutation(np.arange(samples) % self.classes)
            images = np.empty((samples, self.channels, self.side, self.side), dtype=np.uint8)
            for at in range(0, samples, 256):  # the noise of all samples at once would be four times the images
                clean = pictures[labels[at : at + 256]]
                noise = generator.standard_normal(clean.shape, dtype=np.float32)
                clean += 255 * np.float32(self.noise) * noise
                images[at : at + 256] = np.rint(clean.clip(0, 255))
            return Split(torch.from_numpy(images), torch.from_numpy(labels))

        return Data(split(self.samples), split(self.test_samples), "classes", self.classes, scale=1 / 255)


class LinearRegression(Dataset):
    """A linear function of normal features, with normal noise."""

    kind = "linear-regression"
    samples: int = param("How many training samples.", default=1000, ge=1)
    test_samples: int = param("How many test samples.", default=500, ge=1)
    features: int = param("How many features a sample has.", default=10, ge=1)
    noise: float = param(
        "The deviation of a value from the function; that of the function is about 1.", default=0.1, ge=0, le=1e6
    )
    seed: int = param("What the data are drawn from, apart from the experiment's seed.", default=0, ge=0)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        _demand(self, self.samples + self.test_samples, 0, self.features)
        generator = rng.generator(self.seed, self.kind)
        weights = generator.standard_normal(self.features, dtype=np.float32) / np.float32(np.sqrt(self.features))

        def split(samples: int) -> Split:
            inputs = generator.standard_normal((samples, self.features), dtype=np.float32)
            noise = generator.standard_normal(samples, dtype=np.float32)
            return Split(torch.from_numpy(inputs), torch.from_numpy(inputs @ weights + np.float32(self.noise) * noise))

        return Data(split(self.samples), split(self.test_samples), "values", 0)
