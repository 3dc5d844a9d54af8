"""Data sets of your own in Python: each function returns a value for `dataset` of a task.

All of them take, beside the samples:

    test: the test samples in the same form, or the fraction of the samples that is for testing, 0.2 by default. That
        fraction of each class is drawn at random, and is the same for all seeds.
    objective: the kind of prediction: "classes", one a sample; "sequence", a class for each position; "values", one
        or several numbers a sample. By default, integers and strings are classes, other numbers values.
    classes: the number of classes, or their names; by default, those of the training samples.
    ignore_index: the target of a position that has no class, such as padding: losses and metrics leave it out.
    scale, shift: inputs that are bytes (uint8) become numbers b * scale + shift; 1/255 and 0 by default.

They raise DataError, in one line, if samples cannot be used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.dataset import Data, Dataset, Objective, Split
from covey.learning.datasets import adapters
from covey.learning.datasets.arrays import Wanted, made, plain, read_by
from covey.learning.datasets.given import SHARE, Given
from covey.learning.datasets.streaming import streamed
from covey.learning.datasets.targets import LEFT_OUT
from covey.parts.errors import DataError

__all__ = [
    "Data",
    "Dataset",
    "Split",
    "from_arrays",
    "from_columns",
    "from_reader",
    "from_stream",
    "from_torch",
    "padded",
]


def from_arrays(
    x: Any,
    y: Any,
    *,
    test: float | tuple[Any, Any] = SHARE,
    columns: Mapping[str, Any] | None = None,
    objective: Objective | None = None,
    classes: int | Sequence[str] | None = None,
    scale: float = 1 / 255,
    shift: float = 0.0,
    ignore_index: int = LEFT_OUT,
) -> Given:
    """A data set of arrays of numpy, tensors or lists; they are not copied where their type is one that models take.

    Args:
        x: the inputs, a sample in each row. Bytes stay bytes; other integers are ids, such as tokens. A dict of arrays
            makes several inputs, which a module's `forward` takes by these names.
        y: the targets.
        test: a share, or the pair (x, y) of the test samples.
        columns: further facts of each sample, such as its user, by name; the partition natural uses one of them.
        objective, classes, scale, shift, ignore_index: see the module.
    """
    wanted = Wanted(objective, classes, scale, shift, dict(columns or {}), ignore_index=ignore_index)
    return Given.of(made(x, y, test, wanted))


def from_reader(
    read: Callable[[NDArray[np.int64]], Any],
    y: Any,
    *,
    test: float | tuple[Callable[[NDArray[np.int64]], Any], Any] = SHARE,
    columns: Mapping[str, Any] | None = None,
    objective: Objective | None = None,
    classes: int | Sequence[str] | None = None,
    scale: float = 1 / 255,
    shift: float = 0.0,
    ignore_index: int = LEFT_OUT,
) -> Given:
    """A data set whose inputs are read when they are needed, such as images in files.

    Args:
        read: a function of the indices of some samples, an array, that returns their inputs in this order, B x ... It
            must return the same for the same index, and is called from several threads.
        y: the targets of all samples.
        test: a share, or the pair (read, y) of the test samples.
        columns, objective, classes, scale, shift, ignore_index: see `from_arrays`.
    """
    wanted = Wanted(objective, classes, scale, shift, dict(columns or {}), ignore_index=ignore_index)
    x = read_by(read, len(y), wanted.names.x)
    tested = (read_by(test[0], len(test[1]), "The 'x' of the test data"), test[1]) if isinstance(test, tuple) else test
    return Given.of(made(x, y, tested, wanted))


def from_stream(
    samples: Callable[[int], Iterator[tuple[Any, Any]]],
    *,
    test: tuple[Any, Any],
    count: int,
    block: int = 1000,
    objective: Objective | None = None,
    classes: int | Sequence[str] | None = None,
    scale: float = 1 / 255,
    shift: float = 0.0,
) -> Given:
    """A data set with a stream of training samples for each node; none of them is kept.

    Args:
        samples: a function of a node's index among the nodes with data. It returns the node's samples (x, y), the
            same each time; at their end they begin anew.
        test: the pair (x, y) of the test samples.
        count: the samples of a pass, by which epochs are counted.
        block: the samples that are shuffled together, in memory.
        objective, classes, scale, shift: see the module. Where classes are predicted, `classes` is needed.
    """
    for name, value in (("count", count), ("block", block)):
        if type(value) is not int or value < 1:
            raise DataError(f"The '{name}' of a stream must be an int of at least 1. Got {value!r} instead.")
    return Given.of(streamed(samples, test, count, block, Wanted(objective, classes, scale, shift)))


def from_torch(
    dataset: Any,
    *,
    test: Any = SHARE,
    limit: int | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    into: str | Path | None = None,
    columns: Mapping[str, Any] | None = None,
    objective: Objective | None = None,
    classes: int | Sequence[str] | None = None,
    scale: float = 1 / 255,
    shift: float = 0.0,
    ignore_index: int = LEFT_OUT,
) -> Given:
    """A data set of torch: each sample is read once, with its transforms.

    Args:
        dataset: a `torch.utils.data.Dataset` or `IterableDataset` of pairs (x, y).
        test: a share, or the data set of the test samples.
        limit: the greatest number of samples that are read of each; an endless one needs it.
        collate: makes one batch (x, y) of a list of all samples, those for testing among them, as for a DataLoader: it
            pads sequences of several lengths, or makes dicts of inputs.
        into: a new folder, to which samples are written one after the other, and from which they are then mapped: data
            may be larger than memory. `test` must be a data set then. Later, `{kind = "npy", path = into}` is the same.
        columns: further facts of the samples, by name, such as the client of each; not with `into`.
        objective, classes, scale, shift, ignore_index: see the module.
    """
    if into is not None and columns is not None:
        raise DataError("The data must have 'columns' or 'into', not both: files have no columns.")
    return adapters.from_torch(
        dataset,
        test=test,
        limit=limit,
        collate=collate,
        into=into,
        columns=dict(columns or {}),
        objective=objective,
        classes=classes,
        scale=scale,
        shift=shift,
        ignore_index=ignore_index,
    )


def from_columns(
    dataset: Any,
    *,
    x: str | Sequence[str] | Mapping[str, str] | None = None,
    y: str,
    keep: Sequence[str] = (),
    test: Any = None,
    objective: Objective | None = None,
    classes: int | Sequence[str] | None = None,
    scale: float = 1 / 255,
    shift: float = 0.0,
    ignore_index: int = LEFT_OUT,
) -> Given:
    """A data set with named columns: a Hugging Face dataset, a frame of pandas or polars, a dict of arrays.

    Args:
        dataset: the samples; of a dict of splits, "train" and "test" are taken.
        x: the column of the inputs, or those of one number each that are put side by side; by default all others. A
            dict {"ids": "input_ids"} makes several inputs, which a module's `forward` takes by these names.
        y: the column of the targets.
        keep: the columns that are no inputs, where `x` does not say which are.
        test: a share, or the test samples with the same columns.
        objective, classes, scale, shift, ignore_index: see the module.

    All columns that are neither inputs nor targets are kept beside them, for the partition natural.
    """
    return adapters.from_columns(
        dataset,
        x=x,
        y=y,
        keep=keep,
        test=test,
        objective=objective,
        classes=classes,
        scale=scale,
        shift=shift,
        ignore_index=ignore_index,
    )


def padded(sequences: Sequence[Any], *, value: float = 0, length: int | None = None) -> dict[str, Tensor]:
    """Sequences of several lengths as two inputs: "ids", S x T, and "mask", true where a sequence has an entry.

    Args:
        sequences: each of one dimension or more; the first is that of its positions.
        value: the entry that fills up shorter ones.
        length: T; by default the longest. Longer ones are cut off.

    Raises:
        DataError: there are none.
    """
    arrays = [plain(sequence, "Each sequence to be padded") for sequence in sequences]
    if not arrays:
        raise DataError("The sequences to be padded must be one or more. Got none.")
    dtype = np.result_type(*([array for array in arrays if len(array)] or arrays))
    if dtype.kind not in "biuf":
        raise DataError(f"The sequences to be padded must be of numbers. Got {dtype} instead.")
    rows = [torch.from_numpy(array.astype(dtype))[:length] for array in arrays]
    most = max(map(len, rows)) if length is None else length
    ids = rows[0].new_full((len(rows), most, *rows[0].shape[1:]), value)
    mask = torch.zeros(len(rows), most, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = True
    return {"ids": ids, "mask": mask}
