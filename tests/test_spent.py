"""The separate counts of a run: bytes of values and of indices, and a node's seconds by activity."""

import pytest
import torch

from covey.messages import wire
from covey.messages.codecs import encode_indices
from covey.parts.nodes import NodeId
from covey.runtime.runs import Run
from covey.runtime.runs.schema import COMMIT_COLUMNS, SPENT
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS, NODES, Recorded, run_program

RING = {"kind": "gossip", "topology": "ring"}


def last(written, node=0):
    """The last commit of a node, by column."""
    return dict(zip(COMMIT_COLUMNS, [row for row in written.rows if row[0] == node][-1], strict=True))


def sent(sharing, **changes):
    _, written = simulate(table(task=BLOBS, program={**RING, "sharing": sharing}, rounds=3, **changes))
    return last(written)


def test_the_bytes_of_a_frame_are_values_indices_and_what_is_around_them():
    payload = {"values": torch.zeros(3), "indices": torch.zeros(5, dtype=torch.uint8), "step": 7}
    found = wire.lengths(payload, "model")
    assert (found.values, found.indices) == (12, 5)
    assert found.frame == wire.size(payload, "model") == len(wire.encode(payload, tag="model"))
    assert wire.lengths({"model": torch.zeros(2, 3)}) == (wire.size({"model": torch.zeros(2, 3)}), 24, 0)


def test_full_sharing_sends_values_alone():
    world, written = simulate(table(task=BLOBS, program=RING, rounds=3))
    row, size = last(written), world.task.learner.layout.size
    assert row["value_bytes_out"] == 3 * 2 * 4 * size
    assert row["index_bytes_out"] == 0
    assert row["bytes_out"] == 3 * 2 * wire.size({"model": world.nodes[0].model})


@pytest.mark.parametrize(
    ("sharing", "values_in_round"),
    [
        ({"kind": "top-k", "budget": 0.25}, 4 * 11),
        ({"kind": "choco", "gamma": 0.5, "compressor": {"kind": "top-k", "budget": 0.25}}, 4 * 11),
        ({"kind": "random", "budget": 0.25, "common": True}, 4 * 11),
    ],
)
def test_indices_are_counted_apart(sharing, values_in_round):
    row = sent(sharing)
    assert row["value_bytes_out"] == 3 * 2 * values_in_round
    if sharing["kind"] == "random":
        assert row["index_bytes_out"] == 0  # The receiver draws them, too.
    else:
        # 11 of 44 indices as bits for each of them, behind the byte that says so, or shorter.
        assert 3 * 2 * 4 <= row["index_bytes_out"] <= 3 * 2 * 7
    assert row["value_bytes_out"] + row["index_bytes_out"] < row["bytes_out"]


class Withdrawing(Recorded):
    """Sends two large messages over a slow uplink and takes one back."""

    async def run(self, node):
        indices = encode_indices(torch.arange(0, 1000, 2), 1000)
        payload = {"values": torch.zeros(500), "indices": indices}
        async for _ in node.rounds():
            first = node.send(NodeId(1 - node.id), payload)
            second = node.send(NodeId(1 - node.id), payload)
            assert second.cancel() == 1
            self.seen.append((first, len(indices)))
            await node.sleep(10.0)


@pytest.mark.parametrize("queue", ["fifo"])
def test_what_is_withdrawn_is_not_counted(queue):
    _, written, seen = run_program(
        Withdrawing(), network={"nodes": 2, "bandwidth": "10kbit/s", "queue": queue}, rounds=1, task=BLOBS
    )
    row = last(written)
    assert (row["messages_out"], row["value_bytes_out"], row["index_bytes_out"]) == (1, 2000, seen[0][1])


def test_virtual_time_is_training_and_waiting():
    network = {"nodes": NODES, "latency": "10ms", "compute": {"kind": "constant", "samples_per_second": 100}}
    world, written = simulate(table(task=BLOBS, program=RING, network=network, rounds=4))
    row = last(written)
    training, waiting, encoding, mixing = (row[f"{what}_seconds"] for what in SPENT)
    assert training == pytest.approx(row["samples"] / 100)
    # A message of 44 numbers needs some time on a link, too.
    assert waiting == pytest.approx(4 * 0.01, rel=0.05)
    assert (encoding, mixing) == (0.0, 0.0)
    assert training + waiting == pytest.approx(row["time"])
    slow = {**network, "compute": {"kind": "stragglers", "samples_per_second": 100, "fraction": 0.1, "slowdown": 5}}
    world, written = simulate(table(task=BLOBS, program=RING, network=slow, rounds=4))
    rows = [last(written, node.id) for node in world.nodes]
    assert max(row["training_seconds"] for row in rows) == pytest.approx(5 * training)
    # Whoever is fast waits for whom it hears of them.
    assert max(row["waiting_seconds"] for row in rows) > training


def test_a_resumed_run_continues_counting():
    sharing = {"kind": "top-k", "budget": 0.25}
    tables = table(task=BLOBS, program={**RING, "sharing": sharing}, rounds=4, checkpoint={"every": 2})
    world, written = simulate(tables)
    ((_, checkpoint),) = written.checkpoints
    resumed, again = simulate(tables, checkpoint=checkpoint)
    assert torch.equal(models_of(resumed), models_of(world))
    assert [last(again, node.id) for node in resumed.nodes] == [last(written, node.id) for node in world.nodes]


def test_an_emulation_measures_all_four_and_show_says_so(in_folder, covey):
    import covey as package

    network = {"nodes": 4, "latency": "5ms", "compute": {"kind": "constant", "samples_per_second": 400}}
    sharing = {"kind": "jwins", "level": 3}
    engine = {"kind": "emulation", "nodes_per_process": 2}
    tables = table(task=BLOBS, program={**RING, "sharing": sharing}, network=network, rounds=3, engine=engine)
    package.run(tables, out=in_folder / "real")
    run = Run(in_folder / "real")
    row = run.commits.groupby("node").last()
    # No shorter than the network asks for; and there is time for nothing else.
    assert (row["training_seconds"] >= row["samples"] / 400).all()
    assert (row[["waiting_seconds", "encoding_seconds", "mixing_seconds"]] > 0).all(axis=None)
    assert (row[[f"{what}_seconds" for what in SPENT]].sum(axis=1) <= row["time"] + 0.05).all()
    assert set(run.summary()["seconds"]) == set(SPENT)
    assert {"training_seconds", "index_bytes_out"} <= set(run.metrics.columns)
    reported = covey("show", "real")[1]
    assert "of values, " in reported
    assert " training, " in reported
    assert " mixing\n" in reported
    virtual = {**tables, "engine": {"kind": "simulation"}}
    package.run(virtual, out=in_folder / "virtual")
    assert "waiting; encoding and mixing take no virtual time" in covey("show", "virtual")[1]
