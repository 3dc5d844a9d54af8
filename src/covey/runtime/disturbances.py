"""Which faults strike the nodes of an engine at the moment, and what follows from it for each node and message."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from covey.network.faults import Corrupt, Cut, Kill, Pause, Slow, Strike
from covey.parts import rng
from covey.runtime.running_node import RunningNode

if TYPE_CHECKING:
    from covey.runtime.stage import Stage

Fate = float | Literal["cut", "corrupt"]
"""What becomes of a message: lost for one of these reasons, or how many times longer it takes to leave."""


class Disturbances:
    """The strikes that are under way.

    A node that several strikes or absences keep away is back when the last of them is over.

    Args:
        stage: where they strike.
        seed: the experiment's.
        speeds: samples per second of every node without faults.
    """

    def __init__(self, stage: "Stage", seed: int, speeds: Sequence[float]) -> None:
        self.stage = stage
        self.of_messages: list[Strike] = []
        """Those that change what becomes of messages; the list stays the same one."""
        self._speeds = list(speeds)
        self._slowing: list[Strike] = []
        self._struck: dict[Strike, list[RunningNode]] = {}
        self._away: Counter[int] = Counter()
        self._paused: Counter[int] = Counter()
        self._key = rng.purpose_key(seed, "corruption")

    def begin(self, strike: Strike, nodes: Iterable[RunningNode]) -> None:
        """A fault strikes; of its nodes, these are here."""
        fault = strike.fault
        struck = self._struck[strike] = [node for node in nodes if node.id in strike.nodes and not node.mail.ended]
        for node in struck:
            if isinstance(fault, Kill):
                self.leave(node, for_good=strike.end == math.inf)
            elif isinstance(fault, Pause):
                self._pause(node)
        if isinstance(fault, Cut | Corrupt) or (isinstance(fault, Slow) and fault.uplink > 1):
            self.of_messages.append(strike)
        if isinstance(fault, Slow) and fault.compute > 1:
            self._slowing.append(strike)
            self._set_speeds(struck)

    def end(self, strike: Strike) -> None:
        """A strike is over."""
        struck = self._struck.pop(strike)
        for node in struck:
            if isinstance(strike.fault, Kill):
                self.come_back(node)
            elif isinstance(strike.fault, Pause):
                self._go_on(node)
        if strike in self.of_messages:
            self.of_messages.remove(strike)
        if strike in self._slowing:
            self._slowing.remove(strike)
            self._set_speeds(struck)

    def leave(self, node: RunningNode, *, for_good: bool) -> None:
        """Something keeps a node away."""
        self._away[node.id] += 1
        if self._away[node.id] == 1 and not node.mail.ended:
            self.stage.leave(node)
        if for_good:
            self.stage.leave_for_good(node)

    def come_back(self, node: RunningNode) -> None:
        """Something no longer keeps a node away."""
        self._away[node.id] -= 1
        if not self._away[node.id] and not node.mail.ended:
            self.stage.come_back(node)
            if self._paused[node.id]:
                node.hold()

    def _pause(self, node: RunningNode) -> None:
        self._paused[node.id] += 1
        if node.held is None and not node.mail.away:
            node.event("paused", f"in round {node.round}")
            node.hold()

    def _go_on(self, node: RunningNode) -> None:
        self._paused[node.id] -= 1
        if not self._paused[node.id] and node.held is not None:
            node.event("went on", f"in round {node.round}")
            node.go_on()

    def _set_speeds(self, nodes: Iterable[RunningNode]) -> None:
        for node in nodes:
            slower = math.prod(s.fault.compute for s in self._slowing if node.id in s.nodes)  # type: ignore[attr-defined]
            self.stage.set_speed(node, self._speeds[node.id] / slower)

    def fates(self, sender: RunningNode, receivers: Sequence[int]) -> Iterator[tuple[int, Fate]]:
        """What becomes of the copies of a message that a node sends now."""
        # Drawn by the node's count of events, as message loss is.
        sender.order += 1
        key = rng.mix(self._key, sender.order)
        for receiver in receivers:
            yield receiver, self._fate(sender.id, receiver, key)

    def _fate(self, sender: int, receiver: int, key: int) -> Fate:
        slower, intact = 1.0, 1.0
        for strike in self.of_messages:
            fault = strike.fault
            if not fault.concerns(strike, sender, receiver):
                continue
            if isinstance(fault, Cut):
                return "cut"
            if isinstance(fault, Corrupt):
                intact *= 1.0 - fault.probability
            elif isinstance(fault, Slow):
                slower *= fault.uplink
        return "corrupt" if rng.uniform(key, receiver) >= intact else slower
