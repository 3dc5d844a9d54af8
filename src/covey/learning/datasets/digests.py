"""Digests of data: two data sets with the same digest are the same, in any types of storage.

Shapes: S samples.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from covey.learning.dataset import Data, Split
from covey.learning.datasets.reading import Read

MOST = 1 << 30
"""Bytes of a tensor up to which all of it is read; of a larger one, blocks all over it are."""
_BLOCK = 1 << 20
"""Bytes of a block, about."""
_KNOWN = "known_digest"
_BLOCKS = 256
"""Blocks that are read of a larger tensor."""


def digest(data: Data) -> str:
    """The digest of all that a run depends on: samples, targets, and what inputs are multiplied by."""
    known: str = getattr(data.train.inputs, _KNOWN, ("",))[0]
    marks = [getattr(tensor, _KNOWN, None) for tensor in _tensors(data)]
    if known and data.ignore_index is None and marks == [(known, _facts(data), index) for index in range(len(marks))]:
        return known
    found = hashlib.sha256(_facts(data).encode())
    if data.ignore_index is not None:
        found.update(f"{data.ignore_index}".encode())
    for split in (data.train, data.test):
        _add(found, data, split)
    return f"sha256:{found.hexdigest()}"


def remember(data: Data, known: str) -> None:
    """Let `digest` give this digest for these tensors with these facts, without reading them: they never change."""
    for index, tensor in enumerate(_tensors(data)):
        setattr(tensor, _KNOWN, (known, _facts(data), index))


def _tensors(data: Data) -> list[Tensor]:
    return [data.train.inputs, data.train.targets, data.test.inputs, data.test.targets]


def _facts(data: Data) -> str:
    return f"{data.objective} {data.classes} {data.scale} {data.shift} {data.sizes} {data.fields}"


def _add(found: "hashlib._Hash", data: Data, split: Split) -> None:
    for tensor in (split.inputs, split.targets):
        found.update(f"{tuple(tensor.shape)} {tensor.dtype == torch.uint8}".encode())
        for block in blocks(tensor):
            taken = block if block.dtype == torch.uint8 else data.scaled(block)
            found.update(np.ascontiguousarray(taken.cpu().numpy()).data)


def blocks(tensor: Tensor | Read) -> Iterator[Tensor]:
    """The samples in blocks: all of them or, of more than `MOST` bytes, blocks at equal distances."""
    if isinstance(tensor, Read):
        yield tensor.probes()
        return
    size = max(1, tensor[:1].numel() * tensor.element_size())
    count, length = max(1, _BLOCK // size), len(tensor)
    if length * size <= MOST:
        starts = range(0, length, count)
    else:
        starts = np.linspace(0, length - count, _BLOCKS).astype(np.int64).tolist()
    for start in starts:
        yield tensor[start : start + count]
