"""D-Cliques: the members of cliques, the edges between them, and the result of averaged gradients."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.topology.d_cliques import (
    DCliques,
    RandomCliques,
    _ends_in_turn,
    _ends_of_groups,
    _meetings,
    skew,
    swap_greedily,
)
from covey.decentralized.topology.facts import facts
from covey.learning.models import Module
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from tests.conftest import models_of, simulate, stated_bytes, table
from tests.examples import BLOBS

MODES = ("complete", "ring", "fractal", "small-world")


def one_class_each(nodes, classes=10):
    return np.eye(classes, dtype=np.int64)[np.arange(nodes) % classes] * 7


def drawn(topology, nodes, counts=None, seed=1):
    topology.ready(Setting(nodes, seed, label_counts=counts))
    return topology.at(0)


@given(nodes=st.integers(1, 60), size=st.integers(1, 12), between=st.sampled_from(MODES), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_cliques_hold_every_node_once_and_are_connected_evenly(nodes, size, between, seed):
    counts = np.random.default_rng(seed).integers(0, 9, (nodes, 5)) + np.eye(5, dtype=np.int64)[np.arange(nodes) % 5]
    graph = drawn(DCliques(size=size, between=between, swaps=30), nodes, counts, seed)
    assert sorted(np.concatenate(graph.groups).tolist()) == list(range(nodes))
    assert max(map(len, graph.groups)) <= size
    assert graph.is_undirected
    if nodes > 1:
        assert facts(graph).components == 1
    group_of = np.empty(nodes, dtype=int)
    for number, group in enumerate(graph.groups):
        group_of[group] = number
    outside = group_of[graph.sources] != group_of[graph.targets]
    links = np.bincount(graph.sources[outside], minlength=nodes)
    inside = np.bincount(graph.sources[~outside], minlength=nodes)
    for group in graph.groups:
        assert (inside[group] == len(group) - 1).all()
        assert links[group].max() - links[group].min() <= 1


@given(sizes=st.lists(st.integers(1, 4), min_size=2, max_size=9), data=st.data())
@settings(max_examples=40, deadline=None)
def test_nodes_that_join_cliques_in_turn_are_those_with_the_fewest_edges(sizes, data):
    cliques = np.split(np.arange(sum(sizes))[::-1], np.cumsum(sizes)[:-1])
    pair = st.permutations(range(len(sizes))).map(lambda order: order[:2])
    pairs = np.array(data.draw(st.lists(pair, min_size=1, max_size=30)))
    one_by_one = _ends_of_groups(((cliques[a], cliques[b]) for a, b in pairs), sum(sizes))
    assert [ends.tolist() for ends in _ends_in_turn(cliques, pairs)] == [ends.tolist() for ends in one_by_one]


@given(seed=st.integers(0, 999), nodes=st.integers(4, 40), size=st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_every_swap_lessens_the_skew(seed, nodes, size):
    draw = np.random.default_rng(seed)
    counts = draw.integers(0, 20, (nodes, 4)) + 1
    order = draw.permutation(nodes)
    cliques = [order[at : at + size].copy() for at in range(0, nodes, size)]
    if len(cliques) < 2:
        return
    before = skew(cliques, counts).sum()
    for _ in range(10):
        swap_greedily(cliques, counts, 1, draw)
        after = skew(cliques, counts)
        assert after.sum() <= before + 1e-12
        assert ((after >= 0) & (after <= 2)).all()
        before = after.sum()
    assert sorted(np.concatenate(cliques).tolist()) == list(range(nodes))


def test_any_swap_that_lessens_the_skew_may_be_the_one():
    counts = np.array([[9, 0], [8, 1], [7, 2], [2, 7], [1, 8], [0, 9]])
    start = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    better, chosen = set(), set()
    for u, v in np.ndindex(3, 3):
        left, right = start[0].copy(), start[1].copy()
        left[u], right[v] = right[v], left[u]
        if skew([left, right], counts).sum() < skew(start, counts).sum() - 1e-12:
            better.add((tuple(left), tuple(right)))
    for seed in range(100):
        cliques = [members.copy() for members in start]
        swap_greedily(cliques, counts, 1, np.random.default_rng(seed))
        chosen.add((tuple(cliques[0]), tuple(cliques[1])))
    assert chosen == better
    assert len(better) > 1


def shards(nodes, classes=10, each=60):
    """Two label shards a node."""
    draw = np.random.default_rng(1)
    labels = np.sort(np.arange(nodes * each) % classes).reshape(2 * nodes, -1)
    of_node = labels[draw.permutation(2 * nodes)].reshape(nodes, -1)
    return np.array([np.bincount(own, minlength=classes) for own in of_node])


def test_swaps_continue_until_no_two_nodes_have_one_left():
    counts = np.random.default_rng(3).integers(0, 30, (60, 6)) ** 2
    cliques = DCliques(size=6).cliques(Setting(60, 1, label_counts=counts))
    before = skew(cliques, counts).sum()
    for a, b in itertools.combinations(range(len(cliques)), 2):
        for u, v in np.ndindex(6, 6):
            cliques[a][u], cliques[b][v] = cliques[b][v], cliques[a][u]
            assert skew(cliques, counts).sum() > before - 1e-9
            cliques[a][u], cliques[b][v] = cliques[b][v], cliques[a][u]


def test_ten_thousand_nodes_get_balanced_cliques():
    """A thousand tries, the paper's number, leave a mean skew of 0.40 of 0.52."""
    counts = shards(10_000)
    setting = Setting(10_000, 1, label_counts=counts)
    assert skew(RandomCliques().cliques(setting), counts).mean() > 0.5
    assert skew(DCliques(swaps=1000).cliques(setting), counts).mean() > 0.3
    cliques = DCliques(swaps=20_000).cliques(setting)
    assert skew(cliques, counts).mean() < 0.09
    assert sorted(np.concatenate(cliques).tolist()) == list(range(10_000))


