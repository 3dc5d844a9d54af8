"""What the nodes of every engine have in common: mailbox, counters, checks, randomness, snapshots."""

import math
import reprlib
from abc import abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from covey.learning.learner import Training
from covey.learning.optimizers import Slots
from covey.messages import wire
from covey.network import Energy
from covey.parts import rng
from covey.parts.errors import CoveyError, ProgramError, WireError, told
from covey.runtime.mailbox import REASONS, Mailbox, Waiter, describe
from covey.runtime.node import (
    MODEL,
    Expected,
    Gradient,
    Inbox,
    LocalData,
    Message,
    Mixture,
    NodeId,
    Numbers,
    Payload,
    Program,
    Sending,
    State,
    Update,
    Work,
)
from covey.runtime.possession import Possession
from covey.runtime.runs.schema import SPENT
from covey.runtime.snapshots import Snapshot


class _Sent:
    """A message that went nowhere, or of which nothing queues any more."""

    def cancel(self) -> int:
        return 0


SENT = _Sent()
_ROUNDS = 1 << 63
"""A message has room for the numbers of so many rounds."""
TRAINING, WAITING, ENCODING, MIXING = range(len(SPENT))
USUAL = Work()
"""Training as the task says."""


class Participant(Possession):
    """One node of any engine.

    Args:
        id: which.
        role: its role in the program.
        nodes: how many there are.
        holder: its place among the nodes with data; None without.
        data: what it may know of them.
        model: what it begins with.
        careful: whether its program may write to tensors that it is handed or has handed over.
        seed: the experiment's.
        ordered: whether messages keep their order over a link.
    """

    __slots__ = (
        "behind",
        "bytes_out",
        "calls",
        "data",
        "evaluated",
        "held",
        "holder",
        "id",
        "loss",
        "mail",
        "messages_out",
        "nodes",
        "order",
        "place_bytes_out",
        "receivers",
        "role",
        "samples",
        "seed",
        "slots",
        "spent",
        "state",
        "steps",
        "stream",
        "value_bytes_out",
    )

    def __init__(
        self,
        id: int,
        role: str,
        nodes: int,
        holder: int | None,
        data: LocalData,
        model: Tensor,
        *,
        careful: bool,
        seed: int,
        ordered: bool,
    ) -> None:
        super().__init__(model, careful=careful)
        self.id = NodeId(id)
        self.role = role
        self.nodes = nodes
        self.holder = holder
        self.data = data
        self.seed = seed
        self.state: State = {}
        self.slots: Slots | None = None
        self.receivers: tuple[int, ...] = ()
        """To whom it sent last; most programs send to the same again."""
        self.calls = 0
        self.order = id << 40
        """Ties of virtual time are settled by it, so that they do not depend on what else happened."""
        self.stream = rng.mix(rng.purpose_key(seed, "train"), id)
        self.mail = Mailbox(ordered=ordered)
        self.behind = False
        """Whether it comes back and has not caught up."""
        self.held: list[Callable[[], None]] | None = None
        """What is to happen when the node, which stands still, goes on; None where it does not stand still."""
        self.loss: float | None = None
        self.bytes_out = self.messages_out = self.steps = self.samples = 0
        self.value_bytes_out = self.place_bytes_out = 0
        self.spent = [0.0] * len(SPENT)
        """Seconds, in the order of SPENT."""
        self.evaluated = 0
        """On how many samples it has evaluated, where that took time."""

    # ------------------------------------------------------------------ what an engine adds

    @abstractmethod
    def _post(self, receivers: Sequence[int], payload: Payload, tag: str, round: int | None) -> Sending:
        """Send a payload to some nodes."""

    @abstractmethod
    def _waiter(self, missing: set[int] | None, lost: set[int], left: int) -> Waiter:
        """What resumes the current activity when its messages are here."""

    @abstractmethod
    def _heard(self, key: tuple[str, int | None], waiter: Waiter, timeout: float | None) -> Awaitable[None]:
        """Until a waiter is resumed, or in vain."""

    @abstractmethod
    def event(self, kind: str, detail: str) -> None:
        """Record something that happened to the node."""

    # ------------------------------------------------------------------ the contract

    @property
    def round(self) -> int:
        return self.mail.round

    def send(
        self, to: NodeId | Sequence[NodeId], payload: Payload, *, tag: str = "", round: int | None = None
    ) -> Sending:
        if type(tag) is not str:
            raise ProgramError(f"The 'tag' of a message of node {self.id} must be a str. Got {tag!r} instead.")
        if round is not None:
            round = self._checked_round(round)
        if type(to) is not tuple or to != self.receivers:
            self.receivers = self._checked_receivers(to)
        return self._post(self.receivers, self._taken_payload(payload) if self.careful else payload, tag, round)

    def _checked_receivers(self, to: Any) -> tuple[int, ...]:
        """To whom a message goes, whatever the program does to its list while it is under way.

        Raises:
            ProgramError: one of them is no node.
        """
        receivers = (int(to),) if isinstance(to, (int, np.integer)) else tuple(to)
        if receivers and not (min(receivers) >= 0 and max(receivers) < self.nodes):
            wrong = next(receiver for receiver in receivers if not 0 <= receiver < self.nodes)
            raise ProgramError(f"Node {self.id} sends to node {wrong}; ids are in [0, {self.nodes}).")
        return receivers

    def _checked_round(self, round: Any) -> int:
        if (type(round) is int or isinstance(round, np.integer)) and 0 <= round < _ROUNDS:
            return int(round)
        raise ProgramError(
            f"The 'round' of a message of node {self.id} must be None or an int in [0, {_count(_ROUNDS)}). "
            f"Got {round!r} instead."
        )

    async def receive(
        self,
        *,
        tag: str = "",
        round: int | None = None,
        senders: Sequence[NodeId] | None = None,
        count: int | None = None,
        timeout: float | None = None,
        after: Sequence[str] | None = None,
    ) -> Inbox:
        key, mail = (tag, round), self.mail
        missing, left = None, 0
        lost: set[int] = set()
        if timeout is not None:
            self._check_duration("waits for at most", timeout)
        if senders is not None:
            missing = mail.lacking(key, senders)
            if missing:
                lost = mail.overtaken(key, missing, after)
                missing -= lost
        else:
            left = (count if count is not None else 1 if timeout is None else self.nodes) - mail.count(key)
        if not missing and left <= 0:
            return Inbox(mail.take(key, senders, count), sorted(lost), sorted(lost))
        if key in mail.waiters:
            raise ProgramError(f"Two activities of node {self.id} wait for {describe(key)} at once.")
        waiter = self._waiter(missing, lost, left)
        waiter.after = after
        mail.wait(key, waiter)
        began = self.now
        await self._heard(key, waiter, timeout)
        self.spent[WAITING] += self.now - began
        absent = sorted(lost | missing) if missing else sorted(lost)
        return Inbox(mail.take(key, senders, count), absent, sorted(lost))

    def arrived(self, *, tag: str = "", round: int | None = None) -> Inbox:
        return Inbox(self.mail.take((tag, round)))

    def usable(self, messages: Iterable[Message], /, **entries: Expected) -> list[Message]:
        wanted = list(entries.items())
        return [message for message in messages if self._is_usable(message, wanted)]

    def _is_usable(self, message: Message, wanted: list[tuple[str, Expected]]) -> bool:
        """Whether a message has what its receiver wants; if not, it is rejected."""
        for name, expected in wanted:
            if not self._is(message.shared.get(name), expected):
                missing = name not in message.shared
                wrong = f"it has no '{name}'" if missing else f"its '{name}' is not {self._in_words(expected)}"
                self.reject(message, wrong)
                return False
        return True

    def _is(self, value: Any, expected: Expected) -> bool:
        """Whether an entry of a payload is what it must be; True and False are no ints here."""
        if expected is MODEL:
            return isinstance(value, Tensor) and value.shape == self.shape and value.dtype == torch.float32
        if isinstance(expected, Numbers):
            return isinstance(value, Tensor) and value.shape == (expected.count,) and value.dtype == torch.float32
        if isinstance(expected, range):
            return type(value) is int and value in expected
        if expected is Tensor:
            return isinstance(value, Tensor)
        return type(value) is expected or (expected is float and type(value) is int)

    def _in_words(self, expected: Expected) -> str:
        if expected is MODEL:
            return f"{self.shape[0]} float32 numbers"
        if isinstance(expected, Numbers):
            return f"{expected.count} float32 numbers"
        if isinstance(expected, range):
            return f"an int in [{expected.start}, {_count(expected.stop)})"
        assert isinstance(expected, type)
        return f"{'an' if expected is int else 'a'} {expected.__name__}"

    def reject(self, message: Message, reason: str) -> None:
        self.mail.drop("unusable")
        self.event("rejected", f"message of node {message.sender}: {reason}")

    def messages(self, tag: str) -> AsyncIterator[Message]:
        return _Messages(self, tag)

    def random(self, purpose: str, *key: int) -> np.random.Generator:
        return rng.generator(self.seed, f"node {purpose}", self.id, *key)

    def public_random(self, purpose: str, *key: int) -> np.random.Generator:
        return rng.generator(self.seed, f"public {purpose}", *key)

    # ------------------------------------------------------------------ for the engines

    def count_sent(self, lengths: wire.Lengths, copies: int) -> None:
        """Count copies of a message that are sent, or, where there are less than none, withdrawn."""
        frame, values, places = lengths
        self.messages_out += copies
        self.bytes_out += frame * copies
        self.value_bytes_out += values * copies
        self.place_bytes_out += places * copies

    def new_training(
        self, model: Tensor | Mixture | None, work: Work, gradient: Literal["", "batch", "all"] = ""
    ) -> Training:
        """What a training of the node in its open round is to be, or its gradient."""
        if self.holder is None:
            raise ProgramError(f"Node {self.id} ({self.role}) holds no data and cannot train.")
        start: Any = self._used(model)
        training = Training(self.holder, start, self.stream, self.mail.round, self.calls, work, self.slots)
        training.gradient = gradient
        self.calls += 1
        return training

    def trained(self, training: Training) -> Update:
        """Take over what came of a training."""
        update = training.update
        assert update is not None
        self.slots = training.slots
        self.steps += update.steps
        self.samples += update.samples
        self.loss = update.loss
        return update

    def differentiated(self, training: Training) -> Gradient:
        """Take over a gradient."""
        found = training.update
        assert found is not None
        assert training.buffers is not None
        self.samples += found.samples
        return Gradient(found.model, found.loss, found.samples, training.buffers)

    def hold(self) -> None:
        """Stand still."""
        self.held = []
        self.mail.hold()

    def go_on(self) -> None:
        """Do what would have happened meanwhile: first what came, then what the node itself waited for."""
        held, self.held = self.held or [], None
        self.mail.go_on()
        for action in held:
            action()

    def check_split(self, split: str) -> None:
        """Whether the node can evaluate on a split.

        Raises:
            ProgramError: it cannot.
        """
        if split not in ("train", "validation", "test"):
            raise ProgramError(f"The 'split' of evaluate must be one of 'train', 'validation', 'test'. Got {split!r}.")
        if self.holder is None and split != "test":
            raise ProgramError(f"Node {self.id} ({self.role}) holds no data and cannot evaluate on its {split} split.")

    def _check_duration(self, what: str, seconds: float) -> None:
        if not seconds >= 0:
            raise ProgramError(f"Node {self.id} {what} {seconds:g} seconds; that must be 0 or more.")

    def counters(self) -> list[int]:
        """What the node has sent, received and done, less what arrived early and will arrive again after a resume."""
        early = self.mail.early()
        return [
            self.bytes_out,
            self.mail.bytes_in - sum(message.size for message in early),
            self.messages_out,
            self.mail.messages_in - len(early),
            self.mail.dropped,
            self.value_bytes_out,
            self.place_bytes_out,
            self.steps,
            self.samples,
        ]

    def commit_row(self) -> tuple[Any, ...]:
        """The completed round as the columns `covey.runtime.runs.schema.COMMIT_COLUMNS`."""
        mail = self.mail
        return (
            self.id,
            mail.round,
            self.now,
            self.loss,
            self.steps,
            self.samples,
            self.bytes_out,
            mail.bytes_in,
            self.messages_out,
            mail.messages_in,
            mail.dropped,
            self.value_bytes_out,
            self.place_bytes_out,
            *self.spent,
        )

    def joules(self, energy: Energy, speed: float) -> float:
        """What the node has spent since the start."""
        return energy.joules(self.id, self.samples + self.evaluated, speed, self.bytes_out, self.mail.bytes_in)

    def snapshot(self, uplink: float = 0.0) -> Snapshot:
        """What the node could go on from now.

        Args:
            uplink: when all that it has sent will have left it.
        """
        return Snapshot(
            model=self._model,
            completed=self.mail.round,
            state=self._copied(self.state),
            slots=self.slots,
            loss=self.loss,
            counters=self.counters(),
            drops=[self.mail.drops[reason] for reason in REASONS],
            spent=self.spent.copy(),
            evaluated=self.evaluated,
            clock=self.now,
            order=self.order,
            uplink=uplink,
            ended=self.mail.ended,
            away=self.mail.ended and self.mail.away,
        )

    def check_commit(self) -> None:
        """See whether the node has the model that the program means, and a state that a checkpoint can hold.

        Raises:
            ProgramError: it has not.
        """
        self.check_model()
        if not self.state:
            return
        try:
            wire.size(self.state)
        except WireError:
            for name, value in self.state.items():
                try:
                    wire.size({name: value})
                except WireError as error:
                    shown = " ".join(reprlib.repr(value).split())
                    raise ProgramError(
                        f"The '{name}' in the state of node {self.id} must be what a message may hold: a tensor, "
                        f"an int, float, str, bool, bytes, None or a list of such. Got {shown} instead: {error.detail}."
                    ) from error

    def failure(self, program: Program, error: Exception) -> CoveyError:
        """What to raise when the program raised `error`."""
        if isinstance(error, CoveyError) and not isinstance(error, WireError):
            return error
        return ProgramError(
            f"The program {program.title()} fails at node {self.id} in round {self.round}: {told(error)}."
        )

    def restore(self, snapshot: Snapshot, *, counters: bool) -> None:
        """Go back to a snapshot; the counters only where the whole network does."""
        self._model, self._lent = snapshot.model, None
        self.state = self._copied(snapshot.state)
        self.slots = snapshot.slots
        mail = self.mail
        mail.round = snapshot.completed
        self.calls = 0
        if counters:
            self.loss = snapshot.loss
            self.order = snapshot.order
            self.evaluated = snapshot.evaluated
            self.spent = list(snapshot.spent)
            (
                self.bytes_out,
                mail.bytes_in,
                self.messages_out,
                mail.messages_in,
                mail.dropped,
                self.value_bytes_out,
                self.place_bytes_out,
                self.steps,
                self.samples,
            ) = snapshot.counters
            mail.drops = Counter(dict(zip(REASONS, snapshot.drops, strict=True)))


def _count(number: int) -> str:
    """A number in words: powers of two are easier to read as such."""
    return f"2**{number.bit_length() - 1}" if number > 1 << 20 and number.bit_count() == 1 else str(number)


class _Messages:
    """The messages of a tag, one by one."""

    def __init__(self, node: Participant, tag: str) -> None:
        self.node = node
        self.tag = tag

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> Message:
        return (await self.node.receive(tag=self.tag, count=1))[0]


def not_finite_entry(payload: Payload) -> str | None:
    """The name of an entry that is or holds NaN or infinity.

    A tensor that was found finite is looked at again only if it was written.
    """
    for name, value in payload.items():
        if type(value) is float and not math.isfinite(value):
            return name
        if type(value) is list and not all(math.isfinite(item) for item in value if type(item) is float):
            return name
        if isinstance(value, Tensor):
            looked_at = getattr(value, "known_finite", None)
            if (looked_at is not None and looked_at == value._version) or not value.is_floating_point():
                continue
            if not bool(torch.isfinite(value).all()):
                return name
            if not value.is_inference():
                value.known_finite = value._version  # type: ignore[attr-defined]
    return None
