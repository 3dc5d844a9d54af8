"""Samples as arrays, checked and brought into the form that a run uses.

Arrays that do not fit are refused with one line that names the right form. Arrays that are mapped from files
stay there.

Shapes: S samples, C classes, T positions of a sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.dataset import Data, Objective, Split
from covey.learning.datasets.digests import blocks
from covey.learning.datasets.mapped import as_tensor, is_mapped
from covey.learning.datasets.reading import Read, Reader
from covey.learning.datasets.targets import LEFT_OUT, Targets, targets_of
from covey.learning.fields import Field, packed
from covey.parts import rng
from covey.parts.errors import CoveyError, DataError, described, quoted

Share = float
"""The share of the samples that is for testing."""


@dataclass(frozen=True)
class Names:
    """The names of the inputs and the targets in messages."""

    x: str = "The 'x' of the data"
    y: str = "The 'y' of the data"
    of_test: str = "The {} of the test data"


@dataclass(frozen=True)
class Wanted:
    """The options by which arrays become data.

    Attributes:
        objective: the kind of prediction; by default, by the form of the targets.
        classes: the number of classes, or their names; by default, those of the training samples.
        scale, shift: bytes b become numbers b * scale + shift.
        columns: further facts of each sample, by name.
        sizes: further dimensions that a model needs.
        ignore_index: the target of positions that have no class.
    """

    objective: Objective | None = None
    classes: int | Sequence[str] | None = None
    scale: float = 1 / 255
    shift: float = 0.0
    columns: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    names: Names = Names()
    ignore_index: int = LEFT_OUT


def made(x: Any, y: Any, test: Any, wanted: Wanted) -> Data:
    """Data made of arrays.

    Args:
        x, y: inputs and targets of the training samples.
        test: those of the test samples, (x, y), or the share of the samples that is for testing.
        wanted: the wanted form of the samples.

    Raises:
        DataError: they cannot be used.
    """
    names = wanted.names
    if wanted.objective is not None and wanted.objective not in get_args(Objective):
        known = ", ".join(map(repr, get_args(Objective)))
        raise DataError(f"The 'objective' of the data must be one of {known}. Got {quoted(wanted.objective)} instead.")
    (inputs, fields), labels = _inputs(x, names.x, wanted), plain(y, names.y)
    _check_lengths(inputs, labels, names.x, names.y)
    columns = {name: _column(name, values, len(inputs)) for name, values in wanted.columns.items()}
    lengths = {shape[0] for shape in ([field.shape for field in fields] or [inputs.shape[1:]]) if len(shape)}

    def understood(test_labels: NDArray[Any], y_name: str) -> Targets:
        names_of = (names.y, y_name)
        return targets_of(labels, test_labels, lengths, wanted.objective, wanted.classes, names_of, wanted.ignore_index)

    if isinstance(test, tuple):
        if len(test) != 2:
            raise DataError(f"The test data must be a pair, (x, y). Got {len(test)} entries instead.")
        x_name, y_name = (_of_test(name) for name in (names.x, names.y))
        (test_inputs, test_fields), test_labels = _inputs(test[0], x_name, wanted), plain(test[1], y_name)
        _check_lengths(test_inputs, test_labels, x_name, y_name)
        _check_alike(inputs, test_inputs, fields, test_fields, x_name)
        targets = understood(test_labels, y_name)
        train, tested = Split(inputs, targets.train), Split(test_inputs, targets.test)
    else:
        targets = understood(labels[:0], names.y)
        in_test = _chosen(test, targets, x, names.x)
        train, tested = (Split(_part(inputs, mask), targets.train[mask]) for mask in (~in_test, in_test))
        columns = {name: values[~in_test] for name, values in columns.items()}
    return Data(
        train, tested, targets.objective, targets.classes,
        label_names=targets.names, scale=wanted.scale, shift=wanted.shift,
        sizes=dict(wanted.sizes), columns=columns, fields=fields, ignore_index=targets.ignore_index,
    )  # fmt: skip


def _part(inputs: Tensor, mask: NDArray[np.bool_]) -> Tensor:
    """The inputs of some samples."""
    return cast(Tensor, inputs.part(mask)) if isinstance(inputs, Read) else inputs[mask]  # type: ignore[unreachable]


def read_by(reader: Reader, samples: int, name: str) -> Read:
    """The inputs that a function reads.

    Args:
        reader: returns the inputs of the samples with some indices, B x ...
        samples: the number of samples.
        name: the inputs, for the beginning of a sentence.

    Raises:
        DataError: the function fails on a sample, or returns no numbers.
    """

    if not callable(reader):
        raise DataError(f"{name} must be a function of indices that returns inputs. Got {quoted(reader)} instead.")

    def read(indices: NDArray[np.int64]) -> Tensor:
        found = stored_as(plain(reader(indices.copy()), name), name)
        return torch.from_numpy(np.array(found))  # A copy: kernels may write to it.

    try:
        first = read(np.zeros(1, dtype=np.int64))
    except CoveyError:
        raise
    except Exception as error:
        raise DataError(f"{name} cannot be read: {described(error)}.") from error
    if len(first) != 1:
        raise DataError(f"{name} must be read for each of the given indices. Got {len(first)} for 1 index instead.")
    return Read(read, np.arange(samples), tuple(first.shape[1:]), first.dtype, name)


def plain(values: Any, name: str) -> NDArray[Any]:
    """Anything like an array as one of numpy, without a copy where that can be.

    Raises:
        DataError: it is none, or its rows differ in their lengths.
    """
    if isinstance(values, Tensor) and values.layout != torch.strided:
        raise DataError(f"{name} must be an array. Got a sparse tensor: to_dense() makes one.")
    if isinstance(values, Tensor):
        return _of_tensor(values)
    if np.ma.is_masked(values):
        raise DataError(f"{name} must be an array. Got a masked one with values left out: filled(value) makes one.")
    if hasattr(values, "toarray"):
        raise DataError(f"{name} must be an array. Got a sparse one of {type(values).__name__}: toarray() makes one.")
    try:
        if isinstance(values, Sequence) and len(values) and isinstance(values[0], Tensor):
            values = torch.stack(list(values))
            return _of_tensor(values)
        found = np.asarray(values)
    except (ValueError, RuntimeError, TypeError) as error:
        raise DataError(f"{name} must be one array: all samples of one shape. Got some that differ.") from error
    if found.ndim == 0:
        raise DataError(f"{name} must be an array with an entry for each sample. Got {quoted(values)} instead.")
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    return found


def _of_tensor(values: Tensor) -> NDArray[Any]:
    found = values.detach().cpu()
    return (found.float() if found.dtype == torch.bfloat16 else found).numpy()


def inputs_of(values: Any, name: str) -> Tensor:
    """Inputs: bytes stay bytes, whole numbers are ids, and all else are float32.

    Raises:
        DataError: they are no numbers, or some are not finite.
    """
    found = plain(values, name)
    if len(found) == 0:
        raise DataError(f"{name} must have a sample or more. Got none.")
    if found.size == 0:
        raise DataError(f"{name} must have a number or more in each sample. Got the shape {sides(found.shape[1:])}.")
    tensor = as_tensor(_checked(found, name) if is_mapped(values) else stored_as(found, name))
    check_finite(tensor, name)
    return tensor


def _inputs(values: Any, name: str, wanted: Wanted) -> tuple[Tensor, tuple[Field, ...]]:
    """The inputs, and the names of several of them."""
    if isinstance(values, Read):
        check_finite(cast(Tensor, values), name)
        return cast(Tensor, values), ()
    if not isinstance(values, Mapping):
        return inputs_of(values, name), ()
    if not values:
        raise DataError(f"{name} must have an input or more. Got none.")
    each = {}
    for key, x in values.items():
        is_mask = plain(x, name).dtype == np.bool_
        tensor = inputs_of(x, f"{name}[{key!r}]")
        tensor = tensor.float() * wanted.scale + wanted.shift if tensor.dtype == torch.uint8 else tensor
        each[str(key)] = tensor.bool() if is_mask else tensor
    lengths = {key: len(tensor) for key, tensor in each.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{name} must have as many entries under each name. Got {lengths} instead.")
    return packed(each, name)


def _checked(found: NDArray[Any], name: str) -> NDArray[Any]:
    if found.dtype.kind not in "biuf":
        raise DataError(f"{name} must be numbers. Got {_kind(found)} instead.")
    return found


def stored_as(found: NDArray[Any], name: str) -> NDArray[Any]:
    """An array in memory, in the type in which it is used.

    Raises:
        DataError: it has no numbers.
    """
    if _checked(found, name).dtype == np.uint8:
        return found
    return found.astype(np.float32 if found.dtype.kind in "bf" else np.int64, copy=False)


def _kind(found: NDArray[Any]) -> str:
    """An array's type in words."""
    if found.dtype.kind == "O" and len(found):
        return f"objects, such as {type(found.reshape(-1)[0]).__name__}"
    return {"U": "strings", "S": "bytestrings", "M": "dates", "m": "durations"}.get(found.dtype.kind, str(found.dtype))


