"""The peer sampler of an emulation: the launcher draws names and relays, and sends each host its own share."""

import secrets
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec
import numpy as np

from covey.messages.crypto import KEY_BYTES
from covey.parts.errors import RunError
from covey.runtime.emulation.shares import HostShare, Passage, Relayed, Virtual
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.sampler import Overlay, Sampler

if TYPE_CHECKING:
    from covey.runtime.emulation.launcher.launcher import Launcher
    from covey.runtime.emulation.launcher.remote import Remote

_TICKET_BYTES = 7
_KEPT = 4
"""The number of rounds whose shares are kept."""
_SECRET_BITS = 512


class Draws:
    """The names, tickets, keys and relays of all rounds.

    Args:
        overlay: the virtual nodes.
        owners: the host of every node.
        secret: the secret of the launcher.
    """

    def __init__(self, overlay: Overlay, owners: Sequence[int], secret: int) -> None:
        self.sampler = Sampler(overlay, len(owners), secret)
        self._owners, self._hosts, self._relays = owners, max(owners) + 1, overlay.relays
        self._key = secret.to_bytes(_SECRET_BITS // 8, "little")

    def _hash(self, purpose: str, sender: int, receiver: int, size: int) -> bytes:
        """A secret of the way from one name to another. Names are of one round only."""
        text = f"{purpose} {sender} {receiver}".encode()
        return blake2b(text, key=self._key, digest_size=size).digest()

    def shares(self, t: int) -> list[HostShare]:
        """The share of every host in round t."""
        found = [HostShare(t, [], [], [], []) for _ in range(self._hosts)]
        for node, mine in sorted(self.sampler.at(t).shares.items()):
            here = self._owners[node]
            for number, name, peers in mine:
                found[here].virtual.append(Virtual(node, number, name, list(peers)))
                for peer in peers:
                    self._lead(found, name, peer, here, self._owners[self.sampler.holder(peer)])
        return found

    def _lead(self, found: Sequence[HostShare], sender: int, receiver: int, source: int, target: int) -> None:
        """Add the way from a name to another to the shares of its hosts."""
        ticket = int.from_bytes(self._hash("ticket", sender, receiver, _TICKET_BYTES), "little")
        key = self._hash("key", sender, receiver, KEY_BYTES)
        others = [host for host in range(self._hosts) if host not in (source, target)]
        to, since = target, source
        if self._relays and source != target:
            to = since = others[int.from_bytes(self._hash("relay", sender, receiver, 8), "little") % len(others)]
            found[to].relayed.append(Relayed(ticket, source, target))
        found[source].outgoing.append(Passage(ticket, sender, receiver, to, key))
        found[target].incoming.append(Passage(ticket, sender, receiver, since, key))


class Sampling:
    """Answers the hosts of a run.

    Args:
        launcher: the launcher of the hosts.
        overlay: the virtual nodes.
    """

    def __init__(self, launcher: "Launcher", overlay: Overlay) -> None:
        self._launcher = launcher
        self.draws = Draws(overlay, launcher.owners, secrets.randbits(_SECRET_BITS))
        self._sent: WeakKeyDictionary[Connection, set[int]] = WeakKeyDictionary()
        """The rounds whose shares were sent over each connection to a host."""
        self._drawn = lru_cache(_KEPT)(self.draws.shares)

    def answer(self, asking: "Remote", t: int) -> None:
        """Send the share of a round to all hosts that do not have it: those that did not ask may have to relay.

        Raises:
            RunError: there is no such round.
        """
        if not 0 <= t < self._launcher.prepared.experiment.rounds:
            raise RunError(f"Host {asking.number} asks for the virtual nodes of round {t}, which does not exist.")
        shares = self._drawn(t)
        for host in self._launcher.hosts:
            if host.connection is None or not host.begun:
                continue
            sent = self._sent.setdefault(host.connection, set())
            if t not in sent:
                sent.add(t)
                host.send("sampled", {"share": np.frombuffer(msgspec.msgpack.encode(shares[host.number]), np.uint8)})

    def write_truth(self) -> None:
        """Record the nodes behind the names, from the first round on that is run, if the run observes nodes."""
        launcher = self._launcher
        if launcher.writer is None or launcher.prepared.experiment.observer is None:
            return
        completed = [snapshot.completed for snapshot in launcher.records.checkpoints.latest.values()]
        since = min(completed, default=0) if len(completed) == len(launcher.owners) else 0
        launcher.writer.add_truth(self.draws.sampler.truth(since, launcher.prepared.experiment.rounds))
