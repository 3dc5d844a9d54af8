"""Mosaic Learning: a graph for every fragment, and averages of fragments against an oracle."""

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import covey
from covey.decentralized.sharing.fragments import Cutting
from covey.decentralized.topology.mosaic import Mosaic
from covey.learning import chunks
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS, NODES
from tests.test_emulation import QUICK, assert_agree
from tests.test_views import watched
from tests.untrained import MIXED, Never, starts

MLP = {**BLOBS, "model": {"kind": "mlp", "hidden": [7]}, "same_start": False}
SIZE = 10 * 7 + 7 + 7 * 4 + 4
GRAPHS = ("local", "oracle")


def program(fragments, graphs="local", degree=2, *, sharing=None, **changes):
    topology = {"kind": "mosaic", "graphs": graphs, "degree": degree, "fragments": fragments}
    return {"kind": "gossip", "topology": topology, "sharing": {"kind": "mosaic", **(sharing or {})}, **changes}


def run(fragments, graphs="local", *, rounds=3, task=MLP, sharing=None, network=None, seed=3, **changes):
    tables = table(program=program(fragments, graphs, sharing=sharing, **changes), task=task, rounds=rounds, seed=seed)
    return simulate({**tables, "network": {"nodes": NODES, **(network or {})}})


def matrices(world, t):
    """The mixing matrix of every fragment, from the graphs: equal weights on the own one and on all that come."""
    found = []
    for graph in world.program.topology.of_fragments(t):
        matrix = np.eye(graph.n)
        matrix[graph.targets, graph.sources] = 1.0
        found.append(torch.from_numpy(matrix / matrix.sum(1, keepdims=True)))
    return found


def expected(world, rounds):
    """N x P, the models that are not trained after some rounds, in float64."""
    models, layout = starts(world).double(), world.program.sharing.fragments
    for t in range(rounds):
        for number, matrix in enumerate(matrices(world, t)):
            models[:, layout.indices(number)] = matrix @ models[:, layout.indices(number)]
    return models


@pytest.mark.parametrize("graphs", GRAPHS)
def test_one_fragment_is_epidemic_learning_to_the_bit(graphs):
    mosaic, written = run(1, graphs, task=BLOBS)
    plain = {"kind": "gossip", "topology": {"kind": f"epidemic-{graphs}", "degree": 2}}
    tables = table(program=plain, task=BLOBS, rounds=3)
    epidemic, rewritten = simulate({**tables, "network": {"nodes": NODES}})
    assert torch.equal(models_of(mosaic), models_of(epidemic))
    assert mosaic.now == epidemic.now
    assert written.figures == rewritten.figures


def test_the_number_of_fragments_changes_no_batch(monkeypatch):
    plan, drawn = chunks.plan, []

    def record(*arguments):
        drawn.append(plan(*arguments))
        return drawn[-1]

    monkeypatch.setattr(chunks, "plan", record)
    seen = []
    for fragments in (1, 4, SIZE):
        drawn.clear()
        run(fragments, task={**MLP, "batch_size": 4, "local_steps": 2})
        seen.append(np.concatenate([one.samples for one in drawn]))
    assert all(np.array_equal(seen[0], other) for other in seen[1:])


@given(
    fragments=st.integers(1, 9) | st.just(SIZE),
    graphs=st.sampled_from(GRAPHS),
    cutting=st.sampled_from(get_args(Cutting)),
    seed=st.integers(0, 99),
)
@settings(max_examples=8, deadline=None)
def test_models_are_averaged_along_the_graph_of_each_fragment(fragments, graphs, cutting, seed):
    world, _ = run(fragments, graphs, sharing={"cutting": cutting}, schedule=Never(), seed=seed)
    models = models_of(world)
    assert torch.allclose(models.double(), expected(world, 3), atol=1e-6)
    for matrix in matrices(world, 0):
        assert torch.allclose(matrix.sum(1), torch.ones(NODES, dtype=torch.float64))
    if graphs == "oracle":
        assert torch.allclose(models.double().mean(0), starts(world).double().mean(0), atol=1e-6)


