"""Plays runs of an emulation in virtual time and lets them fail: launcher, hosts, links and disk, at any await.

    python -m fuzz.recovery                # for ever, from a random seed on
    python -m fuzz.recovery --seconds 3600
    python -m fuzz.recovery --seed 1234    # one, with what happened

The launcher, the hosts and the writer of the run's folder are the real ones; processes, sockets, the clock, the disk's
syncs and the learning are not. After every failure the folder must have all rows that its latest checkpoint counts on.
In the end the run must have finished and have every row once. Where all nodes go through the same rounds and wait for
one another, it must be the run that nothing happened to: the same models, to the bit. Where they count messages at
their own pace, each must have had every message once.
"""

import argparse
import logging
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from contextvars import Context
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fuzz.disk import Disk
from fuzz.makers import Maker
from fuzz.tiny import HOSTS, NODES, ROUNDS, TOKEN, VARIANTS, Variant, prepared
from fuzz.virtual import Door, Loop, Process, Stuck

from covey import api
from covey.api import running
from covey.messages.files import read_payload
from covey.parts.errors import CoveyError, RunError
from covey.runtime import cadence
from covey.runtime.emulation.host import heartbeat, host
from covey.runtime.emulation.host import run as host_run
from covey.runtime.emulation.launcher import launching, processes
from covey.runtime.runs import Run, writer
from covey.runtime.runs.schema import CHECKPOINTS, METRICS, MODELS

_LATEST = 7200.0
"""Virtual seconds after which a start of a run hangs."""
_MOST_STEPS = 400_000
"""So many steps of a start are a loop that never ends."""
_STARTS = 12
"""The limit of starts of a run until it has finished."""
_ALLOWED = re.compile(
    r"^(Host \d+ at \S+ is gone|Host \d+ ended|Host \d+ at \S+: |\d of \d hosts are missing"
    r"|The connection between hosts"
    r"|The run folder \S+ cannot be (written|made): (database or disk is full|No space left))"
)
"""The errors with which a struck run may end."""
_NOT_BEGUN = re.compile(r"^Host \d+ ended .* ready|hosts are missing")
"""The errors with which a run may end if only hosts were struck: before it began, or if one did not return."""


class Killed(BaseException):
    """The process that writes the run's folder is gone."""


class Failed(Exception):
    """A schedule that must not end as it did."""


# ---------------------------------------------------------------------- what goes wrong


@dataclass(frozen=True)
class Failure:
    """A failure at a step."""

    at: int
    kind: str
    number: int
    """The target of a strike among the possible ones."""
    seconds: float


KINDS = {"kill": 5, "drop": 4, "stand still": 3, "stall": 3, "die": 4, "stop": 3, "full": 1, "power": 3, "read": 2}
"""The weight with which each kind is drawn."""


