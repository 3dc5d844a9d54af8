"""The secrets that senders deposit with a receiver, so that the masks of missing ones can be removed from its sum.

A sender's numbers are under masks that it shares with the receiver's other neighbours, and under one of its own. For
each round and receiver it cuts two kinds of secrets into shares: the root, which opens the sender's side of all the
shared masks, and the seeds of its own mask. Holders are all neighbours of the receiver, which passes each its shares in
a box that it cannot open. They give back shares of one kind or of the other, never of both: without the root a missing
sender's shared masks stay, without a seed the own mask of one that is present.

The own mask has levels. Level r is on the indices that have enough senders even if r of them are missing. The seed of a
level follows from that of the level below, and not the other way: with the seed of level r, nothing opens where too few
would be left.

Let n be the number of holders, c the number of those that reveal all that they know to the receiver, T the number of
shares that join a secret, and R the number of senders that a holder lets be missing in a round. To be left with the
numbers of one sender, the receiver must have the seed of some level r of this sender and the roots of r + 1 others,
each from T - c honest holders. A holder that gives the seed gives r roots with it; the others, at most n - T, give R
roots each. T - c > R (n - T) keeps at least one root away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

from covey.messages.crypto import BOX_BYTES, SECRET_BYTES, SHARE_BYTES, Keys, cut, derive, lock, secret_of, unlock

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of a receiver's neighbours that hold shares, that must help, and that may be missing."""

    holders: int
    threshold: int
    most_lost: int

    @property
    def box_bytes(self) -> int:
        """A share of the root and of the seed of each level."""
        return (2 + self.most_lost) * SHARE_BYTES + BOX_BYTES

    @property
    def chest_bytes(self) -> int:
        """A secret for each other holder."""
        return (self.holders - 1) * SECRET_BYTES + BOX_BYTES

    @property
    def deposit_bytes(self) -> int:
        """The whole of a sender's deposit."""
        digests = (2 + self.most_lost) * _DIGEST_BYTES
        return digests + self.chest_bytes + (self.holders - 1) * self.box_bytes