def check_finite(inputs: Tensor, name: str) -> None:
    """See whether all numbers are finite, where they are read at all.

    Raises:
        DataError: some are not.
    """
    if not inputs.is_floating_point():
        return
    if all(bool(block.sum(dtype=torch.float64).isfinite()) for block in blocks(inputs)):
        return
    each = (inputs[start : start + 4096] for start in range(0, len(inputs), 4096))
    wrong = torch.cat([~block.reshape(len(block), -1).isfinite().all(1) for block in each])
    first = int(wrong.int().argmax())
    row = inputs[first : first + 1].flatten()
    value = float(row[~row.isfinite()][0])
    raise DataError(
        f"{name} must be finite numbers. Got {value:g} in sample {first}, the first of {int(wrong.sum())} such of "
        f"{len(inputs)}: fill them in, or leave these samples out."
    )


def _check_lengths(inputs: Tensor, labels: NDArray[Any], x: str, y: str) -> None:
    if len(inputs) != len(labels):
        raise DataError(f"{y} must have an entry for each of {len(inputs)} samples. Got {len(labels)} instead.")


def _check_alike(
    train: Tensor, test: Tensor, fields: tuple[Field, ...], test_fields: tuple[Field, ...], x_test: str
) -> None:
    for one, other in zip(fields, test_fields, strict=False):
        if one != other:
            raise DataError(f"{x_test} must have {_field(one)}, as the training data. Got {_field(other)} instead.")
    if train.shape[1:] != test.shape[1:]:
        shapes = [sides(tensor.shape[1:]) for tensor in (train, test)]
        raise DataError(f"{x_test} must have samples of the shape {shapes[0]}, as the training data. Got {shapes[1]}.")
    if train.dtype != test.dtype:
        names = [str(tensor.dtype).removeprefix("torch.") for tensor in (train, test)]
        raise DataError(f"{x_test} must be {names[0]}, as the training data. Got {names[1]} instead.")


