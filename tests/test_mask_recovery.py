"""Shares of secrets, deposits of senders, and the result of a sum in which a member is missing."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.sharing.agreement import Agreement, IndexSet, Member
from covey.decentralized.sharing.deposits import (
    Deposit,
    Depositor,
    Plan,
    box_key,
    fingerprint,
    most_lost,
    plan_for,
    read_box,
    sealed,
    seeds_from,
)
from covey.decentralized.sharing.recovery import Opened
from covey.messages.crypto import FixedPoint, cut, join, lock, secret_of, unlock
from tests.test_masks import PAIRS, uneven

NUMBERS = FixedPoint(64, 32)
RECEIVER, T = 99, 7


# ---------------------------------------------------------------------- shares


@given(
    secret=st.binary(min_size=32, max_size=32),
    coefficients=st.lists(st.binary(min_size=32, max_size=32), max_size=5),
    data=st.data(),
)
def test_enough_shares_give_a_secret_back_whichever_they_are(secret, coefficients, data):
    secret, needed = secret_of(secret), len(coefficients) + 1
    shares = cut(secret, coefficients, needed + 3)
    chosen = data.draw(st.permutations(range(needed + 3)))[: data.draw(st.integers(needed, needed + 3))]
    assert join({index: shares[index] for index in chosen}) == secret
    assert all(len(share) == 32 for share in shares)


def test_fewer_shares_go_with_every_secret():
    # To two shares of three that are needed there is a third one for whichever secret.
    shares = cut(secret_of(os.urandom(32)), [os.urandom(32), os.urandom(32)], 4)
    few = {0: shares[0], 2: shares[2]}
    for _ in range(20):
        other = secret_of(os.urandom(32))
        assert join({**few, 1: _third(other, few)}) == other


def _third(secret, few):
    """The share at index 1 of the polynomial of degree 2 through a secret and two shares; by linear algebra."""
    prime = 2**255 - 19
    values = [int.from_bytes(number, "little") for number in (secret, *few.values())]
    points = [0, *(index + 1 for index in few)]
    total = 0
    for point, value in zip(points, values, strict=True):
        for other in points:
            if other != point:
                value = value * (2 - other) * pow(point - other, -1, prime) % prime
        total += value
    return (total % prime).to_bytes(32, "little")


def test_a_box_opens_with_its_key_alone_and_unchanged():
    key, other = os.urandom(32), os.urandom(32)
    box = lock(key, b"content")
    assert unlock(key, box) == b"content"
    assert unlock(other, box) is None
    assert unlock(key, box[:-1] + bytes([box[-1] ^ 1])) is None
    assert unlock(key, b"") is None


# ---------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("holders", "masks", "threshold", "plan"),
    [
        (2, 1, None, None),
        (3, 1, None, (2, 1)),
        (4, 1, None, (3, 1)),
        (5, 1, None, (3, 1)),
        (6, 1, None, (4, 1)),
        (7, 1, None, (5, 2)),
        (13, 1, None, (10, 3)),
        (3, 2, None, None),
        (4, 2, None, (3, 1)),
        (6, 1, 5, (5, 1)),
        (8, 1, 5, (5, 1)),
        (8, 1, 6, (6, 2)),
        (4, 1, 2, None),
        (4, 1, 4, None),
        (4, 1, 9, None),
    ],
)
def test_as_many_may_be_missing_as_is_safe(holders, masks, threshold, plan):
    assert plan_for(holders, masks, threshold) == (None if plan is None else Plan(holders, *plan))


def can_expose(holders, threshold, lost, masks):
    """Whether a receiver that tells each holder what it likes is left with one honest sender's mask, by trying it all.

    Node 0 is the target. `masks` - 1 others tell all they know. A honest holder answers once: with a set of at most
    `lost` missing ones. An index of level r has masks + 1 + r senders; the honest others' roots must all be known.
    """
    colluders = masks - 1
    honest = holders - colluders
    claims = [claim for size in range(lost + 1) for claim in itertools.combinations(range(honest), size)]
    for answers in itertools.product(claims, repeat=honest):
        roots = [sum(target in answer for answer in answers) + colluders >= threshold for target in range(honest)]
        for level in range(lost + 1):
            # Seeds of a level open that level and those above; shares of different levels do not join.
            seed = any(
                sum(len(answer) == below and 0 not in answer for answer in answers) + colluders >= threshold
                for below in range(level + 1)
            )
            others = masks + level - colluders
            if seed and others <= honest - 1 and sum(roots[1:]) >= others:
                return True
    return False


@pytest.mark.parametrize(("holders", "masks"), [(3, 1), (4, 1), (5, 1), (4, 2), (5, 2)])
def test_no_lies_of_a_receiver_leave_it_with_the_mask_of_one_sender(holders, masks):
    plan = plan_for(holders, masks)
    assert not can_expose(holders, plan.threshold, plan.most_lost, masks)
    # One share less, or one missing one more, and some do.
    assert can_expose(holders, plan.threshold - 1, plan.most_lost, masks) or plan.threshold - 1 <= masks - 1


def test_more_that_may_be_missing_than_a_plan_says_could_be_exposed():
    assert most_lost(4, 3, 1) == 1
    assert can_expose(4, 2, 1, 1)
    assert can_expose(5, 3, 2, 1)


# ---------------------------------------------------------------------- sums


class Round:
    """One receiver's round: senders 0 to n - 1, who all are its neighbours and so hold shares."""

    def __init__(self, sets, masks=1, size=24, threshold=None, seed=0):
        self.n = len(sets)
        self.plan = plan_for(self.n, masks, threshold)
        chosen = [IndexSet(np.array(sorted(indices), dtype=np.int64), size) for indices in sets]
        members = {id: Member(PAIRS[id].public, indices) for id, indices in enumerate(chosen)}
        self.agreed = Agreement(RECEIVER, T, members, masks, self.plan)
        self.publics = [pair.public for pair in PAIRS[: self.n]]
        draw = np.random.default_rng(seed)
        limits = np.iinfo(np.int64)
        self.size = size
        self.clear = [draw.integers(limits.min, limits.max, len(indices)) for indices in sets]
        self.depositors = [Depositor(PAIRS[id], T, RECEIVER, self.plan) for id in range(self.n)]
        self.deposits = [
            Deposit.read(each.deposit(self.publics, id), self.plan) for id, each in enumerate(self.depositors)
        ]
        self.sent = [
            self.agreed.masked(id, self.clear[id], PAIRS[id].secret, self.depositors[id].seed) for id in range(self.n)
        ]

    def shares(self, holder, owner):
        """The shares that a holder has of a sender's secrets, in a box."""
        if holder == owner:
            return self.depositors[owner].shares()[holder]
        secret = PAIRS[holder].secret(PAIRS[owner].public)
        box = self.deposits[owner].box(owner, holder)
        return read_box(box_key(secret, T, RECEIVER, owner, holder), box, self.plan)

    def opened(self, lost, helping):
        """The secrets that the shares of some holders open."""
        found = Opened()
        for owner in range(self.n):
            which = 0 if owner in lost else 1 + len(lost)
            secret = join({holder: self.shares(holder, owner)[which] for holder in helping})
            if owner in lost:
                others = [id for id in range(self.n) if id != owner]
                found.shared[owner] = dict(zip(others, self.deposits[owner].secrets(secret), strict=True))
            else:
                assert sealed(secret) == self.deposits[owner].seals[len(lost)]
                found.seeds[owner] = secret
        return found

    def sum(self, lost, helping):
        """(the sum at each index, whose numbers are in it at each index)."""
        found, total = self.opened(lost, helping), np.zeros(self.size, dtype=np.int64)
        for id in set(range(self.n)) - set(lost):
            values = self.agreed.opened(id, self.sent[id], len(lost), found.with_missing(id), found.seeds[id])
            total[self.agreed.indices(id, len(lost))] += values
        return total

    def plain(self, sets, lost, masks):
        """The same from the clear numbers, by the rule: what has more senders than `masks` and missing ones."""
        total = np.zeros(self.size, dtype=np.int64)
        for index in range(self.size):
            holders = [id for id in range(self.n) if index in sets[id]]
            if len(holders) > masks + len(lost):
                for id in holders:
                    if id not in lost:
                        # In an array, in which integers come back on the other side of the ring without a word.
                        total[index : index + 1] += self.clear[id][sorted(sets[id]).index(index)]
        return total


