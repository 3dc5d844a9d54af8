"""The records of a stage: commits, figures, events and evaluations of its nodes."""

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
"""A pending evaluation: a node, its completed rounds, and the object to evaluate."""


class Recorder(ABC):
    """Collects the records of the nodes of a stage.

    Args:
        stage: the stage.
    """

    def __init__(self, stage: "Stage") -> None:
        self.stage = stage
        self.rows: list[tuple[Any, ...]] = []
        """Commits that are not passed on yet."""
        self.pending: list[Pending] = []
        self.summaries: dict[int, Summary] = {}
        """The summaries of the evaluated nodes, by number of completed rounds."""
        self.evaluated = set(stage.prepared.evaluated) & stage.here.keys()
        self._energy = stage.network.energy

    def commit(self, node: "RunningNode") -> bool:
        """Record a completed round of a node. True if the node is evaluated."""
        completed = node.round
        self.rows.append(node.commit_row())
        if self._energy.is_measured:
            self.log(node.id, completed, {"energy": node.spent})
        due = self.is_due(node, completed)
        if due:
            self.await_evaluation(node)
        return due

    def is_due(self, node: "RunningNode", completed: int) -> bool:
        """True if a node is evaluated after this number of completed rounds."""
        return node.id in self.evaluated and self.stage.evaluation.due(completed, self.stage.rounds)

    def ended(self, node: "RunningNode") -> None:
        """Record that a node's program has returned. If that is before the last round, the node is evaluated now."""
        completed, stage = node.round, self.stage
        early = node.id in self.evaluated and 0 < completed < stage.rounds
        if early and not stage.evaluation.due(completed, stage.rounds):
            self.await_evaluation(node)

    def count_without_rounds(self) -> None:
        """At the end of the run, record the counters of nodes without rounds."""
        self.rows += [node.commit_row() for node in self.stage.here.values() if not node.round]

    def await_evaluation(self, node: "RunningNode") -> None:
        """Queue the evaluation of a node in its current state."""
        self.pending.append((node.id, node.round, self.stage.task.shown(node)))

    def judged(self, pending: Sequence[Pending], figures: Sequence[Mapping[str, float]]) -> None:
        """Record the results of evaluations."""
        for (node, completed, shown), found in zip(pending, figures, strict=True):
            self.log(node, completed, found)
            if completed not in self.summaries:
                self.summaries[completed] = self.stage.task.summary()
            self.summaries[completed].add(shown, found)

    def at_moment(self) -> "list[RunningNode]":
        """The nodes to evaluate at a moment: those that are present, and whose programs run."""
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
        """Record a message that an observed node has received."""

    @abstractmethod
    def event(self, time: float, node: int, kind: str, detail: str) -> None:
        """Record an event."""


def moments_after(time: float, seconds: float) -> Iterator[tuple[int, float]]:
    """The moments of evaluations every `seconds` after a time: (number, time)."""
    return ((number, number * seconds) for number in count(math.floor(time / seconds) + 1))


def of_moment(accuracies: Sequence[float], figures: Mapping[str, float]) -> dict[str, float]:
    """A row of the table "moments": the metrics over nodes, and those of their average model."""
    mean = sum(accuracies) / len(accuracies)
    known = {"accuracy": mean, "worst_accuracy": min(accuracies), "best_accuracy": max(accuracies), **figures}
    return {"nodes": len(accuracies), **{name: float(value) for name, value in known.items()}}


def framed(message: "Message", receiver: int) -> bytes:
    """The bytes of a message to a node, or to a name of a virtual node of it."""
    return wire.encode(
        message.shared,
        tag=message.tag,
        sender=message.sender,
        receiver=receiver if message.name is None else message.name,
        round=message.round,
        number=message.number,
    )
