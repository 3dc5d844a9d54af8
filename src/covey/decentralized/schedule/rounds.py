"""The schedule of training in gossip."""

from typing import ClassVar

from covey.learning.node import LearningNode
from covey.parts.parameters import Part, param


class Schedule(Part):
    """A rule for the rounds in which nodes train. One object serves all nodes."""

    family: ClassVar[str] = "schedule"

    def trains(self, node: LearningNode, t: int) -> bool:
        """True if the node trains in round t. Called once per round."""
        raise NotImplementedError

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


class Periodic(Schedule):
    """Train in every k-th round, including the first, and only mix in the others."""

    kind = "periodic"
    every: int = param("The distance between two rounds with training.", ge=1)

    def trains_all_at_once(self) -> bool:
        return type(self).trains is Periodic.trains

    def trains(self, node: LearningNode, t: int) -> bool:
        return t % self.every == 0

    def cycle(self) -> int:
        return self.every
