"""Data sets in files of the user's own: tables in CSV and Parquet, and arrays of numpy.

A relative path is searched for in the current folder, beside the experiment's file, and in the data folder.
"""

import csv
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from covey.learning.dataset import Data, Dataset
from covey.learning.datasets.adapters import split_columns
from covey.learning.datasets.arrays import Names, Wanted, made
from covey.learning.datasets.targets import LEFT_OUT
from covey.parts.errors import DataError, cut
from covey.parts.kinds import own_folders
from covey.parts.parameters import param

Columns = Mapping[str, Callable[[], Any]]


class _Table(Dataset):
    """A table with a sample in each row."""

    path: Path = param("The file with the samples.")
    target: str = param("The column that is predicted.")
    features: list[str] = param("The columns of the inputs; by default, all but the target and 'keep'.", factory=list)
    keep: list[str] = param(
        "The columns that are no inputs, such as the owner of a sample for a natural partition.", factory=list
    )
    test: float | Path = param(
        "The fraction of the samples that is for testing, or a file with test samples.", default=0.2
    )
    predict: str = param(
        "The kind of prediction: classes or values; auto decides by the target.",
        default="auto",
        choices=("auto", "classes", "values"),
    )
    classes: int | list[str] | None = param(
        "The number of classes, or their names; by default, those of the training samples.", default=None
    )
    standardize: bool = param(
        "Whether each feature is scaled to mean 0 and deviation 1 over the training samples.", default=False
    )

    @abstractmethod
    def columns(self, path: Path) -> Columns:
        """The functions that read the columns of a file, by column name.

        Raises:
            DataError: it is none of this kind.
        """

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        path = found(self.path, folder, self, "path")
        names = Names(f"The features of {path}", f"The target {self.target!r} of {path}")
        objective: Any = None if self.predict == "auto" else self.predict
        x, y, columns = self._split(path)
        test: Any = self.test
        if isinstance(test, Path):
            test = self._split(found(test, folder, self, "test"))[:2]
        data = made(x, y, test, Wanted(objective, self.classes, columns=columns, names=names))
        if self.standardize:
            mean, deviation = data.train.inputs.double().mean(0), data.train.inputs.double().std(0, correction=0)
            deviation[deviation == 0] = 1.0
            for split in (data.train, data.test):
                split.inputs.copy_((split.inputs.double() - mean) / deviation)
        return data

    def _split(self, path: Path) -> tuple[Any, Any, dict[str, Any]]:
        return split_columns(self.columns(path), self.features or None, self.target, self.keep)


class CSV(_Table):
    """A CSV file whose first line names the columns."""

    kind = "csv"
    separator: str = param("The separator of two fields.", default=",")

    def columns(self, path: Path) -> Columns:
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                reader = csv.reader(lines, delimiter=self.separator, skipinitialspace=True)
                header = [name.strip() for name in next(reader, [])]
                rows, lines_of = [], []
                for row in reader:
                    if not row:
                        continue
                    if len(row) != len(header):
                        raise DataError(
                            f"Line {reader.line_num} of {path} must have {len(header)} fields, as its first line. "
                            f"Got {len(row)} instead."
                        )
                    rows.append(row)
                    lines_of.append(reader.line_num)
        except (OSError, UnicodeDecodeError, csv.Error, TypeError) as error:
            raise unreadable(path, error) from error
        if not rows or len(set(header)) < len(header):
            why = "names each column once" if rows else "is followed by samples"
            raise DataError(f"The file {path} must have a first line that {why}. Got {cut(','.join(header))!r}.")
        columns = zip(header, zip(*rows, strict=True), strict=True)
        return {name: partial(_fields, name, texts, lines_of, path, self) for name, texts in columns}


def _fields(name: str, texts: tuple[str, ...], lines: list[int], path: Path, table: CSV) -> NDArray[Any]:
    """A column of a CSV file: whole numbers, numbers, or else strings."""
    values = np.array(texts)
    for kind in (np.int64, np.float64):
        try:
            return values.astype(kind)
        except (ValueError, OverflowError):
            continue
    empty = [line for line, text in zip(lines, texts, strict=True) if not text.strip()]
    if empty and name == table.target:
        raise DataError(
            f"The target {name!r} of {path} must have a value in each line. Line {empty[0]} has none, the first of "
            f"{len(empty)}: leave these out."
        )
    is_input = name != table.target and name not in table.keep and (name in table.features or not table.features)
    if not is_input:
        return values
    for line, text in zip(lines, texts, strict=True):
        try:
            float(text)
        except ValueError:
            what = "nothing" if not text.strip() else repr(cut(text))
            raise DataError(
                f"The column {name!r} of {path} must be numbers to be a feature. Got {what} in line {line}: "
                f"name it in 'keep', or the features in 'features'."
            ) from None
    return values


