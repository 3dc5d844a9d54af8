"""Samples leave their node only if the program, or a part of it, declares that it sends them."""

import gc
import re

import numpy as np
import pytest
import torch

from covey.decentralized.sharing.full import Full
from covey.learning.handed import Handed
from covey.messages.ownership import own
from covey.parts.errors import ProgramError
from tests.conftest import simulate, table
from tests.hosts import emulate
from tests.programs.asking import DOES
from tests.test_samples_and_outputs import QUICK, TASK

REFUSED = (
    "The 'x' of a message of node 0 must not be a view of its samples. If nodes may send samples, "
    "set sends_samples = True in the class of the program or part that sends them."
)
SHOWN = {
    "inputs": lambda node: node.samples("train").inputs,
    "targets": lambda node: node.samples("train").targets,
    "of a key": lambda node: node.samples("validation", 3, 7).inputs,
    "a row": lambda node: node.samples("train").inputs[2],
    "a column": lambda node: node.samples("train").inputs.T[1:],
    "detached": lambda node: node.samples("train").inputs.detach(),
    "as bytes": lambda node: node.samples("train").inputs.view(torch.uint8),
    "written to": lambda node: node.samples("train").inputs.mul_(2.0),
    "by numpy": lambda node: node.samples("train").inputs.numpy(),
    "a part by numpy": lambda node: np.asarray(node.samples("train").inputs)[1:, ::2],
    "by numpy and back": lambda node: torch.from_numpy(node.samples("train").inputs.numpy()[3:]),
}
DERIVED = {
    "a sum": lambda node: node.samples("train").inputs.sum(0),
    "a copy": lambda node: node.samples("train").inputs.clone(),
    "public": lambda node: node.samples("public").inputs,
    "of the test set": lambda node: node.samples("test").inputs,
    "the model": lambda node: node.model,
}


def sending(shown, program="Once"):
    """The tables of an experiment in which node 0 sends something."""

    async def what(node):
        sent = shown(node)
        node.send([1], {"y": 1.0, "x": sent})

    DOES["sends"] = what
    return table(program={"kind": f"tests.programs.asking:{program}", "does": "sends"}, task=TASK, network=QUICK)


@pytest.mark.parametrize("name", SHOWN)
def test_a_view_of_samples_is_not_sent(name):
    with pytest.raises(ProgramError) as caught:
        simulate(sending(SHOWN[name]))
    assert str(caught.value) == REFUSED


@pytest.mark.parametrize("name", DERIVED)
def test_other_tensors_are_sent(name):
    world, _ = simulate(sending(DERIVED[name]))
    assert world.nodes[0].messages_out == 1


def test_a_view_of_samples_is_not_sent_by_nodes_of_hosts(tmp_path):
    with pytest.raises(ProgramError, match=f"{re.escape(REFUSED)}$"):
        emulate(sending(SHOWN["a part by numpy"]), tmp_path)


@pytest.mark.parametrize("name", SHOWN)
def test_who_declares_it_sends_samples(name):
    world, _ = simulate(sending(SHOWN[name], "Shows"))
    assert world.nodes[0].messages_out == 1


class Leaking(Full):
    """Sends samples beside the model."""

    def outgoing(self, round):
        samples = round.node.samples("train").inputs
        return [(receivers, {"model": whole.model, "x": samples}) for receivers, whole in super().outgoing(round)]


class Declared(Leaking):
    """The same, and says so."""

    sends_samples = True


def test_a_sharing_of_ones_own_declares_it_for_its_program():
    tables = table(network={"nodes": 3}, rounds=1)
    tables["program"] = {"kind": "gossip", "topology": "ring", "sharing": {"kind": "tests.test_sends_samples:Declared"}}
    simulate(tables)
    tables["program"]["sharing"] = {"kind": "tests.test_sends_samples:Leaking"}
    with pytest.raises(ProgramError, match=f"{re.escape(REFUSED)}$"):
        simulate(tables)


def test_memory_that_is_free_again_is_forgotten():
    handed = Handed()
    for _ in range(1000):
        handed.add(torch.ones(64))
    kept = torch.ones(64)
    handed.add(kept)
    gc.collect()
    assert len(handed._storages) < 200
    assert handed.holds(kept[1:])
    assert not any(handed.holds(one) for one in [np.ones(64) for _ in range(50)])
    assert not any(handed.holds(torch.ones(64)) for _ in range(50))
    assert not handed.holds(1.0)


def test_memory_is_recognised_after_it_was_copied_for_a_writer():
    handed, samples = Handed(), torch.ones(64)
    handed.add(samples)
    copy = own(samples)
    samples.add_(1)
    assert handed.holds(samples[3:])
    assert handed.holds(samples.numpy()[3:])
    assert not handed.holds(copy)
    assert not handed.holds(copy.numpy())
