"""The limits of the inbox of an emulated node, in all and for each sender."""

import pytest

from covey import Experiment
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.runtime.emulation.host.inbox import _AHEAD, Inbox
from covey.runtime.mailbox import Waiter
from covey.runtime.node import Message
from covey.runtime.prepared import prepare
from tests.conftest import table
from tests.hosts import hosts, launch

MOST = 100_000
OWNERS = [0, 0, 1, 1, 2, 3]
"""Node 0 has the inbox; node 1 is on its host."""


class Full:
    """An inbox of a node in round 0, and what it refused."""

    def __init__(self, *, catching_up=False):
        self.refused = []
        self.mail = Inbox(MOST, lambda *what: self.refused.append(what), OWNERS, 0, lambda: catching_up, ordered=True)

    def send(self, sender, size=1000, tag="x", round=None):
        """Whether a message is taken in."""
        before = len(self.refused)
        payload = {"x": bytes(8)}
        self.mail.deliver(Message(NodeId(sender), tag, round, payload, size - 2048))
        return len(self.refused) == before


def test_one_host_leaves_half_of_the_room_and_each_further_one_leaves_some():
    full = Full()
    sent = {sender: sum(full.send(sender, 2500) for _ in range(200)) for sender in (2, 3, 4, 5)}
    assert [sent[sender] for sender in (2, 3, 4, 5)] == [20, 0, 10, 5]
    assert set(full.refused) == {(sender, "inbox-full") for sender in (2, 3, 4, 5)}
    assert full.mail.held == 35 * 2500


def test_the_nodes_of_the_own_host_may_fill_it():
    full = Full()
    assert sum(full.send(1, 2500) for _ in range(200)) == 40


@pytest.mark.parametrize("round", [None, 3])
def test_room_comes_back_whatever_becomes_of_a_message(round):
    def filled():
        full = Full()
        tags = range(200) if round is not None else [0] * 200
        assert sum(full.send(2, 2500, tag=f"x{tag}", round=round) for tag in tags) == 20
        return full

    taken, skipped, cleared, paused, late, twice = (filled() for _ in range(6))
    for tag in range(200):
        taken.mail.take((f"x{tag}", round))
    cleared.mail.clear()
    empty = [taken, cleared]
    if round is not None:
        skipped.mail.open(round + 1)
        empty.append(skipped)
        late.mail.open(round + 1)
        assert late.send(2, round=round)
        assert late.mail.held == 0
        for _ in range(2):
            assert twice.send(4, tag="y", round=round)
        assert (twice.mail.held, twice.mail.dropped) == (51_000, 1)
    for full in empty:
        assert full.mail.held == 0
        assert sum(full.send(2, 2500) for _ in range(200)) == 20
    paused.mail.clear()
    paused.mail.hold()
    assert sum(paused.send(2, 2500, round=0) for _ in range(200)) == 20
    paused.mail.release()
    assert paused.mail.count(("x", 0)) == 1
    assert paused.mail.held == 2500, "the others are its duplicates"


def test_what_is_far_ahead_is_dropped_unless_the_node_is_to_catch_up():
    full = Full()
    assert full.send(2, round=_AHEAD)
    assert not full.send(2, round=_AHEAD + 1)
    assert full.refused == [(2, "too-early")]
    full.mail.open(1)
    assert full.send(2, round=_AHEAD + 1)
    assert Full(catching_up=True).send(2, round=1 << 40)


def test_what_is_dropped_still_tells_that_what_was_before_it_is_lost():
    full = Full()
    resumed = []
    waiter = Waiter(lambda: resumed.append(True), {2, 4}, set(), 0)
    full.mail.wait(("x", 0), waiter)
    assert not full.send(2, size=10 * MOST, round=1)
    assert (waiter.missing, waiter.lost, resumed) == ({4}, {2}, [])
    assert not full.send(4, round=_AHEAD + 1)
    assert resumed == [True]


# ---------------------------------------------------------------------- what an experiment needs


def checked(buffer, count, program):
    """See whether a buffer is right for an experiment on some hosts; the bytes of a model."""
    engine = {"kind": "emulation", "buffer": buffer, "nodes_per_process": 12 // count}
    tables = table(program=program, task={"model": {"kind": "mlp", "hidden": [3000]}})
    prepared = prepare(Experiment.from_table({**tables, "engine": engine}))
    prepared.task.close()
    return prepared.task.model_bytes


FEDAVG, GOSSIP = {"kind": "fedavg"}, {"kind": "gossip", "topology": "ring"}
"""A model is 0.86 MB: 11 clients send 9.4 MB; two neighbours, two rounds."""


@pytest.mark.parametrize(
    ("program", "count", "least"),
    [
        (FEDAVG, 1, 10),
        (FEDAVG, 2, 19),
        ({**FEDAVG, "clients": 2}, 2, 4),
        (GOSSIP, 1, 4),
        (GOSSIP, 2, 7),
        ({"kind": "ad-psgd", "topology": "ring"}, 2, 4),
        ({"kind": "gossip-learning", "topology": "ring"}, 2, 4),
        ({"kind": "tests.programs.broken:Broken"}, 2, 2),
    ],
)
def test_a_buffer_that_does_not_hold_what_a_node_waits_for_is_refused(program, count, least):
    assert 0.85e6 < checked(least, count, program) < 1e6
    with pytest.raises(
        ConfigurationError, match=rf"^The 'buffer' of the engine must be at least {least} here: about \d"
    ):
        checked(least - 1, count, program)


def test_a_buffer_that_is_just_large_enough_drops_nothing(tmp_path):
    # A message has 120 kB: 11 of them do not fit into half of 2 MB.
    tables = table(program=FEDAVG, task={"model": {"kind": "mlp", "hidden": [400]}}, rounds=2)
    with hosts(2) as running:
        addresses = [address for _, address in running]
        with pytest.raises(ConfigurationError, match="must be at least 3 here"):
            launch(tables, tmp_path, addresses, buffer=2)
        outcome, written = launch(tables, tmp_path, addresses, buffer=3)
    assert outcome.finished
    assert sorted(row[:2] for row in written.rows) == [(node, t) for node in range(12) for t in (1, 2)]
    assert not [figure for figure in written.of_hosts if figure[2].startswith("dropped/")]
