"""Answers of clients that are well-formed and extreme: they end no run, and no sum of the server overflows."""

import numpy as np
import pytest
import torch

from covey.runtime.simulation.world import World
from tests.conftest import simulate, table
from tests.examples import BLOBS

LIAR, ROUNDS = 3, 8
TASK = {**BLOBS, "batch_size": 8, "partition": {"kind": "quantity", "alpha": 5.0}}
NETWORK = {
    "nodes": 6,
    "latency": "5ms",
    "bandwidth": None,
    "devices": {"kind": "phones", "fixed": "10ms", "samples_per_second": 400},
    "energy": "device-power",
}
PROGRAMS = {
    "fedavg": {},
    "yogi": {"kind": "fedavg", "server_optimizer": "yogi"},
    "momentum": {"kind": "fedavg", "server_optimizer": "momentum", "clients": 1},
    "compressed": {"kind": "fedavg", "up": {"kind": "top-k", "budget": 0.3}},
    "fednova": {},
    "scaffold": {},
    "fedasync": {},
    "fedbuff": {"buffer": 2, "server_optimizer": "yogi"},
    "dynsgd": {},
    "fleet": {
        "lr": 0.3,
        "period": "200ms",
        "profiler": {"kind": "i-prof", "seconds": "1s", "joules": "4J", "least": 8, "most": 64},
        "controller": {"similar": 10, "bootstrap": 1},
    },
}


def huge(numbers):
    return torch.where(torch.arange(len(numbers)) % 2 == 0, 3.4e38, -3.4e38)


def wrapped(counts):
    """Counts that sum to 1 with 64 bits."""
    return np.array([2**63 - 1, 2**63 - 1, 3] + [0] * (len(counts) - 3))


EXTREMES = {
    "no samples": ({"samples": 0}, ["momentum"]),
    "samples": ({"samples": 2**63 - 1}, ["fedavg", "fleet"]),
    "model": ({"model": huge}, ["fedavg", "yogi", "momentum", "fednova", "scaffold"]),
    "values": ({"values": huge}, ["compressed"]),
    "control": ({"control": huge}, ["scaffold"]),
    "vector": ({"vector": huge}, ["fedasync", "fedbuff", "dynsgd"]),
    "gradient": ({"gradient": huge}, ["fleet"]),
    "tiny normaliser": ({"normaliser": 1e-300}, ["fednova"]),
    "small normaliser": ({"normaliser": 1e-9, "effective": 2.0**32, "model": lambda x: x + 1e10}, ["fednova"]),
    "labels": ({"label_counts": lambda counts: np.full_like(counts, 2**63 - 1)}, ["fleet"]),
    "wrapped labels": ({"label_counts": wrapped, "samples": 1}, ["fleet"]),
    "more samples than ordered": (
        {"label_counts": lambda counts: counts * 0 + 1000, "samples": 1000 * 4},
        ["fleet"],
    ),
    "features": ({"features": lambda features: np.full_like(features, 1e300)}, ["fleet"]),
    "seconds": ({"seconds": 1e308}, ["fleet"]),
    "joules": ({"joules": 1e308}, ["fleet"]),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (_, kinds) in EXTREMES.items() for kind in kinds])
def test_an_extreme_answer_is_rejected_with_its_sender_and_changes_nothing(name, kind, monkeypatch):
    changes, _ = EXTREMES[name]
    post, lies = World.post, []

    def lying(world, node, receivers, payload, tag, round):
        if node.id == LIAR and tag in ("update", "result") and changes.keys() <= payload.keys():
            found = {entry: value(payload[entry]) if callable(value) else value for entry, value in changes.items()}
            payload = {**payload, **found}
            lies.append(world.now)
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", lying)
    program = {"kind": kind, "patience": "1s", **PROGRAMS[kind]}
    world, written = simulate(table(program=program, task=TASK, network=NETWORK, rounds=ROUNDS))
    rejected = [detail for _, node, what, detail in written.happened if (node, what) == (0, "rejected")]
    assert world.nodes[0].round == ROUNDS
    assert lies
    assert rejected
    assert all(detail.startswith(f"message of node {LIAR}: ") for detail in rejected)
    assert world.nodes[0].model.abs().max() < 10


@pytest.mark.parametrize("effective", [2.0**-20, 2.0**32])
def test_steps_that_one_client_of_fednova_reports_pass_through_a_robust_aggregation(effective, monkeypatch):
    post = World.post

    def lying(world, node, receivers, payload, tag, round):
        payload = {**payload, "effective": effective} if (node.id, tag) == (LIAR, "update") else payload
        return post(world, node, receivers, payload, tag, round)

    tables = table(program={"kind": "fednova", "aggregation": "median"}, task=TASK, network=NETWORK, rounds=ROUNDS)
    honest, _ = simulate(tables)
    monkeypatch.setattr(World, "post", lying)
    world, _ = simulate(tables)
    assert world.nodes[0].model.abs().max() < 2 * honest.nodes[0].model.abs().max()
