"""A node at run time: its mailbox, counters and randomness, and its stage."""

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, TypeVar

import numpy as np

from covey.messages import wire
from covey.messages.payloads import KEPT, Payload, frozen, is_tensor, private_all
from covey.network.devices import NOTHING, Features
from covey.parts import rng
from covey.parts.errors import CoveyError, ProgramError, WireError, described
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part
from covey.runtime.content import Content, entries_of, usable
from covey.runtime.jobs import Call, Function, asks_for_randomness
from covey.runtime.loops import Messages, Rounds
from covey.runtime.mailbox import Key, describe
from covey.runtime.node import Activity, Entries, Inbox, Message, Node, Program, Pseudonym, Sending, Wanted
from covey.runtime.requests import (
    check_duration,
    check_handler,
    check_metrics,
    check_tag,
    check_tags,
    checked_receivers,
    checked_round,
    refuse_senders,
)
from covey.runtime.runs.schema import SPENT
from covey.runtime.snapshots import Snapshot, refuse_state
from covey.runtime.state import State

if TYPE_CHECKING:
    from covey.runtime.stage import Stage


T = TypeVar("T")
S = TypeVar("S", bound=State)


class _Sent:
    """A message without queued copies."""

    def cancel(self) -> int:
        return 0


SENT = _Sent()
TRAINING, WAITING, ENCODING, MIXING = range(len(SPENT))


