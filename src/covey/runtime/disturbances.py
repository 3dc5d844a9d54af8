"""The faults that are active in an engine, and their effect on nodes and messages."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from covey.network.faults import CORRUPT, Fate, Fault, Strike
from covey.parts import rng
from covey.parts.errors import ConfigurationError
from covey.runtime.running_node import RunningNode

if TYPE_CHECKING:
    from covey.runtime.stage import Stage


class Disturbances:
    """The active strikes.

    A node that is away because of several strikes or absences returns when the last of them ends.

    Args:
        stage: the stage of the nodes.
        seed: the experiment's seed.
        speeds: samples per second of every node without faults.
    """

    def __init__(self, stage: "Stage", seed: int, speeds: Sequence[float]) -> None:
        self.stage = stage
        self.of_messages: list[Strike] = []
        """The strikes that affect messages. The list object stays the same."""
        self._speeds = list(speeds)
        self._struck: dict[Strike, list[_StruckNode]] = {}
        self._away: Counter[int] = Counter()
        self._paused: Counter[int] = Counter()
        self._key = rng.purpose_key(seed, "corruption")

    def begin(self, strike: Strike, nodes: Iterable[RunningNode], hit_before: Collection[int] = ()) -> None:
        """Begin a strike.

        Args:
            strike: the strike.
            nodes: all nodes of this process.
            hit_before: the nodes that it hit before a resumption: only its lasting effects apply to them.
        """
        here = [node for node in nodes if node.id in strike.nodes and not node.mail.ended]
        struck = self._struck[strike] = [_StruckNode(self, node, strike) for node in here]
        for target in struck:
            if target.node.id not in hit_before:
                strike.fault.hit(target)
        if strike.fault.strikes_messages:
            self.of_messages.append(strike)
        self._set_speeds(here)

    def end(self, strike: Strike) -> None:
        """End a strike."""
        struck = self._struck.pop(strike)
        for target in struck:
            target.recover()
        if strike in self.of_messages:
            self.of_messages.remove(strike)
        self._set_speeds([target.node for target in struck])

    def leave(self, node: RunningNode, *, for_good: bool) -> None:
        """Count a reason for a node to be away."""
        self._away[node.id] += 1
        if self._away[node.id] == 1 and not node.mail.ended:
            self.stage.leave(node)
        if for_good:
            self.stage.leave_for_good(node)

    def come_back(self, node: RunningNode) -> None:
        """Remove a reason for a node to be away."""
        self._away[node.id] -= 1
        if not self._away[node.id] and not node.mail.ended:
            self.stage.come_back(node)
            if self._paused[node.id]:
                node.hold()

    def pause(self, node: RunningNode) -> None:
        """Count a reason for a node to be paused."""
        self._paused[node.id] += 1
        if node.held is None and not node.mail.away:
            node.event("paused", f"in round {node.round}")
            node.hold()

    def unpause(self, node: RunningNode) -> None:
        """Remove a reason for a node to be paused."""
        self._paused[node.id] -= 1
        if not self._paused[node.id] and node.held is not None:
            node.event("continued", f"in round {node.round}")
            node.release()

    def _set_speeds(self, nodes: Iterable[RunningNode]) -> None:
        for node in nodes:
            slower = math.prod(_slowdown(strike.fault, node.id) for strike in self._struck if node.id in strike.nodes)
            self.stage.set_speed(node, self._speeds[node.id] / slower)

    def fates(self, sender: RunningNode, receivers: Sequence[int]) -> Iterator[tuple[int, Fate]]:
        """The fates of the copies of a message that a node sends now: (receiver, fate)."""
        # Drawn by the node's count of events, as message loss is.
        sender.order += 1
        key = rng.mix(self._key, sender.order)
        for receiver in receivers:
            yield receiver, self._fate(sender.id, receiver, key)

    def _fate(self, sender: int, receiver: int, key: int) -> Fate:
        slower, corrupt = 1.0, False
        for index, strike in enumerate(self.of_messages):
            fault = strike.fault
            if not fault.concerns(strike, sender, receiver):
                continue
            fate = fault.fate(sender, receiver, rng.uniform(rng.mix(key, index), receiver))
            if fate == CORRUPT:
                corrupt = True
            elif isinstance(fate, str):
                return fate
            elif _is_factor(fate):
                slower *= fate
            else:
                raise ConfigurationError(
                    f"The fate of a message by {fault.named()} must be a positive number or the reason for its loss. "
                    f"Got {fate!r} instead."
                )
        return CORRUPT if corrupt else slower


@dataclass(slots=True)
class _StruckNode:
    """A node as the target of a fault."""

    disturbances: Disturbances
    node: RunningNode
    strike: Strike
    kills: int = 0
    pauses: int = 0

    def kill(self) -> None:
        self.kills += 1
        self.disturbances.leave(self.node, for_good=self.strike.end == math.inf)

    def pause(self) -> None:
        self.pauses += 1
        self.disturbances.pause(self.node)

    def recover(self) -> None:
        """Undo the effect of the fault."""
        for _ in range(self.kills):
            self.disturbances.come_back(self.node)
        for _ in range(self.pauses):
            self.disturbances.unpause(self.node)


def _slowdown(fault: Fault, node: int) -> float:
    """The factor by which a node's computing takes longer under a fault."""
    slower = fault.slowdown(node)
    if not _is_factor(slower):
        raise ConfigurationError(
            f"The slowdown of node {node} by {fault.named()} must be a positive number. Got {slower!r} instead."
        )
    return slower


def _is_factor(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0.0 < value < math.inf
