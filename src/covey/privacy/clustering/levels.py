"""The privacy that users want: v, a number in [0, 1] for every item of a user, 0 for absolute privacy."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from covey.parts import rng
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param
from covey.privacy.clustering.profiles import numbers_of

Floats = NDArray[np.float64]


class Levels(Part):
    """A model of the privacy that users want."""

    family: ClassVar[str] = "privacy-levels"

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._seed, self._users = setting.seed, setting.nodes - 1

    def of(self, user: int, items: int) -> Floats:
        """v of a user."""
        raise NotImplementedError


class Homogeneous(Levels):
    """The same level for all items of all users."""

    kind = "homogeneous"
    level: float = param("The v of all items.", default=1.0, ge=0, le=1)

    def of(self, user: int, items: int) -> Floats:
        return np.full(items, self.level)


class Groups(Levels):
    """Groups of users with a level each: by default the unconcerned, the pragmatic and the fundamentalists."""

    kind = "groups"
    shares: list[float] = param(
        "The fractions of users in the groups, with the sum 1.", factory=lambda: [0.25, 0.5, 0.25]
    )
    levels: list[float] = param("The v of each group.", factory=lambda: [1.0, 0.5, 0.1])

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shares or any(not 0 <= share <= 1 for share in self.shares) or abs(sum(self.shares) - 1) > 1e-9:
            raise ConfigurationError(
                f"The 'shares' of {self.named()} must be floats in [0, 1] that sum to 1. Got {self.shares} instead."
            )
        if len(self.levels) != len(self.shares) or any(not 0 <= level <= 1 for level in self.levels):
            raise ConfigurationError(
                f"The 'levels' of {self.named()} must be {len(self.shares)} floats in [0, 1], one for each group. "
                f"Got {self.levels} instead."
            )

    def group(self, user: int) -> int:
        """The group of a user. Groups have the sizes of their shares, up to rounding."""
        place = rng.generator(self._seed, "groups").permutation(self._users)[user]
        return int(np.searchsorted(np.cumsum(self.shares)[:-1], (place + 0.5) / self._users, side="right"))

    def of(self, user: int, items: int) -> Floats:
        return np.full(items, self.levels[self.group(user)])


class PerItem(Levels):
    """A level for every item of every user, drawn uniformly from equally spaced ones."""

    kind = "per-item"
    low: float = param("The least level.", default=0.0, ge=0, le=1)
    high: float = param("The greatest level.", default=1.0, ge=0, le=1)
    levels: int = param("The number of levels.", default=10, ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ConfigurationError(
                f"The 'low' of {self.named()} must be at most its 'high'. Got {self.low} and {self.high} instead."
            )

    def of(self, user: int, items: int) -> Floats:
        drawn = rng.generator(self._seed, "levels of items", user).integers(self.levels, size=items)
        return np.linspace(self.low, self.high, self.levels)[drawn]


class OwnLevels(Levels):
    """A file for every user. Items that it does not have get no influence."""

    kind = "files"
    path: str = param('The file of a user, with "{user}" in place of the number: a CSV with "item" and "privacy".')

    def of(self, user: int, items: int) -> Floats:
        return numbers_of(self.path, user, items, "privacy", self)
