"""Unsorted messages of a mailbox make no difference: it behaves like one that sorts at once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from covey.parts.nodes import NodeId
from covey.runtime.mailbox import Mailbox, Waiter
from covey.runtime.node import Message

KEYS = st.sampled_from([("", 0), ("", 0), ("", 0), ("", 1), ("x", 0), ("", None)])
ALL = [0, 1, 2]
SOME = st.sampled_from([ALL, ALL, [0, 1], None])
DELIVER = st.tuples(st.just("deliver"), KEYS, st.sampled_from(ALL))
WAIT = st.tuples(st.just("wait"), KEYS, SOME)
LOOK = st.tuples(st.sampled_from(["early", "latest", "waits"]))
USUAL = [DELIVER, DELIVER, DELIVER, WAIT, WAIT, LOOK]
STEPS = st.one_of(
    *USUAL,
    *USUAL,
    st.tuples(st.just("give up"), KEYS),
    st.tuples(st.just("take"), KEYS, SOME),
    st.tuples(st.sampled_from(["open", "hold", "release", "end"])),
)


class AtOnce(Mailbox):
    """Sorts every message in when it comes."""

    __slots__ = ()

    def deliver(self, message):
        super().deliver(message)
        self.sort()


class Watched:
    """A mailbox, and all that can be seen of it."""

    def __init__(self, mail):
        self.mail = mail
        self.seen = []

    def do(self, step, number):
        what, *rest = step
        getattr(self, what.replace(" ", "_"))(*rest, *([number] if what == "deliver" else []))

    def deliver(self, key, sender, number):
        self.mail.deliver(Message(NodeId(sender), *key, {"number": number}, 10))

    def wait(self, key, senders):
        """As `receive` does."""
        mail = self.mail
        if key in mail.waiters:
            return
        missing, lost, left = None, set(), 0
        if senders is None:
            left = 2 - mail.count(key)
        else:
            missing = mail.lacking(key, senders)
            lost = mail.overtaken(key, missing)
            missing -= lost
        self.seen.append(("waits", key, sorted(missing or ()), sorted(lost), left))
        if not missing and left <= 0:
            return
        waiter = Waiter(lambda: self.resumed(key, senders, waiter), missing, lost, left)
        mail.wait(key, waiter)

    def resumed(self, key, senders, waiter):
        self.seen.append(("resumed", key, sorted(waiter.missing or ()), sorted(waiter.lost), waiter.left))
        self.take(key, senders)

    def give_up(self, key):
        if key in self.mail.waiters:
            self.mail.wake(key)

    def take(self, key, senders):
        self.seen.append([(m.sender, m["number"]) for m in self.mail.take(key, senders)])

    def open(self):
        self.mail.open(self.mail.round + 1)
        self.counters()

    def hold(self):
        self.mail.hold()

    def release(self):
        self.mail.release()

    def end(self):
        self.mail.clear(ended=True)
        self.mail.ended = True
        self.counters()

    def early(self):
        self.seen.append([m["number"] for m in self.mail.early()])
        self.counters()

    def latest(self):
        self.seen.append(self.mail.latest_round())

    def waits(self):
        self.seen.append(self.mail.waits())

    def counters(self):
        mail = self.mail
        self.seen.append((mail.messages_in, mail.bytes_in, mail.dropped))


@settings(max_examples=1000)
@given(st.lists(STEPS, min_size=2, max_size=14), st.booleans())
def test_what_lies_unsorted_is_seen_by_nobody(steps, ordered):
    kinds = [Watched(kind(ordered=ordered)) for kind in (Mailbox, AtOnce)]
    for number, step in enumerate(steps):
        resumed = []
        for watched in kinds:
            before = len(watched.seen)
            watched.do(step, number)
            resumed.append(watched.seen[before:])
        assert resumed[0] == resumed[1], step
    for watched in kinds:
        watched.early()
    assert kinds[0].seen == kinds[1].seen


def arrive(mail, key, *senders):
    for sender in senders:
        mail.deliver(Message(NodeId(sender), *key, {}, 10))


def test_messages_are_sorted_in_together():
    mail = Mailbox()
    resumed = []
    mail.wait(("", 0), Waiter(lambda: resumed.append(True), {0, 1, 2}, set(), 0))
    arrive(mail, ("", 0), 2, 0)
    assert mail.messages_in == 0
    arrive(mail, ("", 0), 1)
    assert (mail.messages_in, resumed) == (3, [True])


def test_who_looks_meanwhile_sees_all_and_delays_no_other():
    mail = Mailbox()
    resumed = []
    mail.wait(("", 0), Waiter(lambda: resumed.append(True), {0, 1, 2}, set(), 0))
    arrive(mail, ("", 0), 2)
    arrive(mail, ("x", None), 2)
    assert mail.count(("x", None)) == 1
    assert mail.lacking(("", 0), [0, 1, 2]) == {0, 1}
    arrive(mail, ("", 0), 0)
    assert not resumed
    arrive(mail, ("", 0), 1)
    assert resumed
