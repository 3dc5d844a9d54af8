"""An event loop whose clock jumps, and the processes and sockets that live on it: no thread, no port, no waiting.

A process is a context: what its tasks and timers begin belongs to it too. One that is killed does nothing any more, not
even clean up; one that stands still does later what it would have done. Whatever happens follows from the seed.
"""

import asyncio
import contextvars
import heapq
import itertools
import random
import sys
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from unittest import mock

PROCESS: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)
BEGIN = 1000.0
"""The first time of the clock: code may take 0 for never."""


class Stuck(Exception):
    """Nothing is left to happen, or nothing comes of it."""


# ---------------------------------------------------------------------- the loop


class _Handle(asyncio.Handle):
    __slots__ = ("process",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.process = self._context.get(PROCESS)

    def _run(self) -> None:
        if self._loop.lets(self):
            super()._run()


class _Timer(asyncio.TimerHandle):
    __slots__ = ("number", "process")

    def __init__(self, number: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.number, self.process = number, self._context.get(PROCESS)

    def __lt__(self, other: "_Timer") -> bool:
        # Timers of one moment go off in the order in which they were set.
        return (self._when, self.number) < (other._when, other.number)

    def _run(self) -> None:
        if self._loop.lets(self):
            super()._run()


class _Task(asyncio.Task):
    """A task whose position in a set does not depend on where it lies in memory."""

    def __init__(self, number: int, *arguments: Any, **named: Any) -> None:
        self.number = number
        super().__init__(*arguments, **named)

    def __hash__(self) -> int:
        return self.number


class Loop(asyncio.BaseEventLoop):
    """Virtual time.

    Args:
        seed: of all that is drawn.
        on_step: called before everything that a process does.
    """

    def __init__(self, seed: int, on_step: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._selector = self
        self._now = BEGIN
        self._numbers = itertools.count()
        self.random = random.Random(seed)
        self.on_step = on_step
        self.steps = 0
        self.network = Network(self)
        self._began: list[_Task] = []
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._note)
        self.complaints: list[str] = []

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> asyncio.Task[Any]:
        task = _Task(next(self._numbers), coroutine, loop=loop, **named)
        task._log_destroy_pending = False
        self._began.append(task)
        return task

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.complaints.append(f"{context.get('message')}: {error!r}")

    # The methods that BaseEventLoop requires of a selector and of its subclasses.

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is left to happen")
        self._now += max(timeout, 0.0)
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _call_soon(self, callback: Any, args: Any, context: Any) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = _Timer(next(self._numbers), when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Do something after a moment, as a thread would."""
        future = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)

        self.call_later(self.random.uniform(0.0, 0.01), work)
        return future

    def add_signal_handler(self, number: int, callback: Callable[..., object], *arguments: Any) -> None:
        process = PROCESS.get()
        assert process is not None
        process.handlers[number] = callback

    def remove_signal_handler(self, number: int) -> bool:
        process = PROCESS.get()
        return process is not None and process.handlers.pop(number, None) is not None

    async def create_connection(self, factory: Any, *, sock: "Pipe", **named: Any) -> tuple[Any, Any]:
        return sock, sock.attach(factory())

    async def connect_accepted_socket(self, factory: Any, sock: "Pipe") -> tuple[Any, Any]:
        return sock, sock.attach(factory())

    # The methods for a harness.

    def lets(self, handle: "_Handle | _Timer") -> bool:
        """Whether something is done now, which may be the moment of a failure."""
        process = handle.process
        if process is None:
            return True
        if process.alive and process.held is None:
            self.steps += 1
            self.on_step()
        if process.alive and process.held is not None:
            process.held.append(handle)
        return process.alive and process.held is None

    def until(self, done: "asyncio.Future[Any]", late: float) -> None:
        """Let time pass until something is done.

        Raises:
            Stuck: it never is, or not by some time.
        """
        timer = self.call_at(late, lambda: done.done() or done.set_exception(Stuck(f"not done by {late:g}")))
        try:
            self.run_until_complete(done)
        finally:
            timer.cancel()

    def abandon(self) -> None:
        """Forget all that is still going on."""
        with warnings.catch_warnings(), mock.patch.object(sys, "unraisablehook"):
            warnings.simplefilter("ignore", RuntimeWarning)
            for task in self._began:
                if not task.done():
                    with suppress(BaseException):
                        task.get_coro().close()
            self._began.clear()
            self._ready.clear()
            self._scheduled.clear()
        self.close()


# ---------------------------------------------------------------------- processes


class Process:
    """The callbacks and connections of one process.

    Args:
        loop: the event loop of all processes.
        name: its name in the events of a failure.
    """

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop, self.name = loop, name
        self.alive = True
        self.held: list[asyncio.Handle] | None = None
        """The callbacks that it would have run since it was paused."""
        self.handlers: dict[int, Callable[..., object]] = {}
        """Of signals."""
        self.pipes: dict[Pipe, None] = {}
        self.sockets: dict[Socket, None] = {}
        self.ended: list[Callable[[], None]] = []
        """Called when it has ended."""
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Let it do something."""
        return self.loop.create_task(coroutine, context=self.context.copy())

    def soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Let it do something next."""
        self.loop.call_soon(callback, *arguments, context=self.context.copy())

    def later(self, when: float, callback: Callable[..., object], *arguments: Any) -> None:
        """Let it do something at a time."""
        self.loop.call_at(when, callback, *arguments, context=self.context.copy())

    def kill(self) -> None:
        """End it where it is."""
        if not self.alive:
            return
        self.alive = False
        for socket in list(self.sockets):
            socket.leave()
        for pipe in list(self.pipes):
            pipe.hang_up()
        for callback in self.ended:
            callback()

    def stand_still(self, seconds: float) -> None:
        """Let it do nothing for a while."""
        if self.held is None and self.alive:
            self.held = []
            self.loop.call_later(seconds, self._go_on, context=contextvars.Context())

    def _go_on(self) -> None:
        held, self.held = self.held or [], None
        self.loop._ready.extend(held)

    def signal(self, number: int) -> None:
        """Send it a signal; one that it does not handle is ignored."""
        handler = self.handlers.get(number)
        if handler is not None:
            self.soon(handler)


# ---------------------------------------------------------------------- sockets


class Network:
    """Listening sockets by their ports, and the connections that stand."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.sockets: dict[int, Socket] = {}
        self.pipes: dict[Pipe, None] = {}
        """One end of each connection."""

    def listen(self, port: int = 0, *, inherited: bool = False) -> "Socket":
        """A bound socket; one that is inherited stays open while nobody accepts."""
        port = port or 20_000 + len(self.sockets)
        self.sockets[port] = Socket(self, port, inherited)
        return self.sockets[port]

    async def connect(self, port: int) -> "Pipe":
        """Connect to a port."""
        await asyncio.sleep(self.latency())
        socket = self.sockets.get(port)
        if socket is None or not socket.is_open:
            raise ConnectionRefusedError(111, "Connection refused")
        process = PROCESS.get()
        assert process is not None
        mine, theirs = Pipe(self, port), Pipe(self, port)
        mine.peer, theirs.peer = theirs, mine
        self.pipes[mine] = None
        mine.belong(process)
        socket.take(theirs)
        return mine

    def latency(self) -> float:
        """The time that a message takes."""
        return self.loop.random.uniform(0.0001, 0.003)


class Socket:
    """A listening socket."""

    def __init__(self, network: Network, port: int, inherited: bool) -> None:
        self.network, self.port, self._inherited = network, port, inherited
        self._waiting: deque[Pipe] = deque()
        self._acceptor: tuple[Process, Callable[[Pipe], None]] | None = None

    @property
    def is_open(self) -> bool:
        return self._inherited or self._acceptor is not None

    def accept_for(self, come: Callable[["Pipe"], None]) -> None:
        """Give connections to the process that is running."""
        process = PROCESS.get()
        assert process is not None
        self._acceptor = process, come
        process.sockets[self] = None
        while self._waiting:
            self.take(self._waiting.popleft())

    def take(self, pipe: "Pipe") -> None:
        if self._acceptor is None:
            self._waiting.append(pipe)
        else:
            process, come = self._acceptor
            process.soon(self._accept, pipe, come)

    def _accept(self, pipe: "Pipe", come: Callable[["Pipe"], None]) -> None:
        process = PROCESS.get()
        assert process is not None
        if not pipe.gone:
            pipe.belong(process)
            come(pipe)

    def leave(self) -> None:
        """Its process accepts no more."""
        if self._acceptor is not None:
            self._acceptor[0].sockets.pop(self, None)
            self._acceptor = None

    # As a server, and as a socket, have it.

    def close(self) -> None:
        process = PROCESS.get()
        if self._acceptor is not None and (process is None or process is self._acceptor[0]):
            self.leave()
        elif self._inherited and self._acceptor is None:
            self._inherited = False

    def listen(self, backlog: int = 0) -> None:
        pass

    def fileno(self) -> int:
        return self.port

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port


class Door:
    """Takes the calls of a listening socket; callers that knock are treated as strangers here."""

    def __init__(self, listening: Socket, token: bytes, *, come: Callable[[Any, bool], None], **named: Any) -> None:
        self.most = 0
        self._listening = listening
        listening.accept_for(lambda pipe: come(pipe, True))

    def close(self) -> None:
        self._listening.close()


class Pipe(asyncio.Transport):
    """One end of a connection to a port."""

    peer: "Pipe"

    def __init__(self, network: Network, port: int) -> None:
        super().__init__()
        self._port = port
        self.network, self.process, self.protocol = network, None, None
        self.gone = self._closing = self._paused = False
        self._came: deque[bytes | None] = deque()
        """The received bytes that are not read; None is the end."""
        self._due = 0.0
        """When the last that was written comes."""
        self.stalled_until = 0.0

    def belong(self, process: Process) -> None:
        """It is the end of a process, which may end with it."""
        self.process = process
        process.pipes[self] = None

    def attach(self, protocol: Any) -> Any:
        """Give what comes to a protocol."""
        self.protocol = protocol
        protocol.connection_made(self)
        if self.gone:
            self._soon(protocol.connection_lost, None)
        self._read()
        return protocol

    # ------------------------------------------------------------------ as asyncio has it

    def write(self, data: Any) -> None:
        if not (self.gone or self._closing):
            self._carry(bytes(data))

    def close(self) -> None:
        if not (self.gone or self._closing):
            self._closing = True
            self._carry(None)
            self._soon(self.lose, None)

    def abort(self) -> None:
        if not self.gone:
            self._closing = True
            self.hang_up()
            self._soon(self.lose, None)

    def is_closing(self) -> bool:
        return self._closing or self.gone

    def is_reading(self) -> bool:
        return not self._paused

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", self._port) if name in ("peername", "sockname") else default

    # ------------------------------------------------------------------ what happens on the way

    def _soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        if self.process is not None:
            self.process.soon(callback, *arguments)

    def _carry(self, data: bytes | None) -> None:
        loop = self.network.loop
        self._due = max(loop.time() + self.network.latency(), self._due, self.stalled_until)
        loop.call_at(self._due, self.peer.come, data, context=contextvars.Context())

    def come(self, data: bytes | None) -> None:
        """Something has come; its process reads it when it gets to it."""
        if not self.gone:
            self._came.append(data)
            self._soon(self._read)

    def _read(self) -> None:
        while self._came and self.protocol is not None and not (self._paused or self.gone):
            data = self._came.popleft()
            if data is None:
                self.lose(None)
                return
            view = memoryview(data)
            while len(view) and not self.gone:
                buffer = self.protocol.get_buffer(-1)
                count = min(len(buffer), len(view))
                buffer[:count] = view[:count]
                view = view[count:]
                self.protocol.buffer_updated(count)
                if self._paused and len(view):
                    self._came.appendleft(bytes(view))
                    return

    def hang_up(self) -> None:
        """The system ends the connection: what is on its way to the other end may be lost."""
        loop = self.network.loop
        when = loop.time() + self.network.latency()
        if loop.random.random() < 0.5:
            when = max(when, self._due)
        loop.call_at(when, self.peer.reset, context=contextvars.Context())
        self.network.pipes.pop(self, None)

    def reset(self) -> None:
        """The other end has hung up."""
        if self.process is None:
            self.gone = True
        self._soon(self.lose, ConnectionResetError(104, "Connection reset by peer"))

    def lose(self, error: Exception | None) -> None:
        if self.gone:
            return
        self.gone = True
        self.network.pipes.pop(self, None)
        assert self.process is not None
        self.process.pipes.pop(self, None)
        if self.protocol is not None:
            self.protocol.connection_lost(error)
