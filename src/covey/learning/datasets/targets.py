"""Targets from a user's arrays or lists: classes from numbers or names, sequences, values.

Shapes: S samples, C classes, T positions of a sequence.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.dataset import Objective
from covey.learning.datasets.mapped import as_tensor
from covey.parts.errors import DataError, quoted

LEFT_OUT = -100
"""The target of a position that has no class, as in torch."""
_MOST_CLASSES = 100_000
_NUMBERED = "y.astype(str) has them numbered"


class Targets(NamedTuple):
    """Targets of the training and the test samples."""

    train: Tensor
    test: Tensor
    objective: Objective
    classes: int
    names: Sequence[str] = ()
    ignore_index: int | None = None
    """The target of positions that have no class, where there are such."""


def targets_of(
    train: NDArray[Any],
    test: NDArray[Any],
    lengths: Collection[int],
    objective: Objective | None,
    classes: int | Sequence[str] | None,
    names: tuple[str, str],
    ignore_index: int = LEFT_OUT,
) -> Targets:
    """The targets that arrays mean.

    Args:
        train, test: as they were given; `test` may have no entries.
        lengths: the number of positions of each input of a sample.
        objective: the kind of prediction; by default, by the form of the targets.
        classes: the number of classes, or their names.
        ignore_index: the target of positions that have no class.
        names: the names of `train` and `test` in messages.

    Raises:
        DataError: they mean nothing, or may mean several things.
    """
    train, test = (_unwrapped(values, name) for values, name in zip((train, test), names, strict=True))
    found = objective or _looks_like(train, lengths, names[0])
    if found == "values":
        values = [_values(targets, name) for targets, name in zip((train, test), names, strict=True)]
        return Targets(values[0], values[1], "values", 0)
    if found == "sequence" and train.ndim < 2:
        raise DataError(f"{names[0]} must be a class for each position of a sample. Got {_shape(train)} instead.")
    if found == "classes":
        for targets, name in zip((train, test), names, strict=True):
            _check_one_each(targets, name)
    if train.dtype.kind == "U":
        return _named(train, test, found, classes, names)
    for targets, name in zip((train, test), names, strict=True):
        _check_whole(targets, name)
    return _numbered(train, test, found, classes, names, ignore_index if found == "sequence" else None)


def _unwrapped(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Objects as the strings or numbers that they are."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind != "O":
        return values
    missing = [at for at, value in enumerate(values.reshape(-1)) if is_missing(value)]
    if missing:
        raise DataError(
            f"{name} must have a value for each sample. Sample {missing[0]} has none, the first of {len(missing)}: "
            f"leave these out."
        )
    kinds = {type(value) for value in values.reshape(-1)}
    if kinds <= {str}:
        return values.astype(str)
    if kinds <= {int, float, bool} or all(issubclass(kind, np.number | np.bool_) for kind in kinds):
        return np.array(values.tolist())
    which = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DataError(f"{name} must be numbers or strings. Got objects of {which} instead.")


def is_missing(value: Any) -> bool:
    """Whether an object stands for no value, as None, NaN, and NaT and NA of pandas do."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # NA is not to be compared.
        return True


def _looks_like(values: NDArray[Any], lengths: Collection[int], name: str) -> Objective:
    if values.ndim == 2 and values.shape[1] > 1 and values.shape[1] in lengths and not _is_one_hot(values):
        return "values" if values.dtype.kind == "f" and not _are_whole(values) else "sequence"
    if values.dtype.kind != "f" and values.ndim > 2:
        return "sequence"
    if values.dtype.kind != "f":
        return "classes"
    if values.ndim == 1 and _are_whole(values) and len(np.unique(values)) <= max(2, len(values) // 4):
        raise DataError(
            f"{name} must be integers where they are classes: y.astype(int). Got whole numbers of {values.dtype}; "
            f"where numbers are to be predicted, give objective='values'."
        )
    return "values"


def _are_whole(values: NDArray[Any]) -> bool:
    return bool(np.isfinite(values).all() and (values == np.rint(values)).all())


def _is_one_hot(values: NDArray[Any]) -> bool:
    if values.dtype.kind not in "biuf" or values.ndim != 2 or values.shape[1] < 2:
        return False
    return bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())


def _shape(values: NDArray[Any]) -> str:
    return " x ".join(map(str, values.shape))


def _check_one_each(values: NDArray[Any], name: str) -> None:
    if values.ndim == 1:
        return
    hint = "."
    if values.shape[1:] == (1,):
        hint = ", a column: y[:, 0] has no second dimension."
    elif _is_one_hot(values):
        hint = ", one-hot: y.argmax(1) has the classes."
    raise DataError(f"{name} must be one class a sample. Got {_shape(values)}{hint}")