def most_lost(holders: int, threshold: int, masks: int) -> int:
    """The most senders that may be missing with each value hidden, if `masks` - 1 holders reveal all that they know."""
    silent, honest = holders - threshold, threshold - (masks - 1)
    return min(silent, (honest - 1) // silent) if silent > 0 and honest > 0 else 0


@cache
def plan_for(holders: int, masks: int, threshold: int | None = None) -> Plan | None:
    """A receiver's plan; None if no neighbour may be missing.

    Args:
        holders: the number of its neighbours.
        masks: the number of masks on each number.
        threshold: the number of neighbours that must help; by default the least that lets the most be missing.
    """
    choices = range(1, holders) if threshold is None else [threshold]
    lost, least = max(((most_lost(holders, choice, masks), -choice) for choice in choices), default=(0, 0))
    return Plan(holders, -least, lost) if lost > 0 else None


class Deposit(NamedTuple):
    """The parts of a deposit, as its receiver has them."""

    fingerprint: bytes
    """The fingerprint of the holders' public keys for which it was made."""
    seals: tuple[bytes, ...]
    """Digests of the seeds, by level."""
    chest: bytes
    """The sender's side of its shared masks, which the root opens."""
    boxes: tuple[bytes, ...]
    """The boxes of the holders other than the sender, in order of the holders."""

    @classmethod
    def read(cls, deposit: object, plan: Plan) -> "Deposit | None":
        """The parts of a received entry; None where it is no deposit of the plan's size."""
        if not isinstance(deposit, bytes) or len(deposit) != plan.deposit_bytes:
            return None
        digests = [*range(0, (2 + plan.most_lost) * _DIGEST_BYTES, _DIGEST_BYTES)]
        fingerprint, *seals = (deposit[at : at + _DIGEST_BYTES] for at in digests)
        rest = deposit[len(digests) * _DIGEST_BYTES :]
        chest, rest = rest[: plan.chest_bytes], rest[plan.chest_bytes :]
        boxes = tuple(rest[at : at + plan.box_bytes] for at in range(0, len(rest), plan.box_bytes))
        return cls(fingerprint, tuple(seals), chest, boxes)

    def box(self, owner: int, holder: int) -> bytes:
        """The box of one holder.

        Args:
            owner, holder: indices of the sender and of another holder.
        """
        return self.boxes[holder - (holder > owner)]

    def secrets(self, root: bytes) -> list[bytes] | None:
        """The secrets of a sender's shared masks, in order of the other holders; None with a wrong root."""
        opened = unlock(derive(root, "chest", context=b""), self.chest)
        if opened is None:
            return None
        return [opened[at : at + SECRET_BYTES] for at in range(0, len(opened), SECRET_BYTES)]


@dataclass(frozen=True, slots=True)
class Depositor:
    """One sender's secrets for one receiver in one round.

    None of them is kept: they follow from the sender's private key.
    """

    keys: Keys
    t: int
    receiver: int
    plan: Plan

    @property
    def seed(self) -> bytes:
        """The seed of the lowest level of the sender's own mask."""
        return secret_of(derive(self.keys.own, "own mask", self.t, self.receiver, context=b""))

    @property
    def _root(self) -> bytes:
        return secret_of(derive(self.keys.own, "root", self.t, self.receiver, context=b""))

    def shares(self) -> list[list[bytes]]:
        """The shares of the root and of each level's seed, by the holders' indices."""
        secrets = [self._root, *seeds_from(self.seed, self.plan.most_lost)]
        each = [cut(secret, self._coefficients(which), self.plan.holders) for which, secret in enumerate(secrets)]
        return [list(of_holder) for of_holder in zip(*each, strict=True)]

    def _coefficients(self, which: int) -> list[bytes]:
        numbers = range(self.plan.threshold - 1)
        own, t, receiver = self.keys.own, self.t, self.receiver
        return [derive(own, "coefficient", t, receiver, which, number, context=b"") for number in numbers]

    def deposit(self, publics: Sequence[bytes], own: int) -> bytes:
        """The deposit of the sender.

        Args:
            publics: the public keys of all holders, by their indices.
            own: its own index among the holders.
        """
        chest, boxes, shares = [], [], self.shares()
        for index, public in enumerate(publics):
            if index == own:
                continue
            secret = self.keys.secret(public)
            assert secret is not None
            chest.append(shared(secret, self.t, self.receiver))
            boxes.append(lock(box_key(secret, self.t, self.receiver, own, index), b"".join(shares[index])))
        seals = [sealed(seed) for seed in seeds_from(self.seed, self.plan.most_lost)]
        locked = lock(derive(self._root, "chest", context=b""), b"".join(chest))
        return b"".join([fingerprint(publics), *seals, locked, *boxes])


def shared(secret: bytes, t: int, receiver: int) -> bytes:
    """The secret of a pair's mask that can be removed from a sum."""
    return derive(secret, "mask that can be taken out", t, receiver, context=b"")


def box_key(secret: bytes, t: int, receiver: int, owner: int, holder: int) -> bytes:
    """The key of the box for a holder at one index, from the sender at another."""
    return derive(secret, "box", t, receiver, owner, holder, context=b"")


def seeds_from(seed: bytes, more: int) -> list[bytes]:
    """The seed of a level and of so many levels above it."""
    seeds = [seed]
    for _ in range(more):
        seeds.append(secret_of(derive(seeds[-1], "next level", context=b"")))
    return seeds


def sealed(seed: bytes) -> bytes:
    """The digest by which a receiver checks a seed that it has joined from shares."""
    return blake2b(seed, digest_size=_DIGEST_BYTES).digest()


def fingerprint(publics: Sequence[bytes]) -> bytes:
    """The fingerprint of public keys in an order."""
    return blake2b(b"".join(publics), digest_size=_DIGEST_BYTES).digest()


def read_box(key: bytes, box: object, plan: Plan) -> list[bytes] | None:
    """The shares in a box; None if the box is damaged or not for this holder."""
    if not isinstance(box, bytes) or len(box) != plan.box_bytes:
        return None
    opened = unlock(key, box)
    return None if opened is None else [opened[at : at + SHARE_BYTES] for at in range(0, len(opened), SHARE_BYTES)]
