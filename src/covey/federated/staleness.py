"""The weights of stale updates.

The staleness s of an update is the version of the server's model that it meets, minus the version from which it was
computed. A weight is 1 for a fresh update.
"""

import math
from typing import ClassVar

from covey.parts.parameters import Part, param


class Staleness(Part):
    """A rule that weighs an update by its staleness. One object serves all updates."""

    family: ClassVar[str] = "staleness"

    def weight(self, staleness: int) -> float:
        """The weight of an update, in [0, 1]; 1 if `staleness` is 0."""
        raise NotImplementedError


class Constant(Staleness):
    """The weight 1: stale updates count as fresh ones."""

    kind = "constant"

    def weight(self, staleness: int) -> float:
        return 1.0


class Polynomial(Staleness):
    """The weight (1 + s)^-q (FedAsync, Xie et al., 2019). FedBuff (Nguyen et al., 2022) has q = 0.5, 1 / √(1 + s)."""

    kind = "polynomial"
    q: float = param("The exponent. 0 is the constant weight.", default=0.5, ge=0)

    def weight(self, staleness: int) -> float:
        return float((1.0 + staleness) ** -self.q)


class Hinge(Staleness):
    """The weight 1 up to a staleness of b, and 1 / (1 + a (s - b)) above it (FedAsync, Xie et al., 2019)."""

    kind = "hinge"
    a: float = param("The decrease of the weight above b.", default=10.0, ge=0)
    b: float = param("The greatest staleness of the weight 1.", default=4.0, ge=0)

    def weight(self, staleness: int) -> float:
        return 1.0 / (1.0 + self.a * max(staleness - self.b, 0.0))


class Inverse(Staleness):
    """The weight 1 / (1 + s) (DynSGD, Jiang et al., 2017)."""

    kind = "inverse"

    def weight(self, staleness: int) -> float:
        return 1.0 / (1.0 + staleness)


class Exponential(Staleness):
    """The weight exp(-beta s), which AdaSGD uses with a beta that it chooses (Damaskinos et al., 2020)."""

    kind = "exponential"
    beta: float = param("The decay for each version.", default=0.1, ge=0)

    def weight(self, staleness: int) -> float:
        return math.exp(-self.beta * staleness)
