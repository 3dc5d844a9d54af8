"""Sparse ternary compression (Sattler et al., 2019), carried over from a server's clients to neighbours."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from torch import Tensor

from covey.compression import Compressor, Decompressed, Ternary
from covey.errors import ProgramError, WireError
from covey.node import Message, Node, NodeId, Payload
from covey.parameters import Setting, param
from covey.sharing.public_copies import PublicCopies
from covey.topology import Graph


class STC(PublicCopies):
    """Sparse ternary compression: sends the signs of the largest changes since the common start, and one magnitude.

    What a message leaves out stays in the difference to the public copy, where later changes add to it.
    """

    kind = "stc"
    by_change = True
    budget: float = param("The fraction of the values whose change is sent.", gt=0, le=1)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._ternary = Ternary(budget=self.budget)

    @property
    def codec(self) -> Compressor:
        return self._ternary

    def first_copy(self, start: Tensor) -> Tensor:
        return start

    def outgoing(self, node: Node, graph: Graph, t: int, start: Tensor) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        messages = super().outgoing(node, graph, t, start)
        if t > 0:
            return messages
        # Changes mean nothing to who did not begin with the same model.
        node.state["first model"] = first = _digest(start)
        return [(receivers, {**payload, "first": first}) for receivers, payload in messages]

    def read(self, node: Node, message: Message) -> Decompressed:
        """The vector of a message to a node.

        Raises:
            WireError: it has none.
            ProgramError: its sender began with another model.
        """
        if message.round != 0:
            return super().read(node, message)
        payload = dict(message.payload)
        first = payload.pop("first", None)
        if not isinstance(first, bytes):
            raise WireError("bad-field", "it does not tell with which model its sender began")
        if first != node.state["first model"]:
            raise ProgramError(
                f"Node {node.id} began with another model than node {message.sender}, and the sharing stc tells how "
                f"models change since their common start. Set 'same_start' of the task to true."
            )
        return self.decompress(message, payload)


def _digest(model: Tensor) -> bytes:
    return blake2b(model.cpu().numpy().tobytes(), digest_size=16).digest()
