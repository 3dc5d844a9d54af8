"""Ratings and census records in the files of their publishers.

Shapes: S samples, F features.
"""

import csv
import io
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from covey import rng
from covey.errors import DataError
from covey.parameters import param
from covey.task.dataset import Data, Dataset, Split
from covey.task.datasets.source import Remote, damaged, found, obtain


class _MovieLens(Dataset):
    """Ratings of films by users; some of each user's are the test set."""

    test_fraction: float = param("What share of each user's ratings is the test set.", default=0.1, gt=0, lt=1)
    title_: ClassVar[str] = ""
    folder: ClassVar[str] = ""
    file: ClassVar[str] = ""
    separator: ClassVar[str] = ""
    remote: ClassVar[Remote]

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        ratings = self._ratings(folder, quiet)
        users, user_S = np.unique(ratings[:, 0], return_inverse=True)
        items, item_S = np.unique(ratings[:, 1], return_inverse=True)
        values = ratings[:, 2].astype(np.float32)
        if values.min() < 1 or values.max() > 5:
            raise damaged(folder / self.folder / self.file, "ratings from 1 to 5", f"{values.min()} to {values.max()}")
        # The place of each rating in a random order of its user's, as a share of them.
        order = np.lexsort((rng.generator(0, self.kind).random(len(values)), user_S))
        counts = np.bincount(user_S)
        rank = np.empty(len(values))
        rank[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
        test = (rank + 1) / counts[user_S] > 1.0 - self.test_fraction
        pairs = torch.from_numpy(np.stack([user_S, item_S], axis=1).astype(np.int64))
        targets, held = torch.from_numpy(values), torch.from_numpy(test)
        return Data(
            train=Split(pairs[~held], targets[~held]),
            test=Split(pairs[held], targets[held]),
            objective="values",
            classes=0,
            owners=pairs[~held][:, 0].clone(),
            owner_names=[str(user) for user in users],
            sizes={"users": len(users), "items": len(items)},
        )

    def _ratings(self, folder: Path, quiet: bool) -> np.ndarray:
        place = folder / self.folder
        path = found(place, (self.file,))
        if path is not None:
            text = path.read_text(encoding="latin-1")
        else:
            path = obtain(self.title_, place, (f"{self.folder}.zip",), self.remote, quiet=quiet)
            try:
                with zipfile.ZipFile(path) as archive:
                    text = archive.read(f"{self.folder}/{self.file}").decode("latin-1")
            except (zipfile.BadZipFile, KeyError) as error:
                raise damaged(path, f"a zip archive with {self.folder}/{self.file}", error) from error
        try:
            table = np.loadtxt(io.StringIO(text.replace(self.separator, "\t")), delimiter="\t", dtype=np.int64, ndmin=2)
        except ValueError as error:
            raise damaged(path, "lines of user, item, rating and time", error) from error
        if table.shape[1] != 4 or len(table) == 0:
            raise damaged(path, "four columns: user, item, rating and time", f"{table.shape[1]} columns")
        return table


class MovieLens100K(_MovieLens):
    """100,000 ratings by 943 users of 1,682 films, from 1 to 5."""

    kind = "movielens-100k"
    title_ = "MovieLens 100K"
    folder = "ml-100k"
    file = "u.data"
    separator = "\t"
    remote = Remote("https://files.grouplens.org/datasets/movielens/ml-100k.zip", "0e33842e24a9c977be4e0107933c0723")


class MovieLens1M(_MovieLens):
    """A million ratings by 6,040 users of some 3,700 films, from 1 to 5."""

    kind = "movielens-1m"
    title_ = "MovieLens 1M"
    folder = "ml-1m"
    file = "ratings.dat"
    separator = "::"
    remote = Remote("https://files.grouplens.org/datasets/movielens/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906")


_ADULT_COLUMNS = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
]
_ADULT_NUMBERS = {"age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"}


class Adult(Dataset):
    """Whether a person earns over 50,000 a year, from 14 facts of a census; numbers standardised, words one-hot."""

    kind = "adult"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        place = folder / "adult"
        joint = found(place, ("adult.csv",))
        if joint is not None:
            rows = _rows(joint)[1:]
            # The publisher's two files are joined here: their own split is at 32,561 rows, in this order.
            test = rng.generator(0, self.kind).permutation(len(rows)) < len(rows) // 3
        else:
            parts = [_rows(obtain("Adult", place, (name,), None, quiet=quiet)) for name in ("adult.data", "adult.test")]
            rows = parts[0] + parts[1]
            test = np.arange(len(rows)) >= len(parts[0])
        for number, row in enumerate(rows):
            if len(row) != len(_ADULT_COLUMNS):
                raise damaged(joint or place, f"{len(_ADULT_COLUMNS)} columns", f"{len(row)} in row {number + 1}")
        inputs = _features(rows, ~test, joint or place)
        labels = np.array([row[-1].startswith(">50K") for row in rows], dtype=np.int64)
        x, y, held = torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(test)
        splits = Split(x[~held], y[~held]), Split(x[held], y[held])
        return Data(*splits, "classes", 2, label_names=["up to 50K", "over 50K"])


def _rows(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The file {path} cannot be read: {error}.") from error
    rows = [[cell.strip().rstrip(".") for cell in row] for row in csv.reader(lines)]
    # The publisher's test file begins with a line "|1x3 Cross validator".
    return [row for row in rows if row and not row[0].startswith("|")]


def _features(rows: list[list[str]], trained: np.ndarray, path: Path) -> np.ndarray:
    """S x F: numbers standardised by the training rows, words one-hot."""
    columns = []
    for place, name in enumerate(_ADULT_COLUMNS[:-1]):
        cells = np.array([row[place] for row in rows])
        if name in _ADULT_NUMBERS:
            try:
                values = cells.astype(np.float64)
            except ValueError as error:
                raise damaged(path, f"numbers in the column {name}", error) from error
            spread = values[trained].std() or 1.0
            columns.append(((values - values[trained].mean()) / spread)[:, None])
        else:
            words, codes = np.unique(cells, return_inverse=True)
            columns.append(np.eye(len(words))[codes])
    return np.concatenate(columns, axis=1).astype(np.float32)
