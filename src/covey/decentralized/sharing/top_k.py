"""Send what changed most."""

from torch import Tensor

from covey.decentralized.sharing.partial import Partial
from covey.decentralized.sharing.round import Round
from covey.messages.compression import largest
from covey.parts.parameters import param


class TopK(Partial):
    """The values that changed most in a round's training, or with accumulation since they were last sent.

    With accumulation, what averaging changed counts too: a value is sent when it is far from what it was at the
    beginning of the round in which it was last sent.
    """

    kind = "top-k"
    by_change = True
    accumulation: bool = param("Whether changes add up until they are sent.", default=True)

    def choose(self, round: Round) -> Tensor:
        node, start = round.node, round.start
        before: Tensor = node.state.get("top-k reference", start) if self.accumulation else start  # type: ignore[assignment]
        indices = largest(node.model - before, self.count)
        if self.accumulation:
            node.state["top-k reference"] = before.index_copy(0, indices, start[indices])
        return indices
