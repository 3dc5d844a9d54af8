"""The simulated world: virtual time, and everything that happens in it.

Events are on one agenda, by their time. Within a moment their `order` decides: it is unique and made of the node that
caused the event and a count of its own, so that ties are settled the same way whatever else happens. A training is
computed when the first completion that needs one comes up, together with all that have been submitted by then: their
results depend on nothing that can still change.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch

from covey.learning.dataset import Split
from covey.learning.learner import Training
from covey.messages import wire
from covey.network.faults import Kill, Pause, Strike, strikes
from covey.parts import rng
from covey.parts.errors import ModelError, ProgramError
from covey.runtime.cadence import Cadence
from covey.runtime.disturbances import Disturbances
from covey.runtime.experiment import Progress
from covey.runtime.node import LocalData, Message, Mixture, Payload, Sending
from covey.runtime.participant import SENT, USUAL, not_finite_entry
from covey.runtime.prepared import Prepared
from covey.runtime.runs import RunWriter
from covey.runtime.runs.schema import NETWORK
from covey.runtime.simulation.activity import SimulatedActivity
from covey.runtime.simulation.agenda import Agenda, Event
from covey.runtime.simulation.checkpoints import Cut
from covey.runtime.simulation.links import Fair, Links, Queued, Unlimited, several
from covey.runtime.simulation.mixing import settle
from covey.runtime.simulation.node import SimulatedNode
from covey.runtime.simulation.recorder import Recorder
from covey.runtime.snapshots import Snapshot

_BYTES_AT_ONCE = 64_000_000
"""Trained models wait in memory until their time has come: no more of them than this are computed ahead."""

_ABSENCES_IN_VAIN = 100
"""Nodes that come and go keep virtual time going for ever: all are stuck when each has left so often for no round."""

_STRIKES_AT_ONCE = 100
"""After so many strikes, which may have no end, the world looks whether anything else is still to happen."""

_FIRST_STRIKE = 1 << 61
"""Faults strike when all that nodes do in a moment is done, before fair links look for the next completion."""


class World:
    """A network of simulated nodes.

    Args:
        prepared: what to run.
        writer: where to record it; None records nothing.
        progress: told now and then how far the run is.
    """

    def __init__(
        self, prepared: Prepared, writer: RunWriter | None = None, progress: Callable[[Progress], None] | None = None
    ) -> None:
        experiment = prepared.experiment
        self.prepared = prepared
        self.program = prepared.program
        self.network = prepared.network
        self.learner = prepared.learner
        self.seed, self.rounds, self.size = experiment.seed, experiment.rounds, prepared.network.nodes
        self.limit = experiment.duration if experiment.duration is not None else float("inf")
        self.model_shape = torch.Size([self.learner.layout.size])
        self.speeds: list[float] = self.network.compute_speeds().tolist()
        self.now = 0.0
        self.agenda = Agenda()
        self.current: SimulatedActivity | None = None
        self.mixtures: list[Mixture] = []
        self.submitted: list[tuple[float, int, SimulatedActivity, Training]] = []
        """Trainings that have begun and are not computed: (when the result is due, order, for whom, what)."""
        self._at_once = max(_BYTES_AT_ONCE // (4 * self.learner.layout.size), 8 * self.learner.chunk)
        self.cuts: dict[int, Cut] = {}
        self._in_vain = 0
        """How often nodes left since one completed a round."""
        self.interrupted = False
        self.ended: float | None = None
        """When the last program so far ended."""
        self._checkpoint_every = experiment.checkpoint.every
        folder = None if writer is None else writer.folder
        self._cadence = Cadence(4 * self.learner.layout.size * self.size, folder, perf_counter)
        self._furthest = 0
        """The last round that a node has completed."""
        self._stop_after: int | None = None
        self._usual_seconds: dict[int, float] = {}
        """How long a training takes that is as the task says, by node."""
        self._loss_key = rng.purpose_key(self.seed, "message loss")
        self._splits: dict[tuple[str, int | None], Split] = {}
        self.in_step = prepared.in_step
        self.refused: Counter[str] = Counter()
        """Messages that faults kept from arriving, by reason."""
        self.disturbances: Disturbances[SimulatedNode] = Disturbances(self, self.seed, self.speeds)
        self._disturbing = self.disturbances.of_messages
        self._since = [0.0] * self.size
        """From when on each node lives through what happens: where a resumed one goes on."""
        self._gone: set[int] = set()
        self._strikes = strikes(experiment.faults, prepared.setting)
        self._strike_order = _FIRST_STRIKE
        self._struck = 0
        self.recorder = Recorder(self, writer, progress)
        self.nodes = [self._node(id) for id in range(self.size)]
        self.deliver: list[Callable[[Message], None]] = [node.mail.deliver for node in self.nodes]
        self.links = self._links()

    def _node(self, id: int) -> SimulatedNode:
        holder = self.prepared.holders.get(id)
        data = LocalData(0) if holder is None else self.learner.local_data(holder)
        return SimulatedNode(self, id, self.prepared.roles[id], holder, data, self.learner.initial(id))

    def _links(self) -> Links:
        uplinks, downlinks = self.network.uplink_rates(), self.network.downlink_rates()
        if uplinks is None and downlinks is None:
            return Unlimited(self)
        kind = Fair if self.network.queue == "fair" else Queued
        return kind(self, uplinks, downlinks)

    # ------------------------------------------------------------------ time

    def at(self, time: float, node: SimulatedNode, action: Callable[[Any], None], argument: Any = None) -> None:
        """Let something happen at a time, caused by a node."""
        node.order += 1
        self.agenda.put(time, node.order, action, argument)

    def after(self, seconds: float, node: SimulatedNode, action: Callable[[Any], None]) -> None:
        """Let something happen after a while."""
        self.at(self.now + seconds, node, action)

    def begin(self) -> None:
        """Put every node at the start of its program."""
        self.follow_faults()
        for node in self.nodes:
            if not self.in_step:
                node.committed = self.snapshot(node)
            away = self.follow_absences(node, since=0.0)
            if not away:
                self.at(0.0, node, node.start)

    def run(self) -> None:
        """Let time pass until nothing is left to happen.

        Raises:
            ProgramError: the program failed, or nodes wait for what cannot come.
            ModelError: a model is no longer finite.
        """
        try:
            with _rare_garbage_collection():
                if not self._stops_early() and self._stop_after is None:
                    self._check_that_all_have_ended()
                    if self.ended is not None:
                        self.now = self.ended  # What came later were timeouts that nobody waited for any more.
                self.recorder.finish()
        finally:
            for node in self.nodes:
                node.close()

    def _stops_early(self) -> bool:
        """Let everything happen; whether the run was stopped before there was nothing left to happen."""
        agenda = self.agenda
        while (time := agenda.next()) is not None:
            if time > self.limit:
                self.now = self.limit
                return True
            self.now = time
            moment = agenda.current
            while moment:
                _, action, argument = moment.pop()
                action(argument)
                if self.interrupted and self._stop_after is None and self._stop_now():
                    return True
        return False

    def _check_that_all_have_ended(self) -> None:
        stuck = [node for node in self.nodes if not node.mail.ended and not node.mail.away]
        if not stuck:
            return
        shown = "; ".join(
            f"node {node.id} in round {node.round} for {awaited}" for node in stuck[:3] for awaited in node.mail.waits()
        )
        experiment, network = self.prepared.experiment, self.network
        lossy = network.churn.has_churn or network.loss > 0 or bool(experiment.faults)
        lossy = lossy or any(node.mail.away for node in self.nodes)
        hint = " Nodes leave here, or messages are lost: give the program some 'patience'." if lossy else ""
        raise ProgramError(f"{len(stuck)} nodes wait for what cannot come any more: {shown or 'nothing'}.{hint}")

    # ------------------------------------------------------------------ computing

    def submit(self, node: SimulatedNode, training: Training) -> None:
        """Begin a training: its result will be needed when its time is over."""
        assert self.current is not None
        seconds = self._usual_seconds.get(node.id) if training.work is USUAL else None
        if seconds is None:
            seconds = self.learner.cost(training) / self.speeds[node.id]
            if training.work is USUAL:
                self._usual_seconds[node.id] = seconds
        due = self.now + seconds
        self.at(due, node, self._trained, (self.current, training))
        self.submitted.append((due, node.order, self.current, training))

    def _trained(self, submitted: tuple[SimulatedActivity, Training]) -> None:
        """The time of a training is over."""
        activity, training = submitted
        if activity.done:
            return
        if training.update is None:
            self.compute()
        if training.finite:
            activity.resume()
        else:
            self._not_finite(activity.node, training)

    def compute(self) -> None:
        """Compute the mixtures and evaluations that wait, and those trainings that are due first, as many as fit."""
        self.settle()
        self.recorder.hand_over()
        self.recorder.evaluate()
        wanted = sorted(entry for entry in self.submitted if not entry[2].done)
        self.submitted = wanted[self._at_once :]
        trainings = [training for _, _, _, training in wanted[: self._at_once]]
        for training in trainings:
            start: Any = training.start
            if isinstance(start, Mixture):
                training.start = start.tensor()
        self.learner.train(trainings)
        for training in trainings:
            if training.update is not None and training.finite and not training.gradient:
                model = training.update.model
                model.known_finite = model._version  # type: ignore[attr-defined]

    def settle(self) -> None:
        """Compute all mixtures."""
        if self.mixtures:
            mixtures, self.mixtures = self.mixtures, []
            settle(mixtures, self.learner)

    def _not_finite(self, node: SimulatedNode, training: Training) -> None:
        if self.prepared.experiment.task.non_finite == "stop":
            raise ModelError(
                f"The model of node {node.id} is no longer finite after its training in round {training.round}. "
                f'Lower the learning rate, or set non_finite = "drop" in the task to go on without such nodes.'
            )
        self.recorder.event(self.now, node.id, "dropped", f"its model is no longer finite in round {training.round}")
        self.leave(node)
        node.mail.ended = True
        self.passed_by(node)
        if all(other.mail.ended and other.mail.away for other in self.nodes if other.holder is not None):
            raise ModelError(
                "The models of all nodes with data were dropped, for they are no longer finite: none is left to train."
            )

    def split(self, name: str, holder: int | None = None) -> Split:
        """The data of an evaluation, remembered."""
        key = (name, None if name == "test" else holder)
        if key not in self._splits:
            samples = self.prepared.experiment.evaluation.samples if name == "test" else None
            self._splits[key] = self.learner.split(name, holder, samples)
        return self._splits[key]

    # ------------------------------------------------------------------ messages

    def post(
        self, node: SimulatedNode, receivers: Sequence[int], payload: Payload, tag: str, round: int | None
    ) -> Sending:
        """Send a payload to some nodes."""
        if not receivers:
            return SENT
        lengths = wire.lengths(payload, tag)
        message = Message(node.id, tag, round, payload, lengths.frame)
        node.count_sent(lengths, len(receivers))
        problem = not_finite_entry(payload)
        if problem is not None:
            detail = f"'{problem}' in its message {tag!r} is not finite"
            self.recorder.event(self.now, node.id, "rejected", detail)
            for receiver in receivers:
                self.nodes[receiver].mail.drop("not-finite")
            return SENT
        if self.network.loss > 0:
            # Drawn by the node's count of events, which only grows: that of its messages falls when some are withdrawn.
            node.order += 1
            chance, key = self.network.loss, rng.mix(self._loss_key, node.order)
            receivers = [r for r in receivers if rng.uniform(key, r) >= chance]
            if not receivers:
                return SENT
        if self._disturbing:
            return self._post_disturbed(node, receivers, message)
        return self.links.post(node, receivers, message)

    def _post_disturbed(self, node: SimulatedNode, receivers: Sequence[int], message: Message) -> Sending:
        """Send a message over links that faults strike."""
        by_factor: dict[float, list[int]] = {}
        for receiver, fate in self.disturbances.fates(node, receivers):
            if isinstance(fate, str):
                self.refused[fate] += 1
            else:
                by_factor.setdefault(fate, []).append(receiver)
        return several([self.links.post(node, some, message, slower) for slower, some in by_factor.items()])

    # ------------------------------------------------------------------ rounds

    def commit(self, node: SimulatedNode) -> float:
        """The open round of a node is over; what that costs it in seconds.

        Raises:
            ProgramError: the node's state holds what no checkpoint can.
        """
        node.check_commit()
        node.mail.open(node.round + 1)
        node.calls = self._in_vain = 0
        evaluated = self.recorder.commit(node)
        if not self.in_step:
            node.committed = self.snapshot(node)
        if self._checkpoint_every != 0:
            self._perhaps_checkpoint(node)
        if not (evaluated and self.prepared.experiment.evaluation.takes_time):
            return 0.0
        samples = len(self.split("test"))
        node.evaluated += samples
        return samples / self.speeds[node.id]

    def _perhaps_checkpoint(self, node: SimulatedNode) -> None:
        every, round = self._checkpoint_every, node.round
        if not self.in_step:
            whole = self.recorder.commits % ((every or 1) * self.size) == 0
            if whole and (every or self._cadence.is_due):
                self._save(Cut.of_commits(self))
            return
        if every:
            due = round % every == 0
        else:
            # A cut begins with the first node that gets there.
            due = round > self._furthest and not self.cuts and self._cadence.is_due
            self._furthest = max(self._furthest, round)
        if due and round < self.rounds and round not in self.cuts:
            self.cuts[round] = Cut(self, round)

    def skip_to(self, node: SimulatedNode, round: int) -> None:
        """A node that was away goes on where the others are."""
        self.recorder.event(self.now, node.id, "caught up", f"from round {node.round} to {round}")
        node.mail.open(round)
        node.behind = False

    def note_transfers(self, node: SimulatedNode, transfers: Sequence[Any]) -> None:
        """Remember transfers of nodes that have not reached a checkpoint's round, for that checkpoint."""
        for cut in self.cuts.values():
            cut.note(node, transfers)

    def cut(self, node: SimulatedNode) -> None:
        """A node has reached the round of a checkpoint."""
        self._add(node, self.cuts[node.round])

    def passed_by(self, node: SimulatedNode) -> None:
        """A node has ended: it reaches the round of no further checkpoint."""
        if not self.in_step:
            node.committed = self.snapshot(node)
        for cut in list(self.cuts.values()):
            self._add(node, cut)

    def snapshot(self, node: SimulatedNode) -> Snapshot:
        """What a node could go on from now."""
        return node.snapshot(self.links.uplink_busy_until(node.id))

    def _add(self, node: SimulatedNode, cut: Cut) -> None:
        if cut.add(node):
            del self.cuts[cut.round]
            self._save(cut)

    def _save(self, cut: Cut) -> None:
        with self._cadence.at_work():
            # A resumed run does not repeat what came before its checkpoint: all of that must be written before it is.
            self.recorder.flush()
            if self.recorder.writer is not None:
                keep = self.prepared.experiment.checkpoint.keep
                self.recorder.writer.checkpoint(cut.round, cut.payload(), keep=keep)
        self._cadence.taken()

    # ------------------------------------------------------------------ interruption

    def interrupt(self) -> None:
        """Ask the run to stop at the next moment from which it can be resumed."""
        self.interrupted = True
        self.recorder.show_soon()

    def _stop_now(self) -> bool:
        """Begin to stop; whether that is done at once."""
        if not self.in_step:
            self._save(Cut.of_commits(self))
            return True
        completed = max((node.round for node in self.nodes if not node.mail.ended), default=self.rounds) + 1
        self._stop_after = completed
        if completed < self.rounds:
            self.cuts.setdefault(completed, Cut(self, completed))
        return False

    @property
    def stopped_early(self) -> bool:
        """Whether the run was interrupted before its end."""
        return self.interrupted and any(not node.mail.ended for node in self.nodes)

    def parks(self, node: SimulatedNode) -> bool:
        """Whether a node is to go no further."""
        return self._stop_after is not None and node.round >= self._stop_after and node.round < self.rounds

    # ------------------------------------------------------------------ churn and faults

    def follow_absences(self, node: SimulatedNode, since: float) -> bool:
        """Schedule the next absence of a node that was there at a time; whether it begins with one."""
        self._since[node.id] = since
        if not self.network.churn.has_churn:
            return False
        absences = self.network.churn.absences(node.id, self.prepared.setting)

        def schedule_next() -> bool:
            absence = next((absence for absence in absences if absence[0] >= since), None)
            if absence is None:
                return False
            start, end = absence
            at_once = start == self.now == 0.0
            if at_once:
                leave(end)
            else:
                self.at(start, node, lambda _: leave(end))
            return at_once

        def leave(end: float) -> None:
            if not node.mail.ended:
                self.disturbances.leave(node, for_good=end == float("inf"))
                if end < float("inf"):
                    self.at(end, node, lambda _: come_back())

        def come_back() -> None:
            self.disturbances.come_back(node)
            if not node.mail.ended:
                schedule_next()

        return schedule_next()

    def follow_faults(self) -> None:
        """Schedule the next strike of a fault."""
        strike = next(self._strikes, None)
        if strike is not None:
            self._strike_order += 1
            self.agenda.put(strike.start, self._strike_order, self._strike, strike)

    def _strike(self, strike: Strike) -> None:
        self._struck += 1
        if self._struck % _STRIKES_AT_ONCE == 0 and not any(map(self._goes_on, self.agenda.pending())):
            self._check_that_all_have_ended()
            return
        if all(node.mail.ended or node.id in self._gone for node in self.nodes):
            return
        if isinstance(strike.fault, Kill | Pause):
            # Those who go on from a later moment after a resume have it behind them.
            self.disturbances.begin(strike, [node for node in self.nodes if self._since[node.id] <= strike.start])
        else:
            self.disturbances.begin(strike, self.nodes)
            self.recorder.event(self.now, NETWORK, strike.fault.kind, strike.in_words())
        if strike.end < float("inf"):
            self._strike_order += 1
            self.agenda.put(strike.end, self._strike_order, self.disturbances.end, strike)
        self.follow_faults()

    def _goes_on(self, event: Event) -> bool:
        """Whether something is still to happen that may let a node go on."""
        _, action, argument = event
        return action != self._strike and not (action == self.disturbances.end and argument in self._disturbing)

    def leave(self, node: SimulatedNode) -> None:
        """A node goes away; what it has not committed is lost."""
        self._in_vain += 1
        if self._in_vain > _ABSENCES_IN_VAIN * self.size:
            self._check_that_all_have_ended()
        node.mail.away = True
        self.links.withdraw_all(node.id)
        node.stop()
        self.recorder.event(self.now, node.id, "left", f"in round {node.round}")

    def leave_for_good(self, node: SimulatedNode) -> None:
        """A node that is away will not come back."""
        self._gone.add(node.id)

    def come_back(self, node: SimulatedNode) -> None:
        """A node that was away goes on from its last commit."""
        assert node.committed is not None
        node.restore(node.committed, counters=False)
        node.mail.away, node.behind = False, True
        self.recorder.event(self.now, node.id, "returned", f"at round {node.round}")
        self.after(0.0, node, node.start)

    def set_speed(self, node: SimulatedNode, samples_per_second: float) -> None:
        """Let what a node trains from now on take another time."""
        self.speeds[node.id] = samples_per_second
        self._usual_seconds.pop(node.id, None)


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Look for reference cycles less often: events are many and have none, and the search took a quarter of a run."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
