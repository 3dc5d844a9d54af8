"""Push-sum: sent and received shares on any directed graph, and the result with training."""

import asyncio

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.push_sum import Push, PushSum, Sum, Sums
from covey.learning.mixture import Mixture
from covey.learning.models import Module
from covey.learning.node import MODEL
from covey.learning.running_node import RunningLearningNode
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.parameters import Setting
from covey.runtime import patience as waiting
from covey.runtime.content import entries_of, usable
from covey.runtime.node import Inbox, Message
from tests.conftest import begun, models_of, simulate, stated_bytes, table
from tests.examples import BLOBS, NODES, Keeping
from tests.hosts import emulate

STILL = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
LOCAL = {"kind": "epidemic-local", "degree": 2}
DIRECTED = ["exponential", "one-peer-exponential", LOCAL, "star", {"kind": "equitopo-dynamic", "directed": True}]


class Double(Keeping):
    """A node whose model has the precision in which sums can be compared, and whose messages may get lost."""

    def __init__(self, id, nodes, model, posted, lost):
        self.id, self.nodes, self.posted, self.lost = id, nodes, posted, lost
        self.state = {"weight": 1.0}
        self.now = 0.0
        self._model = model

    @property
    def model(self):
        return self._model

    @model.setter
    def model(self, value):
        self._model = value.tensor() if isinstance(value, Mixture) else value

    def send(self, receivers, payload, tag="", round=None):
        for receiver in [receivers] if isinstance(receivers, int) else receivers:
            if not self.lost():
                message = Message(self.id, tag, round, entries_of(payload, self), 0)
                self.posted.setdefault((receiver, tag, round), []).append(message)

    def arrived(self, tag="", round=None):
        return Inbox(self.posted.pop((self.id, tag, round), []))

    async def receive(self, tag="", round=None, senders=None, count=None, timeout=None):
        await asyncio.sleep(0)  # All others have sent by then.
        self.now += timeout or 0.0
        return Inbox(sorted(self.arrived(tag, round), key=lambda message: message.sender), ())

    def usable(self, inbox, content, **entries):
        return usable(self, inbox, content, {}, copy=False)

    def log(self, **metrics):
        pass


def exchanged(program, nodes, seed, scale, lost):
    """The sums of weights and models, of nodes and of what is on its way, before the first round and after each."""
    never = {"kind": "skiptrain", "training": 0, "synchronization": 1}
    program = PushSum(schedule=never, **program)
    program.ready(Setting(nodes, seed))
    models = torch.from_numpy(np.random.default_rng(seed).standard_normal((nodes, 5)) * scale)
    posted = {}
    doubles = [Double(id, nodes, model, posted, lost) for id, model in enumerate(models)]
    sums = [Sums(node, MODEL, 0) for node in doubles]
    yield torch.tensor([float(nodes), *models.sum(0)], dtype=torch.float64)

    async def round(t):
        graph = program.topology.at(t)
        await asyncio.gather(*map(program.round, doubles, [graph] * nodes, [t] * nodes, sums))

    for t in range(12):
        asyncio.run(round(t))
        for node in doubles:  # A request is answered, or the answer is lost, too.
            for message in node.arrived("missed"):
                node.send(message.sender, program.running_sum(node, message.sender, 0), tag="sum")
        yield held(doubles) + on_the_way(doubles)
    yield torch.stack([node.model for node in doubles]), models.mean(0), posted


def held(nodes):
    """The weights of all nodes, and their weighted models, added up."""
    return sum(node.state["weight"] * torch.cat([torch.ones(1).double(), node.model.double()]) for node in nodes)


def on_the_way(nodes):
    """The sum of the shares that were sent and not taken."""
    total = torch.zeros(1 + len(nodes[0].model), dtype=torch.float64)
    for node in nodes:
        for name, value in node.state.items():
            if name.startswith(("sent", "received")):
                where, number = (0, value) if "weights" in name else (slice(1, None), value.double())
                total[where] += number if name.startswith("sent") else -number
    return total


@given(
    topology=st.sampled_from(DIRECTED),
    nodes=st.integers(4, 20),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
)
@settings(max_examples=40, deadline=None)
def test_nothing_of_the_sums_is_lost_or_made(topology, nodes, seed, scale):
    first, *sums, (_, _, posted) = exchanged({"topology": topology}, nodes, seed, scale, lambda: False)
    for total in sums:
        assert torch.allclose(total, first, rtol=1e-10, atol=1e-10 * max(scale, 1.0))
    assert not posted