def _check_whole(values: NDArray[Any], name: str) -> None:
    if values.dtype.kind not in "biu":
        hint = "y.astype(int)" if values.dtype.kind == "f" and _are_whole(values) else "integers, or strings"
        raise DataError(f"{name} must be classes: {hint}. Got {values.dtype} instead.")


def _values(values: NDArray[Any], name: str) -> Tensor:
    if values.shape[1:] == (1,):
        hint = ": y[:, 0] has no second dimension"
        raise DataError(f"{name} must be one number a sample. Got {_shape(values)}{hint}.")
    if values.dtype.kind not in "biuf":
        raise DataError(f"{name} must be numbers. Got {values.dtype} instead.")
    wrong = np.flatnonzero(~np.isfinite(values).all(tuple(range(1, values.ndim))))
    if len(wrong):
        row = values[wrong[0]].flatten()
        got = row[~np.isfinite(row)][0]
        raise DataError(
            f"{name} must be finite numbers. Got {got} in sample {wrong[0]}, the first of {len(wrong)} "
            f"such of {len(values)}: leave these samples out."
        )
    return torch.from_numpy(values.astype(np.float32))


def _named(
    train: NDArray[Any],
    test: NDArray[Any],
    objective: Objective,
    classes: int | Sequence[str] | None,
    names: tuple[str, str],
) -> Targets:
    """Classes that have names: numbered in the order of these, or as `classes` lists them."""
    given = None if classes is None or isinstance(classes, int) else list(classes)
    known = sorted(set(train.reshape(-1).tolist())) if given is None else given
    if isinstance(classes, int) and classes != len(known):
        raise DataError(
            f"The 'classes' of the data must be {len(known)}, the number of names in "
            f"{names[0][0].lower()}{names[0][1:]}, or a list of names. Got {classes} instead."
        )
    number = {name: index for index, name in enumerate(known)}
    numbered = []
    for values, called in zip((train, test), names, strict=True):
        unknown = sorted(set(values.reshape(-1).tolist()) - number.keys())
        if unknown:
            which = "those of 'classes'" if given is not None else "those of the training samples"
            raise DataError(
                f"{called} must have classes among {which}. Got {quoted(unknown[0])}, the first of {len(unknown)} "
                f"others: list all in 'classes', or leave these samples out."
            )
        found = np.array([number[value] for value in values.reshape(-1).tolist()], dtype=np.int64)
        numbered.append(torch.from_numpy(found.reshape(values.shape)))
    _check_several(len(known), names[0])
    return Targets(numbered[0], numbered[1], objective, len(known), known)


def _numbered(
    train: NDArray[Any],
    test: NDArray[Any],
    objective: Objective,
    classes: int | Sequence[str] | None,
    names: tuple[str, str],
    ignore_index: int | None,
) -> Targets:
    """Classes that are numbers from 0 on; at the positions of `ignore_index` there is none."""
    given = None if classes is None else classes if isinstance(classes, int) else len(classes)
    left_out = [
        np.zeros((), dtype=bool) if ignore_index is None else values == ignore_index for values in (train, test)
    ]
    some = any(bool(mask.any()) for mask in left_out)
    known = train[~left_out[0]] if some else train
    if not known.size:
        raise DataError(
            f"{names[0]} must have a class other than {ignore_index}, which stands for none, at some position."
        )
    low, high = int(known.min()), int(known.max())
    if given is None:
        if low != 0:
            hint = "y - 1 begins with 0" if low == 1 else _NUMBERED
            raise DataError(f"{names[0]} must be classes from 0 on. Got {low} to {high}: {hint}.")
        present = np.unique(known) if high < _MOST_CLASSES else np.array([0])
        missing = np.flatnonzero(~np.isin(np.arange(min(high + 1, _MOST_CLASSES)), present))
        if objective == "classes" and len(missing):
            raise DataError(
                f"{names[0]} must have samples of each class from 0 to {high}. Got none of class {missing[0]}, the "
                f"first of {len(missing)}: {_NUMBERED}, or give classes={high + 1}."
            )
        given = high + 1
    for values, called, none in zip((train, test), names, left_out, strict=True):
        wrong = np.flatnonzero(((values < 0) | (values >= given)) & ~none)
        if len(wrong):
            fits = "of which all are in the training data" if classes is None else "as in 'classes'"
            raise DataError(
                f"{called} must be classes in [0, {given}), {fits}. Got {values.reshape(-1)[wrong[0]]}, the first of "
                f"{len(wrong)}: give 'classes', or leave these samples out."
            )
    _check_several(given, names[0])
    called_by = () if classes is None or isinstance(classes, int) else list(classes)
    split = [as_tensor(values.astype(np.int64, copy=False)) for values in (train, test)]
    return Targets(split[0], split[1], objective, given, called_by, ignore_index if some else None)


def _check_several(classes: int, name: str) -> None:
    if classes < 2:
        raise DataError(f"{name} must have two classes or more. Got one.")
