"""What has arrived at a node, and what its activities wait for."""

from collections.abc import Callable, Sequence

from covey.node import Message

Key = tuple[str, int | None]
"""A tag and a round."""


class Waiter:
    """An activity that waits for a message of each of some senders, or for a number of messages of anybody."""

    __slots__ = ("left", "lost", "missing", "resume")

    def __init__(self, resume: Callable[[], None], missing: set[int] | None, lost: set[int], left: int) -> None:
        self.resume = resume
        self.missing = missing
        """Whose message must still come; None where it does not matter whose."""
        self.left = left
        """How many must still come where it does not."""
        self.lost = lost
        """Whose message is known to be lost."""


class Mailbox:
    """The messages of one node that nobody has taken yet, and the counters of what came.

    Args:
        ordered: whether messages keep their order over a link.
    """

    __slots__ = (
        "_boxes",
        "_kept",
        "away",
        "bytes_in",
        "dropped",
        "ended",
        "messages_in",
        "ordered",
        "round",
        "waiters",
    )

    def __init__(self, *, ordered: bool = True) -> None:
        self.ordered = ordered
        self._boxes: dict[Key, dict[int, Message | None]] = {}
        """Messages of a round by their sender, None where it was taken; other messages by their number."""
        self.waiters: dict[Key, Waiter] = {}
        self.round = 0
        """The open round of the node, which is also how many rounds it has completed."""
        self.away = self.ended = False
        self._kept: list[Message] | None = None
        """What came while the node stands still."""
        self.bytes_in = self.messages_in = self.dropped = 0

    def deliver(self, message: Message) -> None:
        """A message has arrived."""
        if self.away:
            if self._kept is None:
                self.dropped += 1
            else:
                self._kept.append(message)
            return
        self.messages_in += 1
        self.bytes_in += message.size
        key, round = message.key, message.round
        box = self._boxes.get(key)
        if box is None:
            if self.ended or (round is not None and round < self.round):
                self.dropped += 1
                return
            box = self._boxes[key] = {}
        place = message.sender if round is not None else self.messages_in
        if place in box:
            self.dropped += 1
            return
        box[place] = message
        waiters = self.waiters
        if not waiters:
            return
        waiter = waiters.get(key)
        if waiter is not None:
            missing = waiter.missing
            if missing is not None:
                missing.discard(message.sender)
                if missing:
                    return
            else:
                waiter.left -= 1
                if waiter.left > 0:
                    return
            del waiters[key]
            waiter.resume()
        elif round is not None and self.ordered:
            self._give_up_earlier(message, round)

    def hold(self) -> None:
        """Keep what comes until `go_on`."""
        self.away, self._kept = True, []

    def go_on(self) -> None:
        """Take in what was kept."""
        kept, self._kept = self._kept or [], None
        self.away = False
        for message in kept:
            self.deliver(message)

    def overtaken(self, key: Key, senders: set[int]) -> set[int]:
        """Of whom there is a message of a later round: where messages keep their order, the one of the key is lost."""
        tag, round = key
        if round is None or not self.ordered or not self._boxes:
            return set()
        later = [
            box for (other, when), box in self._boxes.items() if other == tag and when is not None and when > round
        ]
        return {sender for box in later for sender in senders & box.keys()}

    def _give_up_earlier(self, message: Message, later: int) -> None:
        """Messages keep their order over a link: one of a later round shows that an awaited one is lost."""
        for key, waiter in list(self.waiters.items()):
            (tag, round), sender, missing = key, message.sender, waiter.missing
            if tag == message.tag and round is not None and round < later and missing and sender in missing:
                missing.remove(sender)
                waiter.lost.add(sender)
                if not missing:
                    del self.waiters[key]
                    waiter.resume()

    def lacking(self, key: Key, senders: Sequence[int]) -> set[int]:
        """Of whom no message of a key is here."""
        lacking = set(senders)
        if self._boxes.get(key):
            lacking.difference_update(self._present(key))
        return lacking

    def count(self, key: Key) -> int:
        """How many messages of a key are here."""
        return len(self._present(key))

    def _present(self, key: Key) -> list[int]:
        return [message.sender for message in self._boxes.get(key, {}).values() if message is not None]

    def take(self, key: Key, senders: Sequence[int] | None = None, count: int | None = None) -> list[Message]:
        """Remove and return messages: those of a round in the order of their senders, others as they came."""
        box = self._boxes.get(key)
        if not box:
            return []
        if key[1] is None:
            taken = self._take_from_queue(box, senders, count)
            if not box:
                del self._boxes[key]  # A program may use a tag once and never again.
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
        """The first of each sender, or the first of all."""
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
        """Go on to a round; what came for earlier ones and was not taken is dropped."""
        self.round = round
        if self._boxes:
            for key in [key for key in self._boxes if key[1] is not None and key[1] < round]:
                box = self._boxes.pop(key)
                self.dropped += len(box) - list(box.values()).count(None)

    def latest_round(self) -> int:
        """The latest round of which a message is here; -1 without any."""
        return max((round for _, round in self._boxes if round is not None), default=-1)

    def early(self) -> list[Message]:
        """What came for the open round and later ones and was not taken."""
        return [
            message
            for (_, round), box in self._boxes.items()
            if round is not None and round >= self.round
            for message in box.values()
            if message is not None
        ]

    def clear(self, *, dropped: bool) -> None:
        """Forget what is here, and who waits for more."""
        if dropped:
            self.dropped += sum(message is not None for box in self._boxes.values() for message in box.values())
            self.dropped += len(self._kept or ())
        self._boxes, self.waiters, self._kept = {}, {}, None


def describe(key: Key) -> str:
    """A tag and a round in words."""
    tag, round = key
    return f"messages{f' tagged {tag!r}' if tag else ''}{'' if round is None else f' of round {round}'}"
