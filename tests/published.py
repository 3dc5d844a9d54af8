"""Folders of published data sets: lists of checksums, and the errors of data that cannot be loaded."""

import hashlib
from pathlib import Path

import pytest
import torch

from covey.learning.dataset import Data, Dataset
from covey.learning.datasets import source
from covey.parts.errors import DataError


def same(left: Data, right: Data) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in (
            (left.train.inputs, right.train.inputs),
            (left.train.targets, right.train.targets),
            (left.test.inputs, right.test.inputs),
            (left.test.targets, right.test.targets),
        )
    )


def listed(folder: Path) -> None:
    """Let the files of a folder be meant to differ from the published ones."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            files = [file for file in path.iterdir() if file.is_file() and file.name != source.LISTED]
            sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
            (path / source.LISTED).write_text("".join(sums))


def sentence(dataset: Dataset, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        dataset.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)
