"""The rounds of all nodes, computed as arrays.

Shapes: N nodes.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from covey.messages.payloads import Payload
from covey.parts.errors import ModelError
from covey.runtime.cadence import Cadence
from covey.runtime.experiment import Outcome, Progress
from covey.runtime.interruption import handled
from covey.runtime.linear import LinearRounds
from covey.runtime.prepared import Prepared
from covey.runtime.runs import RunWriter
from covey.runtime.runs.schema import NETWORK
from covey.runtime.simulation.arrays.clock import Clock, Counters


class ArrayRounds:
    """An experiment whose rounds are linear maps, from its start or from a checkpoint.

    Args:
        prepared: the experiment, for which `against` has no reason.
        writer: records the run; None records nothing.
        progress: called from time to time with the progress of the run.
        spare: whether there is memory for a second array of models.
    """

    def __init__(
        self,
        prepared: Prepared,
        writer: RunWriter | None = None,
        progress: Callable[[Progress], None] | None = None,
        *,
        spare: bool = True,
    ) -> None:
        rounds = prepared.program.linear(prepared.setting)
        assert rounds is not None
        self.prepared, self.task, self.writer, self._progress = prepared, prepared.task, writer, progress
        self.rounds: LinearRounds = rounds
        experiment = prepared.experiment
        self.size, self.of = prepared.network.nodes, experiment.rounds
        self._evaluation, self._checkpoint = experiment.evaluation, experiment.checkpoint
        self.completed = 0
        """The number of rounds that all nodes have completed."""
        self.models = self.task.models(spare=spare)
        self.clock = Clock(prepared.network, self.models.samples / prepared.network.compute_speeds())
        self.counters = Counters(self.size)
        folder = None if writer is None else writer.folder
        self._cadence = Cadence(self.task.node_bytes * self.size, folder, perf_counter)
        self._interrupted = False
        self._accuracy: float | None = None
        self._shown = perf_counter()

    # ------------------------------------------------------------------ the run

    def run(self) -> Outcome:
        """Compute all rounds, or stop after the round in which the run is interrupted.

        Raises:
            ModelError: a model is not finite.
        """
        with self._interruptible():
            while self.completed < self.of and not self._interrupted:
                self._round(self.completed)
        is_over = self.completed == self.of
        if not is_over:
            self._save()
        self._flush()
        self._show()
        return Outcome(finished=is_over, time=float(self.clock.now.max()), models=self.models.result())

    def _interruptible(self) -> AbstractContextManager[None]:
        """Make the first Ctrl-C or SIGTERM stop the run after the round, and the second one at once."""

        def on_interrupt(number: int, frame: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted, self._shown = True, float("-inf")

        return handled(on_interrupt)

    def _round(self, t: int) -> None:
        """Compute round t of all nodes."""
        trains, graph = self.rounds.trains(t), self.rounds.graph(t)
        ready = self.clock.train(trains)
        self._train(t, trains, ready)
        self._maybe_show()
        self.models.mix(self.rounds.weights(t))
        self.clock.exchange(graph)
        self.counters.send(graph, self.rounds.lengths)
        self.completed = t + 1
        self._commit()
        if self._evaluation.due(self.completed, self.of):
            self._evaluate()
        if self._is_due():
            self._save()
        self._maybe_show()

    def _train(self, t: int, trains: NDArray[np.bool_], ready: NDArray[np.float64]) -> None:
        nodes, counters = np.flatnonzero(trains), self.counters
        if len(nodes):
            wrong = self.models.train(t, nodes, counters.losses)
            if len(wrong):
                self._refuse(int(wrong[ready[wrong].argmin()]), f"after its training in round {t}")
            counters.steps[nodes] += self.models.steps[nodes]
            counters.samples[nodes] += self.models.samples[nodes]
        others = np.flatnonzero(~trains)
        wrong = self.models.not_finite(others)
        if len(wrong):
            self._refuse(int(wrong[0]), f"before round {t}, in which it does not train")

    def _refuse(self, node: int, when: str) -> None:
        raise ModelError(
            f"The model of node {node} is not finite {when}. "
            f'Lower the learning rate, or set non_finite = "drop" in the task to continue without such nodes.'
        )

    # ------------------------------------------------------------------ records

    def columns(self) -> tuple[NDArray[Any], ...]:
        """The columns of commits after the completed rounds, from `time` on."""
        counters = self.counters
        return (
            *(self.clock.now, counters.losses, counters.steps, counters.samples),
            *(counters.bytes_out, counters.bytes_in, counters.messages_out, counters.messages_in, counters.dropped),
            *(counters.values_out, counters.indices_out, *self.clock.spent.T),
        )

    def _commit(self) -> None:
        if self.writer is not None:
            self.writer.commit_columns(self.completed, self.columns())

    def _evaluate(self) -> None:
        """Evaluate nodes, and their average model."""
        if not self.prepared.evaluated:
            return
        kept = self.task.summary()
        for node, (model, figures) in zip(
            self.prepared.evaluated, self.models.judge(self.prepared.evaluated), strict=True
        ):
            self._log(node, figures)
            kept.add(model, figures)
        self._accuracy = sum(kept.accuracies) / len(kept.accuracies)
        self._log(NETWORK, kept.figures())

    def _log(self, node: int, figures: Mapping[str, float]) -> None:
        if self.writer is not None:
            self.writer.metrics([(node, self.completed, name, float(value)) for name, value in figures.items()])

    def _flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()

    def _maybe_show(self) -> None:
        if self._progress is not None and perf_counter() - self._shown > 0.1:
            self._show()

    def _show(self) -> None:
        if self._progress is None:
            return
        self._shown = perf_counter()
        losses, now = self.counters.losses, float(self.clock.now.max())
        known = losses[~np.isnan(losses)]
        loss = float(known.mean()) if len(known) else None
        commits, accuracy = self.completed * self.size, self._accuracy
        stopping = self._interrupted
        self._progress(Progress(float(self.completed), self.of, now, commits, loss, accuracy, stopping=stopping))

    # ------------------------------------------------------------------ checkpoints

    def _is_due(self) -> bool:
        every = self._checkpoint.every
        if self.completed == self.of or every == 0:
            return False
        return self._cadence.is_due if every is None else self.completed % every == 0

    def _save(self) -> None:
        with self._cadence.at_work():
            self._flush()
            if self.writer is not None:
                self.writer.checkpoint(self.completed, self.pack(), keep=self._checkpoint.keep)
        self._cadence.taken()

    def pack(self) -> Payload:
        """The checkpoint after the completed rounds, as events take it. It shares memory with the models."""
        nodes, clock = self.size, self.clock
        return {
            "round": self.completed,
            **self.models.pack(),
            **self.counters.pack(),
            "completed": np.full(nodes, self.completed, dtype=np.int64),
            "clocks": clock.now,
            "uplinks": np.zeros(nodes),
            "orders": (np.arange(nodes, dtype=np.int64) << 40) + 8 * self.completed,
            "spent": clock.spent,
            "busy": clock.busy,
            "evaluated": np.zeros(nodes, dtype=np.int64),
            "ended": np.zeros(nodes, dtype=np.bool_),
            "away": np.zeros(nodes, dtype=np.bool_),
            "judged": self.prepared.judged(),
            "downlinks": np.zeros(0),
            "ghosts": msgspec.msgpack.encode([]),
        }

    def restore(self, payload: Payload) -> None:
        """Restore a checkpoint for which `can_restore` is true."""
        found: dict[str, Any] = dict(payload)
        self.models.unpack(found)
        self.counters.unpack(found)
        self.completed = int(found["completed"][0])
        self.clock.now, self.clock.busy = found["clocks"].copy(), found["busy"].copy()
        self.clock.spent = found["spent"].copy()


def can_restore(payload: Payload) -> bool:
    """True if all nodes of a checkpoint have completed the same rounds, and it holds nothing that only events know."""
    found: dict[str, Any] = dict(payload)
    alike = bool((found["completed"] == found["completed"][0]).all()) and not found["ended"].any()
    return alike and not any(name.startswith(("state/", "average/", "mail/")) for name in found)
