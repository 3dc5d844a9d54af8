"""The cohorts of clients that train models of their own, and the member of each that serves it.

Shapes: N nodes, C classes.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting

Members: TypeAlias = tuple[NodeId, ...]
"""The members of a cohort, in increasing order."""
_PEERS = 100
"""The most peers by which the latency of a member is measured: all pairs of 10,000 clients would take minutes."""


class Cohort:
    """The members of a cohort and those that take part in a round, by public randomness.

    One cohort of all clients draws as the client selection `uniform` does.

    Args:
        setting: the experiment.
        members: the members.
        count: the members of a round; None for all.
        fraction: the same as a fraction, instead of `count`.
        number: the number of the cohort among all; its class, if cohorts are formed by class.
    """

    def __init__(
        self, setting: Setting, members: Members, count: int | None, fraction: float | None = None, number: int = 0
    ) -> None:
        size = len(members)
        self.members, self.number = members, number
        self.count = max(1, round(fraction * size)) if fraction is not None else min(count or size, size)
        self.server = nearest(setting, members)
        """The member that serves the cohort."""
        self._key = () if size == setting.nodes - 1 else (int(members[0]),)
        self._setting = setting
        self._chosen: dict[int, Members] = {}

    def chosen(self, t: int) -> Members:
        """The members that take part in round t."""
        if t not in self._chosen:
            generator = self._setting.generator("public clients", t, *self._key)
            drawn = generator.choice(len(self.members), self.count, replace=False)
            self._chosen[t] = tuple(self.members[index] for index in np.sort(drawn))
        return self._chosen[t]


def by_seed(setting: Setting, clients: Sequence[NodeId], cohorts: int) -> list[Members]:
    """Deal clients out at random. The sizes differ by at most 1."""
    shuffled = setting.generator("cohorts").permutation(np.array(clients, np.int64))
    return [_members(part) for part in np.array_split(shuffled, cohorts)]


def by_class(setting: Setting, clients: Sequence[NodeId], cohorts: int) -> list[Members]:
    """A cohort for each class, of the clients that have most samples of it. A cohort may be empty.

    Raises:
        ConfigurationError: there are no classes, or another number of them.
    """
    counts = setting.label_counts
    if counts is None or counts.shape[1] != cohorts:
        known = "which are not known here" if counts is None else str(counts.shape[1])
        raise ConfigurationError(
            f"The 'cohorts' by class must be as many as the data have classes, {known}. Got {cohorts} instead: "
            f"by = 'seed' takes any number."
        )
    ids = np.array(clients, np.int64)
    majority = counts[ids].argmax(1)
    return [_members(ids[majority == label]) for label in range(cohorts)]


By: TypeAlias = Literal["seed", "class"]
"""The names of the ways to form cohorts."""
BY: dict[By, Callable[[Setting, Sequence[NodeId], int], list[Members]]] = {"seed": by_seed, "class": by_class}


def _members(ids: NDArray[np.int64]) -> Members:
    return tuple(NodeId(int(id)) for id in np.sort(ids))


def nearest(setting: Setting, members: Members) -> NodeId:
    """The member whose median delay to the others is lowest; the first one of several.

    In a large cohort, the delay is measured to the same 100 random members.
    """
    latency, peers = setting.latency, members
    if latency is None:
        return members[0]
    if len(members) > _PEERS:
        drawn = setting.generator("peers of a cohort", members[0]).choice(len(members), _PEERS, replace=False)
        peers = tuple(members[index] for index in drawn)

    def delay(member: NodeId) -> float:
        others = [latency(peer, member) for peer in peers if peer != member]
        return float(np.median(others)) if others else 0.0

    return min(members, key=delay)
