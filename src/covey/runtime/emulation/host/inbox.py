"""The mailbox of an emulated node, with limits of the bytes that wait in it, in total and of each host."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from covey.runtime.mailbox import Key, Mailbox
from covey.runtime.node import Message

_ENTRY, _ITEM = 1024, 64
ENTRIES = 4 * _ENTRY
"""The approximate memory of a message with a model and a few plain values, beside its bytes."""
_OF_NAMES = -1
"""The host that stands for those of all names."""
_AHEAD = 1000
"""The greatest number of rounds by which a message may be ahead of its receiver."""


def _memory(message: Message) -> int:
    """The approximate memory of a message, in which small values of a frame become objects."""
    lists = sum(len(value) for value in message.shared.values() if type(value) is list)
    return message.size + _ENTRY * (1 + len(message.shared)) + _ITEM * lists


class Inbox(Mailbox):
    """A mailbox that drops messages while it is full, and messages of far later rounds.

    Messages of one other host may take at most as much room as is still free. So a host that floods gets half of the
    inbox, and there is always room for the others.

    Args:
        most: the limit of bytes.
        refused: called with the sender and the reason of every message that is dropped for lack of room or too early.
        owners: the host of every node.
        me: the host of this one.
        catching_up: returns True if the node will skip to the latest round of a message.
        ordered: see `Mailbox`.
    """

    __slots__ = ("_catching_up", "_held_of", "_me", "_most", "_owners", "_refused", "held")

    def __init__(
        self,
        most: int,
        refused: Callable[[int, str], None],
        owners: Sequence[int],
        me: int,
        catching_up: Callable[[], bool],
        *,
        ordered: bool,
    ) -> None:
        super().__init__(ordered=ordered)
        self._most, self._refused, self._owners, self._me = most, refused, owners, me
        self._catching_up = catching_up
        self.held = 0
        """The approximate memory of waiting messages."""
        self._held_of: Counter[int] = Counter()
        """The same by host of the sender."""

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """Take all that comes meanwhile: what a checkpoint holds may have come one after the other."""
        most, self._most = self._most, sys.maxsize
        try:
            yield
        finally:
            self._most = most

    def deliver(self, message: Message) -> None:
        needed, gone = _memory(message), self.discarded + self.answered
        reason = self._objection(message, needed)
        if reason is not None:
            self._refused(message.sender, reason)
            if message.round is not None and self.ordered and not self.away:
                self._give_up_earlier(message)
            return
        self._hold(message, needed)
        super().deliver(message)
        self.sort()
        if self.discarded + self.answered > gone:
            self._hold(message, -needed)

    def _objection(self, message: Message, needed: int) -> str | None:
        """The reason to drop a message, or None."""
        if message.round is not None and message.round > self.round + _AHEAD and not self._catching_up():
            return "too-early"
        host, free = self._host_of(message), self._most - self.held
        mine = needed if host == self._me else needed + self._held_of[host]
        return "inbox-full" if mine > free else None

    def _hold(self, message: Message, memory: int) -> None:
        self.held += memory
        self._held_of[self._host_of(message)] += memory

    def _host_of(self, message: Message) -> int:
        """The host of the sender; one for all names, whose hosts are not known."""
        return self._owners[message.sender] if message.sender < len(self._owners) else _OF_NAMES

    def _release(self, messages: Iterable[Message | None]) -> None:
        for message in messages:
            if message is not None:
                self._hold(message, -_memory(message))

    def take(self, key: Key, senders: Sequence[int] | None = None, count: int | None = None) -> list[Message]:
        taken = super().take(key, senders, count)
        self._release(taken)
        return taken

    def release(self) -> None:
        self._release(self._kept or ())
        super().release()

    def open(self, round: int) -> None:
        for (_, when), box in self._boxes.items():
            if when is not None and when < round:
                self._release(box.values())
        super().open(round)

    def clear(self, *, ended: bool = False) -> None:
        super().clear(ended=ended)
        self.held = 0
        self._held_of.clear()
