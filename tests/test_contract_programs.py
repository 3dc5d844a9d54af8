"""A protocol that tests the node contract by its special demands: virtual nodes."""

from collections import Counter

import torch

from covey.messages import wire
from covey.parts import rng
from tests.conftest import models_of, simulate, table

STILL = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
"""Every node begins with a model of its own and training changes nothing."""


def starts_of(world):
    """N x P, the models before any round."""
    return torch.stack([world.task.learner.initial(node.id) for node in world.nodes])


# ---------------------------------------------------------------------- Shatter

SHATTER = {"kind": "tests.programs.shatter:Shatter", "chunks": 3, "degree": 2}
VIRTUAL = {"nodes": 1 + 6 + 18, "latency": "5ms", "bandwidth": None}
REAL, NAMES = range(1, 7), range(7, 25)


def owners_in(overheard, t):
    """(real node, chunk number) of each virtual node in a round, from the sampler's messages to the real nodes."""
    return {
        name: (message.receivers[0], number)
        for message in overheard
        if message.tag == "names" and message.round == t
        for number, name in enumerate(message.payload["names"])
    }


def test_shatter_is_gossip_chunk_by_chunk_over_the_virtual_graph(overheard):
    world, _ = simulate(table(program=SHATTER, network=VIRTUAL, task=STILL, rounds=3))
    indices = world.program.indices
    assert sorted(torch.cat(indices).tolist()) == list(range(world.task.learner.first_model.shape[0]))
    models = starts_of(world)
    for t in range(3):
        owners = owners_in(overheard, t)
        assert sorted(owners) == list(NAMES)
        mixed = {real: (models[real].clone(), torch.ones(world.task.learner.first_model.shape)) for real in REAL}
        edges = [(m.sender, to) for m in overheard if m.tag == "virtual" and m.round == t for to in m.receivers]
        assert Counter(sender for sender, _ in edges) == Counter(to for _, to in edges) == dict.fromkeys(NAMES, 2)
        for sender, receiver in edges:
            (source, number), (target, _) = owners[sender], owners[receiver]
            mixed[target][0][indices[number]] += models[source][indices[number]]
            mixed[target][1][indices[number]] += 1
        models = torch.stack([mixed[id][0] / mixed[id][1] if id in mixed else models[id] for id in range(25)])
    assert torch.allclose(models_of(world)[1:7], models[1:7], atol=1e-6)
    assert not torch.allclose(models[1:7], starts_of(world)[1:7], atol=1e-3)


def test_every_model_of_shatter_is_covered_by_its_chunks(overheard):
    world, _ = simulate(table(program=SHATTER, network=VIRTUAL, task=STILL, rounds=1))
    starts, owners = starts_of(world), owners_in(overheard, 0)
    rebuilt = {real: torch.full(world.task.learner.first_model.shape, torch.nan) for real in REAL}
    for message in overheard:
        if message.tag == "virtual":
            real, number = owners[message.sender]
            assert message.payload["number"] == number
            rebuilt[real][world.program.indices[number]] = message.payload["values"]
    for real in REAL:
        assert torch.equal(rebuilt[real], starts[real])


def test_nobody_but_its_own_and_the_sampler_learns_who_is_behind_a_virtual_node(overheard):
    simulate(table(program=SHATTER, network=VIRTUAL, rounds=8))
    first, second = owners_in(overheard, 0), owners_in(overheard, 1)
    assert sum(first[name] == second[name] for name in NAMES) <= 4
    for message in overheard:
        owners = owners_in(overheard, message.round)
        for receiver in message.receivers:
            if message.sender in NAMES and receiver in NAMES:
                # All that a stranger sees: a virtual sender, a chunk's number and its values.
                assert set(message.payload) == {"number", "values"}
            elif message.sender != 0:
                # Real nodes talk to virtual nodes of their own and to nobody else, and the other way round.
                real, name = sorted((message.sender, receiver))
                assert owners[name][0] == real
            elif message.tag == "owner":
                assert owners[receiver][0] == message.payload["owner"]
    # A name says nothing about who is behind it: over the rounds each real node stands behind most of them.
    behind = {
        real: {n for t in range(8) for n, (r, _) in owners_in(overheard, t).items() if r == real} for real in REAL
    }
    assert min(len(names) for names in behind.values()) > 9


def test_the_public_cannot_compute_who_is_behind_a_virtual_node(overheard):
    """Public randomness gives other names than the sampler's own."""
    simulate(table(program=SHATTER, network=VIRTUAL, rounds=1))
    assigned = [message.payload["names"] for message in overheard if message.tag == "names"]
    for purpose in ("public names", "names"):
        guessed = rng.generator(3, purpose, 0).permutation(NAMES).reshape(-1, 3).tolist()
        assert guessed != assigned


def test_virtual_nodes_continue_from_a_checkpoint_to_the_bit():
    tables = table(program=SHATTER, network={**VIRTUAL, "bandwidth": "1Mbit/s"}, checkpoint={"every": 2}, rounds=5)
    whole, written = simulate(tables)
    assert [round for round, _ in written.checkpoints] == [2, 4]
    for _, checkpoint in written.checkpoints:
        resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
        assert torch.equal(models_of(whole), models_of(resumed))
        assert whole.now == resumed.now