@given(
    topology=st.sampled_from(DIRECTED),
    nodes=st.integers(4, 12),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
    loss=st.sampled_from([0.0, 0.1, 0.5]),
)
@settings(max_examples=40, deadline=None)
def test_nothing_is_lost_or_made_where_messages_are_lost(topology, nodes, seed, scale, loss):
    draw = np.random.default_rng(seed)
    program = {"topology": topology, "patience": 1.0}
    first, *sums, _ = exchanged(program, nodes, seed, scale, lambda: draw.random() < loss)
    for total in sums:
        assert torch.allclose(total, first, rtol=1e-10, atol=1e-10 * max(scale, 1.0))


@pytest.mark.parametrize("topology", DIRECTED)
def test_with_sums_all_comes_to_the_same_where_nothing_is_lost(topology):
    """Sums are float32, and what is rounded away goes with the next one."""
    outcomes = []
    for patience in (None, "1s"):
        program = {"kind": "push-sum", "topology": topology, "patience": patience}
        world, _ = simulate(table(program=program, task=BLOBS, rounds=40, evaluation={"every": 0}))
        outcomes.append((models_of(world), [node.state["weight"] for node in world.nodes]))
    assert torch.allclose(outcomes[0][0], outcomes[1][0], atol=1e-5)
    assert outcomes[0][1] == pytest.approx(outcomes[1][1], rel=1e-9)


@pytest.mark.parametrize("topology", [*DIRECTED, {"kind": "redrawn", "topology": LOCAL, "every": 2}])
def test_all_nodes_come_to_the_mean_of_the_first_models(topology):
    world, written = simulate(table(program={"kind": "push-sum", "topology": topology}, task=STILL, rounds=60))
    mean = torch.stack([world.task.learner.initial(id) for id in range(NODES)]).mean(0)
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
    changes, train = [], RunningLearningNode.train

    async def watched(node):
        update = await train(node)
        changes.append(update.model.double() - update.start.double())
        return update

    monkeypatch.setattr(RunningLearningNode, "train", watched)
    world, _ = simulate(table(program={"kind": "push-sum", "topology": "star"}, task=BLOBS, rounds=4))
    weights = torch.tensor([node.state["weight"] for node in world.nodes], dtype=torch.float64)
    assert float(weights.std()) > 0.1
    start = torch.stack([world.task.learner.initial(id) for id in range(NODES)]).double().sum(0)
    sums = (models_of(world).double() * weights[:, None]).sum(0)
    assert len(changes) == 4 * NODES
    assert torch.allclose(sums, start + torch.stack(changes).sum(0), atol=1e-4)


LOSSY = {"kind": "push-sum", "patience": "40ms"}


def all_that_there_is(world):
    return held(world.nodes) + on_the_way(world.nodes)


@pytest.mark.parametrize("topology", ["exponential", "one-peer-exponential", LOCAL])
def test_what_a_lost_message_would_have_brought_comes_with_another(topology):
    program = {**LOSSY, "topology": topology}
    made = table(program=program, network={"loss": 0.2}, task=STILL, rounds=60, evaluation={"every": 0})
    world, _ = simulate(made)
    starts = torch.stack([world.task.learner.initial(id) for id in range(NODES)]).double()
    expected = torch.cat([torch.tensor([float(NODES)]).double(), starts.sum(0)])
    assert torch.allclose(all_that_there_is(world), expected, atol=1e-4)
    assert held(world.nodes)[0] > 0.4 * NODES
    # The node of the least weight is furthest from the mean: its weight came from few nodes.
    assert torch.allclose(models_of(world).double(), starts.mean(0).expand(NODES, -1), atol=2e-3)