def draw_failures(draw: random.Random, steps: int) -> list[Failure]:
    """The strikes of a run that takes so many steps without them."""
    failures: list[Failure] = []
    for _ in range(draw.choice((1, 1, 2, 2, 3, 5))):
        near = failures and draw.random() < 0.5
        at = failures[-1].at + draw.randrange(1, 200) if near else draw.randrange(1, int(1.3 * steps))
        (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
        failures.append(Failure(at, kind, draw.randrange(1000), draw.choice((0.01, 0.2, 2.0, 20.0, 50.0))))
    return sorted(failures, key=lambda failure: failure.at)


class Play:
    """One run, from its first start to its end.

    Args:
        variant: the experiment.
        seed: of the order of things.
        failures: the failures of the run.
        root: an empty folder.
    """

    def __init__(self, variant: Variant, seed: int, failures: Sequence[Failure], root: Path) -> None:
        self.variant, self.failures = variant, list(failures)
        self.random = random.Random(seed)
        self.steps = 0
        self.loop = Loop(seed, self.on_step)
        self.disk = Disk(root, self.on_write)
        self.folder = root / "0"
        self.root = root
        self.launcher: Process | None = None
        self.killed = False
        self.hosts: list[Process] = []
        """The processes of hosts that the launcher has not started, by their numbers."""
        self.local: list[Process] = []
        self.struck: list[Failure] = []
        """The failures that have happened."""
        self.events: list[str] = []
        """The events, for the reader of a failure."""
        self._began_at = 0

    def say(self, what: str) -> None:
        self.events.append(f"{self.loop.time() - 1000:10.3f} s, step {self.steps}: {what}")

    # ------------------------------------------------------------------ failures

    def on_step(self) -> None:
        """Something is about to be done."""
        self.steps += 1
        if self.steps - self._began_at > _MOST_STEPS:
            raise Stuck(f"{_MOST_STEPS} steps and no end")
        while self.failures and self.failures[0].at <= self.steps:
            self.strike(self.failures.pop(0))

    def on_write(self) -> None:
        """The launcher's process is about to change a file for good."""
        if not self.killed:
            self.on_step()
        if self.killed:
            raise Killed

    def strike(self, failure: Failure) -> None:
        """Let something go wrong."""
        self.struck.append(failure)
        alive = [process for process in (*self.hosts, *self.local) if process.alive]
        kind, pipes = failure.kind, [*self.loop.network.pipes]
        if kind == "kill" and alive:
            process = alive[failure.number % len(alive)]
            self.say(f"{process.name} is killed")
            process.kill()
        elif kind == "stand still" and alive:
            process = [*alive, self.launcher or alive[0]][failure.number % (len(alive) + 1)]
            self.say(f"{process.name} stands still for {failure.seconds:g} s")
            process.stand_still(failure.seconds)
        elif kind in ("drop", "stall") and pipes:
            pipe = pipes[failure.number % len(pipes)]
            ends = " and ".join(end.process.name if end.process else "nobody" for end in (pipe, pipe.peer))
            if kind == "drop":
                self.say(f"the connection of {ends} breaks")
                for end in (pipe, pipe.peer):
                    end.hang_up()
            else:
                self.say(f"the connection of {ends} stalls for {failure.seconds:g} s")
                for end in (pipe, pipe.peer):
                    end.stalled_until = self.loop.time() + failure.seconds
        elif kind == "stop" and self.launcher is not None:
            self.say("the launcher is to stop")
            self.launcher.signal(signal.SIGTERM)
        elif kind == "read" and self.folder.exists():
            self.say("somebody reads the run")
            self.disk.read()
        elif kind == "full":
            self.say("the disk is full")
            self.disk.is_full = True
        elif kind in ("die", "power") and self.folder.exists():
            self.say("the launcher is killed" if kind == "die" else "the power is cut")
            self.folder = self.disk.copied() if kind == "die" else self.disk.cut(self.random)
            self.killed = True
            for process in [self.launcher, *(alive if kind == "power" else ())]:
                if process is not None:
                    process.kill()

    # ------------------------------------------------------------------ what is not real

    @contextmanager
    def staged(self) -> Iterator[None]:
        """Let covey run on this loop, disk and network."""
        loop = self.loop

        with ExitStack() as stack:
            for target, name, new in (
                (launching.asyncio, "run", self.launch),
                (processes, "Processes", lambda wanted, **_: Maker(self, wanted)),
                (host, "Door", Door),
                (host, "call", lambda address, port, first: loop.network.connect(port)),
                (host_run, "prepare", lambda *_, **__: prepared(self.variant)),
                (host_run, "Experiment", mock.Mock(from_table=lambda _: prepared(self.variant).experiment)),
                (running, "_prepare", lambda *_: prepared(self.variant)),
                (heartbeat, "memory_bytes", lambda: 0),
                (writer, "monotonic", loop.time),
                (cadence, "_LEAST", 0.05),
            ):
                stack.enter_context(mock.patch.object(target, name, new))
            stack.enter_context(self.disk.watched())
            yield

    def launch(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run the launcher in a process of its own until it ends."""
        self.launcher = process = Process(self.loop, "the launcher")
        over = self.loop.create_future()

        def end(*_: Any) -> None:
            if not over.done():
                over.set_result(None)

        process.ended.append(end)
        task = process.run(main)
        task.add_done_callback(end, context=Context())
        try:
            self.loop.until(over, self.loop.time() + _LATEST)
            if self.killed:
                raise Killed
            return task.result()
        finally:
            self.launcher = None
            process.kill()

    def start_hosts(self) -> None:
        """Start the hosts that somebody else starts, where they are not there."""
        for number in range(HOSTS if self.variant.remote else 0):
            if number >= len(self.hosts) or not self.hosts[number].alive:
                self.hosts[number : number + 1] = [self.remote_host(number)]

    def remote_host(self, number: int) -> Process:
        process = Process(self.loop, f"host {number}")
        listening = self.loop.network.listen(9000 + number)
        process.run(host.Host(TOKEN, silence=host.SILENCE).serve(listening))

        def again() -> None:
            # Somebody starts it again, sooner or later.
            if self.hosts[number] is process:
                self.hosts[number] = self.remote_host(number)
                self.say(f"host {number} is started again")

        process.ended.append(
            lambda: self.loop.call_later(self.random.choice((0.1, 5.0, 90.0)), again, context=Context())
        )
        return process

    # ------------------------------------------------------------------ from beginning to end

    def run(self) -> Run:
        """Start the run and resume it until it has finished.

        Raises:
            Failed: something that must not be.
        """
        try:
            with self.staged():
                for start in range(_STARTS):
                    run = self._start(start)
                    if run is not None:
                        self.check_end(run)
                        return run
                raise Failed(f"it has not finished after {_STARTS} starts")
        except (Stuck, AssertionError) as error:
            raise Failed(f"{type(error).__name__}: {error}") from error
        finally:
            self.disk.let_go()
            self.loop.abandon()

    def _start(self, start: int) -> Run | None:
        """Start or resume it; None where it has not finished."""
        self.killed, self._began_at = False, self.steps
        self.disk.is_full = False
        self.disk.let_go()
        self.start_hosts()
        resumes = self.folder.exists() and any((self.folder / CHECKPOINTS).glob("*.covey"))
        if self.folder.exists() and not resumes:
            # Before the first checkpoint there is nothing to resume from.
            self.folder = self.folder.with_name(str(int(self.folder.name) + 1))
        if resumes and Run(self.folder).status == "finished":
            return Run(self.folder)  # The process that was killed last had nothing left to do.
        self.say("the run is resumed" if resumes else "the run begins")
        try:
            run = api.resume(self.folder) if resumes else api.run(prepared(self.variant).experiment, out=self.folder)
        except (Killed, CoveyError, KeyboardInterrupt) as error:
            if not self.killed:
                self.say(f"it ends with {type(error).__name__}: {error}")
                if isinstance(error, CoveyError) and not (_NOT_BEGUN if self.is_mild else _ALLOWED).search(str(error)):
                    raise Failed(f"it ends with {type(error).__name__}: {error}") from error
            self.check_counted()
            return None
        self.say(f"it is {run.status}")
        self.check_counted()
        return run if run.status == "finished" else None

    # ------------------------------------------------------------------ what must be

    def check_counted(self) -> None:
        """Whether all rows are there on which the latest checkpoint counts."""
        found = sorted((self.folder / CHECKPOINTS).glob("round-*.covey"))
        payload = None
        for path in reversed(found):
            try:
                payload = read_payload(path)
                break
            except RunError:
                continue
        if payload is None:
            if found:
                raise Failed("no checkpoint is whole")
            return
        completed = payload["completed"].tolist()  # type: ignore[union-attr]
        ended = payload["ended"].tolist()  # type: ignore[union-attr]
        if self.goes_in_step:
            at = {rounds for rounds, is_over in zip(completed, ended, strict=True) if not is_over}
            if len(at) > 1 and not self.variant.waits:
                raise Failed(f"the checkpoint is of different rounds: {completed}")
        rows = self.rows("SELECT node, round FROM commits")
        for node, rounds in enumerate(completed):
            here = sorted(r for n, r in rows if n == node and 0 < r <= rounds)
            wanted = list(range(1, rounds + 1))
            if here != wanted if self.goes_in_step else len(set(here)) != len(here):
                raise Failed(f"the checkpoint counts on {rounds} rounds of node {node}, and there are {here}")

    @property
    def goes_in_step(self) -> bool:
        """Whether all nodes go through the same rounds and wait for one another."""
        return prepared(self.variant).in_step and prepared(self.variant).waits_for_all

    @staticmethod
    def check_counts(run: Run) -> None:
        """Whether every node has had every message once."""
        for node, state in enumerate(run.states):
            if sorted(state["had"]) != list(range(ROUNDS)):
                raise Failed(f"node {node} has had the messages {sorted(state['had'])}")

    @property
    def is_mild(self) -> bool:
        """Whether the run must go on by itself after all that has gone wrong."""
        mended = {"kill", "drop", "stall", "stand still", "read"}
        return len(self.struck) <= 5 and all(f.kind in mended and f.seconds < 30.0 for f in self.struck)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of the run's database, read from a copy."""
        with tempfile.TemporaryDirectory(dir=self.root.parent) as scratch:
            for path in self.folder.glob(f"{METRICS}*"):
                if not path.name.endswith("-shm"):
                    shutil.copy(path, scratch)
            with closing(sqlite3.connect(Path(scratch) / METRICS)) as database:
                return database.execute(query).fetchall()

    def check_end(self, run: Run) -> None:
        """Whether a run that has finished is the one that nothing happened to."""
        rows = self.rows("SELECT node, round, steps, samples, bytes_out, messages_out FROM commits")
        figures = self.rows("SELECT node, round, name, value FROM metrics")
        for what, keys in (("rows", [row[:2] for row in rows]), ("figures", [figure[:3] for figure in figures])):
            if len(set(keys)) < len(keys):
                raise Failed(f"some {what} are there twice: {sorted({key for key in keys if keys.count(key) > 1})}")
        if {node for node, round, *_ in rows if round == ROUNDS} != set(range(self.variant.idles, NODES)):
            raise Failed("not all nodes have completed the last round")
        if self.variant.counts:
            self.check_counts(run)
        if self.goes_in_step and self.failures is not None:
            models, its_rows, its_figures = undisturbed(self.variant)
            if sorted(rows) != its_rows:
                raise Failed(f"its rows are others: {sorted(set(rows) ^ set(its_rows))[:6]}")
            if self.variant.waits:
                # The contributions of nodes to averages are not in a checkpoint.
                figures, its_figures = ([row for row in rows if row[0] >= 0] for rows in (figures, its_figures))
            if sorted(figures) != its_figures:
                raise Failed(f"its figures are others: {sorted(set(figures) ^ set(its_figures))[:6]}")
            if models != (run.folder / MODELS).read_bytes():
                raise Failed("its models are others")


_EXPECTED: dict[str, Any] = {}
_STEPS: dict[str, int] = {}


def undisturbed(variant: Variant) -> tuple[bytes, list[Any], list[Any]]:
    """(the models, rows and figures) of a run to which nothing happens."""
    if variant.name not in _EXPECTED:
        with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
            play = Play(variant, 0, (), Path(folder))
            play.check_end = lambda run: None  # type: ignore[method-assign]
            run = play.run()
            _STEPS[variant.name] = play.steps
            _EXPECTED[variant.name] = (
                b"" if variant.counts else (run.folder / MODELS).read_bytes(),
                sorted(play.rows("SELECT node, round, steps, samples, bytes_out, messages_out FROM commits")),
                sorted(play.rows("SELECT node, round, name, value FROM metrics")),
            )
    return _EXPECTED[variant.name]


def _scratch() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def play(seed: int, *, verbose: bool = False) -> Play:
    """Play the schedule of a seed.

    Raises:
        Failed: it did not end as it must.
    """
    draw = random.Random(seed)
    variant = draw.choice(VARIANTS)
    undisturbed(variant)
    failures = draw_failures(draw, _STEPS[variant.name])
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        played = Play(variant, seed, failures, Path(folder))
        played.say(f"{variant.name}, {failures}")
        try:
            played.run()
        except Failed as error:
            events = "\n".join([*played.events, *played.loop.complaints])
            raise Failed(f"seed {seed}, {variant.name}: {error}\n{events}") from error
        if verbose:
            print("\n".join(played.events))
        return played


def main() -> int:
    """Play schedules until one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="play this one and say what happened")
    parser.add_argument("--first", type=int, help="the seed of the first schedule; drawn by default")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for how long; for ever by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="in how many processes; by default one a core")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    if arguments.seed is not None:
        try:
            play(arguments.seed, verbose=True)
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    seed = arguments.first if arguments.first is not None else random.SystemRandom().randrange(1 << 32)
    began, count = time.monotonic(), 0

    def pace() -> str:
        return f"{count} schedules from seed {seed} on, {60 * count / (time.monotonic() - began):.0f} a minute"

    with Pool(arguments.jobs, torch.set_num_threads, (1,)) as pool:
        while time.monotonic() - began < arguments.seconds:
            for failure in pool.imap(failure_of, range(seed + count, seed + count + 64 * arguments.jobs), 8):
                if failure is not None:
                    print(f"{failure}\n\nAgain: python -m fuzz.recovery --seed {seed + count}", file=sys.stderr)
                    return 1
                count += 1
            print(pace(), flush=True)
    return 0


def failure_of(seed: int) -> str | None:
    """The failure of a seed's schedule; None if it did not fail."""
    logging.disable(logging.CRITICAL)
    try:
        play(seed)
    except Failed as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
