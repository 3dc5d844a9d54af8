"""Random graphs: uniform if small, and drawn in a bounded number of steps for any seed."""

import itertools
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from covey.decentralized.topology import EpidemicOracle, random_graphs
from covey.decentralized.topology.random_graphs import distinct, random_regular, recipients
from covey.parts.parameters import Setting

GRAPHS = {(5, 2): 12, (6, 2): 70, (6, 3): 70, (7, 2): 465, (7, 4): 465}
"""The number of graphs of so many numbered nodes and a degree (OEIS A001205, A002829, A005815)."""


THAT_MET_EACH_OTHER = """
from covey.parts.parameters import Setting
from covey.decentralized.topology import EpidemicLocal, EpidemicOracle, RandomRegular

for topology, nodes, seed, rounds in [
    (EpidemicOracle(degree=2), 5, 2, 300),
    (RandomRegular(degree=2), 5, 594, 1),
    (EpidemicLocal(degree=400), 2000, 1, 1),
]:
    topology.ready(Setting(nodes, seed))
    for t in range(rounds):
        topology.at(t)
"""


def test_no_seed_draws_for_ever():
    subprocess.run([sys.executable, "-c", THAT_MET_EACH_OTHER], timeout=120, check=True)


@pytest.mark.parametrize(("n", "degree"), GRAPHS)
def test_every_small_graph_is_as_likely_as_any_other(n, degree):
    draws, generator = 20 * GRAPHS[n, degree], np.random.default_rng(1)
    found = Counter(tuple(sorted(zip(*random_regular(n, degree, generator), strict=True))) for _ in range(draws))
    assert len(found) == GRAPHS[n, degree]
    assert chisquare(list(found.values())).pvalue > 0.001


def test_epidemic_graphs_of_seven_nodes_are_in_two_pieces_as_often_as_uniform_ones():
    topology, draws = EpidemicOracle(degree=2), 4000
    topology.ready(Setting(7, 1))
    # Of the 465 graphs those are not one ring that are a triangle and a ring of four: 105.
    apart = sum(len(ring_of(topology.at(t), 0)) < 7 for t in range(draws))
    assert abs(apart / draws - 105 / 465) < 3 * math.sqrt(105 / 465 * 360 / 465 / draws)


def ring_of(graph, node):
    """The nodes that can be reached from one."""
    reached, new = {node}, [node]
    while new:
        new = [peer for at in new for peer in graph.receivers(at) if peer not in reached]
        reached.update(new)
    return reached


@given(n=st.integers(2, 30), degree=st.integers(0, 29), seed=st.integers(0, 10**6), work=st.sampled_from([0, 1 << 16]))
@settings(max_examples=200, deadline=None)
def test_regular_graphs_are_simple_and_regular(n, degree, seed, work):
    if degree >= n or n * degree % 2:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_graphs, "_WORK", work)
        left, right = random_regular(n, degree, np.random.default_rng(seed))
    assert (left < right).all()
    assert len(set(zip(left, right, strict=True))) == len(left) == n * degree // 2
    assert (np.bincount(np.concatenate([left, right]), minlength=n) == degree).all()


def test_a_graph_that_no_pairing_gives_ends_with_an_error(monkeypatch):
    monkeypatch.setattr(random_graphs, "_WORK", 0)
    monkeypatch.setattr(random_graphs, "_switch", lambda *_: None)
    monkeypatch.setattr(random_graphs, "_bad", lambda *_: np.array([0]))
    with pytest.raises(RuntimeError, match="gave a graph of 8 nodes of degree 3"):
        random_regular(8, 3, np.random.default_rng(1))


@pytest.mark.parametrize("passes", [0, 200])
@pytest.mark.parametrize(("n", "degree"), [(5, 2), (5, 4), (9, 2)])
def test_every_set_of_recipients_is_as_likely_as_any_other(n, degree, passes, monkeypatch):
    monkeypatch.setattr(random_graphs, "_PASSES", passes)
    generator, draws = np.random.default_rng(2), 600
    found = Counter(tuple(sorted(row)) for _ in range(draws) for row in recipients(n, degree, generator)[:1].tolist())
    every = list(itertools.combinations(range(1, n), degree))
    assert set(found) <= set(every)
    if len(every) > 1:
        assert chisquare([found[chosen] for chosen in every]).pvalue > 0.001


@pytest.mark.parametrize("passes", [0, 200])
def test_distinct_numbers_are_distinct_and_all_alike(passes, monkeypatch):
    monkeypatch.setattr(random_graphs, "_PASSES", passes)
    generator = np.random.default_rng(3)
    counts = np.zeros(40)
    for _ in range(500):
        chosen = distinct(40, 12, generator)
        assert len(set(chosen.tolist())) == 12
        assert (np.diff(chosen) > 0).all()
        counts[chosen] += 1
    assert chisquare(counts).pvalue > 0.001