@pytest.mark.parametrize(
    "topology", ["exponential", "one-peer-exponential", {"kind": "epidemic-local", "degree": 4}], ids=str
)
@pytest.mark.parametrize("loss", [pytest.param(0.02, marks=pytest.mark.slow), 0.1])
def test_what_is_lost_is_all_that_is_missing_and_takes_no_patience(topology, loss, monkeypatch):
    expected, missed, receive = [], [], waiting._receive

    async def listen(sums, senders, t, *rest):
        inbox = await receive(sums, senders, t, *rest)
        expected.extend(senders)
        missed.extend({*senders} - sums._of(t))
        return inbox

    monkeypatch.setattr(waiting, "_receive", listen)
    program = {"kind": "push-sum", "topology": topology, "patience": "200ms"}
    network = {"latency": "5ms", "compute": 2000, "bandwidth": None, "nodes": 20}
    task, unseen = {**STILL, "batch_size": 8}, {"every": 0}
    made = table(program=program, network={**network, "loss": loss}, task=task, rounds=40, evaluation=unseen)
    world, _ = simulate(made)
    assert len(missed) / len(expected) == pytest.approx(loss, abs=3 * (loss / len(expected)) ** 0.5)
    # Rounds take 9 ms where nothing is lost.
    assert world.now / 40 < 0.009 + 0.2 * loss * 0.5


def test_what_nodes_say_of_sums_is_among_the_bytes_of_a_round():
    sent, stated = [], []
    for loss in (0.0, 1e-9):
        world, _ = simulate(table(program={**LOSSY, "topology": "exponential"}, network={"loss": loss}, task=STILL))
        sent.append(sum(node.bytes_out for node in world.nodes) / 6 / len(world.nodes))
        stated.append(stated_bytes(world))
    assert sent[1] - sent[0] == pytest.approx(stated[1] - stated[0])
    assert sent[1] > sent[0]


def test_nodes_that_go_and_come_back_take_nothing_along():
    faults = [{"kind": "kill", "nodes": [2, 5], "at": "100ms", "back": "80ms"}]
    program = {**LOSSY, "topology": "exponential"}
    world, _ = simulate(table(program=program, task=STILL, rounds=30, faults=faults))
    starts = torch.stack([world.task.learner.initial(id) for id in range(NODES)]).double()
    expected = torch.cat([torch.tensor([float(NODES)]).double(), starts.sum(0)])
    assert torch.allclose(all_that_there_is(world), expected, atol=1e-4)


@pytest.mark.parametrize("topology", ["exponential", LOCAL])
def test_it_learns_as_gossip_does_where_messages_are_lost(topology):
    found = []
    for program in (LOSSY, {"kind": "gossip", "aggregation": "mean", "patience": "40ms"}):
        task = {"partition": {"kind": "shards", "per_node": 2}, "batch_size": 7}
        tables = table(program={**program, "topology": topology}, task=task, network={"loss": 0.2}, rounds=50)
        _, written = simulate({**tables, "evaluation": {"every": 50}})
        found.append(np.mean([value for _, _, name, value in written.figures if name == "accuracy"]))
    assert found[0] > found[1] - 0.05
    assert found[0] > 0.6


def test_sums_are_part_of_what_is_resumed():
    program = {**LOSSY, "topology": LOCAL}
    tables = table(program=program, task=BLOBS, rounds=12, checkpoint={"every": 4})
    world, written = simulate(tables)
    again, _ = simulate(tables, checkpoint=written.checkpoints[0][1])
    assert torch.equal(models_of(world), models_of(again))
    lossy = {
        **tables,
        "task": STILL | {"optimizer": {"kind": "sgd", "lr": 0.0}},
        "network": {**tables["network"], "loss": 0.2},
    }
    world, written = simulate(lossy)
    again, _ = simulate(lossy, checkpoint=written.checkpoints[0][1])
    assert torch.allclose(all_that_there_is(world), all_that_there_is(again), atol=1e-4)


def test_in_real_time_sums_give_the_models_of_the_simulation(tmp_path):
    program = {**LOSSY, "patience": "20s", "topology": LOCAL}
    tables = table(program=program, task=BLOBS, rounds=4, network={"latency": 0.0, "bandwidth": None, "compute": 1e6})
    world, _ = simulate(tables)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, models_of(world), atol=1e-5)


def test_a_node_that_has_lost_its_weight_says_why():
    program = {"kind": "push-sum", "topology": "one-peer-exponential", "patience": "20ms"}
    message = (
        r"Node \d+ has \S+ of its weight of 1 left after round \d+: the rest is in lost messages. "
        "Use 'push-sum' with fewer losses, or 'gossip' instead."
    )
    with pytest.raises(ProgramError, match=message):
        simulate(table(program=program, network={"loss": 0.99}, task=STILL, rounds=80))