@pytest.mark.parametrize("graphs", GRAPHS)
def test_equal_models_stay_equal(graphs):
    world, _ = run(5, graphs, task={**MLP, "same_start": True}, schedule=Never())
    assert torch.allclose(models_of(world), starts(world), rtol=1e-6)


def test_the_values_that_are_sent_are_as_many_for_all_numbers_of_fragments():
    sent = [[node.value_bytes_out for node in run(fragments)[0].nodes] for fragments in (1, 4, SIZE)]
    assert sent == [[3 * 2 * SIZE * 4] * NODES] * 3


def test_a_round_has_at_most_one_message_for_each_pair():
    world, _ = run(30, rounds=1)
    assert all(node.messages_out <= NODES - 1 for node in world.nodes)
    assert sum(node.messages_out for node in world.nodes) == len(world.program.topology.at(0).sources)


def test_graphs_of_fragments_and_rounds_are_drawn_apart_and_have_no_loops():
    topology = Mosaic(degree=2, fragments=4).ready(Setting(NODES, 5))
    drawn = [graph for t in range(3) for graph in topology.of_fragments(t)]
    assert len({tuple((graph.sources * NODES + graph.targets).tolist()) for graph in drawn}) == 12
    assert all((graph.sources != graph.targets).all() and (graph.out_degrees == 2).all() for graph in drawn)
    more = Mosaic(degree=2, fragments=7).ready(Setting(NODES, 5))
    for few, many in zip(topology.of_fragments(1), more.of_fragments(1), strict=False):
        assert np.array_equal(few.sources, many.sources)


def test_the_graph_of_a_round_is_the_union():
    topology = Mosaic(degree=1, fragments=3).ready(Setting(NODES, 5))
    pairs = {pair for graph in topology.of_fragments(0) for pair in zip(graph.sources, graph.targets, strict=True)}
    union = topology.at(0)
    assert {*zip(union.sources, union.targets, strict=True)} == pairs


def test_graphs_of_fragments_may_last_for_several_rounds():
    inner = program(3)["topology"]
    redrawn = {**program(3), "topology": {"kind": "redrawn", "topology": inner, "every": 2}, "schedule": Never()}
    tables = table(program=redrawn, task=MLP, rounds=4)
    world, _ = simulate(tables)
    first, second, third = (world.program.topology.of_fragments(t) for t in range(3))
    assert first is second
    assert not np.array_equal(first[0].targets, third[0].targets) or not np.array_equal(
        first[0].sources, third[0].sources
    )
    assert torch.allclose(models_of(world).double(), expected(world, 4), atol=1e-6)


def test_missing_fragments_leave_their_weights_to_those_that_came(monkeypatch):
    post = World.post

    def lose(world, node, receivers, payload, tag, round):
        return post(world, node, [receiver for receiver in receivers if node.id != 3], payload, tag, round)

    monkeypatch.setattr(World, "post", lose)
    world, _ = run(4, rounds=1, schedule=Never(), patience=1.0)
    models, layout = starts(world).double(), world.program.sharing.fragments
    for number, matrix in enumerate(matrices(world, 0)):
        heard = matrix.clone()
        heard[torch.arange(NODES) != 3, 3] = 0.0
        heard /= heard.sum(1, keepdim=True)
        models[:, layout.indices(number)] = heard @ models[:, layout.indices(number)]
    assert torch.allclose(models_of(world).double(), models, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda values, layout: (values[:-1], layout), "not {size} float32 numbers"),
        (lambda values, layout: (values.double(), layout), "not {size} float32 numbers"),
        (lambda values, layout: (values, "00000000"), "its fragments have another layout, '00000000' instead of"),
        (lambda values, layout: (values, 7), "its 'layout' is not a str"),
    ],
)
def test_a_wrong_bundle_is_dropped_and_named(monkeypatch, change, detail):
    post = World.post

    def tamper(world, node, receivers, payload, tag, round):
        if node.id == 3:
            values, layout = change(payload["values"], payload["layout"])
            payload = {"values": values, "layout": layout}
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", tamper)
    world, written = run(4, rounds=1)
    receivers = world.program.topology.at(0).receivers(3)
    assert sorted(node for _, node, kind, _ in written.happened if kind == "rejected") == sorted(receivers)
    assert all(detail.partition("{")[0] in text and "3" in text for _, _, _, text in written.happened)
    assert sum(node.mail.drops["unusable"] for node in world.nodes) == len(receivers)


