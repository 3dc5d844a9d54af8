"""Shatter: an oracle of its rounds, its limit cases, and its bad input."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import covey
from covey.decentralized.sharing.fragments import Fragment, Fragments
from covey.decentralized.shatter import Shatter
from covey.decentralized.topology import Topology
from covey.learning.views import Adversary, Arrived
from covey.messages import wire
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.runs.observed import holder_of, read_truth
from covey.runtime.sampler import Drawn, Neighbours, Sampler, simulated_secret
from covey.runtime.simulation.world import World
from tests.conftest import models_of, simulate, table
from tests.examples import pieces_of

SETTING = Setting(6, 3, 35, pieces_of([(4, 5), (4,), (3, 3), (2,)]))


def shatter(**program):
    changes = {
        name: program.pop(name) for name in ("network", "rounds", "seed", "task", "evaluation") if name in program
    }
    return table(program={"kind": "shatter", "virtual_nodes": 3, "degree": 2, **program}, **changes)


@pytest.fixture
def posted(monkeypatch):
    """All chunks that virtual nodes send: (node, names of its neighbours, payload, round)."""
    found = []
    post = World.post

    def listen(world, node, peers, payload, tag, round):
        found.append((node.id, peers, dict(payload), round))
        return post(world, node, peers, payload, tag, round)

    monkeypatch.setattr(World, "post", listen)
    return found


class Sampled(Topology):
    """The graph of the peer sampler, for one virtual node per node."""

    static = False
    degree: int = 4

    def draw(self, setting: Setting, t: int) -> Graph:
        sampler = Sampler(Shatter(virtual_nodes=1, degree=4).overlay(setting.nodes), setting.nodes, simulated_secret(3))
        drawn = sampler.at(t)
        ends = [(node, sampler.holder(peer)) for node, (one,) in drawn.shares.items() for peer in one.peers]
        return Graph(setting.nodes, *map(np.array, zip(*ends, strict=True)))


def test_one_virtual_node_is_epidemic_learning_to_the_bit(monkeypatch):
    draw = Drawn.__init__

    def unshuffled(self, overlay, first, generator):
        # Only the order of names: sums of floats depend on it.
        class Draw:
            permutation = staticmethod(np.arange)

            def __getattr__(self, name):
                return getattr(generator, name)

        class Once(Draw):
            calls = 0

            @property
            def permutation(self):
                self.calls += 1
                return np.arange if self.calls == 1 else generator.permutation

        draw(self, overlay, first, Once())

    monkeypatch.setattr(Drawn, "__init__", unshuffled)
    mine, _ = simulate(shatter(virtual_nodes=1, degree=4))
    program = {"kind": "gossip", "aggregation": "mean", "topology": {"kind": "tests.test_shatter:Sampled"}}
    theirs, _ = simulate(table(program=program))
    assert torch.equal(models_of(mine), models_of(theirs))


@pytest.mark.parametrize("exclude_own", [False, True])
def test_a_round_is_that_of_the_paper(posted, exclude_own):
    world, _ = simulate(shatter(rounds=1, virtual_nodes=4, exclude_own=exclude_own, network={"nodes": 4}))
    size = world.nodes[0].model.numel()
    sampler, chunks = world.sampler, world.program.chunks(0)
    trained, total, count = torch.zeros(4, size), torch.zeros(4, size, dtype=torch.float64), torch.ones(4, size)
    for node, _, payload, _ in posted:
        trained[node, chunks.indices(payload["number"])] = payload["values"]
    total += trained
    own = 0
    for node, peers, payload, _ in posted:
        for peer in peers:
            receiver = sampler.holder(peer)
            own += receiver == node
            if receiver != node or not exclude_own:
                total[receiver, chunks.indices(payload["number"])] += payload["values"]
                count[receiver, chunks.indices(payload["number"])] += 1
    assert own > 0
    assert torch.allclose(models_of(world).double(), total / count, atol=1e-6)


@pytest.mark.parametrize("virtual_nodes", [1, 3, 16])
def test_every_virtual_node_sends_and_receives_as_many_as_its_degree(posted, virtual_nodes):
    world, _ = simulate(shatter(virtual_nodes=virtual_nodes, degree=4))
    assert all(len(peers) == 4 == len(set(peers)) and peers.name not in peers for _, peers, *_ in posted)
    came = Counter(peer for _, peers, *_ in posted for peer in peers)
    assert set(came.values()) == {4}
    assert len(came) == 12 * virtual_nodes * 6
    assert {node.mail.messages_in for node in world.nodes} == {6 * 4 * virtual_nodes}
    assert not any(node.mail.dropped for node in world.nodes)


def test_numbers_on_the_wire_do_not_depend_on_the_number_of_virtual_nodes():
    sent = [simulate(shatter(virtual_nodes=count, placement="own"))[0].nodes[0].value_bytes_out for count in (1, 3, 16)]
    assert sent[0] == sent[1] == sent[2] == 6 * 2 * 650 * 4


def test_machines_of_others_cost_a_chunk_more_and_every_received_chunk_again():
    (own, _), (others, _) = (simulate(shatter(placement=place)) for place in ("own", "others"))
    for near, far in zip(own.nodes, others.nodes, strict=True):
        assert far.value_bytes_out == near.value_bytes_out * 5 / 2
        assert far.bytes_out - near.bytes_out == far.mail.bytes_in - near.mail.bytes_in > 0
    assert own.now < others.now
    assert torch.equal(models_of(own), models_of(others))


shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)


@given(shapes=shapes, data=st.data())
def test_averages_have_weights_of_one_and_keep_a_consensus(shapes, data):
    pieces = pieces_of(shapes)
    setting = Setting(4, 0, sum(piece.size for piece in pieces), pieces)
    count = data.draw(st.integers(1, setting.parameters))
    chunks = Fragments(setting, count, data.draw(st.sampled_from(["per-tensor", "spread", "random"])), owner="me")
    numbers = data.draw(st.lists(st.integers(0, count - 1), max_size=12))
    own = torch.rand(setting.parameters)

    def from_all(model):
        return [Fragment(number=n, values=chunks.take(model, n), layout=chunks.digest) for n in numbers]

    assert torch.equal(chunks.mean(own, from_all(own)).tensor(), own) or count == 1
    assert torch.allclose(chunks.mean(own, from_all(own)).tensor(), own)
    assert torch.allclose(
        chunks.mean(torch.ones_like(own), from_all(torch.ones_like(own))).tensor(), torch.ones_like(own)
    )
    other = torch.rand(setting.parameters)
    times = Counter(numbers)
    wanted = own.clone()
    for number, n in times.items():
        at = chunks.indices(number)
        wanted[at] = (own[at] + n * other[at]) / (1 + n)
    assert torch.allclose(chunks.mean(own, from_all(other)).tensor(), wanted, atol=1e-6)


def test_chunks_change_with_the_rounds_if_they_should(posted):
    simulate(shatter(permutation="every-round", rounds=2))
    assert len({payload["layout"] for *_, payload, t in posted if t == 0}) == 1
    assert len({payload["layout"] for *_, payload, t in posted}) == 2


def test_the_order_of_chunks_changes_no_batch(posted):
    """A change of k changes no training: all models after the first training are the same."""
    first = []
    for count in (1, 4):
        posted.clear()
        world, _ = simulate(shatter(rounds=1, virtual_nodes=count))
        models = torch.zeros(12, 650)
        for node, _, payload, _ in posted:
            models[node, world.program.chunks(0).indices(payload["number"])] = payload["values"]
        first.append(models)
    assert torch.equal(*first)


def test_a_resumed_run_has_the_models_of_an_uninterrupted_one():
    tables = shatter(permutation="every-round")
    tables["checkpoint"] = {"every": 2}
    whole, written = simulate(tables)
    for round, payload in written.checkpoints:
        resumed, _ = simulate(tables, checkpoint=payload)
        assert torch.equal(models_of(whole), models_of(resumed)), round
        assert [n.bytes_out for n in whole.nodes] == [n.bytes_out for n in resumed.nodes]
    assert len(written.checkpoints) > 1


def test_a_dead_node_stops_nobody_and_late_chunks_enter_no_other_round():
    tables = shatter(patience=2, seed=4)
    tables["faults"] = [{"kind": "kill", "nodes": [3], "at": 0.3}]
    world, _ = simulate(tables)
    assert [node.round for node in world.nodes if node.id != 3] == [6] * 11
    late = [simulate(shatter(patience=0.001, network={"latency": latency}))[0] for latency in ("12ms", "15ms")]
    for world in late:
        assert sum(node.mail.drops["late"] for node in world.nodes) > 100
        assert [node.round for node in world.nodes] == [6] * 12
    assert torch.equal(*map(models_of, late))


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ({"virtual_nodes": 0}, "The 'virtual_nodes' of the program shatter must be an int in [1, inf). Got 0 instead."),
        (
            {"virtual_nodes": 651},
            "The 'virtual_nodes' of the program shatter must give 1 to 650 fragments, the number of shared values. "
            "Got 651 instead.",
        ),
        (
            {"virtual_nodes": 1, "degree": 12},
            "The 'degree' of the program shatter must be less than the number of virtual nodes, 12 x 1 = 12, and even "
            "if that is odd. Got 12 instead.",
        ),
    ],
)
def test_wrong_parameters_have_their_sentence(program, text):
    with pytest.raises(ConfigurationError) as error:
        simulate(shatter(**program))
    assert str(error.value) == text


def test_an_odd_number_of_ends_is_refused():
    with pytest.raises(ConfigurationError, match=r"3 x 3 = 9, and even if that is odd. Got 3 instead"):
        simulate(shatter(degree=3, network={"nodes": 3}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": 3}, "its fragment is number 3, and there are 3"),
        ({"number": -1}, "its fragment is number -1, and there are 3"),
        ({"values": torch.zeros(3)}, "is not 2"),
        ({"values": torch.zeros(216, dtype=torch.float64)}, "is not 2"),
        ({"layout": "00000000"}, "its fragments have another layout"),
        ({"values": torch.full((216,), float("nan"))}, "'values' in its message '' is not finite"),
    ],
    ids=str,
)
def test_wrong_chunks_are_dropped_and_named(monkeypatch, change, reason):
    post = World.post

    def send(world, node, peers, payload, tag, round):
        if node.id == 5 and round == 1 and payload["number"] == 1:
            payload = {**payload, **change}
        return post(world, node, peers, payload, tag, round)

    monkeypatch.setattr(World, "post", send)
    tables = shatter(patience=5, cutting="spread")
    world, written = simulate(tables)
    assert [node.round for node in world.nodes] == [6] * 12
    events = [detail for _, _, kind, detail in written.happened if kind == "rejected"]
    assert events
    assert all(reason in detail for detail in events)
    assert not any("of node 5" in detail for detail in events)
    assert torch.isfinite(models_of(world)).all()


def test_an_observer_sees_names_and_the_truth_is_beside(tmp_path, posted):
    tables = shatter(rounds=3)
    tables["observer"] = {"nodes": [0, 7]}
    run = covey.run(tables, out=tmp_path / "run", quiet=True)
    seen, truth = list(run.observed), read_truth(run.folder)
    assert len(seen) == 2 * 3 * 3 * 2
    sent = {(peers.name, peer, t): node for node, peers, _, t in posted for peer in peers}
    for message in seen:
        assert min(message.sender, message.name) >= 12
        assert holder_of(truth, 12, message.sender) == sent[message.sender, message.name, message.round]
        assert holder_of(truth, 12, message.name) == message.receiver
        assert set(message.payload) == {"number", "values", "layout"}
    assert holder_of(truth, 12, 5) == 5


def test_a_chunk_shows_the_model_of_the_owner_of_its_name(tmp_path, posted):
    tables = shatter(rounds=2, permutation="every-round")
    tables["observer"] = {"nodes": [4]}
    run = covey.run(tables, out=tmp_path / "run", quiet=True)
    program = prepare(Experiment.from_table(run.experiment)).program
    truth, models = read_truth(run.folder), torch.zeros(2, 12, 650)
    for node, _, payload, t in posted:
        models[t, node, program.chunks(t).indices(payload["number"])] = payload["values"]
    arrived = [Arrived(m.time, m.sender, m.tag, m.round, m.payload, m.bytes) for m in run.observed.messages()]
    adversary = Adversary(4, 12, torch.zeros(650))
    views = list(program.views(adversary, [*arrived, Arrived(1.0, 20, "", 1, {"number": 9}, 50)]))
    assert len(views) == 2 * 3 * 2
    assert sum(adversary.rejected.values()) == 1
    for view in views:
        (owner,) = program.owners(view, truth)
        assert torch.equal(view.values, view.shows(models[view.round, owner]))
        assert view.fraction(models[0, 0]) == pytest.approx(1 / 3, abs=0.01)
        assert (view.start is None) == (view.round > 0)


def test_check_says_the_virtual_nodes_and_their_chunks():
    checked = covey.check(shatter(cutting="spread"))
    assert "virtual     3 virtual nodes of each node, with 2 neighbours in a round" in str(checked)
    assert "chunks      3 fragments of 21" in str(checked)


APART = {"virtual_nodes": 3, "degree": 2, "exclude_own": True, "permutation": "every-round"}


def test_both_forms_have_the_same_models_and_bytes_between_virtual_nodes(posted):
    between, models = [], []
    for kind in ("shatter", "shatter-apart"):
        posted.clear()
        world, _ = simulate(table(program={"kind": kind, **APART}))
        models.append(models_of(world))
        named = [(peers, payload, t) for _, peers, payload, t in posted if isinstance(peers, Neighbours)]
        between.append(sorted((t, [*peers], wire.size(payload)) for peers, payload, t in named))
    assert torch.equal(*models)
    assert between[0] == between[1]
    assert len(between[0]) == 12 * 3 * 6


def test_virtual_nodes_apart_share_the_uplink_of_their_node():
    slow = {"latency": 0.0, "bandwidth": "1Mbit/s", "compute": 1e6}
    world, _ = simulate(table(program={"kind": "shatter-apart", **APART}, network=slow, rounds=4))
    for node in world.nodes:
        assert node.bytes_out * 8 / 1e6 <= world.now
    folded, _ = simulate(table(program={"kind": "shatter", **APART}, network=slow, rounds=4))
    assert world.now == pytest.approx(folded.now, rel=0.5)


def test_virtual_nodes_apart_survive_lost_messages():
    tables = table(program={"kind": "shatter-apart", **APART, "patience": 0.2})
    tables["network"]["loss"] = 0.1
    world, _ = simulate(tables)
    assert [node.round for node in world.nodes] == [6] * 12
    assert world.refused["lost"] > 10


def test_virtual_nodes_apart_are_elsewhere():
    with pytest.raises(ConfigurationError, match="must be 'others': virtual nodes on their node's machine need no"):
        simulate(table(program={"kind": "shatter-apart", "virtual_nodes": 3, "degree": 2, "placement": "own"}))


def test_nodes_that_leave_take_their_virtual_nodes_along_and_return_with_them():
    tables = shatter(patience=0.1, rounds=10)
    tables["network"]["churn"] = {"kind": "rate", "mean_up": "400ms", "mean_down": "150ms"}
    world, written = simulate(tables)
    events = [kind for _, _, kind, _ in written.happened]
    assert events.count("returned") > 3
    assert sum(node.mail.drops["away"] for node in world.nodes) > 0
    assert max(node.round for node in world.nodes) == 10
