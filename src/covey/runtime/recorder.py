"""What a stage writes down of its nodes: commits, figures, events, and how nodes are judged."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from covey.messages import wire
from covey.runtime.task import Summary

if TYPE_CHECKING:
    from covey.runtime.node import Message
    from covey.runtime.running_node import RunningNode
    from covey.runtime.stage import Stage

Pending = tuple[int, int, Any]
"""What waits to be evaluated: a node, the rounds that it has completed, what it shows."""


class Recorder(ABC):
    """Collects what happens at the nodes of a stage.

    Args:
        stage: the nodes'.
    """

    def __init__(self, stage: "Stage") -> None:
        self.stage = stage
        self.rows: list[tuple[Any, ...]] = []
        """Commits that nobody has yet."""
        self.pending: list[Pending] = []
        self.summaries: dict[int, Summary] = {}
        """What is known of the nodes that were evaluated after a round, by that."""
        self.evaluated = set(stage.prepared.evaluated) & stage.here.keys()
        self._energy = stage.network.energy

    def commit(self, node: "RunningNode") -> bool:
        """Record a completed round of a node; whether the node is evaluated."""
        stage, completed = self.stage, node.round
        self.rows.append(node.commit_row())
        if self._energy.is_measured:
            self.log(node.id, completed, {"energy": node.joules(self._energy, stage.speeds[node.id])})
        due = self.is_due(node, completed)
        if due:
            self.await_evaluation(node)
        return due

    def is_due(self, node: "RunningNode", completed: int) -> bool:
        """Whether a node is evaluated that has completed so many rounds."""
        return node.id in self.evaluated and self.stage.evaluation.due(completed, self.stage.rounds)

    def ended(self, node: "RunningNode") -> None:
        """A node's program has returned: where that is before the last round, the node is evaluated as it is."""
        completed, stage = node.round, self.stage
        early = node.id in self.evaluated and 0 < completed < stage.rounds
        if early and not stage.evaluation.due(completed, stage.rounds):
            self.await_evaluation(node)

    def count_without_rounds(self) -> None:
        """Record what nodes have sent and received that have counted no rounds; at the end of the run."""
        self.rows += [node.commit_row() for node in self.stage.here.values() if not node.round]

    def await_evaluation(self, node: "RunningNode") -> None:
        """Let a node be evaluated as it is now."""
        self.pending.append((node.id, node.round, self.stage.task.shown(node)))

    def judged(self, pending: Sequence[Pending], figures: Sequence[Mapping[str, float]]) -> None:
        """Record what evaluations have brought."""
        for (node, completed, shown), found in zip(pending, figures, strict=True):
            self.log(node, completed, found)
            if completed not in self.summaries:
                self.summaries[completed] = self.stage.task.summary()
            self.summaries[completed].add(shown, found)

    def at_moment(self) -> "list[RunningNode]":
        """The nodes to evaluate at a moment of time: those that are there, and whose programs run."""
        here = self.stage.here
        return [here[id] for id in sorted(self.evaluated) if not (here[id].mail.ended or here[id].mail.away)]

    @abstractmethod
    def log(self, node: int, completed: int, figures: Mapping[str, float]) -> None:
        """Record figures under a round."""

    @abstractmethod
    def record(self, time: float, node: int, table: str, columns: Mapping[str, Any]) -> None:
        """Add a row to a table."""

    @abstractmethod
    def observe(self, time: float, node: int, message: "Message") -> None:
        """Keep a message that an observed node has received."""

    @abstractmethod
    def event(self, time: float, node: int, kind: str, detail: str) -> None:
        """Record something that happened."""


def moments_after(time: float, seconds: float) -> Iterator[tuple[int, float]]:
    """The moments for an evaluation every so many seconds that are later than a time: (number, time)."""
    return ((number, number * seconds) for number in count(math.floor(time / seconds) + 1))


def of_moment(accuracies: Sequence[float], figures: Mapping[str, float]) -> dict[str, float]:
    """A row of the table "moments": what is known of nodes together, and of their average model."""
    mean = sum(accuracies) / len(accuracies)
    known = {"accuracy": mean, "worst_accuracy": min(accuracies), "best_accuracy": max(accuracies), **figures}
    return {"nodes": len(accuracies), **{name: float(value) for name, value in known.items()}}


def framed(message: "Message", receiver: int) -> bytes:
    """The bytes of a message to a node."""
    return wire.encode(
        message.shared,
        tag=message.tag,
        sender=message.sender,
        receiver=receiver,
        round=message.round,
        number=message.number,
    )
