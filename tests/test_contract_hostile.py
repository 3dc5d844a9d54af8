"""Contract of sharings and programs with a node that sends wrong entries: the others reject them and complete the run."""

from typing import Any

import numpy as np
import pytest
import torch

from covey.parts import kinds
from covey.runtime.node import HEARTBEAT
from covey.runtime.simulation.world import World
from tests.conftest import simulate
from tests.examples import (
    ASYNCHRONOUSLY_SERVED,
    COMPRESSED,
    FEDERATED,
    LEARNING,
    NEEDS_ALL,
    NEVER_WAITS,
    NODES,
    ONE_SHOT,
    SILENT,
    run_table,
)

LIAR, ROUNDS = 3, 10
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 1 << 62, 0.5, "x", b"", bytes(32), [], [1, 1], [0.5], ["x"], np.zeros(3)),
    *(torch.zeros(0), torch.zeros(3), torch.zeros(2, 2), torch.zeros(7, dtype=torch.int64)),
    *(torch.zeros(5, dtype=torch.float64), torch.full((9,), 255, dtype=torch.uint8)),
)
"""Values of entries that hardly any part accepts."""
CASES = [
    *(("sharing", kind) for kind in kinds.built_in()["sharing"]),
    # A client of one shot sends one message, and one of live inference its answers, later than this patience:
    # tests/test_one_shot.py, test_fens.py and test_live_inference.py spoil each of its entries.
    *(("program", kind) for kind in LEARNING if kind not in (*ONE_SHOT, "fens", "robust-inference", *SILENT)),
    ("program", "compressed"),
]


def spoiled(payload: dict[str, Any], draw: np.random.Generator) -> dict[str, Any]:
    """A payload with one entry of another value, or without it, or with one more."""
    name = str(draw.choice(sorted({*payload, "other", "buffers"})))
    value = WRONG[draw.integers(len(WRONG))]
    if isinstance(payload.get(name), torch.Tensor) and draw.random() < 0.5:
        part = payload[name][: draw.integers(len(payload[name]) + 1)].to(torch.float32)
        value = payload[name].numpy().copy() if draw.random() < 0.4 else part
    without = draw.random() < 0.15
    return {**{key: entry for key, entry in payload.items() if key != name}, **({} if without else {name: value})}


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_wrong_entries_of_a_peer_end_no_run(family, kind, files, monkeypatch):
    # Each answer of a client of an asynchronous server may end a round.
    rounds = 8 * ROUNDS if kind in ASYNCHRONOUSLY_SERVED else ROUNDS
    tables = run_table(family, "fedavg" if kind == "compressed" else kind, files, rounds=rounds)
    if kind in (*FEDERATED, "compressed"):
        tables["program"] = {**(COMPRESSED if kind == "compressed" else tables["program"]), "clients": NODES - 1}
    if kind not in NEVER_WAITS | NEEDS_ALL:
        tables["program"] = {**tables["program"], "patience": "90ms" if kind == "fedsgd" else "30ms"}
    post, draw, lies = World.post, np.random.default_rng(5), []

    def lying(world, node, receivers, payload, tag, round):
        if node.id == LIAR and not tag.startswith(HEARTBEAT) and draw.random() < 0.7:
            payload = spoiled(dict(payload), draw)
            lies.append(f"the name {receivers.name}" if hasattr(receivers, "name") else f"node {LIAR}")
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", lying)
    world, written = simulate(tables)
    ended = world.nodes[:1] if kind in ASYNCHRONOUSLY_SERVED else world.nodes
    assert [node.round for node in ended] == [rounds] * len(ended)
    assert all(node.mail.ended for node in world.nodes)
    assert all(bool(torch.isfinite(node.model).all()) for node in world.nodes)
    rejected = [detail for _, _, kind, detail in written.happened if kind == "rejected"]
    assert len(lies) >= 2
    assert any(detail.startswith(f"message of {liar}: ") for detail in rejected for liar in lies)