def sides(shape: Sequence[int]) -> str:
    """A shape in words."""
    return " x ".join(map(str, shape)) or "one number"


def _field(field: Field) -> str:
    return f"{field.name!r} of {sides(field.shape)} {field.dtype}"


def _of_test(name: str) -> str:
    """The name in messages of the same of the test data."""
    return name.replace(" of the data", " of the test data") if " of the data" in name else f"In the test data: {name}"


def _column(name: str, values: Any, samples: int) -> NDArray[Any]:
    found = plain(values, f"The column {name!r} of the data")
    if len(found) != samples or found.ndim != 1:
        raise DataError(
            f"The column {name!r} of the data must have a value for each of {samples} samples. "
            f"Got {sides(found.shape)} instead."
        )
    return found


def _chosen(share: Any, targets: Targets, x: Any, name: str) -> NDArray[np.bool_]:
    """Which samples are for testing: the same random share of each class."""
    wanted = "a share in (0, 1), or a pair (x, y) of test samples"
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise DataError(f"The 'test' of the data must be {wanted}. Got {quoted(share)} instead.")
    if is_mapped(x):
        raise DataError(
            f"The 'test' of data that are mapped from files must be a pair (x, y) of test samples, for a share of "
            f"them would be copied into memory. Got {share} instead."
        )
    groups = targets.train.numpy() if targets.objective == "classes" else np.zeros(len(targets.train), dtype=np.int64)
    found = held_out(groups, share)
    if not found.any():
        raise DataError(
            f"The 'test' of the data must be a share that keeps a sample of some class for testing, or a pair (x, y). "
            f"Got {share} of {len(found)} samples instead."
        )
    return found


def held_out(groups: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """A mask of the test samples: a random fraction of every group that does not depend on the experiment's seed."""
    samples = np.arange(len(groups))
    keys = np.full(len(groups), rng.purpose_key(0, "test split"), dtype=np.uint64)
    order = np.lexsort((rng.mix_array(keys, samples), groups))
    sizes = np.bincount(groups)
    index = samples - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(len(groups), dtype=np.bool_)
    chosen[order] = index < np.floor(share * sizes)[groups[order]]
    return chosen
