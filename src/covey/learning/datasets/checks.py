"""Checks of loaded data, of any source: an error is reported before it makes a model fail."""

import torch

from covey.learning.dataset import Data
from covey.learning.datasets.arrays import check_finite
from covey.parts.errors import DataError


def check(data: Data, title: str) -> None:
    """See whether data can be learned from.

    Args:
        title: the data set's.

    Raises:
        DataError: they cannot.
    """
    for name, split in (("training", data.train), ("test", data.test)):
        what = f"The {name} inputs of the dataset {title}"
        if not len(split) and split is data.test and data.own is not None:
            continue
        if not len(split):
            raise DataError(f"{what} must be one or more. Got none.")
        if len(split.targets) != len(split):
            raise DataError(
                f"The {name} targets of the dataset {title} must be as many as the {len(split)} inputs. "
                f"Got {len(split.targets)} instead."
            )
        if split.inputs.shape[1:] != data.train.inputs.shape[1:] or split.inputs.dtype != data.train.inputs.dtype:
            wanted, got = (f"{tuple(s.inputs.shape[1:])} of {s.inputs.dtype}" for s in (data.train, split))
            raise DataError(f"{what} must be {wanted}, as the training inputs. Got {got} instead.")
        check_finite(split.inputs, what)
        _check_targets(data, split.targets, f"The {name} targets of the dataset {title}")


def _check_targets(data: Data, targets: torch.Tensor, what: str) -> None:
    if data.objective == "values":
        check_finite(targets, what)
    elif targets.dtype == torch.int64:
        known = targets if data.ignore_index is None else targets[targets != data.ignore_index]
        low, high = (int(known.min()), int(known.max())) if known.numel() else (0, 0)
        if low < 0 or high >= data.classes:
            raise DataError(f"{what} must be classes in [0, {data.classes}). Got some from {low} to {high} instead.")