def test_numbers_that_are_not_finite_are_dropped(monkeypatch):
    post = World.post

    def tamper(world, node, receivers, payload, tag, round):
        if node.id == 3:
            payload = {**payload, "values": payload["values"] * float("nan")}
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", tamper)
    world, _ = run(4, rounds=1, patience=1.0)
    dropped = sum(node.mail.drops["not-finite"] for node in world.nodes)
    assert dropped == len(world.program.topology.at(0).receivers(3))
    assert models_of(world).isfinite().all()


@pytest.mark.parametrize("share", ["trained", ["body.*", "norm.*"]])
@pytest.mark.parametrize("buffers", ["average", "keep"])
def test_what_is_not_shared_stays_and_buffers_are_fragments_like_all(share, buffers):
    world, _ = run(3, task=MIXED, sharing={"share": share, "buffers": buffers}, schedule=Never())
    selection = world.program.sharing.selection
    models = starts(world)
    parts = torch.stack([selection.take(model) for model in models]).double()
    for t in range(3):
        for number, matrix in enumerate(matrices(world, t)):
            indices = world.program.sharing.fragments.indices(number)
            parts[:, indices] = matrix @ parts[:, indices]
    for node, before, part in zip(world.nodes, models, parts, strict=True):
        after = node.model
        assert torch.allclose(selection.take(after).double(), part, atol=1e-6)
        assert torch.equal(selection.put(before, selection.take(after)).tensor(), after)


def resumed(**network):
    """A run, and the one that is resumed from its first checkpoint."""
    network = {"nodes": NODES, "latency": "5ms", "bandwidth": "1Mbit/s", **network}
    tables = table(program=program(4, patience="100ms"), task=MLP, network=network, rounds=6, checkpoint={"every": 3})
    whole, written = simulate(tables)
    return whole, simulate(tables, checkpoint=written.checkpoints[0][1])[0]


def test_a_resumed_run_ends_as_the_uninterrupted_one():
    whole, again = resumed()
    assert torch.equal(models_of(whole), models_of(again))


def test_a_resumed_run_has_the_same_absences():
    whole, again = resumed(churn={"kind": "rate", "mean_up": "100ms", "mean_down": "30ms"})
    assert [node.round for node in again.nodes] == [6] * NODES
    assert again.now == whole.now
    assert models_of(again).isfinite().all()


def test_nodes_that_come_and_go_and_messages_that_are_lost():
    churn = {"kind": "rate", "mean_up": "100ms", "mean_down": "30ms"}
    network = {"latency": "5ms", "loss": 0.1, "churn": churn, "compute": 500.0}
    world, _ = run(6, rounds=8, network=network, patience="200ms")
    assert models_of(world).isfinite().all()
    assert world.refused["lost"] > 0


def test_the_engines_agree(tmp_path):
    assert_agree(table(program=program(4), task=MLP, network=QUICK, rounds=3), tmp_path, 4)


def test_observers_see_the_fragments_that_were_sent(monkeypatch):
    world, views, sent = watched(monkeypatch, program=program(4), task={**MLP, "same_start": True})
    topology, models = world.program.topology, {(node, t): model for (node, _, t, _), model in sent.items()}
    assert len(views) == sum(len(topology.at(t).senders(node)) for t in range(3) for node in (0, 5))
    for view in views:
        model, (sender,) = models[view.senders[0], view.round], view.senders
        assert torch.equal(view.values, view.shows(model))
        graphs = topology.of_fragments(view.round)
        sizes = world.program.sharing.fragments.sizes
        held = [size for graph, size in zip(graphs, sizes, strict=True) if view.receiver in graph.receivers(sender)]
        assert view.fraction(model) == sum(held) / SIZE


