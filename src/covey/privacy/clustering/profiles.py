"""Profiles of users: which of the items each likes, and how much.

Shapes: U users, I items.
"""

import csv
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from covey.parts import rng
from covey.parts.errors import ConfigurationError, DataError, quoted
from covey.parts.parameters import Part, Setting, param
from covey.runtime.task import data_folder

Floats = NDArray[np.float64]


class Profiles(Part):
    """The source of the profile of every user: a number in [0, 1] for each item, 0 for unknown."""

    family: ClassVar[str] = "profiles"
    hidden: float = param(
        "The fraction of a profile's items that is held out, to measure recall.",
        default=0.0,
        ge=0,
        lt=1,
    )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._seed = setting.seed

    @property
    def width(self) -> int:
        """I, the number of items."""
        raise NotImplementedError

    def most(self) -> int | None:
        """The number of users; None for any number."""
        return None

    def whole(self, user: int) -> Floats:
        """The profile of a user, with the items that are held out."""
        raise NotImplementedError

    def held_out(self, user: int) -> NDArray[np.int64]:
        """The items of a user that are held out."""
        liked = np.flatnonzero(self.whole(user))
        order = rng.generator(self._seed, "held-out items", user).permutation(len(liked))
        return np.sort(liked[order[: round(self.hidden * len(liked))]])

    def of(self, user: int) -> Floats:
        """The profile of a user, without the items that are held out."""
        shown = self.whole(user).copy()
        shown[self.held_out(user)] = 0.0
        return shown


class Communities(Profiles):
    """Synthetic communities: each has an order of popularity of its own, by Zipf's law."""

    kind = "communities"
    items: int = param("The number of items.", default=200, ge=1)
    communities: int = param("The number of communities. Each user belongs to one of them.", default=5, ge=1)
    likes: int = param("The items that a user likes.", default=20, ge=1)
    exponent: float = param("The exponent of Zipf's law; 0 for equal popularity.", default=1.0, ge=0)
    strangers: float = param(
        "The fraction of a user's likes that follows the popularity among all users.", default=0.1, ge=0, le=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likes > self.items:
            raise ConfigurationError(
                f"The 'likes' of {self.named()} must be an int in [1, items]. Got {self.likes} instead (items is "
                f"{self.items})."
            )

    @property
    def width(self) -> int:
        return self.items

    def community(self, user: int) -> int:
        """The community of a user."""
        return int(rng.generator(self._seed, "community", user).integers(self.communities))

    @cached_property
    def _popularity(self) -> Floats:
        """The popularity of each item in each community, communities x I."""
        orders = [rng.generator(self._seed, "popularity", c).permutation(self.items) for c in range(self.communities)]
        found = (1.0 + np.stack(orders)) ** -self.exponent
        return np.asarray(found / found.sum(axis=1, keepdims=True), dtype=np.float64)

    def whole(self, user: int) -> Floats:
        popularity = self._popularity
        chances = (1 - self.strangers) * popularity[self.community(user)] + self.strangers * popularity.mean(axis=0)
        # The largest of log(p) + Gumbel noise are a draw without replacement.
        keys = np.log(chances) + rng.generator(self._seed, "likes", user).gumbel(size=self.items)
        profile = np.zeros(self.items)
        profile[np.argpartition(-keys, self.likes - 1)[: self.likes]] = 1.0
        return profile


class MovieLens(Profiles):
    """The films of MovieLens-100k that each of 943 users rated highly."""

    kind = "movielens-100k"
    least: int = param("The least rating of a film that a user likes.", default=4, ge=1, le=5)

    @cached_property
    def _liked(self) -> Floats:
        """U x I."""
        from covey.learning.datasets.tables import MovieLens100K  # Only here, because it loads torch.

        table = MovieLens100K().ratings(data_folder(None))
        users, user_of = np.unique(table[:, 0], return_inverse=True)
        films, film_of = np.unique(table[:, 1], return_inverse=True)
        liked = np.zeros((len(users), len(films)))
        liked[user_of, film_of] = table[:, 2] >= self.least
        return liked

    @property
    def width(self) -> int:
        return int(self._liked.shape[1])

    def most(self) -> int | None:
        return int(self._liked.shape[0])

    def whole(self, user: int) -> Floats:
        return np.asarray(self._liked[user], dtype=np.float64)


class OwnFiles(Profiles):
    """A file for every user. A process reads those of its own nodes only, so each machine may hold its own."""

    kind = "files"
    path: str = param('The file of a user, with "{user}" in place of the number: a CSV with "item" and maybe "value".')
    items: int = param("The number of items that all users know.", ge=1)

    @property
    def width(self) -> int:
        return self.items

    def whole(self, user: int) -> Floats:
        return numbers_of(self.path, user, self.items, "value", self)


def numbers_of(path: str, user: int, items: int, column: str, part: Part, default: float = 0.0) -> Floats:
    """The number of each item in a user's file.

    Args:
        path: the path, with "{user}" for the number of the user.
        user: the user.
        items: the number of items.
        column: the column of the numbers; without it they are 1.
        part: the part that reads the file, for messages.
        default: the number of items that the file does not have.

    Raises:
        DataError: the file cannot be read, or has other values.
    """
    file = Path(path.replace("{user}", str(user))).expanduser()
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = [*csv.DictReader(opened)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"The 'path' of {part.named()}, '{file}', cannot be read: {why}.") from error
    found = np.full(items, default)
    for number, row in enumerate(rows, start=2):
        item, value = row.get("item"), row.get(column, "1")
        if item is None or not (item.isascii() and item.isdecimal()) or int(item) >= items:
            raise DataError(
                f"The 'item' in line {number} of {file} must be an int in [0, {items}). Got {quoted(item)} instead."
            )
        try:
            found[int(item)] = float(value or "")
        except ValueError:
            found[int(item)] = np.nan
        if np.isnan(found[int(item)]):
            raise DataError(f"The '{column}' in line {number} of {file} must be a float. Got {quoted(value)} instead.")
    return found
