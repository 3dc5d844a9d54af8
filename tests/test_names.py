"""Names that do not tell: all that the contract offers to a curious node is independent of who acts under a name."""

import numpy as np
import pytest
from scipy.stats import chi2

from covey.decentralized.shatter import Shatter
from covey.parts import rng
from covey.parts.parameters import Setting
from covey.runtime.node import Message
from covey.runtime.sampler import Sampler, simulated_secret
from tests.conftest import simulate, table

NODES, CHUNKS = 4, 3
NAMES = NODES * CHUNKS


def sampler(seed, nodes=NODES, chunks=CHUNKS):
    return Sampler(Shatter(virtual_nodes=chunks, degree=2).overlay(nodes), nodes, simulated_secret(seed))


def surprise(counts):
    """The probability of a table of counts that is at least as far from independence of rows and columns."""
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return chi2.sf(statistic, (counts.shape[0] - 1) * (counts.shape[1] - 1))


def test_names_are_independent_of_owners_and_of_those_of_earlier_rounds():
    of_owner = np.zeros((NAMES, NODES))
    earlier, beside, neighbour = np.zeros((NAMES, NAMES)), np.zeros((NODES, NODES)), np.zeros((NODES, NODES))
    for seed in range(600):
        found = sampler(seed)
        first, second = found.truth(0, 2)["names/0"]
        of_owner[np.arange(NAMES), first] += 1
        beside[first[::2], first[1::2]] += 1
        place = {share.number: share.id for share in found.shares(0, 0)}
        later = {share.number: share.id - NAMES for share in found.shares(0, 1)}
        earlier[place[1] - NODES, later[1] - NODES] += 1
        for share in found.shares(2, 1):
            for peer in share.peers:
                neighbour[second[share.id - NODES - NAMES], found.holder(peer)] += 1
    assert surprise(of_owner) > 1e-3
    assert surprise(earlier) > 1e-3
    # A neighbour is any of the other names, of which each other node has three and the own one two.
    met = neighbour[2] / neighbour[2].sum()
    assert np.allclose(met, np.where(np.arange(NODES) == 2, 2, 3) / 11, atol=0.02)
    assert np.allclose(beside / beside.sum(), np.where(np.eye(NODES), 2, 3) / 11 / NODES, atol=0.01)


def test_the_surprise_finds_names_that_tell():
    ids = np.arange(NAMES)
    counts = np.zeros((NAMES, NODES))
    for _ in range(20):
        counts[ids, ids % NODES] += 1
    assert surprise(counts) < 1e-10


@pytest.mark.parametrize("t", [0, 1, 7])
def test_no_generator_that_a_node_has_gives_the_names(t):
    seed = 5
    real = sampler(seed).truth(0, t + 1)["names/0"][t]
    setting, holders = Setting(NODES, seed), np.array(Shatter(virtual_nodes=CHUNKS, degree=2).overlay(NODES).holders)
    for purpose in ("peer sampler", "names", "shatter", "", "covey sampler", str(seed)):
        guesses = [setting.generator(purpose, t), rng.generator(seed, f"public {purpose}", t)]
        guesses += [rng.generator(seed, f"node {purpose}", node, t) for node in range(NODES)]
        assert not any(np.array_equal(holders[guess.permutation(NAMES)], real) for guess in guesses)


def test_names_are_never_used_twice_and_are_no_ids():
    found = sampler(3)
    names = [share.id for t in range(5) for node in range(NODES) for share in found.shares(node, t)]
    assert len(set(names)) == len(names) == 5 * NAMES
    assert min(names) == NODES
    assert [found.holder(share.id) for share in found.shares(2, 1)] == [2] * CHUNKS


class Curious(Shatter):
    """Shatter that keeps all that it sees of messages."""

    def __post_init__(self):
        super().__post_init__()
        self.seen, self.order, self.own = [], [], {}

    async def received(self, node, virtual):
        found = await super().received(node, virtual)
        for one, inbox in zip(virtual, found, strict=True):
            self.own[one.id] = node.id
            self.order.append([message.sender for message in inbox])
            self.seen += [(node.id, message) for message in inbox]
        return found


@pytest.fixture(scope="module")
def curious():
    tables = table(rounds=4, network={"nodes": 8})
    tables["program"] = Curious(virtual_nodes=5, degree=4)
    return simulate(tables)[0].program


def test_nothing_of_a_message_but_its_values_depends_on_its_sender(curious):
    facts = {}
    for _, message in curious.seen:
        assert set(message.shared) == {"number", "values", "layout"}
        known = {slot: getattr(message, slot) for slot in Message.__slots__}
        for free in ("sender", "name", "key", "shared", "understood"):
            del known[free]
        facts.setdefault((message.round, message["number"]), set()).add((tuple(known.items()), message["layout"]))
    assert len(facts) == 4 * 5
    assert all(len(found) == 1 for found in facts.values())
    assert all(senders == sorted(senders) for senders in curious.order)


def test_a_curious_node_guesses_owners_no_better_than_by_chance(curious):
    """It takes a name for its owner by the rank, the remainder, or what the name had before: all that a name offers."""
    right = {"remainder": [], "rank": [], "again": []}
    for receiver, message in curious.seen:
        owner, place = curious.own[message.sender], message.sender - 8 - 40 * message.round
        assert 0 <= place < 40
        if owner != receiver:
            right["remainder"].append(place % 8 == owner)
            right["rank"].append(place // 5 == owner)
            right["again"].append(message.round > 0 and curious.own[message.sender - 40] == owner)
    for found in right.values():
        assert abs(np.mean(found) - 1 / 8) < 0.06


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_mean_over_all_nodes_is_kept_in_expectation_and_exactly_by_one_chunk(chunks):
    sums = []
    for seed in range(300):
        found, weight = sampler(seed, 6, chunks), np.eye(6)
        numbers = {share.id: share.number for node in range(6) for share in found.shares(node, 0)}
        for node in range(6):
            for share in found.shares(node, 0):
                for peer in share.peers:
                    weight[node, found.holder(peer)] += numbers[peer] == 0
        weight /= weight.sum(1, keepdims=True)
        assert np.allclose(weight.sum(1), 1.0)
        sums.append(weight.sum(0))
    assert np.allclose(np.mean(sums, axis=0), 1.0, atol=0.07)
    assert np.allclose(sums, 1.0) == (chunks == 1)
