"""Cuts through hosts at any moments: resumed nodes have received every message once in the end."""

import random
from collections import deque
from types import SimpleNamespace
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.parts.nodes import NodeId
from covey.runtime.emulation.host.cuts import Cuts
from covey.runtime.emulation.launcher.cuts import Cut
from covey.runtime.mail import MOST, Held, Mail
from covey.runtime.mailbox import Mailbox
from covey.runtime.node import Message

OWNERS = [0, 0, 1, 2, 2]
NODES, HOSTS = len(OWNERS), 3


class Counter:
    """A node that sends to the receivers of a script, one after the other, and keeps what it takes."""

    def __init__(self, id, before=None):
        self.id, self.mail, self.held = id, Mailbox(ordered=False), None
        self.posted, self.had = (0, []) if before is None else (before.posted, list(before.had))
        self.commit()

    def counters(self):
        return [self.mail.messages_in]

    def commit(self):
        self.committed = SimpleNamespace(posted=self.posted, had=list(self.had), counters=self.counters())

    def take(self):
        self.had += [(message.sender, message.number) for message in self.mail.take(("", None), count=1)]


class Coming(NamedTuple):
    """A message as the frame that a connection brings."""

    receiver: int
    message: Message

    @property
    def sender(self):
        return self.message.sender

    @property
    def size(self):
        return self.message.size


class Place:
    """A host, as its part in cuts sees it."""

    def __init__(self, world, me, before):
        self.world, self.me, self.owners, self.now = world, me, OWNERS, 1.0
        self.nodes = {id: Counter(id, before[id]) for id, owner in enumerate(OWNERS) if owner == me}
        self.mail = Mail(self.nodes, NODES)
        self.cuts = Cuts(self, self.mail)
        self.up, self.down = deque(), deque()
        """The messages that have not left, and those before the downlink of their node."""
        self.peers = self.recorder = self
        self.refused, self.most = [], 1 << 20

    def refuse(self, reason):
        self.refused.append(reason)

    def send_to_host(self, host, tag, payload):
        self.world.channels[self.me, host].append(payload)

    def report_part(self, part):
        self.world.parts[self.me] = part

    def send(self, node):
        script = self.world.scripts[node.id]
        if node.posted < len(script):
            message = Message(NodeId(node.id), "", None, {}, 60)
            message.number = node.posted
            node.posted += 1
            receiver = script[message.number]
            self.mail.post([receiver], message)
            self.up.append((receiver, message))

    def leave(self):
        if self.up:
            receiver, message = self.up.popleft()
            host = OWNERS[receiver]
            if host == self.me:
                self.down.append((receiver, message))
            else:
                self.mail.withdraw([receiver], message)
                self.world.channels[self.me, host].append((receiver, message))

    def arrive(self, host):
        channel = self.world.channels[host, self.me]
        if channel:
            said = channel.popleft()
            if isinstance(said, dict):
                self.cuts.mark(host, said)
            elif self.cuts.lets_in(Coming(*said)):
                self.deliver(Coming(*said))

    def deliver(self, coming):
        self.mail.post([coming.receiver], coming.message)
        self.cuts.note(coming.receiver, coming.message)
        self.down.append((coming.receiver, coming.message))

    def come(self):
        if self.down:
            receiver, message = self.down.popleft()
            self.give(self.nodes[receiver], message)

    def give(self, node, message):
        if self.mail.comes(node, message, self.now):
            node.mail.deliver(message)

    def commit(self, node):
        node.commit()
        self.mail.commit(node)


class Network:
    """Hosts and what is between them, from the beginning or from a cut."""

    def __init__(self, scripts, cut=None):
        self.scripts = scripts
        self.channels = {(a, b): deque() for a in range(HOSTS) for b in range(HOSTS) if a != b}
        self.parts = {}
        before, held = cut or ([None] * NODES, Held([], []))
        self.places = [Place(self, host, before) for host in range(HOSTS)]
        for place in self.places:
            mine = Held(
                [kept for kept in held.messages if kept.receiver in place.nodes],
                [known for known in held.taken if known[0] in place.nodes],
            )
            posted = [0 if one is None else one.posted for one in before]
            for node, _, message in list(place.mail.restore(mine, posted)):
                place.give(node, message)

    def node(self, id):
        return self.places[OWNERS[id]].nodes[id]

    def act(self, action, one, other):
        place, node = self.places[one % HOSTS], self.node(one)
        if action in ("send", "commit"):
            getattr(self.places[OWNERS[one]], action)(node)
        elif action == "take":
            node.take()
        elif action == "arrive":
            if other % HOSTS != place.me:
                place.arrive(other % HOSTS)
        else:
            getattr(place, action)()

    def order(self, place):
        place.cuts.begin(1, range(HOSTS))

    def cut(self, actions, orders):
        """Let things happen, with the order of a cut at each host after so many of them; returns the cut."""
        for at, (action, one, other) in enumerate(actions):
            for place, due in zip(self.places, orders, strict=True):
                if due == at:
                    self.order(place)
            self.act(action, one, other)
        for place, due in zip(self.places, orders, strict=True):
            if due >= len(actions):
                self.order(place)
        while len(self.parts) < HOSTS:
            for here, there in self.channels:
                self.places[there].arrive(here)
        gathered = Cut(1, range(HOSTS), 0)
        for host, part in self.parts.items():
            gathered.add_snapshots(part.snapshots)
            for word in part.mail():
                gathered.add_mail(msgspec.msgpack.decode(word["held"], type=Held))
            gathered.end(host, full=part.is_full)
        before = [gathered.snapshots[id] for id in range(NODES)]
        held = gathered.mail([snapshot.posted for snapshot in before])
        sent = [(kept.receiver, kept.sender, kept.number) for kept in held.messages]
        assert all(numbers == sorted(numbers) for numbers in by_link(sent).values())
        return before, held

    def finish(self):
        """Let everything happen that is left."""
        for _ in range(150):
            for id in range(NODES):
                for action in ("send", "take"):
                    self.act(action, id, 0)
            for place in self.places:
                place.leave()
                place.come()
            for here, there in self.channels:
                self.places[there].arrive(here)


