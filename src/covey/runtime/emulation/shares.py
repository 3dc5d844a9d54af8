"""The share of a host in a round of the peer sampler, as the launcher sends it.

A message from one name to another has a ticket, which is a random number, and a key. If it passes a relay, the host of
its sender knows the relay, the host of its receiver knows the relay, and the relay knows both hosts and no name. Only
the two ends have the key.
"""

import msgspec


class Virtual(msgspec.Struct, array_like=True, frozen=True):
    """A virtual node of a node of the host."""

    node: int
    number: int
    id: int
    peers: list[int]


class Passage(msgspec.Struct, array_like=True, frozen=True):
    """One end of the way from a name to another."""

    ticket: int
    sender: int
    receiver: int
    via: int
    """The host to which messages go, or from which they come: a relay, or the other end itself."""
    key: bytes


class Relayed(msgspec.Struct, array_like=True, frozen=True):
    """A ticket whose messages this host passes on."""

    ticket: int
    source: int
    target: int


class HostShare(msgspec.Struct, array_like=True, frozen=True):
    """All that a host receives from the peer sampler about a round."""

    round: int
    virtual: list[Virtual]
    outgoing: list[Passage]
    incoming: list[Passage]
    relayed: list[Relayed]
