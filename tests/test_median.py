"""The median as an aggregation: its merges, its robustness, and its line in `covey check`."""

import json

import numpy as np
import pytest
import torch

from covey.aggregation.aggregation import Contribution
from covey.aggregation.median import Median
from covey.learning.node import LearningNode
from covey.network.graph import Graph
from covey.parts.nodes import NodeId
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate

NOBODY = None
"""Neither the node nor the graph matters."""


def merged(own, *others, parts=()):
    contributions = [Contribution(NodeId(number), torch.tensor(values)) for number, values in enumerate(others)]
    contributions += [
        Contribution(NodeId(100 + number), torch.tensor(values), torch.tensor(indices))
        for number, (indices, values) in enumerate(parts)
    ]
    return Median().merge(NOBODY, NOBODY, torch.tensor(own), contributions)


@pytest.mark.parametrize("others", [0, 1, 2, 3, 5, 6, 12, 33])
@pytest.mark.parametrize("size", [1, 7, (1 << 14) + 3])
def test_it_is_the_median_of_each_number(others, size):
    models = np.random.default_rng(others).normal(size=(1 + others, size)).astype(np.float32)
    found = merged(models[0], *models[1:])
    assert np.array_equal(found.numpy(), np.median(models, axis=0))


def test_of_parts_it_is_the_median_of_the_own_number_and_those_that_came():
    random = np.random.default_rng(3)
    own = random.normal(size=40).astype(np.float32)
    whole = random.normal(size=(2, 40)).astype(np.float32)
    indices = [np.sort(random.choice(40, 25, replace=False)) for _ in range(3)]
    parts = [(where, random.normal(size=25).astype(np.float32)) for where in indices]
    found = merged(own, *whole, parts=parts)
    for index in range(40):
        sent = [values[where == index][0] for where, values in parts if index in where]
        assert found[index].item() == np.median(np.array([own[index], *whole[:, index], *sent], np.float32))


def test_nothing_that_was_sent_is_written_to():
    own, other = torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0])
    Median().merge(NOBODY, NOBODY, own, [Contribution(NodeId(1), other)])
    assert (own.tolist(), other.tolist()) == ([1.0, 5.0], [3.0, 1.0])


class Liar(Median):
    """A median in which node 0 sends anything but its model."""

    kind = "liar"
    inner = Median()

    def merge(self, node, graph, own, contributions):
        contributions = [
            Contribution(came.sender, torch.full_like(own, 1e6)) if came.sender == 0 else came for came in contributions
        ]
        return self.inner.merge(node, graph, own, contributions)


def gossip(aggregation, **changes):
    return table(program={"kind": "gossip", "topology": "complete", "aggregation": aggregation}, **changes)


def test_gossip_withstands_a_node_that_lies():
    from covey.aggregation.linear import Mean

    class AveragedLiar(Liar):
        inner = Mean()

    worst = {}
    for aggregation in (Liar(), AveragedLiar()):
        world, _ = simulate(gossip(aggregation, rounds=3))
        worst[type(aggregation).__name__] = models_of(world)[1:].abs().max().item()
    assert worst["Liar"] < 10
    assert worst["AveragedLiar"] > 1e4


@pytest.mark.parametrize("sharing", ["full", {"kind": "top-k", "budget": 0.3}, {"kind": "jwins"}])
def test_it_learns_and_both_engines_agree(sharing, tmp_path):
    program = {"kind": "gossip", "topology": "complete", "sharing": sharing, "aggregation": "median"}
    tables = table(program=program, network={"nodes": 6}, rounds=8)
    world, _ = simulate(tables)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, models_of(world), atol=1e-4)
    mean, _ = simulate({**tables, "program": {**program, "aggregation": "mean"}})
    assert not torch.allclose(models_of(mean), models_of(world), atol=1e-3)


def test_what_needs_weights_refuses_it(covey, in_folder):
    for sharing in ('{ kind = "choco", compressor = "sign", gamma = 0.3 }', '"power-gossip"', '"secure-aggregation"'):
        (in_folder / "x.toml").write_text(FILE.format(sharing=sharing))
        code, _, err = covey("check", "x.toml")
        assert code == 2
        assert "median" in err
        assert err.count("\n") == 1


FILE = """
rounds = 2
task = {{ dataset = "digits", model = "logistic" }}
network = {{ nodes = 8 }}
program = {{ kind = "gossip", topology = "ring", aggregation = "median", sharing = {sharing} }}
"""


def test_the_check_says_of_weights_only_where_there_are_some(covey, in_folder):
    (in_folder / "x.toml").write_text(FILE.format(sharing='"full"'))
    code, out, _ = covey("check", "x.toml")
    assert code == 0
    (graph,) = [line for line in out.splitlines() if line.startswith("graph ")]
    assert "8 nodes, 8 edges, connected" in graph
    assert "diameter 4" in graph
    assert not any(word in graph for word in ("stochastic", "spectral", "noise", "none"))
    (labels,) = [line for line in out.splitlines() if line.startswith("labels ")]
    assert labels.endswith("alone")
    _, out, _ = covey("check", "x.toml", "--json")
    assert json.loads(out)["graph"]["doubly_stochastic"] is None
    _, out, _ = covey("check", "x.toml", "--set", "program.aggregation=metropolis-hastings")
    assert "doubly stochastic true" in out
    _, out, _ = covey("check", "x.toml", "--set", "program.aggregation=mean", "--set", "program.topology=star")
    assert "doubly stochastic false" in out


class Weighted(Median):
    """A rule of the user's own that says its weights, and is no median."""

    kind = "metropolis-hastings"

    def weights(self, node: NodeId, graph: Graph) -> list[float]:
        return [0.25] * len(graph.senders(node))

    def merge(self, node: LearningNode, graph, own, contributions):
        return own * 0.5 + sum(came.values for came in contributions) * 0.25


def test_a_rule_of_ones_own_says_its_weights(covey, in_folder):
    kind = f"{Weighted.__module__}:Weighted"
    (in_folder / "x.toml").write_text(FILE.format(sharing='"full"'))
    _, out, _ = covey("check", "x.toml", "--json", "--set", f"program.aggregation={kind}")
    found = json.loads(out)["graph"]
    assert found["doubly_stochastic"] is True
    assert found["spectral_gap"] == pytest.approx(0.5 - 0.5 * np.cos(2 * np.pi / 8))


@pytest.mark.parametrize(
    "sharing",
    [{"kind": "choco", "compressor": "sign", "gamma": 0.3}, "power-gossip", {"kind": "secure-aggregation", "masks": 1}],
    ids=["choco", "power-gossip", "secure-aggregation"],
)
def test_sharings_that_apply_weights_take_those_of_a_rule_of_ones_own(sharing):
    def models(aggregation):
        program = {"kind": "gossip", "topology": "ring", "sharing": sharing, "aggregation": aggregation}
        world, _ = simulate(table(program=program, rounds=4))
        return models_of(world)

    own, usual = models(Weighted()), models("metropolis-hastings")
    assert not torch.allclose(own, usual, atol=1e-3)