def test_sums_that_cannot_be_are_rejected():
    world = begun(table(program={**LOSSY, "topology": "ring"}, task=STILL))
    node = world.nodes[0]
    sums = Sums(node, MODEL, 0)
    right = {"sum": node.model, "weight": 0.25, "round": 0}
    wrong = [{"weight": 1}, {"sum": node.model[:3]}, {"round": -1}, {"round": 0.0}, {"weight": "much"}]
    sums._add([Message(1, "sum", None, {**right, **entries}, 0) for entries in [{}, *wrong, {"round": 5}]])
    assert [given.round for given in sums.take(0)] == [0, 0]  # An int is a number, too.
    assert [given.round for given in sums.take(7)] == [5]
    assert node.mail.dropped == len(wrong) - 1
    sums._add([Message(1, "sum", None, {**right, "round": 9}, 0)] * 2000)
    sums.take(0)
    assert len(sums.take(9)) == 1000


def test_a_weight_that_grows_by_more_than_there_is_is_rejected():
    def swollen(node, to, payload, **named):
        if node.id == 1 and isinstance(payload, Sum):
            payload.weight += NODES
        return send(node, to, payload, **named)

    send = RunningLearningNode.send
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunningLearningNode, "send", swollen)
        world, written = simulate(table(program={**LOSSY, "topology": "ring"}, task=STILL, rounds=3))
    rejected = [detail for *_, kind, detail in written.happened if kind == "rejected"]
    assert set(rejected) == {"message of node 1: its weight has grown by 12 or more, the number of nodes"}
    assert torch.isfinite(models_of(world)).all()


class Normalized(torch.nn.Sequential):
    """A frozen layer, one with statistics, and one that is trained."""

    def __init__(self):
        first = torch.nn.Linear(10, 16).requires_grad_(False)
        super().__init__(first, torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 4))


@pytest.mark.parametrize("patience", [None, "40ms"])
def test_weights_act_on_what_is_trained_alone(patience, overheard):
    task = {**BLOBS, "model": Module(factory=Normalized)}
    program = {"kind": "push-sum", "topology": LOCAL, "patience": patience}
    world, _ = simulate(table(program=program, task=task, rounds=30, network={"loss": 0.1} if patience else {}))
    layout, first = world.task.learner.layout, world.task.learner.first_model
    shared = {layout.trainable, layout.size - layout.averaged} if patience else {layout.size - 16 * 11}
    sent = [value for m in overheard for value in m.payload.values() if isinstance(value, torch.Tensor)]
    assert {len(value) for value in sent} == shared
    assert min(node.state["weight"] for node in world.nodes) < 0.5
    for model in models_of(world):
        assert torch.equal(model[layout.trainable : layout.averaged], first[layout.trainable : layout.averaged])
        assert (model[-16:] > 0).all()  # Variances.
        assert (model[layout.averaged :] - first[layout.averaged :]).abs().min() > 0


def test_weights_that_cannot_be_are_rejected():
    world = begun(table(program={"kind": "push-sum", "topology": "ring"}, task=STILL))
    node = world.nodes[0]
    wrong = [0.0, -0.5, float(NODES), 1e300]
    inbox = Inbox(
        Message(sender, "", 0, {"model": node.model, "weight": weight}, 0)
        for sender, weight in enumerate([*wrong, 0.25], 1)
    )
    found = node.usable(inbox, Push, model=world.program.selection.entry)
    assert [(push.sender, push.weight) for push in found] == [(5, 0.25)]
    assert all(torch.equal(push.model, node.model) for push in found)


def test_a_graph_in_which_some_only_give_is_refused(tmp_path):
    path = tmp_path / "edges.txt"
    path.write_text("0 1\n1 2\n2 1\n")
    program = PushSum(topology={"kind": "edges", "file": str(path), "directed": True})
    with pytest.raises(ConfigurationError) as caught:
        program.ready(Setting(3))
    assert str(caught.value) == (
        "The 'topology' of the program push-sum must have a path back to every node from all nodes that it "
        "reaches. Got edges instead, in which some nodes only lose weight."
    )
    path.write_text("0 1\n1 2\n2 0\n")
    program.ready(Setting(3))
