"""The promise of a masking sharing holds for all messages of a node, with every program, or the pair is refused."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from covey.decentralized.clique_averaging import CliqueAveraging
from covey.decentralized.sharing import Full, Sharing
from covey.decentralized.sharing.agreement import Agreement
from covey.learning.running_node import RunningLearningNode
from covey.parts import kinds
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.parameters import Setting, build, fields_of
from covey.runtime.node import Program
from covey.runtime.simulation.world import World
from tests.conftest import models_of, simulate, stated_bytes, table
from tests.examples import LEARNING, part_table
from tests.hosts import emulate

HIDING = sorted(kind for kind in kinds.built_in()["sharing"] if kinds.load("sharing", kind).hides)
SHARINGS = {
    "secure-aggregation": {"kind": "secure-aggregation"},
    "secure-aggregation of 32 bits": {"kind": "secure-aggregation", "ring": 32},
    "cesar with random indices": {"kind": "cesar", "subset": {"kind": "random", "budget": 0.5}},
    "cesar with top-k": {"kind": "cesar", "masks": 2, "subset": {"kind": "top-k", "budget": 0.5}},
}
PROGRAMS = {
    **{kind: {} for kind in LEARNING},
    "gossip": {"topology": {"kind": "random-regular", "degree": 4}},
    "gossip, overlapping": {"kind": "gossip", "topology": {"kind": "random-regular", "degree": 4}, "overlap": True},
    "gossip, now and then": {
        "kind": "gossip",
        "topology": {"kind": "epidemic-oracle", "degree": 4},
        "schedule": {"kind": "periodic", "every": 2},
    },
    "d2": {"topology": {"kind": "random-regular", "degree": 4}},
    "quasi-global-momentum": {"topology": {"kind": "random-regular", "degree": 4}},
    "clique-averaging, with momentum": {
        "kind": "clique-averaging",
        "topology": {"kind": "d-cliques", "size": 4},
        "lr": 0.1,
        "momentum": 0.9,
    },
}
ALIKE = {"quasi-global-momentum"}
"""Programs with the messages of gossip."""
CASES = [pytest.param(program, marks=pytest.mark.slow) if program in ALIKE else program for program in PROGRAMS]
REFUSED = {
    ("gossip, overlapping", "cesar with top-k"): "'overlap'",
    ("d2", "cesar with random indices"): "'sharing' of the program d2 must be exact",
    ("d2", "cesar with top-k"): "'sharing' of the program d2 must be exact",
}
"""The message about each pair that is refused."""
# Batches of one: a gradient is then a sample, up to a factor.
TASK = {
    "dataset": {"kind": "gaussian-blobs", "samples": 240, "test_samples": 60, "features": 20},
    "model": {"kind": "mlp", "hidden": [16]},
    "batch_size": 1,
    "optimizer": {"kind": "sgd", "lr": 0.1},
}


class Curious:
    """Looks at every payload for what only its sender knows."""

    def __init__(self, monkeypatch):
        self.known: dict[int, list[torch.Tensor]] = {}
        self.indices: dict[int, np.ndarray] = {}
        self.looked_at = 0
        post, differentiated = World.post, RunningLearningNode.differentiated
        masked = Agreement.masked

        def listen(world, node, receivers, payload, tag, round):
            if receivers:
                self.look(node, payload)
            return post(world, node, receivers, payload, tag, round)

        def remembered(trained):
            def learn(node, training):
                update = trained(node, training)
                self.known.setdefault(node.id, []).extend([update.model, update.start, update.delta])
                return update

            return learn

        def derive(node, training):
            gradient = differentiated(node, training)
            self.known.setdefault(node.id, []).append(gradient.vector)
            return gradient

        def mask(agreement, sender, *given):
            values = masked(agreement, sender, *given)
            self.indices[values.ctypes.data] = agreement.indices(sender)
            self.kept.append(values)
            return values

        self.kept: list[np.ndarray] = []
        """The masked arrays, kept so that no other array gets their address."""
        monkeypatch.setattr(World, "post", listen)
        for name in ("trained", "_trained_later"):
            monkeypatch.setattr(RunningLearningNode, name, remembered(getattr(RunningLearningNode, name)))
        monkeypatch.setattr(RunningLearningNode, "differentiated", derive)
        monkeypatch.setattr(Agreement, "masked", mask)

    def look(self, node, payload):
        known = [*self.known.get(node.id, []), node.model]
        for name, value in payload.items():
            if isinstance(value, torch.Tensor) and value.dtype != torch.uint8:
                self.compare(name, value, known)
            elif isinstance(value, torch.Tensor | bytes):
                encoded = bytes(value.numpy()) if isinstance(value, torch.Tensor) else value
                for vector in known:
                    numbers = vector[vector != 0].numpy().tobytes()
                    assert not any(numbers[at : at + 8] in encoded for at in range(0, len(numbers) - 7, 4)), name
            elif isinstance(value, list):
                assert all(type(item) is int for item in value), name

    def compare(self, name, value, known):
        """Neither equal in indices nor correlated, place by place."""
        if not len(value):
            return
        numbers = value.double().numpy()
        indices = self.indices.get(value.data_ptr(), np.arange(len(numbers)))
        assert len(indices) == len(numbers) >= 20, name
        for vector in known:
            theirs = vector.double().numpy()[indices]
            assert not np.intersect1d(numbers, theirs[theirs != 0]).size, name
            if theirs.std() > 0 and numbers.std() > 0:
                correlation = np.corrcoef(numbers, theirs)[0, 1]
                assert abs(correlation) < 5.5 / math.sqrt(len(numbers)), name
            self.looked_at += 1


def with_sharing(program, sharing):
    kind = PROGRAMS[program].get("kind", program)
    made = {**part_table("program", kind, None), **PROGRAMS[program], "kind": kind}
    if sharing is not None:
        made["sharing"] = sharing
    return table(program=made, task=TASK, rounds=3, evaluation={"every": 3, "samples": 20})


def test_the_examples_have_every_sharing_that_hides():
    assert {sharing["kind"] for sharing in SHARINGS.values()} == set(HIDING)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("program", CASES)
def test_nothing_that_is_sent_tells_what_its_sender_has_or_the_pair_is_refused(program, sharing, monkeypatch):
    curious = Curious(monkeypatch)
    kind = PROGRAMS[program].get("kind", program)
    tables = with_sharing(program, SHARINGS[sharing])
    if "sharing" not in fields_of(kinds.load("program", kind)):
        with pytest.raises(ConfigurationError, match="Unknown key 'sharing'"):
            simulate(tables)
        return
    if (program, sharing) in REFUSED:
        with pytest.raises(ConfigurationError, match=REFUSED[program, sharing]):
            simulate(tables)
        return
    world, _ = simulate(tables)
    assert curious.looked_at > 100
    assert len({tuple(model.tolist()) for model in models_of(world)}) > 1


RECOVERING = {"kind": "secure-aggregation", "recovery": "shamir"}
REFUSED_IF_LOST = {**REFUSED, ("gossip, now and then", "recovery"): "'recovery'"}


@pytest.mark.parametrize(
    "sharing",
    [
        "secure-aggregation",
        pytest.param("cesar with random indices", marks=pytest.mark.slow),
        pytest.param("cesar with top-k", marks=pytest.mark.slow),
        "recovery",
    ],
)
@pytest.mark.parametrize("program", CASES)
def test_nor_does_it_where_messages_are_lost_and_nodes_are_killed(program, sharing, monkeypatch):
    curious = Curious(monkeypatch)
    tables = with_sharing(program, SHARINGS.get(sharing, RECOVERING))
    if not {"sharing", "patience"} <= fields_of(kinds.load("program", tables["program"]["kind"])).keys():
        with pytest.raises(ConfigurationError, match=r"Unknown key '(sharing|patience)'"):
            simulate(tables)
        return
    tables["program"]["patience"] = "80ms"
    tables["network"]["loss"] = 0.03
    kill = {"kind": "kill", "nodes": [3], "at": "30ms", "back": "60ms"}
    troubled = {**tables, "rounds": 4, "faults": [kill]}
    refused = "d2 needs every message" if program == "d2" else REFUSED_IF_LOST.get((program, sharing))
    if refused is not None:
        with pytest.raises(ConfigurationError, match=refused):
            simulate(troubled)
        return
    world, written = simulate(troubled)
    assert curious.looked_at > 500
    assert world.refused["lost"] > 5
    assert {"left", "returned"} <= {kind for _, _, kind, _ in written.happened}
    assert torch.isfinite(models_of(world)).all()


@pytest.mark.parametrize("program", ["gossip", "clique-averaging, with momentum", "push-sum", "fedavg"])
def test_what_is_sent_as_it_is_would_be_found(program, monkeypatch):
    Curious(monkeypatch)
    with pytest.raises(ProgramError, match="AssertionError"):
        simulate(with_sharing(program, None))


class Unmasked(Sharing):
    """Promises much."""

    hides: ClassVar[bool] = True


def test_a_sharing_that_hides_models_alone_is_refused_where_more_is_sent():
    program = build(Program, {"kind": "clique-averaging", "lr": 0.1, "topology": "random-cliques", "sharing": "full"})
    program.sharing = Unmasked()
    with pytest.raises(ConfigurationError, match="hides models only, and gradients are sent, too"):
        program.ready(Setting(20))
    assert isinstance(Full().beside("gradients"), Full)


# ---------------------------------------------------------------------- clique averaging under masks

CLIQUES = {"kind": "clique-averaging", "lr": 0.1, "momentum": 0.9, "topology": {"kind": "random-cliques", "size": 4}}


def averaging(sharing="full", **changes):
    program = {**CLIQUES, "sharing": sharing, **changes.pop("program", {})}
    return table(program=program, task=TASK, **{"rounds": 6, **changes})


@pytest.mark.parametrize(
    ("sharing", "step"), [({"kind": "secure-aggregation"}, 1e-6), (SHARINGS["secure-aggregation of 32 bits"], 1e-5)]
)
def test_masked_gradients_have_the_mean_of_open_ones(sharing, step):
    openly, masked = simulate(averaging())[0], simulate(averaging(sharing))[0]
    assert torch.allclose(models_of(openly), models_of(masked), atol=step)


def test_masked_gradients_are_reckoned():
    world, _ = simulate(averaging({"kind": "secure-aggregation"}))
    sent = sum(node.bytes_out for node in world.nodes) / (6 * len(world.nodes))
    assert sent == pytest.approx(stated_bytes(world), rel=0.02)


@pytest.mark.parametrize("too_few", ["refuse", "keep"])
def test_cliques_too_small_for_masks_are_refused(too_few):
    # With its own gradient, a lone node's model would be the one that its neighbours cannot foresee in a sum.
    few = {"topology": {"kind": "random-cliques", "size": 5}}
    line = r"Got 1 instead, and node \d+ has 1 of them to average gradients with: its model would reveal its own\. Use larger"
    with pytest.raises(ConfigurationError, match=line):
        simulate(averaging({"kind": "secure-aggregation", "too_few": too_few}, program=few))


def test_who_misses_a_masked_gradient_makes_no_step_along_its_own(monkeypatch):
    # All models of a clique but its own go where the clique knows: the sums of models would tell the own gradient.
    steps, own, learn, differentiated = [], {}, CliqueAveraging.learn, RunningLearningNode.differentiated

    def derive(node, training):
        gradient = differentiated(node, training)
        own[node.id] = gradient.vector
        return gradient

    async def watched(program, node, t, reception):
        start = await learn(program, node, t, reception)
        steps.append((start - node.model, own[node.id]))
        return start

    monkeypatch.setattr(RunningLearningNode, "differentiated", derive)
    monkeypatch.setattr(CliqueAveraging, "learn", watched)
    program = {"patience": "50ms", "momentum": 0.0}
    world, written = simulate(averaging({"kind": "secure-aggregation"}, network={"loss": 0.05}, program=program))
    assert {"gradient discarded", "discarded"} <= {name for _, _, name, _ in written.figures}
    still = [step for step, _ in steps if not step.any()]
    assert 0 < len(still) < len(steps)
    assert not any(torch.allclose(step, 0.1 * gradient, atol=1e-4) for step, gradient in steps if gradient.any())
    assert torch.isfinite(models_of(world)).all()


def test_masked_gradients_continue_from_a_checkpoint_to_the_bit():
    tables = averaging({"kind": "secure-aggregation"}, checkpoint={"every": 2})
    world, written = simulate(tables)
    again, _ = simulate(tables, checkpoint=written.checkpoints[0][1])
    assert torch.equal(models_of(world), models_of(again))


def test_gradients_and_models_have_keys_of_their_own():
    world, _ = simulate(averaging({"kind": "secure-aggregation"}))
    for node in world.nodes:
        assert node.state["gradient sharing.key"] != node.state["sharing.key"]


def test_in_real_time_masked_gradients_give_the_models_of_the_simulation(tmp_path):
    made = averaging({"kind": "secure-aggregation"}, rounds=2, network={"latency": 0.0, "compute": 1e6})
    world, _ = simulate(made)
    outcome, _ = emulate(made, tmp_path)
    assert torch.allclose(outcome.models, models_of(world), atol=1e-5)
