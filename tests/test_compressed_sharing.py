"""Choco, stc and quantized: their invariants, their limit cases, and their errors."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.aggregation.aggregation import Aggregation
from covey.aggregation.linear import MetropolisHastings
from covey.decentralized.sharing import Choco
from covey.decentralized.sharing.compressed import Compressed
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.stc import STC
from covey.decentralized.topology import Ring
from covey.learning.learner import Learner
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.parameters import Setting
from tests.conftest import begun, models_of, simulate, table
from tests.examples import BLOBS, EPIDEMIC, NODES, Keeping

STILL = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
"""Every node begins with a model of its own and training changes nothing."""
GRID = {"kind": "grid"}
"""Degrees from two to four, so that weights differ."""
CONTRACTIONS = [
    {"kind": "top-k", "budget": 0.3},
    {"kind": "random", "budget": 0.3},
    {"kind": "ternary", "budget": 0.3},
    "fp16",
    "bf16",
    "int8",
    {"kind": "qsgd", "levels": 7, "unbiased": False},
    "sign",
]


class Middle(Aggregation):
    """An aggregation without weights."""


def gossip(sharing, topology=GRID, **changes):
    """The tables of a small experiment with a sharing."""
    overlap = changes.pop("overlap", False)
    program = {"kind": "gossip", "topology": topology, "sharing": sharing, "overlap": overlap}
    for name in ("patience", "aggregation"):
        if name in changes:
            program[name] = changes.pop(name)
    return table(**{"task": {**BLOBS, "same_start": False}, "rounds": 5, "program": program, **changes})


def choco(compressor, gamma=0.5, **parameters):
    return {"kind": "choco", "compressor": compressor, "gamma": gamma, **parameters}


def starts_of(world):
    return torch.stack([world.task.learner.initial(node.id) for node in world.nodes])


def weights_of(world, rule="metropolis-hastings"):
    """N x N, what each node gives to each."""
    return torch.from_numpy(world.program.topology.at(0).mixing(rule).toarray())


def states(world, name):
    return torch.stack([node.state[name] for node in world.nodes])


# ---------------------------------------------------------------------- public copies


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("order", ["exchange-first", "move-first"])
@pytest.mark.parametrize("compressor", CONTRACTIONS)
def test_a_nodes_sum_is_always_that_of_its_neighbours_copies(compressor, order, overlap):
    tables = gossip(choco(compressor, order=order), overlap=overlap, checkpoint={"every": 1})
    world, written = simulate(tables)
    weights = weights_of(world)
    assert len(written.checkpoints) == 4
    for payload in [payload for _, payload in written.checkpoints]:
        copies, sums = (
            torch.stack([payload[f"state/{node}/{name}"] for node in range(NODES)]).double()
            for name in ("sharing.copy", "sharing.total")
        )
        assert copies.abs().max() > 0.01
        assert torch.allclose(sums, weights @ copies, atol=1e-5)


@pytest.mark.parametrize("sharing", [*map(choco, CONTRACTIONS), *[choco(c, order="move-first") for c in CONTRACTIONS]])
def test_gossip_over_copies_keeps_the_mean_of_all_models(sharing):
    world, _ = simulate(gossip(sharing, task=STILL, rounds=8))
    starts, models = starts_of(world).double(), models_of(world).double()
    assert torch.allclose(models.mean(0), starts.mean(0), atol=1e-5)
    assert not torch.allclose(models, starts, atol=1e-3)


@pytest.mark.parametrize(("order", "overlap"), [("exchange-first", False), ("move-first", True)])
@pytest.mark.parametrize("topology", ["ring", GRID])
def test_choco_that_says_all_and_goes_all_the_way_is_d_psgd(order, overlap, topology):
    task = {**BLOBS, "batch_size": 8}
    whole, _ = simulate(gossip("full", topology, task=task, overlap=overlap, rounds=8))
    sharing = choco({"kind": "top-k", "budget": 1.0}, gamma=1.0, order=order)
    ours, _ = simulate(gossip(sharing, topology, task=task, rounds=8))
    assert torch.allclose(models_of(ours), models_of(whole), atol=1e-5)


def kept(vector, count):
    """A top-k that thinks in lists."""
    order = sorted(range(len(vector)), key=lambda index: -abs(vector[index]))
    result = np.zeros_like(vector)
    result[order[:count]] = vector[order[:count]]
    return result


@given(gamma=st.floats(0.1, 1), order=st.sampled_from(["exchange-first", "move-first"]), seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_choco_is_its_pseudo_code_with_a_copy_of_every_neighbour(gamma, order, seed):
    rounds, budget = 4, 0.2
    sharing = choco({"kind": "top-k", "budget": budget}, gamma=gamma, order=order)
    world, _ = simulate(gossip(sharing, task=STILL, rounds=rounds, seed=seed))
    weights, models = weights_of(world).numpy(), starts_of(world).double().numpy()
    copies = np.zeros_like(models)
    for _ in range(rounds):
        if order == "move-first":
            models = models + gamma * (weights @ copies - copies)
        copies = copies + np.stack([kept(row, round(budget * models.shape[1])) for row in models - copies])
        if order == "exchange-first":
            models = models + gamma * (weights @ copies - copies)
    assert np.allclose(models_of(world).numpy(), models, atol=1e-4)


def test_copies_of_random_indices_bring_nodes_together():
    world, _ = simulate(gossip(choco({"kind": "random", "budget": 0.3}, gamma=0.3), task=STILL, rounds=60))
    apart = [(models - models.mean(0)).norm() for models in (starts_of(world), models_of(world))]
    assert apart[1] < 0.05 * apart[0]


def test_stc_moves_copies_from_the_common_model_by_one_magnitude():
    sharing = {"kind": "stc", "budget": 0.2, "gamma": 0.5}
    world, written = simulate(gossip(sharing, task={**BLOBS, "same_start": True}, checkpoint={"every": 1}, rounds=3))
    first, weights = world.task.learner.first_model, weights_of(world).numpy()
    payload = written.checkpoints[0][1]
    copies = np.stack([payload[f"state/{node}/sharing.copy"].numpy() for node in range(NODES)])
    count = round(0.2 * len(first))
    for copy in copies:
        change = (copy - first.numpy())[copy != first.numpy()]
        assert len(change) == count
        assert np.allclose(np.abs(change), np.abs(change).mean(), rtol=1e-3)
    sums = np.stack([payload[f"state/{node}/sharing.total"].numpy() for node in range(NODES)])
    assert np.allclose(sums, weights @ copies, atol=1e-5)


def test_stc_sends_indices_signs_and_one_magnitude(overheard):
    simulate(gossip({"kind": "stc", "budget": 0.3, "gamma": 0.5}, task={**BLOBS, "same_start": True}, rounds=2))
    for message in overheard:
        assert set(message.payload) == {"scales", "signs", "indices"} | ({"first"} if message.round == 0 else set())
        assert message.payload["scales"].shape == (1,)


def test_stc_stops_where_nodes_do_not_begin_with_the_same_model(monkeypatch):
    monkeypatch.setattr(Learner, "initial", lambda learner, node: learner.first_model + node)
    with pytest.raises(ProgramError, match=r"^Node \d+ has no valid message of node \d+ in round 0, ") as caught:
        simulate(gossip({"kind": "stc", "budget": 0.3, "gamma": 0.5}, task={**BLOBS, "same_start": True}))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- what they refuse


REFUSED = [
    (gossip(choco("sign"), EPIDEMIC), "The sharing choco needs a static topology, because .* Got .*epidemic"),
    (
        gossip({"kind": "stc", "budget": 0.1, "gamma": 0.5}, EPIDEMIC, task={**BLOBS, "same_start": True}),
        "The sharing stc needs a static topology, because .* Got .*epidemic-oracle instead. Use a static",
    ),
    (
        gossip(choco("sign"), "star", aggregation="mean"),
        "The sharing choco needs an aggregation with constant, doubly stochastic weights, but over the topology star "
        "the weights of mean give node 0 a total of 5.5 at its neighbours, and the neighbours 0.9167 at it",
    ),
    (
        gossip(choco("sign"), aggregation="tests.test_compressed_sharing:Middle"),
        "The sharing choco needs an aggregation with .* weights, and tests.test_compressed_sharing:Middle has no wei",
    ),
    (
        gossip({"kind": "stc", "budget": 0.1, "gamma": 0.5}, overlap=True, task={**BLOBS, "same_start": True}),
        "The sharing stc sends the change of training, so it cannot send while a node trains. Set 'overlap' to false.",
    ),
    (
        gossip({"kind": "quantized", "compressor": {"kind": "top-k", "budget": 0.5}}),
        "The 'compressor' of the sharing quantized must send every value, as 'int8' does. Got 'top-k' inst",
    ),
]


@pytest.mark.parametrize(("tables", "message"), REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(tables, message):
    with pytest.raises(ConfigurationError, match=message):
        begun(tables)


GIVEN = [
    (0.2, 0.2, None),
    (0.3, 0.2, r"give node 0 a total of 0\.5 at its neighbours, and the neighbours 0\.4 at it\. Use 'metro"),
    (0.6, 0.6, r"give the neighbours of node 0 a total of 1\.2, which is more than 1\.$"),
]


@pytest.mark.parametrize(("first", "others", "message"), GIVEN)
def test_directed_graphs_are_welcome_where_weights_are_doubly_stochastic(first, others, message, tmp_path):
    edges = [(node, (node + step) % NODES) for node in range(NODES) for step in (1, 5)]
    lines = [f"{a} {b} {first if (a, b) == (0, 5) else others}" for a, b in edges]
    (tmp_path / "graph").write_text("\n".join(lines))
    topology = {"kind": "edges", "file": str(tmp_path / "graph"), "directed": True}
    tables = gossip(choco("sign"), topology, aggregation="given")
    if message is None:
        world, _ = simulate(tables)
        assert torch.allclose(
            states(world, "sharing.total"),
            (weights_of(world, "given").float() @ states(world, "sharing.copy")),
            atol=1e-5,
        )
        return
    with pytest.raises(ConfigurationError, match=message):
        begun(tables)


@pytest.fixture
def liar(monkeypatch):
    """Node 3 sends in round 2 what its compressor never made."""
    compress = Compressed.compress

    def lying(sharing, round, vector):
        payload, seen = compress(sharing, round, vector)
        return ({**payload, "scales": -payload["scales"]} if (round.node.id, round.t) == (3, 2) else payload), seen

    monkeypatch.setattr(Compressed, "compress", lying)


def test_a_message_that_is_wrong_ends_the_run(liar):
    with pytest.raises(
        ProgramError, match=r"^Node (2|7) has no valid message of node 3 in round 2, and so can"
    ) as said:
        simulate(gossip(choco("sign")))
    assert str(said.value).endswith("Give the program some 'patience', with which missed copies are sent anew.")
    assert "\n" not in str(said.value)


def test_a_change_of_another_common_start_ends_the_run(monkeypatch):
    outgoing = STC.outgoing

    def lying(sharing, round):
        payload_of = {"first": bytes(16)} if (round.node.id, round.t) == (3, 0) else {}
        return [(receivers, {**payload, **payload_of}) for receivers, payload in outgoing(sharing, round)]

    monkeypatch.setattr(STC, "outgoing", lying)
    with pytest.raises(ProgramError, match=r"^Node (2|7) has no valid message of node 3 in round 0, "):
        simulate(gossip({"kind": "stc", "budget": 0.3, "gamma": 0.5}, task=BLOBS))


@pytest.mark.parametrize(("complete", "t", "missed"), [(4, 6, "4 to 5"), (4, 5, "4"), (0, 2, "0 to 1")])
def test_who_was_away_ends_the_run(complete, t, missed):
    sharing = Choco(compressor="sign", gamma=0.5)
    sharing.ready(Setting(4, parameters=1))
    ring = Ring()
    ring.ready(Setting(4))
    node = Keeping(id=3, state={"sharing.complete": complete} if complete else {}, model=torch.ones(4))
    with pytest.raises(ProgramError, match=rf"^Node 3 was away in round {missed}, and so can never again know its nei"):
        sharing.outgoing(Round(node, ring, t, MetropolisHastings(), None))


# ---------------------------------------------------------------------- quantized


@pytest.mark.parametrize("compressor", ["fp16", "bf16", "int8"])
def test_fine_rounding_is_nearly_full_sharing(compressor):
    full, _ = simulate(gossip("full", EPIDEMIC))
    ours, _ = simulate(gossip({"kind": "quantized", "compressor": compressor}, EPIDEMIC))
    off = (models_of(ours) - models_of(full)).abs().max()
    assert 0 < off < 0.02 * models_of(full).abs().max()


QUANTIZED = [
    {"kind": "quantized", "compressor": "fp16"},
    {"kind": "quantized", "compressor": "int8", "feedback": True},
    {"kind": "quantized", "compressor": {"kind": "qsgd", "levels": 127}, "gamma": 0.5},
    {"kind": "quantized", "compressor": "sign", "gamma": 0.3},
]


@pytest.mark.parametrize("sharing", QUANTIZED)
def test_rounding_keeps_the_mean_of_all_models(sharing):
    world, _ = simulate(gossip(sharing, task=STILL, rounds=8))
    starts, models = starts_of(world).double(), models_of(world).double()
    assert torch.allclose(models.mean(0), starts.mean(0), atol=1e-5)
    assert not torch.allclose(models, starts, atol=1e-3)


def test_one_bit_with_feedback_is_its_pseudo_code():
    gamma, rounds = 0.3, 6
    world, _ = simulate(gossip({"kind": "quantized", "compressor": "sign", "gamma": gamma}, task=STILL, rounds=rounds))
    weights, models = weights_of(world).numpy(), starts_of(world).double().numpy()
    unsaid = np.zeros_like(models)
    for _ in range(rounds):
        said = models + unsaid
        heard = np.abs(said).mean(1, keepdims=True) * np.where(said >= 0, 1.0, -1.0)
        unsaid = said - heard
        models = models + gamma * (weights @ heard - heard)
    assert np.allclose(models_of(world).numpy(), models, atol=1e-3)
    assert np.allclose(states(world, "sharing.residual").numpy(), unsaid, atol=1e-3)


def test_only_one_bit_has_feedback_unless_it_is_asked_for():
    for sharing, expected in zip(QUANTIZED, (False, True, False, True), strict=True):
        world, _ = simulate(gossip(sharing, rounds=1))
        assert all(("sharing.residual" in node.state) == expected for node in world.nodes)
        assert all("sharing.sent" not in node.state for node in world.nodes)


def test_a_missing_message_leaves_a_quantized_average_right():
    world, _ = simulate(
        gossip({"kind": "quantized", "compressor": "int8"}, network={"loss": 0.2}, patience="50ms", rounds=10)
    )
    assert sum(node.mail.messages_in for node in world.nodes) < sum(node.messages_out for node in world.nodes)
    assert all(node.round == 10 for node in world.nodes)


def test_a_wrong_message_is_left_out_and_reported(liar):
    world, written = simulate(gossip({"kind": "quantized", "compressor": "int8"}))
    reported = [detail for _, _, kind, detail in written.happened if kind == "rejected"]
    assert reported == ["message of node 3: one of its scales is negative"] * len(
        world.program.topology.at(0).receivers(3)
    )
    assert all(node.round == 5 for node in world.nodes)


# ---------------------------------------------------------------------- the documents


DOCUMENTS = Path(__file__).parent.parent / "docs" / "systems"


@pytest.mark.parametrize("document", ["choco.md", "compression.md"])
def test_the_experiments_of_the_documents_run(document):
    shown = re.findall(r"^```toml\n(.*?)^```", (DOCUMENTS / document).read_text(), flags=re.M | re.S)
    assert shown
    for text in shown:
        tables = tomllib.loads(text)
        tables["rounds"] = 2
        simulate(tables)


@pytest.mark.parametrize(
    "compressor", ["int8", "sign", *[{"kind": "qsgd", "levels": levels} for levels in (1, 7, 127)]], ids=str
)
def test_the_usual_step_learns_with_any_rounding(compressor):
    task = {"dataset": "digits", "model": "logistic", "batch_size": 16}
    sharing = {"kind": "quantized", "compressor": compressor}
    _, written = simulate(gossip(sharing, task=task, topology="torus", rounds=20))
    last = [value for _, t, name, value in written.figures if name == "accuracy" and t == 20]
    assert np.mean(last) > 0.6
