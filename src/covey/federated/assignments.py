"""The clients that compute for an asynchronous server, and the version of its model that each has."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from covey.learning.node import LearningNode
from covey.parts.nodes import NodeId
from covey.runtime.state import State

IDLE, GONE = -1, -2
"""The versions of clients that compute nothing, and of those that have completed their last round."""


class Assigned(State):
    """The work that an asynchronous server has given to its clients."""

    versions: np.ndarray | None = None
    """The version of the model that each node computes from; IDLE or GONE without one."""
    overdue: np.ndarray | None = None
    """The first version that was given up of each node's work since its last answer; IDLE without one."""
    finished: bool = False
    """True if clients get no more work."""


class Assignments:
    """The clients at work. At most `most` are, and an idle one that begins is drawn uniformly.

    A client computes once from a version. One that has answered rests until the next version.

    Args:
        node: the server, whose state holds the assignments of its last commit.
        most: the greatest number of clients at work.
        patience: the time after which the work of a client counts as lost; None for never.
    """

    def __init__(self, node: LearningNode, most: int, patience: float | None) -> None:
        self._node, self._most, self._patience = node, most, patience
        kept = node.keep(Assigned)
        self._versions, self._overdue = (
            np.full(node.nodes, IDLE) if known is None else known.copy() for known in (kept.versions, kept.overdue)
        )
        self._versions[node.id] = GONE
        self._idle: list[int] = np.flatnonzero(self._versions == IDLE).tolist()
        at_work = np.flatnonzero(self._versions >= 0).tolist()
        self._working = len(at_work)
        self._rested: list[int] = []
        """The clients that have answered since the version `_of` was first assigned."""
        self._of = IDLE
        self._begun: dict[int, float] = dict.fromkeys(at_work, node.now)
        """The time at which each client at work was given it. Only with patience."""
        self._since = deque((node.now, client) for client in at_work)
        """All such times, in order; those of earlier work are obsolete."""
        self._draws: tuple[int, np.random.Generator] | None = None

    def begin(self, version: int) -> Sequence[NodeId]:
        """Assign a version to idle clients, as many as may be at work, and return them."""
        self._give_up_overdue()
        if version != self._of:
            self._idle += self._rested
            self._of, self._rested = version, []
        chosen = []
        for _ in range(min(self._most - self._working, len(self._idle))):
            client = self._drawn(version)
            self._versions[client] = version
            if self._patience is not None:
                self._begun[client] = self._node.now
                self._since.append((self._node.now, client))
            chosen.append(NodeId(client))
        self._working += len(chosen)
        return chosen

    def _drawn(self, version: int) -> int:
        """An idle client, which is idle no more."""
        idle = self._idle
        if len(idle) > 1 and self._working + len(idle) > self._most:
            if self._draws is None or self._draws[0] != version:
                self._draws = version, self._node.random("clients", version)
            place = int(self._draws[1].integers(len(idle)))
            idle[place], idle[-1] = idle[-1], idle[place]
        return idle.pop()

    def _give_up_overdue(self) -> None:
        """Count clients as idle that have not answered for longer than the patience."""
        if self._patience is None:
            return
        since, begun, latest = self._since, self._begun, self._node.now - self._patience
        while since and (since[0][0] <= latest or begun.get(since[0][1]) != since[0][0]):
            time, client = since.popleft()
            if begun.get(client) == time:
                if self._overdue[client] == IDLE:
                    self._overdue[client] = self._versions[client]
                self._leave_off(client, IDLE)
                self._idle.append(client)

    def end(self, client: NodeId, version: int, *, last: bool) -> str | None:
        """End the work of a client that has answered for a version; the reason if it does not work on that one."""
        given = int(self._versions[client])
        if given != version:
            return f"it answers for version {version}, and its sender {self._in_words(given)}"
        if self._overdue[client] != version:  # Else the version was given to it twice, and it answers twice.
            self._overdue[client] = IDLE
        self._leave_off(client, GONE if last else IDLE)
        if not last:
            self._rested.append(client)
        return None

    def is_late(self, client: NodeId, version: int) -> bool:
        """True if an answer is for work that was given up."""
        given, overdue = int(self._versions[client]), int(self._overdue[client])
        return IDLE != overdue <= version and (given < 0 or version < given)

    def leave(self, client: NodeId) -> None:
        """Give a client no more work."""
        if self._versions[client] >= 0:
            self._leave_off(client, GONE)
            return
        self._versions[client] = GONE
        for waiting in (self._idle, self._rested):
            if client in waiting:
                waiting.remove(client)

    def _leave_off(self, client: int, version: int) -> None:
        self._versions[client] = version
        self._begun.pop(client, None)
        self._working -= 1

    def _in_words(self, version: int) -> str:
        return f"has version {version}" if version >= 0 else "has no work"

    def keep(self, *, finished: bool) -> None:
        """Keep the assignments in the state of the server."""
        kept = self._node.keep(Assigned)
        kept.versions, kept.finished = self._versions.copy(), finished
        if self._patience is not None:
            kept.overdue = self._overdue.copy()
