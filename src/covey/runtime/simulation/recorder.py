"""What the simulation writes down: commits, evaluations of nodes and of their average, events, progress.

Shapes: P parameters.
"""

from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from covey.runtime.average import Average
from covey.runtime.experiment import Progress
from covey.runtime.node import Metrics, Mixture, Payload
from covey.runtime.runs import RunWriter
from covey.runtime.runs.schema import NETWORK

if TYPE_CHECKING:
    from covey.runtime.simulation.node import SimulatedNode
    from covey.runtime.simulation.world import World


class Recorder:
    """Collects what happens and hands it to the run's writer, or to nobody."""

    def __init__(self, world: "World", writer: RunWriter | None, progress: Callable[[Progress], None] | None) -> None:
        self.world = world
        self.writer = writer
        self.progress = progress
        self.pending: list[tuple[int, int, Tensor | Mixture]] = []
        self.averages: dict[int, Average] = {}
        self.rows: list[tuple[Any, ...]] = []
        self.energy = world.network.energy
        self.evaluated = set(world.prepared.evaluated)
        self.commits = 0
        self.accuracy: float | None = None
        self.last_commit: float | None = None
        self._of_round = 0
        self._shown = perf_counter()

    def commit(self, node: "SimulatedNode") -> bool:
        """Record a completed round of a node; whether its model is evaluated."""
        world = self.world
        completed = node.round
        self.commits += 1
        self.last_commit = world.now
        self.rows.append(node.commit_row())
        if self.energy.is_measured:
            self.log(node.id, completed, {"energy": node.joules(self.energy, world.speeds[node.id])})
        if len(self.rows) >= 1024:
            self.hand_over()
        due = node.id in self.evaluated and world.prepared.experiment.evaluation.due(completed, world.rounds)
        if due:
            self._await_evaluation(node)
            if len(self.pending) >= 2 * world.size:
                world.settle()
                self.evaluate()
        if self.progress is not None and self.commits % 64 == 0 and perf_counter() - self._shown > 0.1:
            self.show()
        return due

    def ended(self, node: "SimulatedNode") -> None:
        """A node's program has returned: where that is before the last round, its final model is evaluated."""
        completed, rounds = node.round, self.world.rounds
        early = node.id in self.evaluated and 0 < completed < rounds
        if early and not self.world.prepared.experiment.evaluation.due(completed, rounds):
            self._await_evaluation(node)

    def _await_evaluation(self, node: "SimulatedNode") -> None:
        self.pending.append((node.id, node.round, node.current))

    def evaluate(self) -> None:
        """Evaluate whatever waits for it."""
        if not self.pending:
            return
        pending, self.pending = self.pending, []
        learner, average = self.world.learner, self.world.prepared.experiment.evaluation.average
        models = [model.tensor() if isinstance(model, Mixture) else model for _, _, model in pending]
        evaluated = learner.evaluate(models, self.world.split("test"))
        rows = []
        for (node, completed, _), model, metrics in zip(pending, models, evaluated, strict=True):
            rows += [(node, completed, name, value) for name, value in metrics.items()]
            if completed not in self.averages:
                self.averages[completed] = Average(learner, keeps=average)
            self.averages[completed].add(model, metrics["accuracy"])
        if self.writer is not None:
            self.writer.metrics(rows)
        self._close(complete=False)

    def _close(self, *, complete: bool) -> None:
        """Evaluate the average of every round that all nodes have completed."""
        world = self.world
        done = [t for t, kept in self.averages.items() if complete or len(kept.accuracies) == len(self.evaluated)]
        for completed in sorted(done):
            kept = self.averages.pop(completed)
            if completed >= self._of_round:
                # A round that absent nodes left open is closed at the end, after later ones.
                self.accuracy, self._of_round = kept.accuracy, completed
            self.log(NETWORK, completed, kept.figures(world.learner, world.split("test")))

    def freeze(self, last: int | None) -> Payload:
        """The sums of the rounds, up to the last if there is one, that some nodes have not completed."""
        return {
            f"average/{completed}/{name}": value
            for completed, kept in self.averages.items()
            if last is None or completed <= last
            for name, value in kept.freeze().items()
        }

    def thaw(self, checkpoint: Payload) -> None:
        """Bring back what `freeze` gave."""
        frozen: dict[int, dict[str, Any]] = {}
        for name, value in checkpoint.items():
            if name.startswith("average/"):
                _, round, figure = name.split("/")
                frozen.setdefault(int(round), {})[figure] = value
        for completed, figures in frozen.items():
            kept = self.averages[completed] = Average(self.world.learner, keeps=len(figures["total"]) > 0)
            kept.merge(figures)

    def log(self, node: int, completed: int, figures: Metrics) -> None:
        """Record figures under a round."""
        if self.writer is not None:
            self.writer.metrics([(node, completed, name, float(value)) for name, value in figures.items()])

    def event(self, time: float, node: int, kind: str, detail: str) -> None:
        """Record something that happened."""
        if self.writer is not None:
            self.writer.event(time, node, kind, detail)

    def show_soon(self) -> None:
        """Tell whoever watches at the next opportunity."""
        self._shown = float("-inf")

    def show(self, time: float | None = None) -> None:
        """Tell whoever watches how far the run is, by default at this moment."""
        if self.progress is not None:
            self._shown = perf_counter()
            world = self.world
            losses = [node.loss for node in world.nodes if node.loss is not None]
            rounds = sum(node.round for node in world.nodes) / world.size
            time = world.now if time is None else time
            loss = sum(losses) / len(losses) if losses else None
            stopping = world.interrupted
            self.progress(Progress(rounds, world.rounds, time, self.commits, loss, self.accuracy, stopping=stopping))

    def hand_over(self) -> None:
        """Give the commits to the writer; before every computation, so that whoever reads along sees them."""
        if self.writer is not None and self.rows:
            self.writer.commits(self.rows)
        self.rows = []

    def flush(self) -> None:
        """Write down all that has happened so far."""
        self.world.settle()
        self.evaluate()
        self.hand_over()
        if self.writer is not None:
            self.writer.flush()

    def finish(self) -> None:
        """Write down what is left."""
        self.flush()
        self._close(complete=True)
        if self.writer is not None:
            dropped, now = Counter(self.world.refused), self.world.now
            for node in self.world.nodes:
                dropped.update(node.mail.drops)
            self.writer.host_figures([(now, 0, f"dropped/{reason}", float(n)) for reason, n in dropped.items() if n])
            self.writer.flush()
        # What the agenda held after the last round, such as an absence to come, took nobody's time.
        self.show(self.last_commit)