class RunningNode(Node):
    """A node on a stage of any engine.

    Args:
        stage: its stage.
        id: its id.
    """

    __slots__ = (
        "acted",
        "activities",
        "answers",
        "behind",
        "busy",
        "bytes_out",
        "calls",
        "careful",
        "committed",
        "evaluated",
        "held",
        "id",
        "in_round",
        "index_bytes_out",
        "loss",
        "mail",
        "main",
        "messages_out",
        "nodes",
        "order",
        "posted",
        "receivers",
        "role",
        "samples_used",
        "seconds",
        "stage",
        "state",
        "steps",
        "typed",
        "value_bytes_out",
    )

    def __init__(self, stage: "Stage", id: int) -> None:
        self.stage = stage
        self.id = NodeId(id)
        self.role = stage.prepared.roles[id]
        self.nodes = stage.size
        self.careful = not stage.prepared.is_trusted
        """True if its program may write to tensors that it got or gave, which are then copied. covey's own programs
        never do."""
        self.state: Entries = {}
        self.typed: dict[tuple[type[State], str], State] = {}
        """The typed parts of the state, by class and prefix."""
        self.receivers: tuple[int, ...] = ()
        """The checked receivers of its last message: most programs send to the same nodes again."""
        self.calls = 0
        """The number of its requests for work in the open round."""
        self.order = id << 40
        """The count of its events, which breaks ties of virtual time independently of other nodes."""
        self.mail = stage.mailbox(self)
        self.main: Any = None
        """The activity of its program."""
        self.activities: list[Any] = []
        """Further activities, which end with the program."""
        self.answers: list[Any] = []
        """Activities of message handlers, which do not end with the program."""
        self.committed: Snapshot | None = None
        """The snapshot at which it resumes after an absence, if it can."""
        self.in_round = False
        """True if a round is open."""
        self.behind = False
        """True if it has returned and not caught up yet."""
        self.held: list[Callable[[], None]] | None = None
        """The actions to take when the paused node continues; None if it is not paused."""
        self.acted = False
        """True if its program has sent or taken messages since its last round, other than in handlers."""
        self.loss: SupportsFloat | None = None
        """The loss of its last training; a number, or an object that computes it."""
        self.bytes_out = self.messages_out = self.steps = self.samples_used = 0
        self.value_bytes_out = self.index_bytes_out = self.posted = 0
        self.seconds = [0.0] * len(SPENT)
        """Seconds by activity, in the order of SPENT."""
        self.busy = 0.0
        """The seconds that its work should have taken, as the network says."""
        self.evaluated = 0
        """The number of samples of evaluations that took time."""

    # ------------------------------------------------------------------ the contract

    @property
    def now(self) -> float:
        return self.stage.now

    @property
    def device(self) -> Features:
        devices = self.stage.network.devices
        return NOTHING if devices is None else devices.features(self.id, self.stage.now)

    @property
    def spent(self) -> float:
        network, samples = self.stage.network, self.samples_used + self.evaluated
        speed = self.stage.speeds[self.id]
        if network.devices is not None and samples and self.busy:
            speed = samples / self.busy
        return network.energy.joules(self.id, samples, speed, self.bytes_out, self._received()[0])

    @property
    def round(self) -> int:
        """The open round, which is also the number of completed rounds."""
        return self.mail.round

    def keep(self, state: type[S], of: Part | str = "") -> S:
        key = state, of if isinstance(of, str) else of.place
        found = self.typed.get(key)
        if not isinstance(found, state):
            self.typed[key] = found = state(self, key[1])
        return found

    def rounds(self) -> AsyncIterator[int]:
        return Rounds(self)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Activity:
        if not inspect.iscoroutine(coroutine):
            raise ProgramError(f"Node {self.id} must spawn the call of an async function. Got {coroutine!r} instead.")
        return self.stage.spawn(self, coroutine)

    async def sleep(self, seconds: float) -> None:
        check_duration(self, "sleeps for", seconds)
        await self.stage.sleep(self, seconds)

    def serve(self, tag: str, handler: Callable[[Message], Coroutine[Any, Any, None]]) -> None:
        check_handler(self, tag, handler)
        answering = self.mail.answering

        async def answer(message: Message) -> None:
            try:
                await handler(message)
            finally:
                answering.pop(id(message), None)
            self.stage.answered(self)

        def handle(message: Message) -> None:
            answering[id(message)] = message
            self.stage.answer(self, answer(message))

        self.mail.serve(tag, handle)

    async def compute(
        self,
        function: Callable[..., T],
        *arguments: Any,
        samples: float | None = None,
        seconds: float | None = None,
    ) -> T:
        if (samples is None) == (seconds is None):
            raise ProgramError(f"A compute of node {self.id} must have either 'samples' or 'seconds'.")
        if samples is not None:
            seconds = self.stage.seconds(self, samples)
        assert seconds is not None
        check_duration(self, "computes for", seconds)
        random = None
        if asks_for_randomness(function):
            random = partial(self.random, "compute", self.round, self.calls)
            self.calls += 1
        # A function that writes to its arguments, perhaps in another thread, must not change anything else.
        call = Call(Function(function), private_all(arguments) if self.careful else arguments, random)
        await self.stage.compute(self, call, seconds)
        if call.error is not None:
            raise call.error
        if samples is not None:
            self.evaluated += round(samples)
            self.busy += seconds
        result: T = private_all(call.result) if self.careful else call.result
        return result

    def log(self, **metrics: float) -> None:
        check_metrics(self, metrics)
        if self.in_round:
            self.stage.recorder.log(self.id, self.round + 1, metrics)
        else:
            self.record("log", **metrics)

    def record(self, table: str, /, **columns: bool | int | float | str | bytes | None) -> None:
        self.stage.columns.check(self.id, table, columns)
        self.stage.recorder.record(self.stage.now, self.id, table, columns)

    def measured(self, what: Literal["encoding", "mixing"]) -> AbstractContextManager[None]:
        return self.stage.measured(self, what)

    def send(
        self, to: NodeId | Sequence[NodeId], payload: Payload | Content, *, tag: str = "", round: int | None = None
    ) -> Sending:
        check_tag(self, tag)
        if round is not None:
            round = checked_round(self, round)
        if type(to) is not tuple or to != self.receivers:
            self.receivers = checked_receivers(self, to)
        if not self.receivers:
            return SENT
        return self.stage.post(self, self.receivers, self.given(payload), tag, round)

    def given(self, payload: Payload | Content) -> Payload:
        """The entries of a payload that the program sends, as a snapshot."""
        self._act()
        entries = entries_of(payload, self)
        return self._taken_payload(entries) if self.careful else entries

    async def sampled(self, round: int) -> list[Pseudonym]:
        from covey.runtime.pseudonyms import RunningPseudonym

        round = checked_round(self, round)
        if self.stage.prepared.overlay is None or round >= self.stage.rounds:
            raise ProgramError(
                f"Node {self.id} asks for its virtual nodes of round {round}; there are "
                f"{'none' if self.stage.prepared.overlay is None else f'{self.stage.rounds} rounds'}."
            )
        return [RunningPseudonym(self, share, round) for share in await self.stage.shares(self, round)]

    def withdraw(self, tag: str) -> int:
        return self.stage.withdraw(self, tag)

    async def receive(
        self,
        *,
        tag: str | tuple[str, ...] = "",
        round: int | None = None,
        senders: Sequence[NodeId] | None = None,
        count: int | None = None,
        timeout: float | None = None,
        after: Sequence[str] | None = None,
    ) -> Inbox:
        if type(tag) is tuple:
            return await self._receive_any(tag, round, senders, count, timeout)
        assert isinstance(tag, str)
        key, mail = (tag, round), self.mail
        missing, left = None, 0
        lost: set[int] = set()
        if timeout is not None:
            check_duration(self, "waits for at most", timeout)
        if senders is not None:
            missing = mail.lacking(key, senders)
            if missing:
                if not self.stage.knows(missing):
                    refuse_senders(self, missing)
                lost = mail.overtaken(key, missing, after)
                missing -= lost
        else:
            left = (count if count is not None else 1 if timeout is None else self.nodes) - mail.count(key)
        if not missing and left <= 0:
            return Inbox(self._take(key, senders, count), sorted(lost), sorted(lost))
        if key in mail.waiters:
            raise ProgramError(f"Two activities of node {self.id} wait for {describe(key)} at once.")
        stage = self.stage
        waiter = stage.waiter(missing, lost, left)
        waiter.after = after
        mail.wait(key, waiter)
        began = stage.now
        await stage.woken(self, key, waiter, timeout)
        self.seconds[WAITING] += stage.now - began
        absent = sorted(lost | missing) if missing else sorted(lost)
        return Inbox(self._take(key, senders, count), absent, sorted(lost))

    async def _receive_any(
        self,
        tags: tuple[str, ...],
        round: int | None,
        senders: Sequence[NodeId] | None,
        count: int | None,
        timeout: float | None,
    ) -> Inbox:
        """Wait for messages of any of several tags."""
        check_tags(self, tags, senders)
        if timeout is not None:
            check_duration(self, "waits for at most", timeout)
        mail, stage = self.mail, self.stage
        wanted = count if count is not None else 1 if timeout is None else self.nodes
        left = wanted - sum(mail.count((tag, round)) for tag in tags)
        if left > 0:
            for tag in tags:
                if (tag, round) in mail.waiters:
                    raise ProgramError(f"Two activities of node {self.id} wait for {describe((tag, round))} at once.")
            waiter = stage.waiter(None, set(), left)
            for tag in tags:
                mail.wait((tag, round), waiter)
            began = stage.now
            await stage.woken(self, (tags[0], round), waiter, timeout)
            self.seconds[WAITING] += stage.now - began
        taken: list[Message] = []
        for tag in tags:
            taken += self._take((tag, round), None, wanted - len(taken))
        return Inbox(taken)

    def arrived(self, *, tag: str = "", round: int | None = None) -> Inbox:
        return Inbox(self._take((tag, round)))

    def _take(self, key: Key, senders: Sequence[NodeId] | None = None, count: int | None = None) -> list[Message]:
        taken = self.mail.take(key, senders, count)
        if taken:
            self._act()
        return taken

    def _act(self) -> None:
        """Note that the program sends or takes messages."""
        if not (self.mail.handlers and self.stage.answers(self)):
            self.acted = True

    def usable(self, messages: Iterable[Message], content: Any = None, /, **entries: Wanted) -> Any:
        return usable(self, messages, content, entries, copy=self.careful)

    def reject(self, message: Message | Content, reason: str) -> None:
        self.stage.reject(self, message.sender, reason, "unusable")

    def discard(self, message: Message | Content) -> None:
        self.mail.drop("late")

    def messages(self, tag: str) -> AsyncIterator[Message]:
        return Messages(self, tag)

    def random(self, purpose: str, *key: int) -> np.random.Generator:
        return rng.generator(self.stage.seed, f"node {purpose}", self.id, *key)

    def public_random(self, purpose: str, *key: int) -> np.random.Generator:
        return rng.generator(self.stage.seed, f"public {purpose}", *key)

    # ------------------------------------------------------------------ for the stage

    def event(self, kind: str, detail: str) -> None:
        """Record an event of the node."""
        self.stage.event(self.id, kind, detail)

    def count_sent(self, lengths: wire.Lengths, copies: int) -> None:
        """Count copies of a message that are sent or, with a negative number, withdrawn."""
        frame, values, indices = lengths
        self.messages_out += copies
        self.bytes_out += frame * copies
        self.value_bytes_out += values * copies
        self.index_bytes_out += indices * copies

    def count_hops(self, lengths: wire.Lengths, copies: int) -> None:
        """Count the transfers between it and its virtual nodes on machines of others, as many bytes in as out."""
        self.bytes_out += lengths.frame * copies
        self.mail.bytes_in += lengths.frame * copies
        self.value_bytes_out += lengths.values * copies
        self.index_bytes_out += lengths.indices * copies

    def kept(self, value: Any) -> Any:
        """A snapshot of an array of the program."""
        if isinstance(value, np.ndarray):
            return frozen(value)
        from covey.messages.ownership import keep

        return keep(value)

    def _taken_payload(self, payload: Payload) -> Payload:
        """A snapshot of a payload."""
        return {name: self.taken(value) for name, value in payload.items()}

    def taken(self, value: Any) -> Any:
        """A read-only snapshot of a value of the program."""
        if is_tensor(value):
            value = self.kept(value)
            setattr(value, KEPT, True)
            return value
        if isinstance(value, np.ndarray):
            return frozen(value)
        return value.copy() if type(value) is list else value

    def hold(self) -> None:
        """Pause the node."""
        self.held = []
        self.mail.hold()

    def release(self) -> None:
        """End a pause: deliver the messages that arrived meanwhile, then take the actions that were due."""
        held, self.held = self.held or [], None
        self.mail.release()
        for action in held:
            action()

    def commit_row(self) -> tuple[Any, ...]:
        """A row of the completed round, with the columns `covey.runtime.runs.schema.COMMIT_COLUMNS`."""
        mail, (bytes_in, messages_in) = self.mail, self._received()
        return (
            self.id,
            mail.round,
            self.now,
            self.loss,
            self.steps,
            self.samples_used,
            self.bytes_out,
            bytes_in,
            self.messages_out,
            messages_in,
            mail.dropped,
            self.value_bytes_out,
            self.index_bytes_out,
            *self.seconds,
        )

    def _received(self) -> tuple[int, int]:
        """The bytes and the number of received messages.

        If all nodes go through the same rounds, messages of later rounds do not count: rows of a round are the same
        however early they come.
        """
        early = self.mail.early() if self.stage.counts_rounds else ()
        return self.mail.bytes_in - sum(message.size for message in early), self.mail.messages_in - len(early)

    @property
    def serves_on(self) -> bool:
        """True if its program has returned and its handlers continue, also after a resumption from a cut with mail.

        Its program then runs again, so it must not have acted since its last round.
        """
        return self.mail.ended and bool(self.mail.handlers) and self.stage.mail is not None and not self.acted

    def learned(self) -> Any:
        """The resumable state of a node that learns, beside `state`."""
        return None

    def restore_learned(self, learned: Any) -> None:
        """Restore the result of `learned`."""

    def check_commit(self) -> None:
        """Check that a checkpoint can hold the node's state.

        Raises:
            ProgramError: an entry has a wrong type.
        """
        if not self.state:
            return
        try:
            wire.size(self.state)
        except WireError:
            refuse_state(self)

    def failure(self, program: Program, error: Exception) -> CoveyError:
        """The error to raise after the program raised `error`."""
        if isinstance(error, CoveyError) and not isinstance(error, WireError):
            return error
        if isinstance(error, AttributeError) and error.obj is self:
            return ProgramError(
                f"Node {self.id} of the program {program.title()} has no '{error.name}'. A plain node does not learn: "
                f"derive the program from LearningProgram if its nodes have data and a model."
            )
        return ProgramError(
            f"The program {program.title()} fails at node {self.id} in round {self.round}: {described(error)}."
        )
