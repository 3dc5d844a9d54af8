"""The part of gossip that says who trains in which round."""

from typing import ClassVar

from covey.learning.node import LearningNode
from covey.parts.parameters import Part, param


class Schedule(Part):
    """Decides about training, round by round; one object serves all nodes."""

    family: ClassVar[str] = "schedule"

    def trains(self, node: LearningNode, t: int) -> bool:
        """Whether the node trains in round t; asked once for every round."""
        raise NotImplementedError

    def cycle(self) -> int:
        """After how many rounds the pattern begins anew."""
        return 1

    def trains_all_at_once(self) -> bool:
        """Whether in every round either all nodes train or none."""
        return False


class EveryRound(Schedule):
    """Train in every round."""

    kind = "every-round"

    def trains_all_at_once(self) -> bool:
        return type(self).trains is EveryRound.trains

    def trains(self, node: LearningNode, t: int) -> bool:
        return True


class Periodic(Schedule):
    """Train in every k-th round, the first included, and only mix in the others."""

    kind = "periodic"
    every: int = param("The distance between two rounds with training.", ge=1)

    def trains_all_at_once(self) -> bool:
        return type(self).trains is Periodic.trains

    def trains(self, node: LearningNode, t: int) -> bool:
        return t % self.every == 0

    def cycle(self) -> int:
        return self.every
