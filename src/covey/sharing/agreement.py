"""What the neighbours of a receiver know of each other before they send: who takes part, with which places.

Shapes: P parameters, K places of one member.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from covey.crypto import add_mask, derive
from covey.crypto.fixed_point import Integers
from covey.node import NodeId

DIGEST_BYTES = 16


class IndexSet:
    """Some places of a vector.

    Args:
        places_K: increasing.
        size: how long the vector is.
    """

    __slots__ = ("digest", "held_P", "places_K")

    def __init__(self, places_K: NDArray[np.int64], size: int) -> None:
        self.places_K = places_K
        self.held_P: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        self.held_P[places_K] = True
        self.digest = blake2b(np.packbits(self.held_P).data, digest_size=DIGEST_BYTES).digest()


class Member(NamedTuple):
    """A neighbour of the receiver that sends to it in this round."""

    public: bytes
    """Its public key."""
    chosen: IndexSet
    """The places that it wants to send."""


class Agreement:
    """All that decides which numbers each member sends to a receiver in a round, and under which masks.

    Args:
        receiver: to whom.
        t: in which round.
        members: in the order of their ids.
        masks: under how many masks a number must be, at least.
    """

    def __init__(self, receiver: NodeId, t: int, members: Mapping[NodeId, Member], masks: int) -> None:
        self.receiver = receiver
        self.t = t
        self.members = members
        self.masks = masks
        said = blake2b(f"{receiver} {t} {masks}".encode(), digest_size=DIGEST_BYTES)
        for id, (public, chosen) in members.items():
            said.update(b"%d " % id + public + chosen.digest)
        self.digest = said.digest()
        """Who has the same digest has agreed to the same."""
        self._alike = len({member.chosen.digest for member in members.values()}) == 1

    @cached_property
    def kept_P(self) -> NDArray[np.bool_]:
        """The places with enough holders: each holder then has a mask with each other one."""
        chosen = [member.chosen.held_P for member in self.members.values()]
        if self._alike:
            return chosen[0] if len(chosen) > self.masks else np.zeros_like(chosen[0])
        holders_P = np.zeros(len(chosen[0]) if chosen else 0, dtype=np.uint16)
        for held_P in chosen:
            holders_P += held_P
        return holders_P > self.masks

    def places(self, sender: NodeId) -> NDArray[np.int64]:
        """The places of the numbers that a member sends."""
        places_K = self.members[sender].chosen.places_K
        return places_K[self.kept_P[places_K]]

    def masked(self, sender: NodeId, numbers_K: Integers, secrets: Callable[[bytes], bytes | None] | None) -> Integers:
        """What a member sends.

        Args:
            sender: the member.
            numbers_K: its numbers at the places that it has chosen.
            secrets: the secret that it shares with the owner of a public key; None to make no masks.
        """
        places_K = self.members[sender].chosen.places_K
        kept_K = self.kept_P[places_K]
        whole = bool(kept_K.all())
        values, places = (numbers_K.copy(), places_K) if whole else (numbers_K[kept_K], places_K[kept_K])
        for id, member in self.members.items():
            if id == sender or secrets is None:
                continue
            secret = secrets(member.public)
            assert secret is not None
            # The digest is in the key: should a round be tried again with other members or places, no stream is reused.
            key = derive(secret, "mask", self.t, self.receiver, context=self.digest)
            where = None if self._alike else member.chosen.held_P[places]
            add_mask(values, key, negative=sender > id, where_K=where)
        return values
