"""Sparse ternary compression (Sattler et al., 2019), carried over from a server's clients to neighbours."""

from hashlib import blake2b

from torch import Tensor

from covey.decentralized.sharing.public_copies import PublicCopies
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages
from covey.messages.compression import MARK_BYTES, Compressor, Decompressed, Ternary
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.content import Content, entries_of
from covey.runtime.entries import Exactly
from covey.runtime.node import Inbox
from covey.runtime.reading import understood
from covey.runtime.state import State


class First(State):
    """The model that a node began with."""

    digest: bytes


class Beginning(Content):
    """The change of round 0. The other entries of its message are the compressed vector."""

    first: bytes
    """The digest of the model that its sender began with."""


class STC(PublicCopies):
    """Sparse ternary compression: sends the signs of the largest changes since the common start, and one magnitude.

    The rest of the change stays in the difference to the public copy, and later changes add to it.
    """

    kind = "stc"
    by_change = True
    budget: float = param("The fraction of the values whose change is sent.", gt=0, le=1)

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if not setting.same_start:
            raise ConfigurationError(
                f"{self.named().capitalize()} sends changes since the common start, so the 'same_start' of the task "
                "must be true. Got False instead; the sharing 'choco' needs no common start."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._ternary = Ternary(budget=self.budget)

    @property
    def codec(self) -> Compressor:
        return self._ternary

    def first_copy(self, start: Tensor) -> Tensor:
        return start

    def first_mark(self, start: Tensor) -> bytes:
        # Changes are meaningless to a node that began with another model.
        return _digest(start)[:MARK_BYTES]

    def outgoing(self, round: Round) -> Messages:
        messages = super().outgoing(round)
        if round.t > 0 or self._patient:
            return messages
        round.node.keep(First, self).digest = first = _digest(round.start)
        return [(to, {**entries_of(payload, round.node), "first": first}) for to, payload in messages]

    def received(self, round: Round, inbox: Inbox) -> dict[NodeId, Decompressed]:
        if round.t > 0:
            return super().received(round, inbox)
        own = Exactly(round.node.keep(First, self).digest, "the digest of the model that this node began with")
        changes = round.node.usable(inbox, Beginning, first=own)
        return {change.sender: vector for change, vector in understood(round.node, changes, self._vector)}


def _digest(model: Tensor) -> bytes:
    return blake2b(model.cpu().numpy().tobytes(), digest_size=16).digest()
