"""Cuts through a run whose nodes go on from different moments, as hosts report their parts of them."""

from collections.abc import Collection, Mapping

from covey.runtime.mail import MOST, Held
from covey.runtime.snapshots import Snapshot


class Cut:
    """The last commits of nodes, and what they are still to receive, at one moment of the run.

    Args:
        number: the number of cuts ordered so far, itself included.
        hosts: the hosts that take part.
        commits: the number of completed rounds of all nodes together when it was ordered.
    """

    def __init__(self, number: int, hosts: Collection[int], commits: int) -> None:
        self.number, self.hosts, self.commits = number, set(hosts), commits
        self.snapshots: dict[int, Snapshot] = {}
        self._held = Held([], [])
        self._size = 0
        self.has_all = True
        """True if all of the mail is here."""
        self._awaited = set(hosts)

    def add_snapshots(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Some nodes had committed this."""
        self.snapshots |= snapshots

    def add_mail(self, held: Held) -> None:
        """This was still to be received, or not to come again."""
        self._size += held.size
        if self._size > MOST:
            self.has_all = False
        if self.has_all:
            self._held += held

    def end(self, host: int, *, full: bool) -> bool:
        """A host has reported its part; whether it was the last."""
        self._awaited.discard(host)
        self.has_all &= not full
        return not self._awaited

    def mail(self, posted: list[int]) -> Held:
        """The part of the mail that a checkpoint holds, in order; nothing where there is too much.

        Args:
            posted: the number of messages that each node had sent at the commit from which it resumes.
        """
        return self._held.reduced(posted).in_order() if self.has_all else Held([], [])
