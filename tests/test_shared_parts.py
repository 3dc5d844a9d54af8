"""Frozen and personal tensors stay at their node, and buffers are averaged as plain numbers: in every sharing."""

import pytest
import torch

from covey.decentralized.sharing import Random
from covey.messages import wire
from covey.parts import kinds
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from tests.conftest import models_of, simulate, stated_bytes, table
from tests.examples import NODES, part_table, pieces_of
from tests.test_emulation import assert_agree
from tests.untrained import MIXED, RING, SIZES, Never, metropolis, starts, tensors

SHARINGS = list(kinds.built_in()["sharing"])
MASKED = ("cesar", "secure-aggregation")
PARTS = ("trained", ["norm.*", "head.*"])


def mixed(sharing, files, *, program=(), task=(), **changes):
    """A small experiment with that model, over a ring."""
    part = part_table("sharing", sharing, files) if isinstance(sharing, str) else sharing
    own = {key: changes.pop(key) for key in ("share", "buffers") if key in changes}
    same = {"same_start": True} if part["kind"] == "stc" else {}
    gossip = {"kind": "gossip", "topology": "ring", "sharing": {**part, **own}, **dict(program)}
    return table(program=gossip, task={**MIXED, **same, **dict(task)}, network={"nodes": NODES}, **changes)


def is_sound(world):
    """Whether what is frozen is as it was, to the bit, and statistics are such."""
    assert torch.equal(tensors(world, "frozen", starts(world)), tensors(world, "frozen"))
    assert torch.isfinite(models_of(world)).all()
    assert (tensors(world, "norm.running_var") >= 0).all()
    return True


