"""The recorder of the simulation: commits, evaluations of nodes and of all together, events, progress."""

from collections import Counter
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from covey.messages.payloads import Payload
from covey.runtime.experiment import Progress
from covey.runtime.node import Message
from covey.runtime.recorder import Recorder, framed, of_moment
from covey.runtime.running_node import RunningNode
from covey.runtime.runs import RunWriter
from covey.runtime.runs.schema import COMMIT_COLUMNS, MOMENTS, NETWORK

if TYPE_CHECKING:
    from covey.runtime.simulation.world import World


class SimulationRecorder(Recorder):
    """Collects records, and passes them to the run's writer if there is one."""

    def __init__(self, world: "World", writer: RunWriter | None, progress: Callable[[Progress], None] | None) -> None:
        super().__init__(world)
        self.world = world
        self.writer = writer
        self.progress = progress
        self.callbacks = world.prepared.callbacks
        self.commits = 0
        self.accuracy: float | None = None
        self.last_commit: float | None = None
        self._of_round = 0
        self._shown = perf_counter()

    def commit(self, node: RunningNode) -> bool:
        due = super().commit(node)
        world = self.world
        self.commits += 1
        self.last_commit = world.now
        if due and self.callbacks:
            self.callbacks.committed(node.round, world.now)
        if len(self.rows) >= 1024:
            world.do_waiting()
            self.hand_over()
        if due and len(self.pending) >= 2 * world.size:
            world.do_waiting()
            self.evaluate()
        elif due and self.callbacks.acts and self._is_complete(node.round):
            # A callback's actions take effect from this moment on, whatever is computed together.
            world.do_waiting()
            self.evaluate()
        if self.progress is not None and self.commits % 64 == 0 and perf_counter() - self._shown > 0.1:
            self.show()
        return due

    def _is_complete(self, completed: int) -> bool:
        """True if all evaluated nodes have completed a round."""
        known = self.summaries.get(completed)
        waiting = sum(round == completed for _, round, _ in self.pending)
        return waiting + (len(known.accuracies) if known else 0) == len(self.evaluated)

    def evaluate(self) -> None:
        """Do all pending evaluations."""
        if self.pending:
            pending, self.pending = self.pending, []
            self.judged(pending, self.world.task.evaluate([shown for _, _, shown in pending]))
            self._close(complete=False)

    def evaluate_moment(self) -> None:
        """Evaluate all nodes in their current states."""
        task = self.world.task
        self.world.do_waiting()
        shown = [task.shown(node) for node in self.at_moment()]
        if shown:
            kept = task.summary()
            for model, figures in zip(shown, task.evaluate(shown), strict=True):
                kept.add(model, figures)
            self.record(self.world.now, NETWORK, MOMENTS, of_moment(kept.accuracies, kept.figures()))

    def _close(self, *, complete: bool) -> None:
        """Record the summary of every round that all nodes have completed."""
        done = [t for t, kept in self.summaries.items() if complete or len(kept.accuracies) == len(self.evaluated)]
        for completed in sorted(done):
            kept = self.summaries.pop(completed)
            if completed >= self._of_round:
                # A round that absent nodes have not completed is closed at the end, after later ones.
                self.accuracy, self._of_round = sum(kept.accuracies) / len(kept.accuracies), completed
            figures = kept.figures()
            self.log(NETWORK, completed, figures)
            self.callbacks.close(completed, figures, kept)

    def freeze(self, last: int | None) -> Payload:
        """The summaries of rounds that some nodes have not completed, up to the last round if one is given."""
        return {
            f"average/{completed}/{name}": value
            for completed, kept in self.summaries.items()
            if last is None or completed <= last
            for name, value in kept.freeze().items()
        }

    def thaw(self, checkpoint: Payload) -> None:
        """Restore the result of `freeze`."""
        frozen: dict[int, dict[str, Any]] = {}
        for name, value in checkpoint.items():
            if name.startswith("average/"):
                _, round, figure = name.split("/")
                frozen.setdefault(int(round), {})[figure] = value
        for completed, figures in frozen.items():
            kept = self.summaries[completed] = self.world.task.summary(keeps=len(figures["total"]) > 0)
            kept.merge(figures)

    def log(self, node: int, completed: int, figures: Mapping[str, float]) -> None:
        rows = [(node, completed, name, float(value)) for name, value in figures.items()]
        if self.callbacks and node != NETWORK:
            self.callbacks.take(rows)
        if self.writer is not None:
            self.writer.metrics(rows)

    def record(self, time: float, node: int, table: str, columns: Mapping[str, Any]) -> None:
        if self.writer is not None:
            self.writer.records([(time, node, table, columns)])

    def observe(self, time: float, node: int, message: Message) -> None:
        if self.writer is not None:
            self.writer.observed([(time, node, framed(message, node))])

    def event(self, time: float, node: int, kind: str, detail: str) -> None:
        if self.writer is not None:
            self.writer.event(time, node, kind, detail)

    def show_soon(self) -> None:
        """Report the progress at the next opportunity."""
        self._shown = float("-inf")

    def show(self, time: float | None = None) -> None:
        """Report the progress of the run, by default at this moment."""
        if self.progress is not None:
            self._shown = perf_counter()
            world = self.world
            nodes = world.nodes
            # A deferred one may have no number.
            known: list[Any] = [getattr(node.loss, "number", node.loss) for node in nodes]
            losses = [loss for loss in known if loss is not None]
            rounds = sum(node.round for node in nodes) / world.size
            time = world.now if time is None else time
            loss = sum(losses) / len(losses) if losses else None
            stopping = world.interrupted
            self.progress(Progress(rounds, world.rounds, time, self.commits, loss, self.accuracy, stopping=stopping))

    def hand_over(self) -> None:
        """Pass commits to the writer before every computation, so that readers of the folder see them."""
        rows, self.rows = self.rows, []
        if self.writer is not None and rows:
            self.writer.commits([*map(_with_loss, rows)])

    def flush(self) -> None:
        """Write all records so far."""
        self.world.do_waiting()
        self.evaluate()
        self.hand_over()
        if self.writer is not None:
            self.writer.flush()

    def finish(self) -> None:
        """Write the remaining records."""
        self.count_without_rounds()
        self.flush()
        self._close(complete=True)
        if self.writer is not None:
            dropped, now = Counter(self.world.refused), self.world.now
            for node in self.world.nodes:
                dropped.update(node.mail.drops)
            self.writer.host_figures([(now, 0, f"dropped/{reason}", float(n)) for reason, n in dropped.items() if n])
            self.writer.flush()
        # Events after the last round, such as a later absence, do not count as time of the run.
        self.show(self.last_commit)


_LOSS = COMMIT_COLUMNS.index("train_loss")


def _with_loss(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A commit with the number of its loss."""
    loss = row[_LOSS]
    return row if loss is None or type(loss) is float else (*row[:_LOSS], float(loss), *row[_LOSS + 1 :])