def test_a_check_says_the_sizes_and_the_graph_of_a_fragment():
    found = covey.check(Experiment.from_table(table(program=program(4, "oracle"), task=MLP)))
    assert found["parts"] == {"fragments": "4 fragments of 26 to 31 values"}
    assert found["graph"]["expected_contraction"] == pytest.approx((1 - 2 / 11) / 3)
    assert found["graph"]["doubly_stochastic"]
    assert ("fragments", "4 fragments of 26 to 31 values") in found.lines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fragments": 0}, r"The 'fragments' of the topology mosaic must be an int in \[1, inf\). Got 0"),
        ({"fragments": SIZE + 1}, f"The 'fragments' of the topology mosaic must give 1 to {SIZE} fragments"),
        ({"fragments": 2, "degree": NODES}, r"The 'degree' of the topology mosaic must be an int in \[1, nodes\)"),
        ({"fragments": 2, "degree": 0}, r"The 'degree' of the topology mosaic must be an int in \[1, nodes\)"),
        ({"fragments": 2, "graphs": "ring"}, "The 'graphs' of the topology mosaic must be one of 'local', 'oracle'"),
        ({"fragments": 2, "sharing": {"cutting": "any"}}, "The 'cutting' of the sharing mosaic must be one of 'per-"),
        ({"fragments": 2, "sharing": {"kind": "full"}}, "The topology mosaic draws 2 graphs a round, .* sharing full"),
        ({"fragments": 2, "aggregation": "median"}, "The sharing mosaic needs an aggregation with fixed weights"),
    ],
)
def test_a_combination_that_cannot_work_is_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        prepare(Experiment.from_table(table(program=program(**changes), task=MLP)))


def test_an_oracle_whose_graph_does_not_exist_is_refused():
    with pytest.raises(ConfigurationError, match="mosaic"):
        Mosaic(graphs="oracle", degree=3, fragments=2).check(Setting(5))


# ------------------------------------------------------------------ the linear system of the paper


def stretch(fragments, slow):
    """The mean greatest eigenvalue of M^T M on the disagreement subspace, over 10 rounds of 12 nodes and 16 numbers.

    Local steps shrink all directions but `slow` to a fifth.
    """
    n, d = 12, 16
    curvature = torch.from_numpy(np.kron(np.eye(n), 0.2 * np.eye(d) + 0.8 * np.outer(slow, slow)))
    topology = Mosaic(degree=2, fragments=fragments).ready(Setting(n, 1))
    apart, found = np.eye(n) - 1.0 / n, []
    for t in range(10):
        step = np.zeros((n, d, n, d))
        for number, graph in enumerate(topology.of_fragments(t)):
            for index in range(number, d, fragments):
                step[:, index, :, index] = apart @ graph.mixing("mean").toarray() @ apart
        # By torch, which has one thread here: those of numpy wait for each other on a busy machine.
        moved = torch.from_numpy(step.reshape(n * d, n * d)) @ curvature
        found.append(float(torch.linalg.eigvalsh(moved.T @ moved)[-1]))
    return float(np.mean(found))


def test_fragments_shrink_a_disagreement_that_is_spread_over_them_and_no_other():
    spread = [stretch(fragments, np.full(16, 0.25)) for fragments in (1, 2, 4, 8, 16)]
    assert np.allclose(spread, [1.149, 0.810, 0.674, 0.596, 0.521], atol=0.08)
    assert all(many < few for few, many in itertools.pairwise(spread))
    axis = np.eye(16)[5]
    assert np.allclose([stretch(1, axis), stretch(16, axis)], spread[0], atol=0.05)