class Parquet(_Table):
    """A Parquet file (pip install 'covey[parquet]')."""

    kind = "parquet"

    def columns(self, path: Path) -> Columns:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError as error:
            raise DataError("The dataset parquet needs pyarrow: pip install 'covey[parquet]'.") from error
        try:
            table = parquet.read_table(path)
        except (OSError, ArrowException) as error:
            raise unreadable(path, error) from error
        return {name: partial(_of_arrow, table, name) for name in table.column_names}


def _of_arrow(table: Any, name: str) -> Any:
    values: Any = table.column(name).to_pandas()
    return values.to_numpy()


class Arrays(Dataset):
    """Arrays of inputs and targets in files."""

    path: Path = param("The file with the arrays, or their folder.")
    predict: str = param(
        "The kind of prediction: classes, a class for each position (sequence), or values; auto decides by the "
        "targets.",
        default="auto",
        choices=("auto", "classes", "sequence", "values"),
    )
    classes: int | list[str] | None = param(
        "The number of classes, or their names; by default, those of the training samples.", default=None
    )
    scale: float = param("The factor of inputs of bytes: byte b becomes b * scale + shift.", default=1 / 255)
    shift: float = param("The number that is added to scaled bytes.", default=0.0)
    ignore_index: int = param("The target of a position that has no class.", default=LEFT_OUT)

    def wanted(self, columns: dict[str, Any], names: Names) -> Wanted:
        """The wanted form of the samples."""
        objective: Any = None if self.predict == "auto" else self.predict
        return Wanted(
            objective,
            self.classes,
            scale=self.scale,
            shift=self.shift,
            columns=columns,
            names=names,
            ignore_index=self.ignore_index,
        )


class NPZ(Arrays):
    """A .npz file with the arrays x and y, and x_test and y_test for testing. Others of that length are columns."""

    kind = "npz"
    x: str = param("The array of the inputs.", default="x")
    y: str = param("The array of the targets.", default="y")
    test: float = param(
        "The fraction of the samples that is for testing, if there are no x_test and y_test.", default=0.2, gt=0, lt=1
    )
    of_test: ClassVar[str] = "_test"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        path = found(self.path, folder, self, "path")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
            raise unreadable(path, error) from error
        tested = [name + self.of_test for name in (self.x, self.y)]
        for name in (self.x, self.y, *(tested if tested[0] in arrays or tested[1] in arrays else [])):
            if name not in arrays:
                raise DataError(f"The file {path} must have an array {name!r}. It has {', '.join(arrays) or 'none'}.")
        samples = len(np.atleast_1d(arrays[self.x]))
        others = {name: values for name, values in arrays.items() if name not in (self.x, self.y, *tested)}
        columns = {name: values for name, values in others.items() if values.shape == (samples,)}
        test: Any = self.test
        if tested[0] in arrays:
            test = (arrays[tested[0]], arrays[tested[1]])
        names = Names(f"The {self.x!r} of {path}", f"The {self.y!r} of {path}")
        return made(arrays[self.x], arrays[self.y], test, self.wanted(columns, names))


def found(path: Path, folder: Path, dataset: Dataset, key: str) -> Path:
    """The path of a file of the user's own.

    Raises:
        DataError: it is nowhere.
    """
    path = path.expanduser()
    candidates = [path] if path.is_absolute() else [path, *(Path(own) / path for own in own_folders()), folder / path]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    where = ", ".join(dict.fromkeys(str(candidate.absolute().parent) for candidate in candidates))
    raise DataError(f"The '{key}' of {dataset.named()} is no file: {path} is not in {where}.")


def unreadable(path: Path, error: Exception) -> DataError:
    """The error of a file that cannot be read."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    return DataError(f"The file {path} cannot be read: {cut(why)}.")
