"""The bytes of messages, counted by simulating the first rounds of an experiment without training.

Models change at random instead: once equally at all nodes, once independently at each. If the bytes of both differ,
they depend on the real models and are not known.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from covey.network.churn import NoChurn
from covey.parts.errors import ConfigurationError, CoveyError, described
from covey.runtime.node import Message, Sending
from covey.runtime.prepared import Prepared
from covey.runtime.running_node import RunningNode
from covey.runtime.simulation.world import World
from covey.runtime.task import LoadedTask

_LEAST_ROUNDS = 3
_WORK, _MOST_WORK = 5_000_000, 200_000_000
"""The limits of work: in all rounds together, unless the least number of rounds needs more, and in one round."""
_OF_A_MESSAGE = 1000
"""The work of a message, in numbers."""
_EVENTS = 1000
"""The mean number of events at a node in a round from which on a round counts as endless."""
_ALIKE = 0.05
"""The fraction of bytes by which two plays may differ."""


@dataclass(frozen=True)
class Played:
    """The result of the first rounds.

    Attributes:
        rounds: the number of rounds that were simulated.
        sent: the bytes per node and round, a mean over nodes and all rounds of the experiment; None if not counted.
        received: the bytes and messages of a round at the node that receives most, if each message were as large as the
            largest of its tag; None if not counted.
        why_not: the reason why something was not counted.
    """

    rounds: int = 0
    sent: float | None = None
    received: tuple[int, int] | None = None
    why_not: str = ""


class _Endless(CoveyError):
    """Nodes do far more than a round needs."""


class _Stage(World):
    """A world that counts messages."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared)
        self.first = 0
        """The bytes of the first round."""
        self.came: Counter[tuple[int, str, int]] = Counter()
        """The number of messages by receiver, tag and round. Those without a round count in the receiver's round."""
        self.largest: Counter[str] = Counter()
        """The bytes of the largest message of each tag."""
        self._left = _EVENTS * self.size * self.rounds

    def run(self) -> None:
        self.begin()
        super().run()

    def commit(self, node: RunningNode) -> float:
        if node.round == 0:
            self.first += node.bytes_out
        return super().commit(node)

    def at(self, time: float, node: RunningNode, action: object, argument: object = None) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Endless("Its rounds do not end.")
        super().at(time, node, action, argument)  # type: ignore[arg-type]

    def carry(self, node: RunningNode, receivers: Sequence[int], message: Message) -> Sending:
        tag, t = message.key
        self.came.update((receiver, tag, self.nodes[receiver].round if t is None else t) for receiver in receivers)
        self.largest[tag] = max(self.largest[tag], message.size)
        return super().carry(node, receivers, message)

    def sent(self, rounds: int) -> float:
        """The mean bytes per node and round over `rounds` rounds, of which the first were simulated."""
        total = sum(node.bytes_out for node in self.nodes)
        later = (total - self.first) / max(self.rounds - 1, 1)
        return (self.first + later * (rounds - 1)) / rounds / self.size

    def most(self) -> tuple[int, int]:
        """The bytes and messages of a round at the node that receives most."""
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for (receiver, tag, t), count in self.came.items():
            size, messages = found.get((receiver, t), (0, 0))
            found[receiver, t] = size + count * self.largest[tag], messages + count
        return max(found.values(), default=(0, 0))


def play(prepared: Prepared) -> Played:
    """Count the messages of the first rounds of an experiment.

    Raises:
        ConfigurationError: the program finds a mistake of the experiment, as it would in a run.
    """
    plays = prepared.task.rehearsals()
    if not plays:
        return Played(why_not="its nodes do not learn")
    rounds, total = _rounds(prepared), prepared.experiment.rounds
    if not rounds:
        return _stated(prepared) or Played(why_not="so many messages of so many numbers take too long to play")
    try:
        stages = [_played(prepared, task, rounds) for task in plays]
    except ConfigurationError:
        raise
    except Exception as error:
        why = str(error) if isinstance(error, CoveyError) else described(error)
        return Played(rounds, why_not=f"without training, the program fails: {why}")
    received = max(stage.most() for stage in stages)
    sent = [stage.sent(total) for stage in stages]
    if max(sent) - min(sent) > _ALIKE * max(sent):
        return Played(rounds, None, received, "they depend on training")
    return Played(rounds, sum(sent) / len(sent), received)


def _stated(prepared: Prepared) -> Played | None:
    """The messages of the first round, as a program states them whose rounds are linear maps."""
    linear = prepared.program.linear(prepared.setting)
    if linear is None:
        return None
    most = int(linear.graph(0).in_degrees.max())
    return Played(1, float(linear.bytes(0).mean()), (most * linear.lengths.frame, most))


def _rounds(prepared: Prepared) -> int:
    """The number of rounds to simulate; 0 if that would take too long."""
    graph, nodes = prepared.program.graph(0), prepared.setting.nodes
    messages = nodes if graph is None else max(nodes, len(graph.sources))
    if prepared.overlay is not None:
        messages = nodes * prepared.program.most_received()
    work = messages * (prepared.setting.parameters + _OF_A_MESSAGE)
    if work > _MOST_WORK:
        return 0
    least = max(_LEAST_ROUNDS, 1 + prepared.program.cycle())
    return min(prepared.experiment.rounds, max(least, _WORK // work))


def _played(prepared: Prepared, task: LoadedTask, rounds: int) -> _Stage:
    """The world after some rounds, without absences, faults, an observer and evaluations."""
    experiment = copy.deepcopy(prepared.experiment)
    experiment.rounds, experiment.duration = rounds, None
    experiment.network.churn, experiment.faults, experiment.observer = NoChurn(), [], None
    stage = _Stage(replace(prepared, experiment=experiment, task=task, evaluated=[]))
    with task.at_work():
        stage.run()
    return stage
