"""Profiles and levels of privacy of a user's own, for `semantic-clustering`."""

import numpy as np

from covey import param
from covey.privacy.clustering.levels import Levels
from covey.privacy.clustering.profiles import Profiles


class Spans(Profiles):
    """User u likes the items from u to u + length."""

    items: int = param("The number of items.", default=30, ge=1)
    length: int = param("The number of items that a user likes.", default=5, ge=1)

    @property
    def width(self) -> int:
        return self.items

    def whole(self, user: int) -> np.ndarray:
        profile = np.zeros(self.items)
        profile[user : user + self.length] = 1.0
        return profile


class Alternating(Levels):
    """Items of even numbers are open, those of odd numbers private."""

    def of(self, user: int, items: int) -> np.ndarray:
        return 1.0 - np.arange(items) % 2
