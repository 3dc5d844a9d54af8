"""The schedule of training in gossip."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from covey.learning.node import LearningNode
from covey.parts.parameters import Part, Setting, param


class Schedule(Part):
    """A rule for the rounds in which nodes train. One object serves all nodes."""

    family: ClassVar[str] = "schedule"

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._nodes = setting.nodes

    def trains(self, node: LearningNode, t: int) -> bool:
        """True if the node trains in round t. Called once per round."""
        raise NotImplementedError

    def mask(self, t: int) -> NDArray[np.bool_] | None:
        """The result of `trains` for every node in round t, N; None if it depends on more than the node and the round.

        A part gives masks of all rounds or of none, once it is prepared.
        """
        return None

    def all_of(self, trains: bool) -> NDArray[np.bool_]:
        """The mask of a round in which every node trains, or none does."""
        return np.full(self._nodes, trains)

    def cycle(self) -> int:
        """The period of the schedule in rounds."""
        return 1

    def trains_all_at_once(self) -> bool:
        """True if in every round either all nodes train or none."""
        return False


class EveryRound(Schedule):
    """Train in every round."""

    kind = "every-round"

    def trains_all_at_once(self) -> bool:
        return type(self).trains is EveryRound.trains

    def trains(self, node: LearningNode, t: int) -> bool:
        return True

    def mask(self, t: int) -> NDArray[np.bool_] | None:
        return self.all_of(True) if type(self).trains is EveryRound.trains else None


class Periodic(Schedule):
    """Train in every k-th round, including the first, and only mix in the others."""

    kind = "periodic"
    every: int = param("The distance between two rounds with training.", ge=1)

    def trains_all_at_once(self) -> bool:
        return type(self).trains is Periodic.trains

    def trains(self, node: LearningNode, t: int) -> bool:
        return t % self.every == 0

    def mask(self, t: int) -> NDArray[np.bool_] | None:
        return self.all_of(t % self.every == 0) if type(self).trains is Periodic.trains else None

    def cycle(self) -> int:
        return self.every
