"""Federated averaging with compressed messages: copies agree, and no change is lost for good."""

import numpy as np
import pytest
import torch

from covey.federated.ends import Ends
from covey.messages import wire
from covey.messages.compression import Ternary
from covey.parts.errors import ConfigurationError
from tests.conftest import begun, models_of, simulate, table
from tests.examples import BLOBS, NODES

TERNARY = {"kind": "ternary", "budget": 0.2}
ALL = {"kind": "top-k", "budget": 1.0}


def federated(up, down=None, **changes):
    """The tables of a small federation."""
    program = {"kind": "fedavg", "up": up, **({"down": down} if down else {})}
    for name in ("clients", "patience", "server_optimizer"):
        if name in changes:
            program[name] = changes.pop(name)
    return table(**{"task": BLOBS, "program": program, "rounds": 5, **changes})


@pytest.mark.parametrize("down", [None, ALL])
@pytest.mark.parametrize(("clients", "server"), [("uniform", 1.0), (4, 0.5)])
def test_who_says_all_does_federated_averaging(down, clients, server):
    ours, _ = simulate(federated(ALL, down, clients=clients, server_optimizer=server))
    tables = table(task=BLOBS, rounds=5, program={"kind": "fedavg", "clients": clients, "server_optimizer": server})
    plain, _ = simulate(tables)
    assert torch.allclose(models_of(ours)[0], models_of(plain)[0], atol=1e-5)


@pytest.mark.parametrize("down", [TERNARY, "int8", {"kind": "random", "budget": 0.3}])
def test_all_clients_hold_the_servers_copy_to_the_bit(down):
    _, written = simulate(federated(TERNARY, down, clients=3, checkpoint={"every": 1}))
    assert len(written.checkpoints) == 4
    for _, payload in written.checkpoints:
        copy = payload["state/0/down.copy"]
        assert all(torch.equal(payload[f"state/{node}/down.copy"], copy) for node in range(1, NODES))
        assert not torch.equal(payload["models"][0], copy)


def test_what_a_client_does_not_say_waits_for_the_next_time_it_is_chosen(monkeypatch):
    compress, seen = Ternary.compress, []

    def listen(compressor, vector, draw):
        payload, said = compress(compressor, vector, draw)
        seen.append((vector, said.dense(len(vector))))
        return payload, said

    monkeypatch.setattr(Ternary, "compress", listen)
    world, _ = simulate(federated(TERNARY, clients=NODES - 1, rounds=1))
    first = {tuple((vector - said).tolist()) for vector, said in seen}
    assert {tuple(node.state["up.residual"].tolist()) for node in world.nodes[1:]} == first
    mean = torch.stack([said for _, said in seen]).mean(0)
    counts = {node.data.samples for node in world.nodes[1:]}
    assert max(counts) - min(counts) <= 1
    moved = world.nodes[0].model - world.task.learner.first_model
    assert torch.allclose(moved, mean, atol=0.05 * float(mean.abs().max()))
    # Without learning, a second time says a part of what the first left.
    seen.clear()
    still = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.3, "schedule": {"kind": "step", "every": 1, "gamma": 1e-12}}}
    world, _ = simulate(federated(TERNARY, rounds=2, task=still))
    by_round = seen[: NODES - 1], seen[NODES - 1 :]
    left = np.stack(sorted((vector - said).tolist() for vector, said in by_round[0]))
    again = np.stack(sorted(vector.tolist() for vector, _ in by_round[1]))
    assert np.allclose(left, again, atol=1e-6)


@pytest.mark.parametrize("down", [None, TERNARY])
def test_ternary_messages_learn(down):
    world, _ = simulate(federated(TERNARY, down, rounds=30))
    learner = world.task.learner
    before, after = learner.evaluate([learner.first_model, world.nodes[0].model], learner.split("test"))
    assert after["loss"] < 0.5 * before["loss"]


def test_buffers_that_no_model_has_are_ignored(monkeypatch):
    expected, _ = simulate(federated(TERNARY, "int8"))
    monkeypatch.setattr(Ends, "with_buffers", lambda self, payload, model: {**payload, "buffers": torch.ones(3)})
    world, _ = simulate(federated(TERNARY, "int8"))
    assert torch.equal(models_of(world), models_of(expected))


LOSSY = {"network": {"loss": 0.1}, "patience": "50ms", "rounds": 30}


def test_a_client_that_missed_a_change_asks_for_the_whole_model_and_follows_again(overheard):
    _, written = simulate(federated(TERNARY, TERNARY, checkpoint={"every": 1}, **LOSSY))
    marks = {}
    for _, payload in written.checkpoints:
        for node in range(NODES):
            copy = payload.get(f"state/{node}/down.copy")
            if copy is not None:
                marks.setdefault(payload[f"state/{node}/down.mark"], []).append(copy)
    # Nodes of the same mark have the same bits, and nearly always those are the server's.
    assert all(torch.equal(copy, copies[0]) for copies in marks.values() for copy in copies)
    assert sum(len(copies) for copies in marks.values() if len(copies) > 6) > 0.8 * 12 * 29
    asked = [message for message in overheard if message.tag == "ask"]
    resent = [(m.round, client) for m in overheard if m.round and "model" in m.payload for client in m.receivers]
    assert 0.05 * 11 * 29 < len(asked) < 0.3 * 11 * 29
    assert {(t + 1, sender) for t, sender in ((m.round, m.sender) for m in asked)} >= set(resent)
    assert len(resent) > 0.8 * len(asked)
    assert not [event for event in written.happened if event[2] == "rejected"]


def test_a_run_in_which_changes_are_missed_learns_and_continues_to_the_bit():
    tables = federated(TERNARY, TERNARY, checkpoint={"every": 7}, **LOSSY)
    whole, written = simulate(tables)
    before, after = whole.task.learner.evaluate(
        [whole.task.learner.first_model, whole.nodes[0].model], whole.task.learner.split("test")
    )
    assert after["loss"] < 0.5 * before["loss"]
    for _, payload in written.checkpoints:
        resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(payload)).payload)
        assert torch.equal(models_of(whole), models_of(resumed))


def test_a_server_that_fell_back_is_not_followed_by_changes_of_another_model():
    # Its first message after that changes what no client has.
    fault = {"kind": "kill", "nodes": [0], "at": "95ms", "back": "100ms"}
    world, _ = simulate(
        federated(TERNARY, TERNARY, faults=[fault], checkpoint={"every": 1}, **{**LOSSY, "network": {}})
    )
    copy, mark = (world.nodes[0].state[name] for name in ("down.copy", "down.mark"))
    following = [node for node in world.nodes[1:] if node.state["down.mark"] == mark]
    assert len(following) == 11
    assert all(torch.equal(node.state["down.copy"], copy) for node in following)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_compressor_that_is_no_contraction_is_refused(way):
    ways = {"up": TERNARY, "down": None, way: {"kind": "random", "budget": 0.1, "unbiased": True}}
    needs = f"The '{way}' of the program fedavg must be a contraction. Got 'random' instead, whose error can"
    with pytest.raises(ConfigurationError, match=needs):
        begun(federated(**ways))
