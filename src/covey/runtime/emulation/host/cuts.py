"""A host's part in the cuts through a run whose nodes go on from different moments (Chandy and Lamport, 1985).

The launcher orders a cut. A host takes the last commits and the mail of its nodes as they are when the order comes, and
sends a marker to each other host, behind all that was sent there before. A message that comes after the order and
before its host's marker was under way. One that comes behind a marker and before the order waits for it: it may be in
the cut already, as one that has not left its sender.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.runtime.mail import Content, Due, Mail, batches
from covey.runtime.node import Message
from covey.runtime.snapshots import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from covey.runtime.emulation.host.stage import HostStage

MARKER = "marker"


@dataclass
class Part:
    """The nodes of one host at a cut."""

    number: int
    """Of the cut."""
    snapshots: dict[int, Snapshot]
    content: Content
    posted: list[int]
    """The number of messages that each node of the network had sent at its last commit."""
    awaited: set[int]
    """The hosts whose markers are still to come."""
    is_full: bool
    """Whether there was more mail than a host keeps, so that none is here."""

    def mail(self) -> "Iterator[Payload]":
        """The mail, in pieces for the launcher."""
        for held in batches(self.content.held(self.posted)):
            yield {"cut": self.number, "held": msgspec.msgpack.encode(held)}


class Cuts:
    """Takes part in cuts.

    Args:
        stage: the host's nodes.
        mail: theirs.
    """

    def __init__(self, stage: "HostStage", mail: Mail) -> None:
        self._stage, self._mail = stage, mail
        self._part: Part | None = None
        """That of the open cut."""
        self._marked: dict[int, tuple[int, list[int]]] = {}
        """The number of each host's last marker, and of the messages that its nodes had sent then."""
        self._number = 0
        """Of the last cut that was ordered."""
        self._ahead: dict[int, list[wire.Frame]] = {}
        """The frames that came behind the marker of a cut that is still to be ordered here, by host."""
        self._waiting = 0
        """The bytes of that."""

    def _nodes_of(self, host: int) -> list[int]:
        return [node for node, owner in enumerate(self._stage.owners) if owner == host]

    def begin(self, number: int, hosts: Sequence[int]) -> None:
        """Cut here.

        Args:
            number: the number of the cut.
            hosts: those that take part.
        """
        stage, mail = self._stage, self._mail
        assert stage.peers is not None
        others = [host for host in hosts if host != stage.me]
        marked = {host: posted for host, (cut, posted) in self._marked.items() if cut == number}
        commits = {id: node.committed for id, node in stage.nodes.items() if node.committed is not None}
        awaited = {*others} - marked.keys()
        self._number = number
        self._part = Part(number, commits, mail.content(stage.now), [*mail.posted], awaited, mail.is_full)
        posted = np.array([mail.posted[id] for id in self._nodes_of(stage.me)], dtype=np.int64)
        for host in others:
            stage.peers.send_to_host(host, MARKER, {"cut": number, "posted": posted})
        for host, sent in marked.items():
            self._learn(host, sent)
        for host in [host for host in self._ahead if self._marked[host][0] <= number]:
            self._let_in(host)
        self._perhaps_report()

    def _learn(self, host: int, posted: Sequence[int]) -> None:
        """The nodes of a host had sent so many messages at the commits that are in the cut."""
        for node, count in zip(self._nodes_of(host), posted, strict=True):
            self._mail.posted[node] = count
            if self._part is not None:
                self._part.posted[node] = count

    def mark(self, host: int, payload: Payload) -> None:
        """A host has sent its marker."""
        number, posted = _checked(payload, len(self._nodes_of(host)))
        if number <= self._marked.get(host, (0, []))[0]:
            self._stage.refuse("bad-marker")
            return
        self._marked[host] = number, posted
        if number > self._number:
            self._ahead.setdefault(host, [])
        elif self._part is not None and number == self._part.number:
            self._part.awaited.discard(host)
            self._learn(host, posted)
            self._perhaps_report()

    def lets_in(self, frame: wire.Frame) -> bool:
        """Whether a message is for now, and not for after the next cut."""
        waiting = self._ahead.get(self._stage.owners[frame.sender])
        if waiting is None:
            return True
        if self._waiting + frame.size > self._stage.most:
            self._stage.refuse("ahead-of-cut")
        else:
            waiting.append(frame)
            self._waiting += frame.size
        return False

    def _let_in(self, host: int) -> None:
        for frame in self._ahead.pop(host, ()):
            self._waiting -= frame.size
            self._stage.deliver(frame)

    def note(self, receiver: int, message: Message) -> None:
        """A message has come from another host; where that has not sent its marker, it was under way at the cut."""
        part = self._part
        if part is not None and self._stage.owners[message.sender] in part.awaited:
            part.content.messages.append((receiver, Due(self._stage.now), message, False))

    def lose(self, host: int) -> None:
        """The connection to a host has ended, so that nothing comes of the open cut."""
        self._part = None
        self._let_in(host)

    def _perhaps_report(self) -> None:
        part = self._part
        if part is not None and not part.awaited:
            self._part = None
            self._stage.recorder.report_part(part)


def _checked(payload: Any, nodes: int) -> tuple[int, list[int]]:
    """The number of a marker, and how many messages so many nodes had sent; (0, []) where it is none."""
    number, posted = payload.get("cut"), payload.get("posted")
    right = type(number) is int and isinstance(posted, np.ndarray) and posted.dtype == np.int64
    if not right or posted.shape != (nodes,) or not bool((posted >= 0).all()):
        return 0, []
    return number, posted.tolist()
