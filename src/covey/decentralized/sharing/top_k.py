"""The sharing of the values that changed most."""

from torch import Tensor

from covey.decentralized.sharing.partial import Partial
from covey.decentralized.sharing.round import Round
from covey.messages.compression import largest
from covey.parts.parameters import param
from covey.runtime.state import State


class LastSent(State):
    """The model with each value as it was when it was last sent."""

    reference: Tensor | None = None


class TopK(Partial):
    """The values that changed most in a round's training, or with accumulation since they were last sent.

    With accumulation, changes by averaging count, too: a value is sent when it is far from its value at the beginning
    of the round in which it was last sent.
    """

    kind = "top-k"
    by_change = True
    accumulation: bool = param("Whether changes add up until they are sent.", default=True)

    def choose(self, round: Round) -> Tensor:
        node, start = round.node, round.start
        if not self.accumulation:
            return largest(node.model - start, self.count)
        last = node.keep(LastSent, self)
        before = start if last.reference is None else last.reference
        indices = largest(node.model - before, self.count)
        last.reference = before.index_copy(0, indices, start[indices])
        return indices
