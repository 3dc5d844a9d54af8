"""Experiments with masked sharings, and the sums without masks."""

import torch

from covey.decentralized.sharing.cesar import Cesar
from covey.decentralized.sharing.secure_aggregation import SecureAggregation
from covey.parts.nodes import NodeId
from tests.conftest import table
from tests.examples import BLOBS

REGULAR = {"kind": "random-regular", "degree": 4}
RANDOM = {"kind": "random", "budget": 0.5}
STILL = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
"""Every node begins with a model of its own and training changes nothing."""
PHASES = {"nodes": 12, "latency": "1s", "bandwidth": None, "compute": 1e9}
"""Each message of a round takes a second: indices, the indices of others, masked values."""


def tables(sharing="cesar", topology=REGULAR, *, program=(), task=STILL, rounds=1, **changes):
    """An experiment with a masked sharing, given by its kind or its parameters."""
    if sharing == "cesar" or (isinstance(sharing, dict) and "kind" not in sharing):
        sharing = {"kind": "cesar", "subset": RANDOM, **(sharing if isinstance(sharing, dict) else {})}
    made = {"kind": "gossip", "topology": topology, "sharing": sharing, **dict(program)}
    return table(program=made, task=task, rounds=rounds, **changes)


class Seen:
    """The models, indices and members of each node's sum, and the merged models, by round and node."""

    def __init__(self):
        self.models, self.held, self.members, self.merged = {}, {}, {}, {}

    def clear(self, world, t, masks=1):
        """The models after a round by the rule of the paper, without masks: N x P."""
        graph = world.program.topology.at(t)
        nodes = [node for node in range(world.size) if (t, node) in self.merged]
        expected = {node: self.models[t, node].double() for node in nodes}
        for node in nodes:
            own, others = self.models[t, node].double(), self.members[t, node]
            weights = world.program._aggregation.weights(NodeId(node), graph)
            weight_of = dict(zip(graph.senders(node), weights, strict=True))
            holders = sum((self.held[t, k].int() for k in others), torch.zeros(len(own)))
            for k in others:
                kept = self.held[t, k] & (holders > masks)
                expected[node] = expected[node] + kept * weight_of[k] * (self.models[t, k].double() - own)
        return expected


def watched(monkeypatch):
    """All rounds of the masked sharings of a test, as they are recorded."""
    seen = Seen()
    for sharing in (Cesar, SecureAggregation):

        def choose(self, round, choose=sharing.choose):
            indices, described = choose(self, round)
            node, t = round.node, round.t
            seen.models[t, node.id] = node.model
            seen.held[t, node.id] = torch.zeros(len(node.model), dtype=torch.bool).index_fill_(0, indices, True)
            return indices, described

        def merge(self, round, inbox, merge=sharing.merge):
            node, t = round.node, round.t
            seen.members[t, node.id] = list(self._rounds[node.id].sum.members)
            merged = seen.merged[t, node.id] = merge(self, round, inbox)
            return merged

        monkeypatch.setattr(sharing, "choose", choose)
        monkeypatch.setattr(sharing, "merge", merge)
    return seen


def close(merged, expected):
    return torch.allclose(merged.double(), expected, atol=1e-6)


def assert_all_or_nothing(world, seen, written):
    """Every node has merged the sum of all on whom it counted, or has kept its model and says so."""
    discarded = {(t - 1, node) for node, t, _ in figures(written, "discarded")}
    for t in range(world.rounds):
        for node, model in seen.clear(world, t).items():
            if (t, node) in discarded:
                assert torch.equal(seen.merged[t, node], seen.models[t, node])
            else:
                assert close(seen.merged[t, node], model)


def figures(written, name):
    return [(node, t, value) for node, t, key, value in written.figures if key == name]