def test_tries_grow_with_the_cliques():
    counts = shards(2000)
    assert skew(DCliques().cliques(Setting(2000, 1, label_counts=counts)), counts).mean() < 0.05


@given(count=st.integers(2, 13), seed=st.integers(0, 9))
def test_all_cliques_meet_all_once(count, seed):
    rounds = list(_meetings(count, np.random.default_rng(seed)))
    assert all(len(set(pairs.ravel().tolist())) == pairs.size for pairs in rounds)
    met = [tuple(sorted(pair)) for pairs in rounds for pair in pairs.tolist()]
    assert sorted(met) == list(itertools.combinations(range(count), 2))


@pytest.mark.parametrize(("nodes", "size", "worst"), [(100, 10, 0.0), (100, 20, 0.0), (95, 10, 0.21), (100, 5, 1.0)])
def test_one_class_a_node_gives_cliques_with_every_class(nodes, size, worst):
    counts = one_class_each(nodes)
    for seed in range(10):
        cliques = drawn(DCliques(size=size), nodes, counts, seed).groups
        assert skew(cliques, counts).max() <= worst + 1e-12
        assert max(map(len, cliques)) <= size
        assert sorted(np.concatenate(cliques).tolist()) == list(range(nodes))
    counts = one_class_each(100)
    assert skew(drawn(RandomCliques(), 100, counts).groups, counts).mean() > 0.5


def test_a_thousand_nodes_need_the_edges_that_the_paper_counts():
    graph = drawn(DCliques(swaps=10), 1000, one_class_each(1000))
    assert len(graph.sources) // 2 == 100 * 45 + 100 * 99 // 2
    small = drawn(DCliques(swaps=0, between="small-world"), 1000, one_class_each(1000))
    between = len(small.sources) // 2 - 4500
    assert between <= 100 * 4 * 7
    assert between < 4950 / 2


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_clique_with_averaged_gradients_is_sgd_on_all_data(momentum):
    def final(program, nodes):
        optimizer = {"kind": "sgd", "lr": 0.3, "momentum": momentum, "state": "keep"}
        task = {**BLOBS, "batch_size": 1000, "optimizer": optimizer}
        world, _ = simulate(table(task=task, program=program, network={"nodes": nodes}, rounds=4))
        return models_of(world)

    topology = {"kind": "d-cliques", "size": 6}
    averaging = {"kind": "clique-averaging", "lr": 0.3, "momentum": momentum, "topology": topology}
    together = final(averaging, 6)
    alone = final({"kind": "gossip", "topology": "complete"}, 1)
    assert torch.allclose(together, alone.expand(6, -1), atol=1e-5)


def with_and_without_averaging(size, rounds, **task):
    task = {**BLOBS, "batch_size": 1000, "optimizer": {"kind": "sgd", "lr": 0.3}, **task}
    topology = {"kind": "random-cliques", "size": size}
    for program in ({"kind": "clique-averaging", "lr": 0.3}, {"kind": "gossip"}):
        world, _ = simulate(table(task=task, program={**program, "topology": topology}, rounds=rounds))
        yield models_of(world)


def test_cliques_of_one_node_are_plain_gossip():
    assert torch.allclose(*with_and_without_averaging(1, rounds=3), atol=1e-5)


class Normalized(torch.nn.Sequential):
    """A frozen layer, one with statistics, and one that is trained."""

    def __init__(self):
        first = torch.nn.Linear(10, 16).requires_grad_(False)
        super().__init__(first, torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 4))


