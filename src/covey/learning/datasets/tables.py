"""Ratings and census records: MovieLens and Adult in their publishers' files."""

import csv
import io
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from covey.learning.dataset import Data, Dataset, Split
from covey.learning.datasets.arrays import held_out
from covey.learning.datasets.source import Remote, damaged, obtain, obtain_from_archive
from covey.parts.errors import DataError
from covey.parts.parameters import param

Ids = NDArray[np.int64]


class MovieLens100K(Dataset):
    """100,000 ratings, from 1 to 5, of 1,682 films by 943 users."""

    kind = "movielens-100k"
    test: float = param("The fraction of every user's ratings that is for testing.", default=0.2, gt=0, lt=1)
    directory: ClassVar[str] = "ml-100k"
    file: ClassVar[str] = "u.data"
    separator: ClassVar[str] = "\t"
    archive: ClassVar[Remote] = Remote(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        most=6_000_000,
        most_unpacked=2_000_000,
    )
    known: ClassVar[dict[str, str]] = {
        "u.data": "sha256:06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
    }
    """Checksums of unpacked files."""

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        table = self.ratings(folder, quiet=quiet)
        users, user_of = np.unique(table[:, 0], return_inverse=True)
        items, item_of = np.unique(table[:, 1], return_inverse=True)
        in_test = held_out(user_of.astype(np.int64), self.test)
        if not in_test.any():
            most = np.bincount(user_of).max()
            raise DataError(
                f"The 'test' of {self.named()} must be a fraction that keeps a rating of some user for testing. "
                f"Got {self.test} instead, and no user has more than {most} ratings."
            )
        pairs = np.column_stack([user_of, item_of]).astype(np.int64)
        ratings = table[:, 2].astype(np.float32)

        def split(chosen: NDArray[np.bool_]) -> Split:
            return Split(torch.from_numpy(pairs[chosen]), torch.from_numpy(ratings[chosen]))

        return Data(
            split(~in_test), split(in_test), "values", 0,
            owners=torch.from_numpy(pairs[~in_test, 0]),
            owner_names=[str(user) for user in users],
            sizes={"users": len(users), "items": len(items)},
        )  # fmt: skip

    def ratings(self, folder: Path, *, quiet: bool = True) -> Ids:
        """The users, films, ratings and times, one rating per row."""
        (path,) = obtain_from_archive(folder / self.directory, [self.file], self.archive, quiet=quiet, known=self.known)
        try:
            text = path.read_text(encoding="ascii").replace(self.separator, " ")
            table = np.loadtxt(io.StringIO(text), dtype=np.int64, ndmin=2)
        except (OSError, ValueError) as error:
            raise damaged(path, "four integers a line", str(error).partition(";")[0]) from error
        if table.shape[0] == 0 or table.shape[1] != 4:
            raise damaged(path, "four integers a line", f"{table.shape[0]} lines of {table.shape[1]}")
        wrong = np.flatnonzero((table[:, 2] < 1) | (table[:, 2] > 5))
        if len(wrong):
            raise damaged(path, "ratings in [1, 5]", f"{table[wrong[0], 2]} in line {wrong[0] + 1}")
        return table


class MovieLens1M(MovieLens100K):
    """1,000,209 ratings, from 1 to 5, of 3,706 films by 6,040 users."""

    kind = "movielens-1m"
    directory: ClassVar[str] = "ml-1m"
    file: ClassVar[str] = "ratings.dat"
    separator: ClassVar[str] = "::"
    archive: ClassVar[Remote] = Remote(
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        "sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        most=7_000_000,
        most_unpacked=25_000_000,
    )
    known: ClassVar[dict[str, str]] = {}


Rows = list[list[str]]


class Adult(Dataset):
    """48,842 records of a census: whether a person earns more than 50,000 dollars a year.

    Numbers are standardised with the mean and the standard deviation of the training samples. Categories are one-hot
    vectors. The publisher's adult.data and adult.test keep their split. Of an adult.csv with a header, which has
    both, a third is for testing.
    """

    kind = "adult"
    names: ClassVar[tuple[str, ...]] = ("<=50K", ">50K")
    columns: ClassVar[int] = 15
    numeric: ClassVar[tuple[int, ...]] = (0, 2, 4, 10, 11, 12)
    publisher: ClassVar[str] = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
    checksums: ClassVar[dict[str, str]] = {
        "adult.data": "sha256:5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        "adult.test": "sha256:a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    }
    most: ClassVar[int] = 4_000_000

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        own = folder / "adult"
        if (own / "adult.csv").is_file():
            rows = self._rows(own / "adult.csv", header=True)
            labels = self._labels(rows)
            in_test = held_out(labels, 1 / 3)
        else:
            parts = [
                self._rows(
                    obtain(own / name, [Remote(self.publisher + name, checksum, self.most)], quiet=quiet), header=False
                )
                for name, checksum in self.checksums.items()
            ]
            rows = list(chain(*parts))
            labels = self._labels(rows)
            in_test = np.arange(len(rows)) >= len(parts[0])
        if not 0 < in_test.sum() < len(rows):
            raise DataError(f"The records in {own} are too few to train and to test on: {len(rows)}.")
        inputs = self._inputs(rows, in_test)

        def split(chosen: NDArray[np.bool_]) -> Split:
            return Split(torch.from_numpy(inputs[chosen]), torch.from_numpy(labels[chosen]))

        return Data(split(~in_test), split(in_test), "classes", 2, label_names=self.names)

    def _rows(self, path: Path, *, header: bool) -> Rows:
        """The fields of every record. The publisher's test file has an extra first line, and a dot after each label."""
        rows = []
        try:
            with path.open(encoding="utf-8", newline="") as lines:
                reader = csv.reader(lines, skipinitialspace=True)
                for row in reader:
                    if (header and reader.line_num == 1) or not row or row[0].startswith("|"):
                        continue
                    row[-1] = row[-1].rstrip(". ")
                    if len(row) != self.columns or row[-1] not in self.names:
                        expected = (
                            f"{self.columns} fields, the last {' or '.join(self.names)}, in line {reader.line_num}"
                        )
                        raise damaged(path, expected, f"{len(row)}, the last {row[-1]!r}")
                    try:
                        for column in self.numeric:
                            int(row[column])
                    except ValueError:
                        raise damaged(
                            path, f"a number as field {column + 1} of line {reader.line_num}", repr(row[column])
                        ) from None
                    rows.append(row)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise damaged(path, "a readable table", error) from error
        return rows

    def _labels(self, rows: Rows) -> Ids:
        return np.array([row[-1] == self.names[1] for row in rows], dtype=np.int64)

    def _inputs(self, rows: Sequence[Sequence[str]], in_test: NDArray[np.bool_]) -> NDArray[np.float32]:
        blocks: list[NDArray[np.float32]] = []
        for column, texts in enumerate(zip(*rows, strict=True)):
            if column in self.numeric:
                values = np.fromiter(map(int, texts), dtype=np.float64, count=len(texts))
                deviation = values[~in_test].std() or 1.0
                blocks.append(((values - values[~in_test].mean()) / deviation).astype(np.float32)[:, None])
            elif column < self.columns - 1:
                number = {category: index for index, category in enumerate(sorted(set(texts)))}
                category_of = np.fromiter(map(number.__getitem__, texts), dtype=np.int64, count=len(texts))
                blocks.append(np.eye(len(number), dtype=np.float32)[category_of])
        return np.concatenate(blocks, axis=1)
