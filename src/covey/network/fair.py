"""Links that are shared: every transfer is a fluid whose rate is max-min fair over the links at its two ends.

Shapes: N nodes, F flows.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def max_min_rates(uplinks: Floats, downlinks: Floats, senders: Ids, receivers: Ids) -> Floats:
    """The max-min fair rates of flows: nobody's can grow but at the expense of one that is no greater.

    A link whose equal share is the least that any of its flows is offered is a bottleneck, and those flows get that
    share. All bottlenecks of the moment are settled together, also those of different shares, because what remains on
    a link is never less per flow than before; so there are as many steps as bottlenecks that hang on one another.

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
    """All transfers under way in a network of shared links.

    Times may not decrease from call to call. What a flow that ended had of its links is free for others once `complete`
    has taken it out, so that has to be called at every time that `next_completion` gives. What begins, ends or is
    withdrawn at one instant changes the rates once, when they are next asked for. A flow whose rate never changes ends
    exactly at start + bits / rate, whatever others do.

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
        """Whether flows came or went at `_now` and the rates are those of before."""
        self._next_id = 0
        self._new: list[tuple[int, int, int, float]] = []
        """(id, sender, receiver, bits) of the flows that began at `_now` and are not in the arrays yet."""
        # The flows, in order of their ids.
        self._ids = np.zeros(0, dtype=np.int64)
        self._senders = np.zeros(0, dtype=np.int64)
        self._receivers = np.zeros(0, dtype=np.int64)
        self._since = np.zeros(0)
        """When each got its rate."""
        self._bits = np.zeros(0)
        """What was left of it then."""
        self._rates = np.zeros(0)
        self._ends = np.zeros(0)
        """When it ends, unless its rate changes."""

    def add(self, now: float, sender: int, receiver: int, bits: float) -> int:
        """Begin a transfer; returns its id. Ids count up."""
        self._advance(now)
        flow = self._next_id
        self._next_id += 1
        self._new.append((flow, sender, receiver, bits))
        self._stale = True
        return flow

    def cancel(self, now: float, flow: int) -> float:
        """Withdraw a transfer; returns how many of its bits were not sent.

        Raises:
            KeyError: there is no such transfer.
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
        """When the next transfers end and which; None where there are none."""
        self._share()
        if not len(self._ids):
            return None
        end = float(self._ends.min())
        return end, self._ids[self._ends == end].tolist()

    def complete(self, now: float) -> list[int]:
        """Take out the transfers that have ended by `now`; returns them in order of their ids."""
        self._advance(now)
        self._share()
        ended = self._ends <= now
        flows: list[int] = self._ids[ended].tolist()
        if flows:
            self._keep(~ended)
        return flows

    def remaining(self, now: float) -> list[tuple[int, int, int, float]]:
        """(id, sender, receiver, bits not sent yet) of all transfers, in order of their ids."""
        self._advance(now)
        self._merge()
        columns = (self._ids.tolist(), self._senders.tolist(), self._receivers.tolist(), self._left(now).tolist())
        return list(zip(*columns, strict=True))

    def rates(self) -> list[tuple[int, int, int, float]]:
        """(id, sender, receiver, bits per second) of all transfers as they are now, in order of their ids."""
        self._share()
        columns = (self._ids.tolist(), self._senders.tolist(), self._receivers.tolist(), self._rates.tolist())
        return list(zip(*columns, strict=True))

    def _advance(self, now: float) -> None:
        if now < self._now:
            raise ValueError(f"time goes back from {self._now} to {now}")
        if now > self._now:
            self._share()
            self._now = now

    def _left(self, now: float) -> Floats:
        """The bits of every flow that are not sent at `now`."""
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
        """Bring the new flows into the arrays; they have no rate yet."""
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
        """Give every flow that has not ended its fair rate from `_now` on."""
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