NORMALIZED = {"model": Module(factory=Normalized)}


def test_buffers_continue_as_in_plain_gossip():
    averaged, own = with_and_without_averaging(1, rounds=4, **NORMALIZED)
    assert torch.allclose(averaged, own, atol=1e-5)
    moved = averaged[:, -32:] - torch.tensor([0.0, 1.0]).repeat_interleave(16)
    assert moved.abs().min() > 0


@pytest.mark.parametrize("sharing", ["full", "secure-aggregation"])
def test_buffers_and_frozen_numbers_are_no_part_of_gradients(sharing, overheard):
    topology = {"kind": "random-cliques", "size": 4}
    program = {"kind": "clique-averaging", "lr": 0.3, "momentum": 0.9, "topology": topology, "sharing": sharing}
    world, _ = simulate(table(task={**BLOBS, **NORMALIZED}, program=program, rounds=4))
    layout, first = world.task.learner.layout, world.task.learner.first_model
    sent = [value for m in overheard if m.tag == "gradient" for value in m.payload.values() if hasattr(value, "shape")]
    assert {len(value) for value in sent} == {layout.trainable}
    frozen = slice(layout.trainable, layout.averaged)
    for model in models_of(world):
        assert torch.allclose(model[frozen], first[frozen], atol=1e-6)
        assert (model[layout.averaged :] - first[layout.averaged :]).abs().min() > 0


def test_gradients_averaged_in_uneven_cliques_move_the_mean_as_their_own_would():
    averaged, own = with_and_without_averaging(5, rounds=1)
    assert not torch.allclose(averaged, own, atol=1e-4)
    assert torch.allclose(averaged.mean(0), own.mean(0), atol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        "every-round",
        {"kind": "periodic", "every": 3},
        {"kind": "skiptrain", "training": 2, "synchronization": 3},
        {"kind": "greedy", "budget": 3},
    ],
)
def test_gradients_are_reckoned_in_the_rounds_that_send_them(schedule):
    program = {
        "kind": "clique-averaging",
        "lr": 0.3,
        "topology": {"kind": "d-cliques", "size": 5},
        "schedule": schedule,
    }
    world, _ = simulate(table(task=BLOBS, program=program, rounds=8))
    sent = sum(node.bytes_out for node in world.nodes) / (8 * len(world.nodes))
    assert sent == pytest.approx(stated_bytes(world), rel=0.04)


def test_momentum_continues_from_a_checkpoint_to_the_bit():
    program = {"kind": "clique-averaging", "lr": 0.1, "momentum": 0.9, "topology": {"kind": "d-cliques", "size": 3}}
    tables = table(task=BLOBS, program=program, rounds=6, checkpoint={"every": 2})
    world, written = simulate(tables)
    again, _ = simulate(tables, checkpoint=written.checkpoints[0][1])
    assert torch.equal(models_of(world), models_of(again))


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ({"topology": {"kind": "d-cliques", "size": 0}}, r"'size' of the topology d-cliques must be an int in \[1"),
        (
            {"kind": "clique-averaging", "lr": 0.1, "topology": "ring"},
            "must have cliques, or balanced neighbourhoods",
        ),
        ({"kind": "clique-averaging", "lr": 0.1, "topology": "random-cliques", "overlap": True}, "must be false"),
    ],
)
def test_impossible_cliques_are_refused(program, said):
    with pytest.raises(ConfigurationError, match=said):
        simulate(table(program={"kind": "gossip", **program}))


def test_data_without_classes_have_no_balanced_cliques():
    dataset = {"kind": "linear-regression", "samples": 60, "test_samples": 10}
    task = {"dataset": dataset, "model": "linear"}
    with pytest.raises(ConfigurationError, match="needs data with classes"):
        simulate(table(task=task, program={"kind": "gossip", "topology": "d-cliques"}))


def test_gradients_of_another_shape_are_rejected():
    def shortened(node, to, payload, **named):
        if node.id == 1 and named.get("tag") == "gradient":
            payload = {"model": payload["model"][:3]}
        return send(node, to, payload, **named)

    from covey.learning.running_node import RunningLearningNode

    send = RunningLearningNode.send
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunningLearningNode, "send", shortened)
        program = {"kind": "clique-averaging", "lr": 0.1, "topology": {"kind": "random-cliques", "size": 3}}
        world, written = simulate(table(task=BLOBS, program=program, rounds=2))
    assert torch.isfinite(models_of(world)).all()
    rejected = [detail for *_, kind, detail in written.happened if kind == "rejected"]
    assert len(rejected) == 2 * 2
    assert set(rejected) == {f"message of node 1: its 'model' is not {len(world.nodes[0].model)} float32 numbers"}
