"""The agreement of a receiver's neighbours before they send: its members and their indices.

Shapes: P parameters, K indices of one member.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from covey.decentralized.sharing.deposits import Plan, seeds_from, shared
from covey.messages.crypto import add_mask, derive
from covey.messages.crypto.fixed_point import Integers
from covey.parts.nodes import NodeId

DIGEST_BYTES = 16


class IndexSet:
    """Some indices of a vector.

    Args:
        indices_K: increasing.
        size: the length of the vector.
    """

    __slots__ = ("digest", "held_P", "indices_K")

    def __init__(self, indices_K: NDArray[np.int64], size: int) -> None:
        self.indices_K = indices_K
        self.held_P: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        self.held_P[indices_K] = True
        self.digest = blake2b(np.packbits(self.held_P).data, digest_size=DIGEST_BYTES).digest()


class Member(NamedTuple):
    """A neighbour of the receiver that sends to it in this round."""

    public: bytes
    """Its public key."""
    chosen: IndexSet
    """The indices that it wants to send."""


class Agreement:
    """The numbers that each member sends to a receiver in a round, and the masks on them.

    Args:
        receiver: the receiver.
        t: the round.
        members: its members, in the order of their ids.
        masks: the least number of masks on each number.
        plan: the plan by which the masks of missing members are removed; None if they are not.
    """

    def __init__(
        self, receiver: NodeId, t: int, members: Mapping[NodeId, Member], masks: int, plan: Plan | None = None
    ) -> None:
        self.receiver = receiver
        self.t = t
        self.members = members
        self.masks = masks
        self.plan = plan
        hashed = blake2b(f"{receiver} {t} {masks} {plan}".encode(), digest_size=DIGEST_BYTES)
        for id, (public, chosen) in members.items():
            hashed.update(b"%d " % id + public + chosen.digest)
        self.digest = hashed.digest()
        """Equal digests mean equal agreements."""
        self._alike = len({member.chosen.digest for member in members.values()}) == 1

    @cached_property
    def kept_P(self) -> NDArray[np.bool_]:
        """The indices with enough holders. Each holder shares a mask with each other one."""
        return self.spare_P >= 0

    @cached_property
    def spare_P(self) -> NDArray[np.int16]:
        """The number of holders of each index that may be missing; below 0 if there are too few."""
        chosen = [member.chosen.held_P for member in self.members.values()]
        holders_P = np.zeros(len(chosen[0]) if chosen else 0, dtype=np.int16)
        if self._alike:
            holders_P[chosen[0]] = len(chosen)
        else:
            for held_P in chosen:
                holders_P += held_P
        return holders_P - np.int16(self.masks + 1)

    def indices(self, sender: NodeId, lost: int = 0) -> NDArray[np.int64]:
        """The indices of the numbers that a member sends, or those that can be opened if so many others are missing."""
        indices_K = self.members[sender].chosen.indices_K
        return indices_K[self.spare_P[indices_K] >= lost]

    def masked(
        self,
        sender: NodeId,
        numbers_K: Integers,
        secrets: Callable[[bytes], bytes | None] | None,
        seed: bytes | None = None,
    ) -> Integers:
        """The numbers that a member sends, masked.

        Args:
            sender: the member.
            numbers_K: its numbers at the indices that it has chosen.
            secrets: the secret that it shares with the owner of a public key; None to make no masks.
            seed: the seed of its own mask, if there is a plan.
        """
        indices_K = self.members[sender].chosen.indices_K
        kept_K = self.kept_P[indices_K]
        whole = bool(kept_K.all())
        values, indices = (numbers_K.copy(), indices_K) if whole else (numbers_K[kept_K], indices_K[kept_K])
        if secrets is None:
            return values
        for id, member in self.members.items():
            if id != sender:
                secret = secrets(member.public)
                assert secret is not None
                self._add_shared(
                    values, indices, secret if self.plan is None else shared(secret, self.t, self.receiver), sender, id
                )
        if self.plan is not None:
            assert seed is not None
            self._add_own(values, indices, seed, 0)
        return values

    def opened(
        self, sender: NodeId, values_K: Integers, lost: int, secrets: Mapping[NodeId, bytes], seed: bytes | None
    ) -> Integers:
        """A member's numbers without its own mask and without those that it shares with missing members.

        Args:
            sender: the member.
            values_K: the numbers that it sent.
            lost: the number of missing members.
            secrets: the secret of the mask that both share, by missing member.
            seed: the seed of its own mask at the level of so many missing members; None without masks.
        """
        indices = self.indices(sender)
        values = values_K.copy()
        if seed is not None:
            for id, secret in secrets.items():
                self._add_shared(values, indices, secret, sender, id, negative=True)
            self._add_own(values, indices, seed, lost, negative=True)
        return values[self.spare_P[indices] >= lost]

    def _add_shared(
        self,
        values: Integers,
        indices: NDArray[np.int64],
        secret: bytes,
        sender: NodeId,
        other: NodeId,
        *,
        negative: bool = False,
    ) -> None:
        """Add or remove the mask that two members share."""
        # The digest is in the key: should a round be tried again with other members or indices, no stream is reused.
        key = derive(secret, "mask", self.t, self.receiver, context=self.digest)
        where = None if self._alike else self.members[other].chosen.held_P[indices]
        add_mask(values, key, negative=(sender > other) != negative, where_K=where)

    def _add_own(
        self, values: Integers, indices: NDArray[np.int64], seed: bytes, lost: int, *, negative: bool = False
    ) -> None:
        """Add or remove a member's own mask, from the level on that belongs to so many missing members."""
        assert self.plan is not None
        levels_K = np.minimum(self.spare_P[indices], self.plan.most_lost)
        for more, of_level in enumerate(seeds_from(seed, self.plan.most_lost - lost)):
            where = levels_K == lost + more
            if where.any():
                key = derive(of_level, "own mask", context=self.digest)
                add_mask(values, key, negative=negative, where_K=None if where.all() else where)
