"""The handwritten digits that come with the package."""

from pathlib import Path

import numpy as np
import torch

from covey.task.dataset import Data, Dataset, Split

_TEST_SHARE = 5


class Digits(Dataset):
    """1,797 handwritten digits of 8 x 8 pixels, shipped with covey; a fifth of each digit is the test set."""

    kind = "digits"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as stored:
            images, labels = stored["images"], stored["labels"].astype(np.int64)
        order = np.argsort(labels, kind="stable")
        rank = np.empty(len(labels), dtype=np.int64)
        rank[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
        test = rank % _TEST_SHARE == _TEST_SHARE - 1
        inputs, targets = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)
        held = torch.from_numpy(test)
        return Data(
            train=Split(inputs[~held], targets[~held]),
            test=Split(inputs[held], targets[held]),
            objective="classes",
            classes=10,
            label_names=[str(digit) for digit in range(10)],
            scale=1.0 / 16.0,
        )
