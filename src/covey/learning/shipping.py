"""The samples of some nodes, packed for a process that has no files: its own nodes' and the test samples, no others.

Shapes: S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from covey.learning.dataset import Data, Split
from covey.learning.learner import Learner
from covey.parts.errors import ConfigurationError


@dataclass(frozen=True)
class Shipped:
    """The data of a process to which samples were shipped.

    Attributes:
        data: the data set. Training samples of nodes elsewhere are zeros, which take no memory until they are read.
        parts: the samples of each node that holds data.
        label_counts: the number of samples of each class at each node, N x C.
        digests: the digests of the whole data set, by name.
    """

    data: Data
    parts: list[np.ndarray]
    label_counts: np.ndarray | None
    digests: dict[str, str]


def common(learner: Learner, digests: dict[str, str]) -> dict[str, Any]:
    """The shipment of all processes: the facts of the data set, its test samples, and who has which samples.

    Raises:
        ConfigurationError: the data are not of a kind that can be shipped.
    """
    data = learner.data
    if data.own is not None or data.stream is not None or learner.task.public is not None:
        raise ConfigurationError(
            "With 'ship', the data of the task must be one data set in memory: streams, private and public data stay "
            "where they are. Leave 'ship' out."
        )
    bare = replace(data, train=data.test, test=data.test, columns={}, owners=None)
    return {
        "facts": {name: getattr(bare, name) for name in _FACTS},
        "test": _arrays(data.test),
        "shape": (len(data.train), tuple(data.train.inputs.shape[1:]), tuple(data.train.targets.shape[1:])),
        "parts": learner.dealt or [learner.parts.of(index) for index in range(len(learner.parts.sizes))],
        "label_counts": learner.label_counts,
        "digests": digests,
    }


_FACTS = ("objective", "classes", "label_names", "scale", "shift", "sizes", "fields", "ignore_index")


def own(learner: Learner, holders: Sequence[int]) -> dict[str, Any]:
    """The shipment of the process of some nodes: their training and validation samples."""
    kept = learner.splits.validation
    pieces = [piece for index in holders for piece in (learner.parts.of(index), kept[index])]
    samples = np.unique(np.concatenate(pieces)) if pieces else np.empty(0, dtype=np.int64)
    return {"samples": samples, "train": _arrays(learner.data.train, samples)}


def unpacked(common: dict[str, Any], own: dict[str, Any]) -> Shipped:
    """The data of a process, of what it got."""
    count, *shapes = common["shape"]
    tensors = []
    for shape, given in zip(shapes, own["train"], strict=True):
        whole = np.zeros((count, *shape), dtype=given.dtype)  # The system gives its pages when they are written to.
        whole[own["samples"]] = given
        tensors.append(torch.from_numpy(whole))
    test = Split(*(torch.from_numpy(np.array(array)) for array in common["test"]))
    data = Data(train=Split(*tensors), test=test, **common["facts"])
    parts, counts = [np.array(part) for part in common["parts"]], common["label_counts"]
    return Shipped(data, parts, None if counts is None else np.array(counts), common["digests"])


def _arrays(split: Split, samples: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    chosen = slice(None) if samples is None else torch.from_numpy(samples)
    return split.inputs[chosen].cpu().numpy(), split.targets[chosen].cpu().numpy()
