"""Fair sharing: against a solver in exact fractions, and by the laws that any sharing obeys."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from covey.network import FairShare, fair
from covey.network.fair import max_min_rates

Links = list[float]
Ends = list[tuple[int, int]]


@st.composite
def instances(draw: st.DrawFn, flows: int = 14) -> tuple[Links, Links, Ends]:
    """Uplinks, downlinks and the two ends of flows; small whole capacities, so that ties are common."""
    nodes = draw(st.integers(1, 6))
    capacity = st.integers(1, 8).map(float)
    links = st.lists(st.one_of(capacity, st.just(math.inf)), min_size=nodes, max_size=nodes)
    node = st.integers(0, nodes - 1)
    return draw(links), draw(links), draw(st.lists(st.tuples(node, node), min_size=1, max_size=flows))


def solved(uplinks: Links, downlinks: Links, ends: Ends) -> list[float]:
    """Max-min rates by filling all flows alike until a link is full, one link after the other, in fractions."""
    links: dict[tuple[str, int], Fraction] = {}
    for side, capacities in (("up", uplinks), ("down", downlinks)):
        links |= {(side, i): Fraction(value) for i, value in enumerate(capacities) if value < math.inf}
    rates: dict[int, Fraction] = {}
    while True:
        waiting = {
            link: [f for f, (up, down) in enumerate(ends) if f not in rates and link in (("up", up), ("down", down))]
            for link in links
        }
        shares = {link: links[link] / len(flows) for link, flows in waiting.items() if flows}
        if not shares:
            return [float(rates[f]) if f in rates else math.inf for f in range(len(ends))]
        full = min(shares, key=lambda link: shares[link])
        for flow in waiting[full]:
            rates[flow] = shares[full]
            for link in (("up", ends[flow][0]), ("down", ends[flow][1])):
                if link in links:
                    links[link] -= shares[full]


def columns(ends: Ends) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pairs = np.array(ends, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


@given(instances())
def test_rates_are_those_of_an_exact_solver(instance: tuple[Links, Links, Ends]) -> None:
    uplinks, downlinks, ends = instance
    rates = max_min_rates(np.array(uplinks), np.array(downlinks), *columns(ends))
    assert rates.tolist() == pytest.approx(solved(uplinks, downlinks, ends), rel=1e-12)


def check_fair(
    uplinks: NDArray[np.float64], downlinks: NDArray[np.float64], flows: list[tuple[int, int, int, float]]
) -> None:
    """No link carries more than it can, and every flow has a full link on which nobody is faster."""
    load = {"up": np.zeros(len(uplinks)), "down": np.zeros(len(downlinks))}
    fastest = {"up": np.zeros(len(uplinks)), "down": np.zeros(len(downlinks))}
    for _, sender, receiver, rate in flows:
        for side, node in (("up", sender), ("down", receiver)):
            load[side][node] += rate
            fastest[side][node] = max(fastest[side][node], rate)
    capacities = {"up": uplinks, "down": downlinks}
    for side in ("up", "down"):
        assert (load[side] <= capacities[side] * (1 + 1e-12)).all()
    for _, sender, receiver, rate in flows:
        assert any(
            load[side][node] >= capacities[side][node] * (1 - 1e-12) and rate >= fastest[side][node] * (1 - 1e-12)
            for side, node in (("up", sender), ("down", receiver))
        )


def test_a_large_network_is_shared_fairly() -> None:
    generator = np.random.default_rng(0)
    uplinks, downlinks = np.exp(generator.standard_normal((2, 300)))
    senders, receivers = generator.integers(0, 300, (2, 3000))
    rates = max_min_rates(uplinks, downlinks, senders, receivers)
    check_fair(
        uplinks, downlinks, list(zip(range(3000), senders.tolist(), receivers.tolist(), rates.tolist(), strict=True))
    )


@given(
    up=st.floats(1e-3, 1e12),
    down=st.floats(1e-3, 1e12),
    bits=st.floats(1e-3, 1e15),
    start=st.floats(0, 1e6),
)
def test_a_flow_alone_takes_its_bits_over_the_slower_link(up: float, down: float, bits: float, start: float) -> None:
    share = FairShare(np.array([up, 1.0]), np.array([1.0, down]))
    flow = share.add(start, 0, 1, bits)
    end = start + bits / min(up, down)
    assert share.next_completion() == (end, [flow])
    assert share.complete(end) == [flow]
    assert share.next_completion() is None


def test_others_elsewhere_do_not_move_an_end_by_a_bit() -> None:
    share = FairShare(np.array([3.0, 7.0, 7.0]), np.array([math.inf] * 3))
    watched = share.add(0.1, 0, 1, 1000.0)
    for step in range(100):
        other = share.add(0.2 + step * 0.7, 1, 2, 1.1)
        assert share.next_completion() is not None
        share.cancel(0.3 + step * 0.7, other)
    assert share.next_completion() == (0.1 + 1000.0 / 3.0, [watched])


def test_a_scenario_that_was_worked_out_by_hand() -> None:
    # One uplink of 10. A has it alone for 4 s (40 of 100 bits), then both have 5: A ends at 4 + 60 / 5 = 16. B has sent
    # 60 of its 100 by then and the link alone: it ends at 16 + 40 / 10 = 20.
    share = FairShare(np.array([10.0, 1.0, 1.0]), np.array([math.inf] * 3))
    a = share.add(0.0, 0, 1, 100.0)
    assert share.next_completion() == (10.0, [a])
    b = share.add(4.0, 0, 2, 100.0)
    assert share.remaining(4.0) == [(a, 0, 1, 60.0), (b, 0, 2, 100.0)]
    assert share.next_completion() == (16.0, [a])
    assert share.complete(15.0) == []
    assert share.complete(16.0) == [a]
    assert share.remaining(16.0) == [(b, 0, 2, 40.0)]
    assert share.next_completion() == (20.0, [b])


def test_what_a_receiver_cannot_take_is_free_for_others() -> None:
    # 0 and 1 send to 2, whose downlink of 8 gives each 4; what is left of 0's uplink of 10, 6, goes to 3.
    share = FairShare(np.array([10.0, 10.0, 1.0, 1.0]), np.array([1.0, 1.0, 8.0, math.inf]))
    share.add(0.0, 0, 2, 40.0)
    share.add(0.0, 1, 2, 80.0)
    share.add(0.0, 0, 3, 60.0)
    assert [rate for *_, rate in share.rates()] == [4.0, 4.0, 6.0]
    assert share.next_completion() == (10.0, [0, 2])
    assert share.complete(10.0) == [0, 2]
    assert share.next_completion() == (15.0, [1])  # 40 bits are left, at 8 a second


def test_a_cancelled_flow_leaves_its_share_to_the_others() -> None:
    share = FairShare(np.array([10.0]), np.array([math.inf]))
    a, b = share.add(0.0, 0, 0, 100.0), share.add(0.0, 0, 0, 100.0)
    assert share.cancel(4.0, a) == 80.0
    assert share.next_completion() == (12.0, [b])
    with pytest.raises(KeyError):
        share.cancel(5.0, a)
    c = share.add(6.0, 0, 0, 5.0)
    assert share.cancel(6.0, c) == 5.0
    assert share.next_completion() == (12.0, [b])


def test_flows_without_limit_or_bits_end_at_once() -> None:
    share = FairShare(np.array([math.inf, 1.0]), np.array([math.inf, 1.0]))
    unlimited, empty, slow = share.add(2.0, 0, 0, 1e9), share.add(2.0, 1, 1, 0.0), share.add(2.0, 1, 1, 3.0)
    assert share.next_completion() == (2.0, [unlimited, empty])
    assert share.complete(2.0) == [unlimited, empty]
    assert share.next_completion() == (5.0, [slow])


def test_a_flow_that_has_ended_carries_nothing_once_another_begins() -> None:
    share = FairShare(np.array([10.0]), np.array([math.inf]))
    ended = share.add(0.0, 0, 0, 100.0)
    assert share.next_completion() == (10.0, [ended])
    begun = share.add(10.0, 0, 0, 50.0)
    assert share.rates() == [(ended, 0, 0, 0.0), (begun, 0, 0, 10.0)]
    assert share.next_completion() == (10.0, [ended])
    assert share.complete(10.0) == [ended]
    assert share.next_completion() == (15.0, [begun])


def test_all_that_happens_at_one_instant_is_shared_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[int] = []

    def counting(uplinks: NDArray[np.float64], downlinks: NDArray[np.float64], *ends: NDArray[np.int64]) -> object:
        shared.append(len(ends[0]))
        return max_min_rates(uplinks, downlinks, *ends)

    monkeypatch.setattr(fair, "max_min_rates", counting)
    share = FairShare(np.ones(4), np.ones(4))
    flows = [share.add(1.0, i % 4, (i + 1) % 4, 10.0) for i in range(20)]
    share.cancel(1.0, flows[3])
    share.next_completion()
    share.next_completion()
    assert shared == [19]
    share.add(2.0, 0, 1, 1.0)
    share.add(3.0, 0, 1, 1.0)  # the rates from 2 to 3 have to be known first
    share.next_completion()
    assert shared == [19, 20, 21]


@pytest.mark.parametrize("capacity", [0.0, -1.0, math.nan])
def test_a_link_without_capacity_is_refused(capacity: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        FairShare(np.array([1.0, capacity]), np.ones(2))


def test_time_cannot_go_back() -> None:
    share = FairShare(np.ones(2), np.ones(2))
    share.add(2.0, 0, 1, 1.0)
    with pytest.raises(ValueError, match=r"time decreases from 2\.0 to 1\.0"):
        share.add(1.0, 0, 1, 1.0)


def played(instance: tuple[Links, Links, Ends], starts: list[float], check: bool) -> list[tuple[float, list[int]]]:
    """Run flows of growing size to their ends; returns the completions. `check` tests the laws all along."""
    uplinks, downlinks = np.array(instance[0]), np.array(instance[1])
    share = FairShare(uplinks, downlinks)
    arrivals = sorted(zip(starts, instance[2], strict=False))
    sizes = [3.0 + 7.0 * i for i in range(len(arrivals))]
    limited = {f for f, (_, (up, down)) in enumerate(arrivals) if min(uplinks[up], downlinks[down]) < math.inf}
    sent = [0.0] * len(arrivals)
    completions, now, begun = [], 0.0, 0
    while begun < len(arrivals) or share.next_completion():
        upcoming = share.next_completion()
        start = arrivals[begun][0] if begun < len(arrivals) else math.inf
        until = min(start, upcoming[0] if upcoming else math.inf)
        if check:
            rates = {flow: rate for flow, *_, rate in share.rates() if flow in limited}
            check_fair(uplinks, downlinks, [rate for rate in share.rates() if 0 < rate[3] < math.inf])
            for flow, *_, bits in share.remaining(now):
                if flow in limited:
                    assert bits == pytest.approx(sizes[flow] - sent[flow], rel=1e-9, abs=1e-9)
            for flow, rate in rates.items():
                sent[flow] += rate * (until - now)
        now = until
        if start <= now:
            _, (sender, receiver) = arrivals[begun]
            assert share.add(now, sender, receiver, sizes[begun]) == begun
            begun += 1
        else:
            assert upcoming is not None
            ended = share.complete(now)
            assert ended == upcoming[1] == sorted(ended)
            completions.append((now, ended))
    if check:
        assert sorted(flow for _, flows in completions for flow in flows) == list(range(len(arrivals)))
        assert all(sent[flow] == pytest.approx(sizes[flow], rel=1e-9) for flow in limited)
    return completions


@given(instances(), st.lists(st.integers(0, 12).map(lambda tick: tick * 0.7), min_size=14, max_size=14))
def test_bits_are_conserved_and_links_shared_fairly_at_all_times(
    instance: tuple[Links, Links, Ends], starts: list[float]
) -> None:
    completions = played(instance, starts, check=True)
    assert [time for time, _ in completions] == sorted(time for time, _ in completions)
    # To look on changes nothing: the same floats come out.
    assert played(instance, starts, check=False) == completions


def test_a_checkpoint_continues_as_the_original_would() -> None:
    generator = np.random.default_rng(1)
    uplinks, downlinks = generator.uniform(1, 5, (2, 8))
    share = FairShare(uplinks, downlinks)
    for sender, receiver, bits in generator.integers(0, 8, (40, 3)).tolist():
        share.add(0.0, sender, receiver, 5.0 + bits)
    first = share.next_completion()
    assert first is not None
    share.complete(first[0])
    now = first[0] + 0.01
    saved = share.remaining(now)
    resumed = FairShare(uplinks, downlinks)
    ids = {resumed.add(now, sender, receiver, bits): flow for flow, sender, receiver, bits in saved}
    while (upcoming := share.next_completion()) is not None:
        again = resumed.next_completion()
        assert again is not None
        assert again[0] == pytest.approx(upcoming[0], rel=1e-12)
        assert [ids[flow] for flow in resumed.complete(again[0])] == share.complete(upcoming[0])
    assert resumed.next_completion() is None
