"""The messages that have arrived at a node, and the activities that wait for messages."""

from collections import Counter
from collections.abc import Callable, Sequence

from covey.runtime.node import HEARTBEAT, Message

Key = tuple[str, int | None]
"""A tag and a round."""

REASONS = ("late", "duplicate", "unread", "away", "ended", "unusable", "not-finite", "left-over")
"""The reasons for which messages that arrived are dropped. A node's `dropped` does not count "left-over" ones."""

_SHOWN = 5
"""The greatest number of awaited senders that are named."""


class Waiter:
    """An activity that waits for a message of each of some senders, or for a number of messages of any senders."""

    __slots__ = ("after", "left", "lost", "missing", "resume")

    def __init__(
        self,
        resume: Callable[[], None],
        missing: set[int] | None,
        lost: set[int],
        left: int,
        after: Sequence[str] | None = None,
    ) -> None:
        self.resume = resume
        self.after = after
        """The argument `after` of `receive`."""
        self.missing = missing
        """The senders whose messages have not arrived; None if any senders count."""
        self.left = left
        """The number of messages that have not arrived, if any senders count."""
        self.lost = lost
        """The senders whose messages are known to be lost."""

    @property
    def least(self) -> int:
        """The least number of further messages until it is resumed."""
        return self.left if self.missing is None else len(self.missing)


