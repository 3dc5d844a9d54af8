"""Sparse ternary compression (Sattler et al., 2019), carried over from a server's clients to neighbours."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from torch import Tensor

from covey.decentralized.sharing.public_copies import PublicCopies
from covey.learning.node import LearningNode
from covey.messages.compression import MARK_BYTES, Compressor, Decompressed, Ternary
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, WireError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.node import Message


class STC(PublicCopies):
    """Sparse ternary compression: sends the signs of the largest changes since the common start, and one magnitude.

    What a message leaves out stays in the difference to the public copy, where later changes add to it.
    """

    kind = "stc"
    by_change = True
    budget: float = param("The fraction of the values whose change is sent.", gt=0, le=1)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if not setting.same_start:
            raise ConfigurationError(
                f"{self.named().capitalize()} says how models change from what all began with, so the 'same_start' of "
                f"the task must be true. Got False instead; the sharing 'choco' needs no common start."
            )
        self._ternary = Ternary(budget=self.budget)

    @property
    def codec(self) -> Compressor:
        return self._ternary

    def first_copy(self, start: Tensor) -> Tensor:
        return start

    def first_mark(self, start: Tensor) -> bytes:
        # Changes mean nothing to who did not begin with the same model.
        return _digest(start)[:MARK_BYTES]

    def outgoing(
        self, node: LearningNode, graph: Graph, t: int, start: Tensor
    ) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        messages = super().outgoing(node, graph, t, start)
        if t > 0 or self._patient:
            return messages
        node.state["first model"] = first = _digest(start)
        return [(receivers, {**payload, "first": first}) for receivers, payload in messages]

    def read(self, node: LearningNode, message: Message) -> Decompressed:
        if message.round != 0:
            return super().read(node, message)
        payload = dict(message.shared)
        if payload.pop("first", None) != node.state["first model"]:
            raise WireError("bad-field", "its changes are not of the model that this node began with")
        return self.decompress(message, payload)


def _digest(model: Tensor) -> bytes:
    return blake2b(model.cpu().numpy().tobytes(), digest_size=16).digest()
