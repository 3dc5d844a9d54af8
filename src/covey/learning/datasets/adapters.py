"""Data sets of other libraries, read once into arrays: torch, Hugging Face, pandas, and other tables with columns.

Nothing of these libraries is imported: what has their form is taken.

Shapes: S samples.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from covey.learning.datasets.arrays import Names, Wanted, made, plain
from covey.learning.datasets.given import SHARE, Given
from covey.parts.errors import DataError, described, quoted, unknown

_DRAWS = (
    "The {} draws random numbers, and is read only once: leave random transforms out. The task's 'augmentation' "
    "draws them again for each batch."
)


def from_torch(
    dataset: Any,
    *,
    test: Any = None,
    limit: int | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    into: str | Path | None = None,
    **wanted: Any,
) -> Given:
    """See `covey.data.from_torch`."""
    if into is not None:
        if collate is not None:
            raise DataError("The data must have 'collate' or 'into', not both: a collate function takes all samples.")
        return _spooled(dataset, test, limit, Path(into), Wanted(**wanted))
    if collate is not None:
        return _collated(dataset, test, limit, collate, Wanted(**wanted))
    x, y = _samples(dataset, "dataset", limit)
    if test is None or isinstance(test, float):
        return Given.of(made(x, y, SHARE if test is None else test, Wanted(**wanted)))
    return Given.of(made(x, y, _samples(test, "test data", limit), Wanted(**wanted)))


def _collated(dataset: Any, test: Any, limit: int | None, collate: Callable[[list[Any]], Any], wanted: Wanted) -> Given:
    """All samples in one batch, that of the test samples cut off it, so that both have the same shapes."""
    samples = list(_each(dataset, "dataset", limit))
    count = len(samples)
    given = test is not None and not isinstance(test, float)
    if given:
        samples += _each(test, "test data", limit)
    try:
        batch = collate(samples)
    except Exception as error:
        raise DataError(
            f"The 'collate' of the data must return a pair (x, y). It fails: {described(error)}."
        ) from error
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        got = f"{len(batch)} entries" if isinstance(batch, tuple | list) else quoted(batch)
        raise DataError(f"The 'collate' of the data must return a pair (x, y). Got {got} instead.")
    x, y = batch
    if not given:
        return Given.of(made(x, y, SHARE if test is None else test, wanted))

    def part(values: Any, chosen: slice) -> Any:
        return {name: one[chosen] for name, one in values.items()} if isinstance(values, Mapping) else values[chosen]

    train, rest = slice(count), slice(count, None)
    return Given.of(made(part(x, train), part(y, train), (part(x, rest), part(y, rest)), wanted))


def _spooled(dataset: Any, test: Any, limit: int | None, folder: Path, wanted: Wanted) -> Given:
    """Samples that are written to a folder as they come, and mapped from there."""
    from covey.learning.datasets.spooling import spool
    from covey.learning.datasets.stored import mapped

    if test is None or isinstance(test, float):
        raise DataError(
            f"The 'test' of data that are written to files must be a data set of the test samples. "
            f"Got {quoted(test)} instead."
        )
    found = []
    for samples, suffix, what in ((dataset, "", "dataset"), (test, "_test", "test data")):
        targets = spool(_pairs(samples, what, limit), folder, suffix, what)
        np.save(folder / f"y{suffix}.npy", plain(targets, f"The targets of the {what}"), allow_pickle=False)
        found.append([mapped(folder / f"{name}{suffix}.npy") for name in ("x", "y")])
    (x, y), (x_test, y_test) = found
    return Given.of(made(x, y, (x_test, y_test), wanted))


def _samples(dataset: Any, what: str, limit: int | None) -> tuple[Any, Any]:
    """(inputs, targets) of a data set of torch."""
    if isinstance(dataset, torch_data.TensorDataset) and len(dataset.tensors) == 2:
        return dataset.tensors[0][:limit], dataset.tensors[1][:limit]
    inputs, targets = [], []
    for x, y in _pairs(dataset, what, limit):
        inputs.append(x)
        targets.append(y)
    if not inputs:
        raise DataError(f"The {what} must have a sample or more. Got none.")
    return inputs, targets


def _pairs(dataset: Any, what: str, limit: int | None) -> Iterator[tuple[Any, Any]]:
    """The samples (x, y) of a data set of torch, one by one.

    Raises:
        DataError: there are others, or reading them draws random numbers.
    """
    if isinstance(dataset, torch_data.DataLoader):
        raise DataError(f"The {what} must be a Dataset of torch. Got a DataLoader instead: give its 'dataset'.")
    before = _generators()
    for index, sample in enumerate(_each(dataset, what, limit)):
        if isinstance(sample, tuple | list) and len(sample) == 2 and isinstance(sample[0], Mapping):
            raise DataError(
                f"The {what} has samples with several inputs: give a 'collate' that makes one batch of them."
            )
        if isinstance(sample, Mapping):
            raise DataError(
                f"The {what} must give pairs (x, y). Got a dict of {', '.join(map(str, sample))} as sample {index} "
                f"instead: give a 'collate' that makes a pair of all samples."
            )
        if not (isinstance(sample, tuple | list) and len(sample) == 2):
            raise DataError(f"The {what} must give pairs (x, y). Got {quoted(sample)} as sample {index} instead.")
        y = sample[1]
        yield _image(sample[0]), y.item() if isinstance(y, Tensor) and y.dim() == 0 else y
    if _generators() != before:
        raise DataError(_DRAWS.format(what))


def _each(dataset: Any, what: str, limit: int | None) -> Iterator[Any]:
    """The samples, one by one; a set of infinite length ends at the limit."""
    if isinstance(dataset, torch_data.IterableDataset):
        if limit is None and not hasattr(dataset, "__len__"):
            limit = _MOST
        for index, sample in enumerate(_guarded(iter(dataset), what)):
            if index == limit:
                if limit == _MOST:
                    raise DataError(f"The {what} has more than {_MOST:,} samples, or no end: give a 'limit'.")
                return
            yield sample
        return
    count = len(dataset) if limit is None else min(limit, len(dataset))
    yield from _guarded((dataset[index] for index in range(count)), what)


_MOST = 100_000_000


def _guarded(samples: Iterator[Any], what: str) -> Iterator[Any]:
    """The items of an iterable, with one line as the error if it fails."""
    index = 0
    while True:
        try:
            sample = next(samples)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(f"The {what} fails at sample {index}: {described(error)}.") from error
        yield sample
        index += 1


def _generators() -> tuple[Any, ...]:
    """The states of the generators that transforms draw from."""
    numpy: Any = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), (numpy[1].tolist(), numpy[2])


def _image(value: Any) -> Any:
    """A picture of Pillow as an array with the channels first; anything else as it is."""
    if not (hasattr(value, "getbands") and hasattr(value, "size")):
        return value
    found = np.asarray(value)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


# ---------------------------------------------------------------------- columns


def from_columns(
    dataset: Any,
    *,
    x: str | Sequence[str] | Mapping[str, str] | None = None,
    y: str,
    keep: Sequence[str] = (),
    test: Any = None,
    **wanted: Any,
) -> Given:
    """See `covey.data.from_columns`."""
    if test is None and isinstance(dataset, Mapping) and "train" in dataset and y not in dataset:
        if "test" not in dataset:
            raise DataError(f"The dataset has the splits {', '.join(map(str, dataset))}: give its 'test' data.")
        dataset, test = dataset["train"], dataset["test"]
    names = Names(f"The {_called(x)} of the data", f"The column {y!r} of the data")
    inputs, targets, others = split_columns(columns_of(dataset, "dataset"), x, y, keep)
    kept = Wanted(names=names, columns=others, **wanted)
    if test is None or isinstance(test, float):
        return Given.of(made(inputs, targets, SHARE if test is None else test, kept))
    tested = split_columns(columns_of(test, "test data"), x, y, keep)
    return Given.of(made(inputs, targets, tested[:2], kept))


def _called(x: str | Sequence[str] | Mapping[str, str] | None) -> str:
    return f"column {x!r}" if isinstance(x, str) else "features"


def columns_of(dataset: Any, what: str) -> dict[str, Callable[[], Any]]:
    """The functions that read the columns of a data set, by column name.

    Raises:
        DataError: it has no columns.
    """
    if isinstance(dataset, Mapping):
        names = list(dataset)
    else:
        names = getattr(dataset, "column_names", None) or getattr(dataset, "columns", None)  # type: ignore[assignment]
    if names is None or isinstance(names, Mapping) or not (hasattr(dataset, "__getitem__") and len(names)):
        hint = "; of a DatasetDict, give a split" if isinstance(names, Mapping) else ""
        raise DataError(f"The {what} must have columns with names{hint}. Got {quoted(dataset)} instead.")
    repeated = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if repeated:
        raise DataError(f"The {what} must have each column once. Got {repeated[0]!r} more than once.")
    return {str(name): partial(_column_of, dataset, name) for name in names}


def _column_of(dataset: Any, name: Any) -> Any:
    """A column as an array, or as a list where its entries are not alike."""
    column = dataset[name]
    for way in ("to_numpy", "to_pylist"):
        if hasattr(column, way):
            return getattr(column, way)()
    if isinstance(column, Tensor | np.ndarray):
        return column
    return [_image(entry) for entry in column]


def split_columns(
    columns: Mapping[str, Callable[[], Any]],
    x: str | Sequence[str] | Mapping[str, str] | None,
    y: str,
    kept: Sequence[str] = (),
) -> tuple[Any, Any, dict[str, Any]]:
    """(inputs, targets, what else is known of each sample).

    Args:
        columns: the function that reads each.
        x: the column of the inputs, or those of one number each that are put side by side; by default all others. A
            table of names and columns makes several inputs.
        y: the column of the targets.
        kept: the columns that are no inputs, where `x` does not say which are.

    Raises:
        DataError: there is no such column, or it holds other things.
    """
    if x is None:
        x = [name for name in columns if name != y and name not in kept]
    wanted = [x] if isinstance(x, str) else list(x.values()) if isinstance(x, Mapping) else list(x)
    if not wanted:
        raise DataError("The features of the data must be a column or more. Got none.")
    for name in (*wanted, y, *kept):
        if name not in columns:
            raise DataError(unknown(f"column {quoted(name)} of the data", str(name), columns))
    if y in wanted:
        raise DataError(f"The column {y!r} of the data is the target: it must be none of the features.")
    others = {name: read() for name, read in columns.items() if name not in (*wanted, y)}
    rest = {name: values for name, values in others.items() if name in kept or _is_plain(values)}
    if isinstance(x, str):
        return columns[x](), columns[y](), rest
    if isinstance(x, Mapping):
        return {name: columns[column]() for name, column in x.items()}, columns[y](), rest
    return np.stack([_numbers(name, columns[name]()) for name in wanted], axis=1), columns[y](), rest


def _is_plain(values: Any) -> bool:
    """Whether a column has one number or name a sample."""
    if isinstance(values, np.ndarray | Tensor):
        return values.ndim == 1
    return not len(values) or isinstance(values[0], str | int | float)


def _numbers(name: str, values: Any) -> np.ndarray:
    """A column of one number a sample."""
    found = plain(values, f"The column {name!r} of the data")
    if found.dtype.kind == "O":
        try:
            return np.array([float("nan") if value is None else value for value in found.tolist()], dtype=np.float32)
        except (TypeError, ValueError):
            pass
    if found.ndim != 1 or found.dtype.kind not in "biuf":
        example = f" such as {quoted(found.reshape(-1)[0].item())}" if found.dtype.kind in "US" and found.size else ""
        raise DataError(
            f"The column {name!r} of the data must be one number a sample to be a feature. Got {found.dtype}{example} "
            f"instead: name the features, without it."
        )
    return found.astype(np.float32)
