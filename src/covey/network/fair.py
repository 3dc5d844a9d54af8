"""Shared links: every transfer is a fluid whose rate is max-min fair over the links at its two ends.

Shapes: N nodes, F flows.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def max_min_rates(uplinks: Floats, downlinks: Floats, senders: Ids, receivers: Ids) -> Floats:
    """The max-min fair rates of flows: no rate can grow unless one that is no greater shrinks.

    A link is a bottleneck if its equal share is the least offer to any of its flows. These flows get that share. All
    current bottlenecks are fixed in one step, even with different shares, because the rest of a link is never less per
    flow than before. So the number of steps is the length of the longest chain of dependent bottlenecks.

    Args:
        uplinks, downlinks: capacities in bits per second, N; inf for no limit.
        senders, receivers: the nodes at the ends of each flow, F.

    Returns:
        Bits per second, F; inf where neither end has a limit.
    """
    left = np.concatenate([uplinks, downlinks])
    ups, downs = senders, receivers + len(uplinks)
    rates = np.full(len(senders), np.inf)
    flows = np.flatnonzero(np.isfinite(left[ups]) | np.isfinite(left[downs]))
    while len(flows):
        up, down = ups[flows], downs[flows]
        counts = np.bincount(up, minlength=len(left)) + np.bincount(down, minlength=len(left))
        share = np.divide(left, counts, out=np.full(len(left), np.inf), where=counts > 0)
        offer = np.minimum(share[up], share[down])
        least = np.full(len(left), np.inf)
        np.minimum.at(least, up, offer)
        np.minimum.at(least, down, offer)
        bottleneck = least == share
        settled = bottleneck[up] | bottleneck[down]
        rates[flows[settled]] = offer[settled]
        for link in (up, down):
            left -= np.bincount(link[settled], weights=offer[settled], minlength=len(left))
        flows = flows[~settled]
    return rates


class FairShare:
    """All active transfers in a network of shared links.

    Times may not decrease from call to call. `complete` frees the share of flows that ended, so it must be called at
    every time that `next_completion` returns. All changes at one instant change the rates once, when they are next
    needed. A flow whose rate never changes ends exactly at start + bits / rate.

    Args:
        uplinks, downlinks: capacities in bits per second, N; inf for no limit.

    Raises:
        ValueError: a capacity is not above 0.
    """

    def __init__(self, uplinks: Floats, downlinks: Floats) -> None:
        self._uplinks = np.asarray(uplinks, dtype=np.float64)
        self._downlinks = np.asarray(downlinks, dtype=np.float64)
        if not ((self._uplinks > 0).all() and (self._downlinks > 0).all()):
            raise ValueError("every link must have a rate above 0")
        self._now = 0.0
        self._stale = False
        """True if flows began or ended at `_now` and the rates are not updated yet."""
        self._next_id = 0
        self._new: list[tuple[int, int, int, float]] = []
        """New flows that are not in the arrays yet: (id, sender, receiver, bits)."""
        # The flows in the arrays, in order of their ids.
        self._ids = np.zeros(0, dtype=np.int64)
        self._senders = np.zeros(0, dtype=np.int64)
        self._receivers = np.zeros(0, dtype=np.int64)
        self._since = np.zeros(0)
        """The time at which each flow got its rate."""
        self._bits = np.zeros(0)
        """The bits that were left at that time."""
        self._rates = np.zeros(0)
        self._ends = np.zeros(0)
        """The time at which each flow ends, unless its rate changes."""

    def add(self, now: float, sender: int, receiver: int, bits: float) -> int:
        """Begin a transfer and return its id. Ids increase."""
        self._advance(now)
        flow = self._next_id
        self._next_id += 1
        self._new.append((flow, sender, receiver, bits))
        self._stale = True
        return flow

    def cancel(self, now: float, flow: int) -> float:
        """Withdraw a transfer and return the number of its unsent bits.

        Raises:
            KeyError: the transfer is not active.
        """
        self._advance(now)
        self._merge()
        index = int(np.searchsorted(self._ids, flow))
        if index == len(self._ids) or self._ids[index] != flow:
            raise KeyError(flow)
        unsent = float(self._left(now)[index])
        self._keep(np.arange(len(self._ids)) != index)
        return unsent

    def next_completion(self) -> tuple[float, list[int]] | None:
        """The time at which the next transfers end, and their ids; None if none is active."""
        self._share()
        if not len(self._ids):
            return None
        end = float(self._ends.min())
        return end, self._ids[self._ends == end].tolist()

    def complete(self, now: float) -> list[int]:
        """Remove the transfers that have ended by `now`, and return their ids in order."""
        self._advance(now)
        self._share()
        ended = self._ends <= now
        flows: list[int] = self._ids[ended].tolist()
        if flows:
            self._keep(~ended)
        return flows

    def remaining(self, now: float) -> list[tuple[int, int, int, float]]:
        """The active transfers in order of ids: (id, sender, receiver, unsent bits)."""
        self._advance(now)
        self._merge()
        columns = (self._ids.tolist(), self._senders.tolist(), self._receivers.tolist(), self._left(now).tolist())
        return list(zip(*columns, strict=True))

    def rates(self) -> list[tuple[int, int, int, float]]:
        """The active transfers in order of ids: (id, sender, receiver, bits per second)."""
        self._share()
        columns = (self._ids.tolist(), self._senders.tolist(), self._receivers.tolist(), self._rates.tolist())
        return list(zip(*columns, strict=True))

    def _advance(self, now: float) -> None:
        if now < self._now:
            raise ValueError(f"time decreases from {self._now} to {now}")
        if now > self._now:
            self._share()
            self._now = now

    def _left(self, now: float) -> Floats:
        """The unsent bits of every flow at `now`."""
        left = self._bits.copy()
        running = (self._rates > 0) & (self._since < now)
        left[running] -= self._rates[running] * (now - self._since[running])
        left[self._ends <= now] = 0.0
        return np.maximum(left, 0.0)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self._ids, self._senders, self._receivers = self._ids[kept], self._senders[kept], self._receivers[kept]
        self._since, self._bits = self._since[kept], self._bits[kept]
        self._rates, self._ends = self._rates[kept], self._ends[kept]
        self._stale = True

    def _merge(self) -> None:
        """Append the new flows to the arrays, with rate 0."""
        if not self._new:
            return
        ids, senders, receivers, bits = zip(*self._new, strict=True)
        size = len(self._new)
        self._new = []
        self._ids = np.append(self._ids, np.array(ids, dtype=np.int64))
        self._senders = np.append(self._senders, np.array(senders, dtype=np.int64))
        self._receivers = np.append(self._receivers, np.array(receivers, dtype=np.int64))
        self._since = np.append(self._since, np.full(size, self._now))
        self._bits = np.append(self._bits, np.array(bits, dtype=np.float64))
        self._rates = np.append(self._rates, np.zeros(size))
        self._ends = np.append(self._ends, np.where(np.array(bits) > 0, np.inf, self._now))

    def _share(self) -> None:
        """Update the rates of all flows that have not ended by `_now`."""
        if not self._stale:
            return
        self._merge()
        self._stale = False
        running = self._ends > self._now
        self._rates[~running] = 0.0
        flows = np.flatnonzero(running)
        rates = max_min_rates(self._uplinks, self._downlinks, self._senders[flows], self._receivers[flows])
        changed = rates != self._rates[flows]
        flows, rates = flows[changed], rates[changed]
        self._bits[flows] = self._left(self._now)[flows]
        self._since[flows] = self._now
        self._rates[flows] = rates
        self._ends[flows] = self._now + self._bits[flows] / rates