@pytest.mark.parametrize("share", PARTS, ids=str)
@pytest.mark.parametrize("buffers", ["average", pytest.param("keep", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_what_is_frozen_never_moves_and_statistics_stay_such(sharing, buffers, share, files):
    world, _ = simulate(mixed(sharing, files, share=share, buffers=buffers, rounds=4))
    assert is_sound(world)
    assert not torch.equal(tensors(world, "head"), tensors(world, "head", starts(world)))


@pytest.mark.parametrize("share", PARTS, ids=str)
@pytest.mark.parametrize("sharing", ["full", "choco", "secure-aggregation"])
def test_gradients_of_a_clique_are_those_of_what_is_shared(sharing, share, files, overheard):
    cliques = {"kind": "clique-averaging", "topology": {"kind": "random-cliques", "size": 4}, "lr": 0.1}
    world, _ = simulate(mixed(sharing, files, share=share, rounds=4, program={**cliques, "momentum": 0.9}))
    assert is_sound(world)
    moved = tensors(world, "body") - tensors(world, "body", starts(world))
    assert (moved.abs().max(1).values > 1e-3).all()
    if sharing == "full":
        count = SIZES["norm"] + SIZES["head"] + (SIZES["body"] if share == "trained" else 0)
        gradients = [message.payload["model"] for message in overheard if message.tag == "gradient"]
        assert {gradient.shape for gradient in gradients} == {(count,)}
        sent = sum(node.bytes_out for node in world.nodes) / NODES / 4
        assert sent == pytest.approx(stated_bytes(world), rel=0.02)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_run_continues_from_a_checkpoint_to_the_bit(sharing, files):
    tables = mixed(sharing, files, share=["norm.*", "body.weight"], rounds=4, checkpoint={"every": 2})
    whole, written = simulate(tables)
    resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(written.checkpoints[0][1])).payload)
    assert torch.equal(models_of(whole), models_of(resumed))


@pytest.mark.parametrize("sharing", ["random", "quantized", "power-gossip", "secure-aggregation"])
def test_the_engines_agree_on_what_is_shared(sharing, files, tmp_path):
    network = {"latency": 0.0, "bandwidth": None, "compute": 1e6}
    tables = mixed(sharing, files, share=["norm.*", "body.*"], rounds=3, task={"model": "tests.untrained:Mixed"})
    assert_agree({**tables, "network": {**tables["network"], **network}}, tmp_path, 2)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_buffers_are_averaged_in_full_with_the_weights_of_the_merging(sharing, files):
    world, _ = simulate(mixed(sharing, files, program={"schedule": Never()}, rounds=1))
    before = tensors(world, "norm.running", starts(world))
    if sharing != "stc":
        assert before.std(0).min() > 0.1
    assert torch.allclose(tensors(world, "norm.running"), (metropolis(RING) @ before.double()).float(), atol=1e-6)


@pytest.mark.parametrize("sharing", ["full", "random", "quantized"])
def test_where_an_own_weight_is_negative_buffers_become_the_mean_of_what_was_received(sharing, files):
    matcha = {"kind": "matcha", "topology": {"kind": "random-regular", "degree": 4}, "budget": 0.25}
    world, _ = simulate(mixed(sharing, files, program={"topology": matcha, "schedule": Never()}, rounds=1, seed=0))
    weights = torch.from_numpy(world.program.topology.at(0).mixing("given").toarray())
    assert weights.diag().min() < -1.0
    convex = weights.clamp(min=0.0)
    convex /= convex.sum(1, keepdim=True)
    before = tensors(world, "norm.running", starts(world)).double()
    assert torch.allclose(tensors(world, "norm.running"), (convex @ before).float(), atol=5e-5)
    trained, _ = simulate(mixed(sharing, files, program={"topology": matcha}, rounds=6, seed=0))
    assert is_sound(trained)
    if sharing == "full":
        heads = tensors(world, "head", starts(world)).double()
        assert torch.allclose(tensors(world, "head"), (weights @ heads).float(), atol=1e-5)


def test_buffers_are_not_averaged_with_negative_weights(files, tmp_path):
    (tmp_path / "edges.txt").write_text("".join(f"{i} {(i + 1) % NODES} -0.1\n" for i in range(NODES)))
    program = {"topology": {"kind": "edges", "file": str(tmp_path / "edges.txt")}}
    with pytest.raises(ConfigurationError, match="The 'buffers' of the sharing top-k must be 'keep' if the weights of"):
        simulate(mixed("top-k", files, program=program))
    assert is_sound(simulate(mixed("top-k", files, program=program, buffers="keep", rounds=1))[0])


@pytest.mark.parametrize("share", PARTS, ids=str)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_buffers_that_are_kept_know_nothing_of_peers(sharing, share, files):
    kept = [
        tensors(
            simulate(mixed(sharing, files, share=share, buffers="keep", rounds=3, program=other))[0], "norm.running"
        )
        for other in ({}, {"topology": "complete"})
    ]
    assert torch.equal(*kept)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_what_no_pattern_matches_stays_with_its_node(sharing, files):
    for pattern, own in {"body.*": ("head", "norm"), "head.*": ("body", "norm")}.items():
        world, _ = simulate(mixed(sharing, files, share=[pattern], rounds=2, program={"schedule": Never()}))
        for name in own:
            assert torch.equal(tensors(world, name), tensors(world, name, starts(world)))


@pytest.mark.parametrize("share", PARTS, ids=str)
@pytest.mark.parametrize("buffers", ["average", pytest.param("keep", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_the_stated_bytes_are_those_of_what_is_shared(sharing, buffers, share, files):
    network = {"nodes": NODES, "latency": 0.0, "bandwidth": None}
    tables = mixed(sharing, files, share=share, buffers=buffers, rounds=12)
    world, _ = simulate({**tables, "network": network})
    sent = sum(node.bytes_out for node in world.nodes) / NODES / 12
    assert sent == pytest.approx(stated_bytes(world), rel=0.1 if sharing == "random-layers" else 0.05)


@pytest.mark.parametrize(
    ("share", "buffers", "count"),
    [
        ("trained", "average", SIZES["norm"] + SIZES["body"] + SIZES["head"] + SIZES["buffers"]),
        ("trained", "keep", SIZES["norm"] + SIZES["body"] + SIZES["head"]),
        (["head.*"], "average", SIZES["head"]),
        (["norm.*"], "average", SIZES["norm"] + SIZES["buffers"]),
        (["*.weight"], "keep", 8 + 48 + 24),
    ],
    ids=str,
)
def test_whole_models_are_as_many_numbers_as_are_shared(share, buffers, count, files, overheard):
    world, _ = simulate(mixed("full", files, share=share, buffers=buffers, rounds=2))
    assert {message.payload["model"].shape for message in overheard} == {(count,)}
    assert stated_bytes(world) == 2 * len(wire.encode({"model": torch.zeros(count)}))
    assert all(node.bytes_out == 2 * stated_bytes(world) for node in world.nodes)


@pytest.mark.parametrize("sharing", [kind for kind in SHARINGS if kind not in (*MASKED, "full", "mosaic")])
def test_buffers_travel_beside_what_is_made_short(sharing, files, overheard):
    simulate(mixed(sharing, files, rounds=1))
    last = [message for message in overheard if message.tag == ""]
    assert len(last) >= NODES
    assert all(message.payload["buffers"].shape == (SIZES["buffers"],) for message in last)
    assert all(message.payload["buffers"].dtype == torch.float32 for message in last)


@pytest.mark.parametrize("sharing", MASKED)
def test_under_masks_buffers_are_masked_as_all_else(sharing, files, overheard):
    simulate(mixed(sharing, files, rounds=1))
    floats = {name for m in overheard for name, x in m.payload.items() if torch.is_tensor(x) and x.is_floating_point()}
    assert not floats
    masked = [message.payload["values"] for message in overheard if "values" in message.payload]
    # Two neighbours have half of the trained numbers in common by chance, and all buffers.
    least = SIZES["buffers"] if sharing == "cesar" else SIZES["norm"] + SIZES["body"] + SIZES["head"] + SIZES["buffers"]
    assert all(len(values) >= least and values.dtype == torch.int64 for values in masked)


def test_a_sign_of_everything_leaves_the_statistics_of_batchnorm_alone():
    sharing = {"kind": "quantized", "compressor": "sign"}
    world, written = simulate(mixed(sharing, None, rounds=25, evaluation={"every": 25}))
    assert is_sound(world)
    losses = [value for _, _, name, value in written.figures if name == "loss"]
    assert max(losses) < 2.0


@pytest.mark.parametrize("sharing", ["full", "random", "secure-aggregation"])
def test_with_overlap_statistics_stay_such(sharing, files):
    task = {"local_steps": 20, "dataset": {**MIXED["dataset"], "noise": 0.001}}
    world, _ = simulate(mixed(sharing, files, rounds=4, program={"overlap": True}, task=task))
    assert is_sound(world)


PROGRAMS = {
    "fedavg": {"clients": 4, "server_optimizer": 1.8},
    "fedavg up and down": {"up": {"kind": "ternary", "budget": 0.3}, "down": "sign", "server_optimizer": 1.8},
    "fedavg up": {"up": "sign", "clients": 5},
    "ad-psgd": {"topology": "ring"},
    "ad-psgd-queued": {},
    "asynchronous-epidemic": {},
    "divshare": {"omega": 1.0, "fanout": 3},
    "swarm": {},
    "swarm-non-blocking": {},
    "swift": {"topology": "ring"},
    "swift-push": {},
    "gossip-learning": {"topology": "ring", "period": "20ms"},
    "gossip-learning update": {"topology": "ring", "period": "20ms", "mode": "update"},
    "gossip-learning update-merge": {"topology": "ring", "period": "20ms", "mode": "update-merge"},
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("noise", [0.5, pytest.param(0.001, marks=pytest.mark.slow)])
def test_programs_without_a_sharing_send_nothing_frozen_and_keep_statistics_such(program, noise, overheard):
    task = {**MIXED, "local_steps": 10, "dataset": {**MIXED["dataset"], "noise": noise}}
    tables = table(
        program={"kind": program.partition(" ")[0], **PROGRAMS[program]},
        task=task,
        network={"nodes": NODES, "compute": {"kind": "log-normal", "median": 2000.0}},
        rounds=6,
    )
    world, _ = simulate(tables)
    assert is_sound(world)
    numbers = [sum(value.numel() for value in m.payload.values() if torch.is_tensor(value)) for m in overheard]
    assert max(numbers) == sum(SIZES.values()) - SIZES["frozen"]
    stated = stated_bytes(world)
    if world.program.synchronous and "down" not in PROGRAMS[program]:
        assert sum(node.bytes_out for node in world.nodes) / NODES / 6 == pytest.approx(stated, rel=0.15)


@pytest.mark.parametrize("program", ["fedavg", "fedavg up and down"])
def test_the_servers_buffers_are_the_mean_of_its_clients_by_their_samples(program, overheard):
    task = {**MIXED, "partition": {"kind": "quantity", "alpha": 5.0}}
    tables = table(program={"kind": "fedavg", **PROGRAMS[program]}, task=task, network={"nodes": NODES}, rounds=1)
    world, _ = simulate(tables)
    answers = [message.payload for message in overheard if message.tag == "update"]
    assert len({answer["samples"] for answer in answers}) > 1
    samples = torch.tensor([answer["samples"] for answer in answers], dtype=torch.float64)
    said = [answer["buffers"] if "buffers" in answer else answer["model"][-SIZES["buffers"] :] for answer in answers]
    oracle = (samples / samples.sum()) @ torch.stack(said).double()
    assert torch.allclose(tensors(world, "norm.running")[0], oracle.float(), atol=1e-6)


def test_fedavg_compresses_what_is_trained_alone(overheard):
    simulate(table(program={"kind": "fedavg", "up": "int8"}, task=MIXED, network={"nodes": NODES}, rounds=1))
    (codes,) = {len(message.payload["codes"]) for message in overheard if message.tag == "update"}
    assert codes == SIZES["norm"] + SIZES["body"] + SIZES["head"]


@pytest.mark.parametrize("wrong", [{}, {"buffers": torch.zeros(3)}, {"buffers": 1.0}], ids=["none", "few", "a number"])
def test_a_message_with_other_buffers_is_dropped_whole(wrong, files, monkeypatch):
    from covey.runtime.simulation.world import World

    post = World.post

    def tamper(world, node, receivers, payload, tag, round):
        if node.id == 3:
            payload = {**{name: entry for name, entry in payload.items() if name != "buffers"}, **wrong}
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", tamper)
    world, written = simulate(mixed("random", files, program={"schedule": Never()}, rounds=1))
    assert {(node, "'buffers'" in detail) for _, node, kind, detail in written.happened if kind == "rejected"} == {
        (2, True),
        (4, True),
    }
    before = tensors(world, "norm.running", starts(world)).double()
    weights = metropolis(RING)
    for node in (2, 4):
        weights[node, node] += weights[node, 3]
        weights[node, 3] = 0.0
    assert torch.allclose(tensors(world, "norm.running"), (weights @ before).float(), atol=1e-6)


@pytest.mark.parametrize("sharing", ["random", "top-k", "quantized", "power-gossip"])
def test_the_buffers_of_a_message_that_the_sharing_rejects_count_for_nothing(sharing, files, monkeypatch):
    from covey.runtime.simulation.world import World

    post = World.post

    def tamper(world, node, receivers, payload, tag, round):
        if node.id == 3:
            payload = {"buffers": payload["buffers"], "nonsense": 1}
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", tamper)
    world, written = simulate(mixed(sharing, files, program={"schedule": Never()}, rounds=1))
    assert {node for _, node, kind, _ in written.happened if kind == "rejected"} == {2, 4}
    assert [world.nodes[node].mail.dropped for node in (1, 2, 4)] == [0, 1, 1]
    before = tensors(world, "norm.running", starts(world)).double()
    expected = before[2] * 2 / 3 + before[1] / 3
    assert torch.allclose(tensors(world, "norm.running")[2], expected.float(), atol=1e-6)


def test_what_cannot_be_shared_is_refused_in_one_line(files):
    for own, line in (
        ({"share": ["haed.*"]}, "Got 'haed.*' instead, which matches none. Trained are head.bias, head.weight"),
        ({"share": ["frozen.*"]}, "which matches only frozen tensors: 'frozen.weight', 'frozen.bias'."),
        (
            {"share": ["*running*"]},
            "which matches only buffers: 'norm.running_mean', 'norm.running_var'. Buffers are averaged only together "
            "with trained tensors of their layer: write 'norm.*'. Trained are",
        ),
        ({"share": []}, "must be 'trained' or at least one pattern. Got [] instead."),
        ({"share": "body.*"}, "must be one of 'trained' or a list, each a string. Got 'body.*' instead."),
        ({"buffers": "refuse"}, "is 'refuse', and the model has 'norm.running_mean', 'norm.running_var'."),
    ):
        with pytest.raises(ConfigurationError) as caught:
            simulate(mixed("full", files, **own))
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_sharing_that_hides_sends_no_buffers_in_the_clear():
    class Hiding(Random):
        hides = True

    with pytest.raises(ConfigurationError, match="hides models, but would send the buffers of this one as they are"):
        Hiding(budget=0.5).scope(Setting(4, 0, 5, pieces_of([(3,), (2,)], ["trained", "buffer"])))
    kept = Hiding(budget=0.5, buffers="keep").scope(Setting(4, 0, 5, pieces_of([(3,), (2,)], ["trained", "buffer"])))
    assert kept.parameters == 3


def test_the_subset_of_cesar_has_no_share_of_its_own():
    for own in ({"share": ["body.*"]}, {"buffers": "keep"}):
        subset = {"kind": "random", "budget": 0.5, **own}
        with pytest.raises(ConfigurationError, match="The subset of the sharing cesar must have neither 'share' nor"):
            simulate(mixed({"kind": "cesar", "subset": subset}, None))
