"""The controller of FLeet, which refuses tasks that would teach the model little."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from covey.parts.parameters import Part, param

_SIZES, _PER_SIZE = 1251, 8
_SIMILARITIES = 1001


@dataclass
class Requests:
    """The requests of tasks so far, including refused ones, in histograms of fixed size."""

    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_SIZES, dtype=np.int64))
    """By the size of the mini-batch, in steps of 8."""
    similarities: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_SIMILARITIES, dtype=np.int64))
    """By the similarity of labels, in steps of 0.001."""


class Controller(Part):
    """The tasks to refuse. The thresholds are percentiles of the requests before."""

    kind = "controller"
    handles_arrays = False
    small: float = param(
        "The percentile of sizes of mini-batches below which a task is refused.", default=0, ge=0, lt=100
    )
    similar: float = param("The percentage of requests to refuse by the similarity of labels.", default=0, ge=0, lt=100)
    drops: Literal["most-similar", "least-similar"] = param(
        "The requests that `similar` refuses.", default="most-similar"
    )
    bootstrap: int = param("The requests before the first refusal.", default=20, ge=1)

    def refusal(self, requests: Requests, samples: int, similarity: float) -> str:
        """The reason to refuse a request, or "".

        Args:
            requests: those before.
            samples: the size of its mini-batch.
            similarity: that of its labels with the labels that the model has seen.
        """
        size, like = _places(samples, similarity)
        if not (self.small or self.similar) or requests.sizes.sum() < self.bootstrap:
            return ""
        if self.small and size < _percentile(requests.sizes, self.small):
            return "small"
        most = self.drops == "most-similar"
        if self.similar and most and like > _percentile(requests.similarities, 100.0 - self.similar):
            return "similar"
        if self.similar and not most and like < _percentile(requests.similarities, self.similar):
            return "dissimilar"
        return ""

    def add(self, requests: Requests, samples: int, similarity: float) -> Requests:
        """The requests after another one. Without percentages they do not matter."""
        if not (self.small or self.similar):
            return requests
        size, like = _places(samples, similarity)
        sizes, similarities = requests.sizes.copy(), requests.similarities.copy()
        sizes[size] += 1
        similarities[like] += 1
        return Requests(sizes, similarities)


def _places(samples: int, similarity: float) -> tuple[int, int]:
    """The places of a request in the histograms."""
    return min(samples // _PER_SIZE, _SIZES - 1), min(int(similarity * (_SIMILARITIES - 1)), _SIMILARITIES - 1)


def _percentile(counts: NDArray[np.int64], percent: float) -> int:
    """The least value that this percentage of the counted ones does not exceed."""
    cumulative = np.cumsum(counts)
    return int(np.searchsorted(cumulative, percent / 100.0 * cumulative[-1]))
