"""Summaries of evaluated nodes over all hosts, after a round or at a moment. Each host adds a share."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from covey.parts.errors import RunError
from covey.runtime.prepared import Prepared
from covey.runtime.task import Summary


def check_round(host: int, round: Any, most: int, least: int = 0) -> None:
    """Refuse a host's value that is not a round of the run.

    Raises:
        RunError: it is not a round in [least, most].
    """
    if type(round) is not int or not least <= round <= most:
        raise RunError(f"Host {host} reports round {round!r}, which is not in [{least}, {most}].")


class Averages:
    """The open evaluated rounds or moments, and the shares of hosts.

    Args:
        prepared: the experiment.
        owners: the host of every node.
        last: the number of the last round.
        record: called with a round, its summary, and the metrics of that; None records nothing.
        do: runs functions in the background, one after the other.
    """

    def __init__(
        self,
        prepared: Prepared,
        owners: Sequence[int],
        last: int,
        record: Callable[[int, Summary, Mapping[str, float]], None] | None,
        do: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._task = prepared.task
        self._last, self._record, self._do = last, record, do
        self._models = len(prepared.evaluated)
        of = [owners[node] for node in prepared.evaluated]
        self._models_of = {host: of.count(host) for host in set(of)}
        self._advanced: dict[int, int] = dict.fromkeys(self._models_of, 0)
        """The round up to which each host adds nothing more."""
        self._shares: dict[int, dict[int, Mapping[str, Any]]] = {}
        """The share of each host in each open round."""
        self._closed: set[int] = set()
        self.accuracy: float | None = None
        """The mean accuracy of the round that was last added to."""

    def add(self, host: int, completed: Any, share: Mapping[str, Any]) -> None:
        """Add the share of a host in a round. A new share replaces one from before the host was lost.

        Raises:
            RunError: the share is not valid.
        """
        accuracies = msgspec.convert(share["accuracies"], list[float])
        check_round(host, completed, self._last, 1)
        if not self._task.check_share(share, self._models_of.get(host, 0)):
            raise RunError(f"Host {host} reports a share of an average that does not fit its nodes.")
        if completed in self._closed:
            return
        shares = self._shares.setdefault(completed, {})
        if host not in shares or len(accuracies) >= len(shares[host]["accuracies"]):
            shares[host] = share
        known = [accuracy for share in shares.values() for accuracy in share["accuracies"]]
        self.accuracy = sum(known) / len(known)
        if len(known) == self._models:
            self._close(completed)

    def advance(self, host: int, round: Any) -> None:
        """Record that a host adds nothing more to rounds up to `round`."""
        check_round(host, round, self._last)
        if host in self._advanced:
            self._advanced[host] = max(self._advanced[host], round)
            self.close(min(self._advanced.values()))

    def end(self, host: int) -> None:
        """Record that a host adds nothing more."""
        self.advance(host, self._last)

    def reopen(self, host: int, round: int) -> None:
        """Record that a host returns and repeats the rounds after one."""
        if host in self._advanced:
            self._advanced[host] = round

    def close(self, upto: float) -> None:
        """Close all rounds up to `upto`."""
        for completed in sorted(completed for completed in self._shares if completed <= upto):
            self._close(completed)

    def _close(self, completed: int) -> None:
        self._closed.add(completed)
        average = self._task.summary()
        for _, share in sorted(self._shares.pop(completed).items()):
            average.merge(share)
        if self._record is not None:
            self._do(partial(self._evaluate, completed, average))

    async def _evaluate(self, completed: int, average: Summary) -> None:
        assert self._record is not None
        self._record(completed, average, await asyncio.to_thread(average.figures))