def by_link(sent):
    """The numbers of messages of each sender to each receiver, in their order."""
    numbers = {}
    for receiver, sender, number in sent:
        numbers.setdefault((receiver, sender), []).append(number)
    return numbers


KINDS = ["send", "leave", "arrive", "come", "take", "commit"]


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 3))
def test_wherever_hosts_cut_every_message_is_taken_once(seed, phases):
    draw = random.Random(seed)
    scripts = [[draw.randrange(NODES) for _ in range(draw.randrange(10))] for _ in range(NODES)]
    cut = None
    for _ in range(phases):
        often = [draw.random() for _ in KINDS]
        count = draw.randrange(150)
        kinds = draw.choices(KINDS, often, k=count)
        actions = [(kind, draw.randrange(NODES), draw.randrange(HOSTS)) for kind in kinds]
        first = draw.randrange(count + 1)
        orders = [first + draw.randrange(count + 1 - first) for _ in range(HOSTS)]
        cut = Network(scripts, cut).cut(actions, orders)
    network = Network(scripts, cut)
    network.finish()
    for id in range(NODES):
        due = [(s, n) for s, script in enumerate(scripts) for n, receiver in enumerate(script) if receiver == id]
        assert sorted(network.node(id).had) == due


def test_a_message_between_two_hosts_is_in_the_cut_of_neither_and_is_kept():
    network = Network([[2], [], [], [], []])
    actions = [("send", 0, 0), ("commit", 0, 0), ("leave", 0, 0)]
    _, held = network.cut(actions, [3, 3, 3])
    assert [(kept.receiver, kept.sender, kept.number) for kept in held.messages] == [(2, 0, 0)]


def test_what_a_host_sends_behind_its_marker_waits_for_the_order_and_takes_no_more_than_its_room():
    network = Network([[2, 2, 2], [], [], [], []])
    first, second = network.places[:2]
    network.order(first)
    second.most = 130
    for _ in range(3):
        network.act("send", 0, 0)
        first.leave()
    for _ in range(4):
        second.arrive(0)
    assert not second.down
    assert second.refused == ["ahead-of-cut"]
    network.order(second)
    assert [message.number for _, message in second.down] == [0, 1]


def test_what_waits_for_an_order_comes_when_its_host_is_lost():
    network = Network([[2], [], [], [], []])
    first, second = network.places[:2]
    network.order(first)
    network.act("send", 0, 0)
    first.leave()
    second.arrive(0)
    second.arrive(0)
    second.cuts.lose(0)
    assert len(second.down) == 1


MARKERS = {
    "no number": {"posted": np.zeros(1, np.int64)},
    "no posted": {"cut": 1},
    "a number before the first": {"cut": 0, "posted": np.zeros(1, np.int64)},
    "a number that is none": {"cut": True, "posted": np.zeros(1, np.int64)},
    "of other nodes": {"cut": 1, "posted": np.zeros(2, np.int64)},
    "of other numbers": {"cut": 1, "posted": np.zeros(1)},
    "fewer than none": {"cut": 1, "posted": np.array([-1])},
    "a list": {"cut": 1, "posted": [0]},
}


@pytest.mark.parametrize("case", MARKERS)
def test_a_marker_that_is_none_ends_no_cut(case):
    network = Network([[]] * NODES)
    place = network.places[0]
    network.order(place)
    network.places[2].cuts.begin(1, range(HOSTS))
    place.arrive(2)
    place.cuts.mark(1, MARKERS[case])
    assert place.refused == ["bad-marker"]
    assert not network.parts
    place.cuts.mark(1, {"cut": 1, "posted": np.zeros(1, np.int64)})
    assert network.parts.keys() == {0}
    place.cuts.mark(1, {"cut": 1, "posted": np.zeros(1, np.int64)})
    assert place.refused == ["bad-marker"] * 2


def test_a_host_keeps_no_more_mail_than_it_may():
    node = Counter(0)
    mail = Mail({0: node}, 2, most=1000)
    for number in range(10):
        message = Message(NodeId(1), "", None, {}, 300)
        message.number = number
        mail.post([0], message)
        assert mail.comes(node, message, 0.0)
        assert mail.is_full == (number >= 2)
        assert len(mail.content(0.0).messages) == (0 if mail.is_full else number + 1)
    mail.commit(node)
    assert mail.content(0.0).taken == []


def test_more_mail_than_a_checkpoint_holds_is_none():
    cut = Cut(1, [0, 1], 0)
    cut.add_mail(Held([], [(0, 1, 5)]))
    assert not cut.end(0, full=False)
    assert cut.mail([0, 0]).taken == [(0, 1, 5)]
    assert cut.end(1, full=True)
    assert cut.mail([0, 0]) == Held([], [])
    huge = Cut(1, [0], 0)
    huge.add_mail(SimpleNamespace(size=MOST + 1))
    assert huge.mail([0, 0]) == Held([], [])