def some_indices(draw, n, size=24):
    return [set(draw.choice(size, draw.integers(1, size), replace=False).tolist()) for _ in range(n)]


@pytest.mark.parametrize(("n", "masks"), [(3, 1), (4, 1), (5, 1), (4, 2), (7, 1), (7, 3)])
@pytest.mark.parametrize("whole", [True, False])
def test_whichever_messages_are_lost_the_sum_of_the_others_is_exact(n, masks, whole):
    draw = np.random.default_rng(n + masks)
    sets = [set(range(24))] * n if whole else some_indices(draw, n)
    round = Round(sets, masks)
    kept = 0
    for missing in range(round.plan.most_lost + 1):
        for lost in itertools.combinations(range(n), missing):
            helping = draw.permutation(n)[: round.plan.threshold].tolist()
            total = round.sum(lost, helping)
            assert np.array_equal(total, round.plain(sets, lost, masks))
            kept += np.count_nonzero(total)
    assert kept


@given(seed=st.integers(0, 1000), masks=st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_any_indices_come_out_exactly_whoever_is_missing_and_whoever_helps(seed, masks):
    draw = np.random.default_rng(seed)
    sets = some_indices(draw, 5)
    round = Round(sets, masks, seed=seed)
    lost = draw.permutation(5)[: draw.integers(0, round.plan.most_lost + 1)].tolist()
    helping = draw.permutation(5)[: round.plan.threshold].tolist()
    assert np.array_equal(round.sum(lost, helping), round.plain(sets, lost, masks))


# ---------------------------------------------------------------------- what a receiver sees


LONG = 20_000
ALL = [set(range(LONG))] * 4
ZEROS = np.zeros(LONG, dtype=np.int64)


@pytest.fixture(scope="module")
def quiet():
    """A round in which everybody's numbers are zero, so that all that is seen is masks."""
    round = Round(ALL, size=LONG)
    round.clear = [ZEROS] * 4
    round.sent = [round.agreed.masked(id, ZEROS, PAIRS[id].secret, round.depositors[id].seed) for id in range(4)]
    return round


def test_a_message_is_noise_also_to_who_has_all_shared_masks(quiet):
    assert abs(uneven(quiet.sent[0])) < 4
    # Its sender is said to be missing, and its numbers have come: the own mask stays.
    found = quiet.opened([0], [1, 2, 3])
    values = quiet.sent[0].copy()
    indices = np.arange(LONG)
    for id in (1, 2, 3):
        quiet.agreed._add_shared(values, indices, found.shared[0][id], 0, id, negative=True)
    assert abs(uneven(values)) < 4
    quiet.agreed._add_own(values, indices, quiet.depositors[0].seed, 0, negative=True)
    assert not values.any()


def test_a_message_is_noise_also_to_who_has_its_senders_own_mask(quiet):
    values = quiet.sent[0].copy()
    quiet.agreed._add_own(values, np.arange(LONG), quiet.depositors[0].seed, 0, negative=True)
    assert abs(uneven(values)) < 4


def test_without_what_neighbours_hold_not_even_a_whole_sum_shows():
    round = Round(ALL, size=LONG)
    assert abs(uneven(sum(round.sent))) < 4


def test_a_sum_without_one_is_noise_until_its_root_is_known(quiet):
    found = quiet.opened([], [0, 1, 2])
    rest = sum(quiet.agreed.opened(id, quiet.sent[id], 0, {}, found.seeds[id]) for id in (1, 2, 3))
    assert abs(uneven(rest)) < 4


def test_where_too_few_would_be_left_numbers_stay_hidden_though_somebody_is_missing():
    # Of three, one is missing: where it and another one hold an index, the third one's number would be alone.
    sets = [set(range(LONG)), set(range(LONG)), set(range(LONG // 2, LONG))]
    round = Round(sets, size=LONG)
    numbers = [np.zeros(len(indices), dtype=np.int64) for indices in sets]
    sent = round.agreed.masked(0, numbers[0], PAIRS[0].secret, round.depositors[0].seed)
    found = round.opened([1], [0, 2])
    values, indices = sent.copy(), np.arange(LONG)
    round.agreed._add_shared(values, indices, found.shared[1][0], 0, 1, negative=True)
    round.agreed._add_own(values, indices, found.seeds[0], 1, negative=True)
    # The receiver has removed all masks that it can: in the first half, the own mask of the lower level is left.
    assert abs(uneven(values[: LONG // 2])) < 4
    assert len(round.agreed.opened(0, sent, 1, found.with_missing(0), found.seeds[0])) == LONG // 2
    third = round.agreed.masked(2, numbers[2], PAIRS[2].secret, round.depositors[2].seed)
    total = round.agreed.opened(0, sent, 1, found.with_missing(0), found.seeds[0]) + round.agreed.opened(
        2, third, 1, found.with_missing(2), found.seeds[2]
    )
    assert not total.any()


def test_the_seed_of_a_level_gives_those_above_it_and_none_below():
    seed = secret_of(os.urandom(32))
    chain = seeds_from(seed, 3)
    assert chain[0] == seed
    assert seeds_from(chain[1], 2) == chain[1:]
    assert len(set(chain)) == 4


def test_secrets_of_rounds_receivers_and_senders_have_nothing_in_common():
    plan = plan_for(4, 1)
    made = [Depositor(keys, t, receiver, plan) for keys in PAIRS[:2] for t in range(2) for receiver in range(2)]
    secrets = {share for each in made for of_holder in each.shares() for share in of_holder}
    secrets |= {each.seed for each in made}
    assert len(secrets) == 8 * (4 * 3 + 1)


def test_what_is_deposited_shows_no_secret_and_opens_for_its_holder_alone():
    round = Round([{1}] * 4)
    deposit = round.depositors[0].deposit(round.publics, 0)
    assert len(deposit) == round.plan.deposit_bytes
    secrets = [PAIRS[0].own, round.depositors[0].seed, *itertools.chain(*round.depositors[0].shares())]
    assert not any(secret in deposit for secret in secrets)
    box = round.deposits[0].box(0, 2)
    for other in (1, 3):
        key = box_key(PAIRS[other].secret(PAIRS[0].public), T, RECEIVER, 0, 2)
        assert read_box(key, box, round.plan) is None
    right = PAIRS[2].secret(PAIRS[0].public)
    assert read_box(box_key(right, T, RECEIVER, 0, 2), box, round.plan) == round.depositors[0].shares()[2]
    for wrong in ((T + 1, RECEIVER, 0, 2), (T, RECEIVER + 1, 0, 2), (T, RECEIVER, 1, 2), (T, RECEIVER, 2, 0)):
        assert read_box(box_key(right, *wrong), box, round.plan) is None


@pytest.mark.parametrize("deposit", [None, b"", bytes(7), 3, "x" * 400])
def test_what_is_no_deposit_is_none(deposit):
    assert Deposit.read(deposit, plan_for(4, 1)) is None
    assert read_box(bytes(32), deposit, plan_for(4, 1)) is None


def test_a_fingerprint_is_of_keys_in_their_order():
    keys = [pair.public for pair in PAIRS[:3]]
    assert fingerprint(keys) != fingerprint(keys[::-1])
    assert len(fingerprint(keys)) == 16
