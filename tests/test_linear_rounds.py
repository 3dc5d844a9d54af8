"""The statements of parts about whole rounds are those about single nodes, for every registered part."""

from itertools import pairwise

import numpy as np
import pytest

from covey.aggregation.aggregation import Linear
from covey.aggregation.linear import Mean
from covey.decentralized.gossip import Gossip
from covey.decentralized.schedule import Schedule
from covey.decentralized.sharing import Full
from covey.parts import kinds
from covey.parts.parameters import Setting
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from tests.conftest import table
from tests.examples import BLOBS, NODES, RUNS, Keeping, part_table, run_table

TOPOLOGIES = [kind for family, kind in RUNS if family == "topology"]
SCHEDULES = [kind for family, kind in RUNS if family == "schedule"]
AGGREGATIONS = [kind for family, kind in RUNS if family == "aggregation"]
HAS_A_STATE = {"greedy": {"budget": 3}, "skiptrain": {"budget": 3}}
"""Schedules by which a node counts its trainings."""


class Odd(Schedule):
    """A schedule of a user's own, which states no mask."""

    def trains(self, node, t):
        return (node.id + t) % 2 == 1


class Half(Linear):
    """A rule of a user's own, which states the weights of a node alone."""

    def weights(self, node, graph):
        senders = graph.senders(node)
        return [0.5 / len(senders) * (1 + sender / 7) for sender in senders]


def prepared(program, **changes):
    """A prepared experiment, with labels that topologies may need."""
    tables = table(task={**BLOBS, "batch_size": 8}, network={"nodes": NODES}, rounds=9, **changes)
    return prepare(Experiment.from_table({**tables, "program": program}))


@pytest.mark.parametrize("parameters", [{}, *HAS_A_STATE.values()], ids=["unlimited", "greedy", "skiptrain"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_mask_of_a_round_is_what_each_node_decides(kind, parameters, files):
    table = {"kind": kind, **parameters} if kind in HAS_A_STATE else part_table("schedule", kind, files)
    schedule = prepared({"kind": "gossip", "topology": "ring", "schedule": table}).program.schedule
    assert (schedule.mask(0) is None) == bool(parameters and kind in HAS_A_STATE)
    if schedule.mask(0) is not None:
        for t in range(9):
            nodes = [Keeping(id=id, state={}) for id in range(NODES)]
            assert schedule.mask(t).tolist() == [schedule.trains(node, t) for node in nodes]


@pytest.fixture(scope="module", params=TOPOLOGIES)
def made(request, files):
    """A prepared gossip over each topology."""
    return prepared({"kind": "gossip", "topology": part_table("topology", request.param, files)})


@pytest.mark.parametrize("kind", [*AGGREGATIONS, "lazy-mean"])
def test_the_weights_of_all_edges_are_those_of_each_node_to_the_bit(made, kind, files):
    parameters = {"rule": Mean(), "own": 0.3} if kind == "lazy-mean" else {}
    rule = kinds.load("aggregation", kind.removesuffix("-mean"))(**parameters)
    for graph in (made.program.topology.at(0), made.program.topology.at(1)):
        if kind == "given" and graph.weights is None:
            continue
        each = [rule.weights(node, graph) for node in range(NODES)]
        stated = rule.of_edges(graph)
        assert (stated is None) == (None in each)
        if stated is not None:
            assert stated.tolist() == [weight for weights in each for weight in weights]


def test_a_rule_and_a_schedule_of_ones_own_state_what_their_methods_say():
    graph = prepared({"kind": "gossip", "topology": "ring"}).program.topology.at(0)
    weights = Half().of_edges(graph)
    assert weights.tolist() == [weight for node in range(NODES) for weight in Half().weights(node, graph)]
    assert Half().is_linear
    odd = Odd()
    odd.prepare(Setting(NODES))
    assert odd.mask(0) is None


def test_a_graph_is_the_same_whatever_was_drawn_before(made):
    topology, setting = made.program.topology, made.setting
    drawn = []
    for order in (range(5), reversed(range(5))):
        topology.begin(setting)
        drawn.append({t: topology.at(t) for t in order})
    for t in range(5):
        for name in ("sources", "targets", "weights"):
            assert np.array_equal(getattr(drawn[0][t], name), getattr(drawn[1][t], name))


def test_the_matrix_of_a_round_has_the_rows_by_which_nodes_merge(made):
    rounds, program = made.program.linear(made.setting), made.program
    for t in (0, 1):
        graph, matrix = program.topology.at(t), rounds.weights(t)
        ends = matrix.indptr.tolist()
        for node, (start, end) in enumerate(pairwise(ends)):
            weights, own = program.aggregation.weights(node, graph), 0.0
            for weight in weights:
                own += weight
            assert matrix.indices[start:end].tolist() == [node, *graph.senders(node)]
            assert matrix.data[start:end].tolist() == [1.0 - own, *weights]
        assert rounds.bytes(t).tolist() == [len(graph.receivers(id)) * rounds.lengths.frame for id in range(NODES)]


@pytest.mark.parametrize(("family", "kind"), [run for run in RUNS if run[0] in ("program", "sharing", "aggregation")])
def test_covey_parts_are_linear_where_their_round_is_known_beforehand(family, kind, files):
    made = prepare(Experiment.from_table(run_table(family, kind, files)))
    rounds, why_not = made.program.linear(made.setting), made.program.against_linear(made.setting)
    known = {"program": {"gossip"}, "sharing": {"full"}, "aggregation": {*AGGREGATIONS} - {"median"}}[family]
    assert (rounds is not None) == (kind in known)
    assert (why_not is None) == (kind in known)


class OwnRound(Gossip):
    async def round(self, node, t):
        node.model = node.model * 0.5


class OwnRun(Gossip):
    async def run(self, node):
        async for t in node.rounds():
            await self.round(node, t)


class Halved(Full):
    def contribution(self, message):
        found = super().contribution(message)
        found.shared_values = found.shared_values * 0.5
        return found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"overlap": True}, "sends models while nodes train"),
        ({"patience": "1s"}, "wait with 'patience'"),
        ({"sharing": {"kind": "random", "budget": 0.5}}, "the sharing random does not send whole models"),
        ({"sharing": {"kind": "full", "share": ["*weight"]}}, "not shared"),
        ({"aggregation": "median"}, "the aggregation median does not merge"),
        ({"schedule": {"kind": "greedy", "budget": 2}}, "the schedule greedy decides by more"),
        ({"schedule": Odd}, "decides by more"),
        ({"sharing": Halved}, "does not send whole models"),
        ({"kind": OwnRound}, "has a round of its own"),
        ({"kind": OwnRun}, "has a round of its own"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_other_rounds_are_no_linear_maps_and_say_why(changes, words):
    named = {
        name: f"{__name__}:{value.__name__}" if isinstance(value, type) else value for name, value in changes.items()
    }
    made = prepared({"kind": "gossip", "topology": "ring", **named})
    assert made.program.linear(made.setting) is None
    assert words in made.program.against_linear(made.setting)
