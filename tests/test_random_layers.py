"""Random layers: the tensors that are sent, and the same draw at the receiver."""

import numpy as np
import pytest
import torch

from covey.decentralized.sharing import RandomLayers
from covey.parts.parameters import Setting
from tests.conftest import models_of, simulate, stated_bytes, table
from tests.examples import BLOBS, NODES, pieces_of
from tests.untrained import Never

SIZES = (40, 8, 24, 3)
MLP = {**BLOBS, "model": {"kind": "mlp", "hidden": [7]}, "same_start": False}


def prepared(budget, **changes):
    sharing = RandomLayers(budget=budget, **changes)
    sharing.ready(Setting(4, 2, sum(SIZES), pieces_of([(size,) for size in SIZES])))
    return sharing


def run(budget, rounds=1, schedule=None, **changes):
    sharing = {"kind": "random-layers", "budget": budget, **changes}
    program = {"kind": "gossip", "topology": "ring", "sharing": sharing, "schedule": schedule or Never()}
    return simulate(table(program=program, task=MLP, network={"nodes": NODES}, rounds=rounds))


@pytest.mark.parametrize(("budget", "count"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_a_message_is_so_many_whole_tensors_and_each_is_drawn_as_often(budget, count):
    sharing = prepared(budget)
    ends = np.cumsum([0, *SIZES])
    drawn = np.zeros(4)
    for t in range(400):
        indices = set(sharing._drawn(1, t).tolist())
        held = [set(range(ends[k], ends[k + 1])) <= indices for k in range(4)]
        assert sum(held) == count
        assert len(indices) == sum(size for size, is_held in zip(SIZES, held, strict=True) if is_held)
        drawn += held
    # Of 400 draws with a chance of p, a count is off by less than five times sqrt(400 p (1 - p)).
    chance = count / 4
    assert np.abs(drawn - 400 * chance).max() <= 100 * np.sqrt(chance * (1 - chance))


def test_nodes_draw_for_themselves_unless_they_have_to_draw_alike():
    alone, common = prepared(0.5), prepared(0.5, common=True)
    assert any(not torch.equal(alone._drawn(0, t), alone._drawn(1, t)) for t in range(5))
    assert all(torch.equal(common._drawn(0, t), common._drawn(3, t)) for t in range(5))


def test_a_receiver_averages_the_tensors_that_it_was_sent_and_keeps_its_own_for_the_others():
    world, _ = run(0.5)
    starts = torch.stack([world.task.learner.initial(node) for node in range(NODES)]).double()
    sharing = world.program.sharing
    for node in range(NODES):
        expected = starts[node].clone()
        for peer in ((node - 1) % NODES, (node + 1) % NODES):
            indices = sharing._drawn(peer, 0)
            expected[indices] += (starts[peer] - starts[node])[indices] / 3
        assert torch.allclose(world.nodes[node].model, expected.float(), atol=1e-6)


def test_with_all_tensors_it_is_full_sharing_to_the_bit():
    whole, _ = run(1.0, rounds=3, schedule="every-round")
    program = {"kind": "gossip", "topology": "ring"}
    full, _ = simulate(table(program=program, task=MLP, network={"nodes": NODES}, rounds=3))
    assert torch.equal(models_of(whole), models_of(full))


def test_the_stated_bytes_are_the_mean_of_many_rounds():
    world, _ = run(0.5, rounds=60)
    sent = sum(node.bytes_out for node in world.nodes) / NODES / 60
    assert sent == pytest.approx(stated_bytes(world), rel=0.03)


def test_values_of_another_count_are_rejected(monkeypatch):
    from covey.runtime.simulation.world import World

    post = World.post

    def tamper(world, node, receivers, payload, tag, round):
        payload = {"values": payload["values"][:-1]} if node.id == 3 else payload
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", tamper)
    _, written = run(0.5)
    assert sorted((node, kind) for _, node, kind, _ in written.happened) == [(2, "rejected"), (4, "rejected")]