class Mailbox:
    """The messages of one node that are not taken yet, and the counters of arrivals.

    Args:
        ordered: True if messages keep their order over a link.
    """

    __slots__ = (
        "_boxes",
        "_enough",
        "_kept",
        "_unsorted",
        "answered",
        "answering",
        "away",
        "bytes_in",
        "discarded",
        "dropped",
        "drops",
        "ended",
        "handlers",
        "messages_in",
        "ordered",
        "round",
        "waiters",
    )

    def __init__(self, *, ordered: bool = True) -> None:
        self.ordered = ordered
        self._boxes: dict[Key, dict[int, Message | None]] = {}
        """Messages of a round by sender, None if it was taken; messages without a round by a running number."""
        self.waiters: dict[Key, Waiter] = {}
        self._unsorted: list[Message] = []
        """Messages that have arrived and do not yet resume the one activity that waits."""
        self._enough = 1
        """The number of unsorted messages at which they are sorted."""
        self.round = 0
        """The open round of the node, which is also the number of completed rounds."""
        self.away = self.ended = False
        self._kept: list[Message] | None = None
        """The messages that arrived while the node is paused; None if it is not."""
        self.bytes_in = self.messages_in = self.dropped = 0
        self.discarded = 0
        """The number of messages that were not stored, with heartbeats."""
        self.drops: Counter[str] = Counter()
        """The number of dropped messages, by reason."""
        self.handlers: dict[str, Callable[[Message], None]] = {}
        """The handlers of messages without a round, by tag. They work also after the program has ended."""
        self.answered = 0
        """The number of messages that handlers have taken."""
        self.answering: dict[int, Message] = {}
        """The messages that handlers have taken and not finished with, by their ids."""

    def serve(self, tag: str, handle: Callable[[Message], None]) -> None:
        """Set the handler of messages of a tag without a round, and give it those that have arrived."""
        self.handlers[tag] = handle
        self._enough = 1  # A handler takes each message at once.
        for message in self.take((tag, None)):
            self.answered += 1
            handle(message)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count dropped messages."""
        self.dropped += count
        self.drops[reason] += count

    def _discard(self, message: Message, reason: str) -> None:
        """Count a message that is not stored. Heartbeats do not count as dropped."""
        self.discarded += 1
        if not message.tag.startswith(HEARTBEAT):
            self.drop(reason)

    def deliver(self, message: Message) -> None:
        """Add a message that has arrived.

        It stays unsorted until it may resume an activity or the mailbox is read: sorting several at once is faster.
        """
        if self.away:
            if self._kept is None:
                self._discard(message, "away")
            else:
                self._kept.append(message)
            return
        unsorted = self._unsorted
        unsorted.append(message)
        if len(unsorted) >= self._enough:
            self.sort()

    def sort(self) -> None:
        """Sort in the messages that have arrived, and resume activities that waited for them."""
        if not self._unsorted:
            return
        unsorted, self._unsorted = self._unsorted, []
        key: Key | None = None
        handlers = self.handlers
        for message in unsorted:
            self.messages_in += 1
            self.bytes_in += message.size
            if handlers and message.round is None and message.tag in handlers:
                self.answered += 1
                handlers[message.tag](message)
                continue
            if message.key != key:
                key = message.key
                box, waiter = self._box(key), self.waiters.get(key)
            slot = message.sender if message.round is not None else self.messages_in
            if box is None or slot in box:
                self._discard(message, "duplicate" if box is not None else "ended" if self.ended else "late")
                continue
            box[slot] = message
            if waiter is not None:
                missing = waiter.missing
                if missing is not None:
                    missing.discard(message.sender)
                else:
                    waiter.left -= 1
                if not missing and waiter.left <= 0:
                    key = None
                    self.wake(message.key)
            elif self.waiters and message.round is not None and self.ordered:
                key = None
                self._give_up_earlier(message)
        if self._enough > 1:
            (waiter,) = self.waiters.values()
            self._enough = waiter.least

    def _box(self, key: Key) -> dict[int, Message | None] | None:
        """The box of messages of a key; None if they are late."""
        box, round = self._boxes.get(key), key[1]
        if box is None and not self.ended and (round is None or round >= self.round):
            box = self._boxes[key] = {}
        return box

    def wait(self, key: Key, waiter: Waiter) -> None:
        """Register an activity that waits for messages of a key."""
        self.waiters[key] = waiter
        self._enough = waiter.least if len(self.waiters) == 1 and not self.handlers else 1

    def wake(self, key: Key) -> None:
        """Resume the activity that waits for messages of a key."""
        self.sort()
        waiter = self.waiters.pop(key)
        if self.waiters:
            # The activity may have waited for several tags.
            self.waiters = {other: waiting for other, waiting in self.waiters.items() if waiting is not waiter}
        self._enough = 1
        waiter.resume()

    def hold(self) -> None:
        """Keep messages that arrive until `release`."""
        self.away, self._kept = True, []

    def release(self) -> None:
        """Add the messages that were kept by `hold`."""
        kept, self._kept = self._kept or [], None
        self.away = False
        for message in kept:
            self.deliver(message)

    def overtaken(self, key: Key, senders: set[int], after: Sequence[str] | None = None) -> set[int]:
        """The senders whose message of a key is lost, because a later one has arrived and links keep order."""
        if key[1] is None or not self.ordered or not self._boxes:
            return set()
        later = [box for other, box in self._boxes.items() if _follows(other, key, after)]
        return {sender for box in later for sender in senders & box.keys()}

    def _give_up_earlier(self, message: Message) -> None:
        """Count awaited messages as lost if a later message of the same sender has arrived, as links keep order."""
        for key, waiter in list(self.waiters.items()):
            sender, missing = message.sender, waiter.missing
            if missing and sender in missing and _follows(message.key, key, waiter.after):
                missing.remove(sender)
                waiter.lost.add(sender)
                if not missing:
                    self.wake(key)

    def waits(self) -> list[str]:
        """The messages that activities wait for, in words."""
        self.sort()
        return [
            describe(key) + (f" of {sorted(waiter.missing)[:_SHOWN]}" if waiter.missing else "")
            for key, waiter in self.waiters.items()
        ]

    def lacking(self, key: Key, senders: Sequence[int]) -> set[int]:
        """The senders without an arrived message of a key."""
        self.sort()
        lacking = set(senders)
        if self._boxes.get(key):
            lacking.difference_update(self._present(key))
        return lacking

    def count(self, key: Key) -> int:
        """The number of messages of a key that have arrived."""
        self.sort()
        return len(self._present(key))

    def _present(self, key: Key) -> list[int]:
        return [message.sender for message in self._boxes.get(key, {}).values() if message is not None]

    def take(self, key: Key, senders: Sequence[int] | None = None, count: int | None = None) -> list[Message]:
        """Remove and return messages: those of a round in order of senders, others in order of arrival."""
        self.sort()
        box = self._boxes.get(key)
        if not box:
            return []
        if key[1] is None:
            taken = self._take_from_queue(box, senders, count)
            if not box:
                del self._boxes[key]  # A program may use each tag only once.
            return taken
        wanted = sorted(box if senders is None else senders)
        found = [message for sender in wanted if (message := box.get(sender)) is not None]
        if count is not None:
            del found[count:]
        for message in found:
            box[message.sender] = None
        return found

    def _take_from_queue(
        self, box: dict[int, Message | None], senders: Sequence[int] | None, count: int | None
    ) -> list[Message]:
        """Take the first message of each sender, or the first messages of all."""
        chosen: dict[int, int] = {}
        for number, message in box.items():
            if len(chosen) == count:
                break
            assert message is not None
            if senders is None:
                chosen[number] = number
            elif message.sender in senders:
                chosen.setdefault(message.sender, number)
        found = [box.pop(number) for _, number in sorted(chosen.items())]
        return [message for message in found if message is not None]

    def open(self, round: int) -> None:
        """Open a round, and drop messages of earlier rounds that were not taken."""
        self.sort()
        self.round = round
        if self._boxes:
            for key in [key for key in self._boxes if key[1] is not None and key[1] < round]:
                box = self._boxes.pop(key)
                unread = len(box) - list(box.values()).count(None)
                if unread and not key[0].startswith(HEARTBEAT):
                    self.drop("unread", unread)

    def latest_round(self) -> int:
        """The latest round of a message that has arrived; -1 without any."""
        self.sort()
        return max((round for _, round in self._boxes if round is not None), default=-1)

    def unfinished(self) -> list[Message]:
        """The messages that were not taken, and those that handlers have not finished with."""
        self.sort()
        lying = [message for box in self._boxes.values() for message in box.values() if message is not None]
        return [*lying, *self.answering.values()]

    def early(self) -> list[Message]:
        """The messages of the open round and later ones that were not taken."""
        self.sort()
        return [
            message
            for (_, round), box in self._boxes.items()
            if round is not None and round >= self.round
            for message in box.values()
            if message is not None
        ]

    def clear(self, *, ended: bool = False) -> None:
        """Drop all messages and waiters, because the node leaves or its program has ended."""
        self.sort()
        lying = [message for box in self._boxes.values() for message in box.values() if message is not None]
        waiting = sum(not message.tag.startswith(HEARTBEAT) for message in [*lying, *(self._kept or ())])
        if ended and waiting:
            self.drops["left-over"] += waiting
        elif waiting:
            self.drop("away", waiting)
        self._boxes, self.waiters, self._kept, self._enough = {}, {}, None, 1
        if not ended:
            self.handlers = {}
            self.answering.clear()


def _follows(key: Key, awaited: Key, after: Sequence[str] | None) -> bool:
    """True if a sender sends messages of a key after the awaited ones.

    Args:
        key: the key of a message that has arrived.
        awaited: the key of the awaited message.
        after: the tags of the round that a sender sends before the awaited one, if the order is known.
    """
    (tag, round), (awaited_tag, awaited_round) = key, awaited
    if round is None or awaited_round is None or round < awaited_round:
        return False
    if round > awaited_round:
        return tag == awaited_tag or after is not None
    if after is None or tag == awaited_tag:
        return False
    return not any(tag == earlier or (earlier and tag.startswith(earlier)) for earlier in after)


def describe(key: Key) -> str:
    """A tag and a round in words."""
    tag, round = key
    return f"messages{f' tagged {tag!r}' if tag else ''}{'' if round is None else f' of round {round}'}"
