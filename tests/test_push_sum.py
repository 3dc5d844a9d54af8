"""Push-sum: what is given and taken, on any directed graph, and what it comes to with training."""

import asyncio

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.engines.simulation.node import SimulatedNode
from covey.errors import ConfigurationError, ProgramError
from covey.learning.push_sum import PushSum
from covey.node import Inbox, Message
from covey.parameters import Setting, build
from covey.topology import Topology
from tests.conftest import begun, models_of, simulate, table
from tests.examples import BLOBS, NODES

STILL = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
LOCAL = {"kind": "epidemic-local", "degree": 2}
DIRECTED = ["exponential", "one-peer-exponential", LOCAL, "star", {"kind": "equitopo-dynamic", "directed": True}]


class Double:
    """A node whose model has the precision in which sums can be compared."""

    def __init__(self, id, nodes, model, posted):
        self.id, self.nodes, self.posted = id, nodes, posted
        self.state = {"weight": 1.0}
        self._model = model

    @property
    def model(self):
        return self._model

    @model.setter
    def model(self, value):
        self._model = value.tensor()

    def send(self, receivers, payload, round):
        for receiver in receivers:
            self.posted.setdefault((receiver, round), []).append(Message(self.id, "", round, payload, 0))

    async def receive(self, tag, round, senders):
        await asyncio.sleep(0)  # All others have sent by then.
        found = sorted(self.posted.pop((self.id, round), []), key=lambda message: message.sender)
        assert [message.sender for message in found] == list(senders)
        return Inbox(found)

    def usable(self, inbox, **entries):
        return list(inbox)

    def log(self, **metrics):
        pass


@given(
    topology=st.sampled_from(DIRECTED),
    nodes=st.integers(4, 20),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
)
@settings(max_examples=40, deadline=None)
def test_nothing_of_the_sums_is_lost_or_made(topology, nodes, seed, scale):
    never = {"kind": "skiptrain", "training": 0, "synchronization": 1}
    program = PushSum(topology=build(Topology, topology), schedule=never)
    program.prepare(Setting(nodes, seed))
    models = torch.from_numpy(np.random.default_rng(seed).standard_normal((nodes, 5)) * scale)
    posted = {}
    doubles = [Double(id, nodes, model, posted) for id, model in enumerate(models)]

    async def rounds():
        for t in range(12):
            graph = program.topology.at(t)
            await asyncio.gather(*(program.round(node, graph, t) for node in doubles))
            weights = torch.tensor([node.state["weight"] for node in doubles], dtype=torch.float64)
            assert float(weights.min()) > 0
            assert float(weights.sum()) == pytest.approx(nodes, rel=1e-10)
            sums = (torch.stack([node.model for node in doubles]) * weights[:, None]).sum(0)
            assert torch.allclose(sums, models.sum(0), rtol=1e-10, atol=1e-10 * scale)

    asyncio.run(rounds())
    assert not posted


@pytest.mark.parametrize("topology", [*DIRECTED, {"kind": "redrawn", "topology": LOCAL, "every": 2}])
def test_all_nodes_come_to_the_mean_of_the_first_models(topology):
    world, written = simulate(table(program={"kind": "push-sum", "topology": topology}, task=STILL, rounds=60))
    mean = torch.stack([world.learner.initial(id) for id in range(NODES)]).mean(0)
    assert torch.allclose(models_of(world), mean.expand(NODES, -1), atol=1e-4)
    assert {name for _, _, name, _ in written.figures} >= {"weight"}


@pytest.mark.parametrize(
    "topology",
    ["ring", "one-peer-exponential", "exponential", {"kind": "epidemic-oracle", "degree": 3}, "complete"],
)
def test_where_everybody_has_as_many_peers_it_is_d_psgd(topology):
    task = {"local_steps": 2}
    schedule = {"kind": "skiptrain", "training": 2, "synchronization": 1}
    outcomes = []
    for program in ({"kind": "push-sum"}, {"kind": "gossip", "aggregation": "mean"}):
        world, _ = simulate(table(program={**program, "topology": topology, "schedule": schedule}, task=task))
        outcomes.append(models_of(world))
    assert torch.allclose(*outcomes, atol=1e-5)
    assert (outcomes[0][0] - outcomes[0][6]).norm() > 1e-3 or topology == "complete"


def test_training_moves_the_sum_by_what_it_changed(monkeypatch):
    # On a star nodes soon have other weights, but what one learns must count as much as what any other does.
    changes, train = [], SimulatedNode.train

    async def watched(node):
        update = await train(node)
        changes.append(update.model.double() - update.start.double())
        return update

    monkeypatch.setattr(SimulatedNode, "train", watched)
    world, _ = simulate(table(program={"kind": "push-sum", "topology": "star"}, task=BLOBS, rounds=4))
    weights = torch.tensor([node.state["weight"] for node in world.nodes], dtype=torch.float64)
    assert float(weights.std()) > 0.1
    start = torch.stack([world.learner.initial(id) for id in range(NODES)]).double().sum(0)
    sums = (models_of(world).double() * weights[:, None]).sum(0)
    assert len(changes) == 4 * NODES
    assert torch.allclose(sums, start + torch.stack(changes).sum(0), atol=1e-4)


def test_a_lost_message_takes_its_weight_along():
    program = {"kind": "push-sum", "topology": "exponential", "patience": "20ms"}
    world, _ = simulate(table(program=program, network={"loss": 0.2}, task=STILL, rounds=10))
    total = sum(node.state["weight"] for node in world.nodes)
    assert 0.01 * NODES < total < 0.7 * NODES
    # What arrives is still a mean of models.
    starts = torch.stack([world.learner.initial(id) for id in range(NODES)])
    assert (models_of(world) <= starts.max(0).values + 1e-5).all()


def test_a_node_that_has_lost_its_weight_says_why():
    program = {"kind": "push-sum", "topology": "one-peer-exponential", "patience": "20ms"}
    message = (
        r"Of its weight of 1, node \d+ has \S+ left after round \d+: what was sent and never arrived took it along. "
        "Use 'push-sum' without 'loss', 'churn' and faults, or 'gossip' instead."
    )
    with pytest.raises(ProgramError, match=message):
        simulate(table(program=program, network={"loss": 0.95}, task=STILL, rounds=80))


def test_weights_that_cannot_be_are_rejected():
    world = begun(table(program={"kind": "push-sum", "topology": "ring"}, task=STILL))
    node = world.nodes[0]
    wrong = [0.0, -0.5, float(NODES), 1e300]
    inbox = Inbox(
        Message(sender, "", 0, {"model": node.model, "weight": weight}, 0)
        for sender, weight in enumerate([*wrong, 0.25], 1)
    )
    assert [message["weight"] for message in world.program.shares(node, inbox)] == [0.25]


def test_a_graph_in_which_some_only_give_is_refused(tmp_path):
    path = tmp_path / "edges.txt"
    path.write_text("0 1\n1 2\n2 1\n")
    program = PushSum(topology={"kind": "edges", "file": str(path), "directed": True})
    with pytest.raises(ConfigurationError) as caught:
        program.prepare(Setting(3))
    assert str(caught.value) == (
        "The 'topology' of the program push-sum must lead back to every node, along its edges' directions, from all "
        "that it leads to. Got edges instead, in which some only ever give."
    )
    path.write_text("0 1\n1 2\n2 0\n")
    program.prepare(Setting(3))
