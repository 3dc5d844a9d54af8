"""The processes of hosts on this machine: forks of a template that has imported everything, or separate processes.

Importing torch takes 150 MB of memory and seconds. A fork shares the memory that it does not write to: of two hosts
with 8 nodes of GN-LeNet, each takes 117 MB and the template 72 MB; separate processes take 222 MB each. The template
only imports. Hosts are not forked from the launcher, which may have threads, a GPU and other resources of a user's
script. The forkserver of `multiprocessing` would run the user's script again in each.
"""

import gc
import importlib
import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import NoReturn, Protocol

import msgspec

from covey.runtime.emulation.launcher.makers import UNKNOWN, Maker, Wanted
from covey.runtime.emulation.transport.address import Address
from covey.runtime.interpreter import command

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
"""The defaults of environment variables for hosts: covey's own threads suffice, a process without threads can fork, and
with one arena glibc keeps less freed memory."""


class Process(Protocol):
    """The process of a host, with a part of the interface of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


class _Order(msgspec.Struct):
    """The order to fork a host with a socket and a log."""

    socket: int
    log: str


class _Report(msgspec.Struct):
    """The report that a fork was made or has ended. The pid 0 means that it could not be made."""

    pid: int
    status: int | None = None


def can_fork() -> bool:
    """True if this system can fork, and has pidfds, which identify a process even if its pid is reused."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False  # On macOS, libraries of torch and numpy do not survive a fork.
    return True


class Processes(Maker):
    """A maker of processes on this machine.

    Args:
        wanted: the requirements of the run.
        forks: fork hosts from a template. If False, each is a separate process.
    """

    starts = True
    shares_files = True

    def __init__(self, wanted: Wanted, *, forks: bool) -> None:
        self._wanted, self._forks = wanted, forks
        self._token_file = wanted.folder / "token"
        self._token_file.touch(mode=0o600)
        self._token_file.write_bytes(wanted.token)
        self.sockets = [Address("127.0.0.1", 0).listen() for _ in range(wanted.count)]
        """The sockets of hosts. They stay open, so that a restarted host has the same address."""
        self.processes: dict[int, Process] = {}
        """The last process of each host."""
        self._template: _Template | None = None

    def address(self, number: int) -> Address:
        return Address.of(self.sockets[number])

    def start(self, number: int) -> None:
        listening, log = self.sockets[number].fileno(), self._wanted.log(number)
        if not self._forks:
            self.processes[number] = self._begin(["--socket", str(listening)], [listening], log, talks=False)
            return
        if self._template is None or not self._template.is_there:
            self._end_template()
            descriptors = [socket.fileno() for socket in self.sockets]
            arguments = ["--forks", *map(str, descriptors), "--modules", *self._wanted.modules]
            self._template = _Template(self._begin(arguments, descriptors, log, talks=True))
        self.processes[number] = self._template.fork(_Order(listening, str(log)))

    def poll(self, number: int) -> int | None:
        return self.processes[number].poll() if number in self.processes else UNKNOWN

    def kill(self, number: int) -> None:
        if number in self.processes:
            self.processes[number].kill()

    def wake(self, number: int) -> None:
        if number in self.processes:
            self.processes[number].send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self._end_template()
        for listening in self.sockets:
            listening.close()

    def _end_template(self) -> None:
        """End the template. Its forks stay."""
        if self._template is not None:
            self._template.end()
            self._template = None

    def _begin(self, where: list[str], passed: list[int], log: Path, *, talks: bool) -> subprocess.Popen[bytes]:
        with open(log, "ab") as output:
            return subprocess.Popen(
                [*command("covey.cli", "main"), "host", *where, "--once", "--token-file", str(self._token_file)],
                bufsize=0,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                pass_fds=passed,
                env={**_ENVIRONMENT, **os.environ},
                start_new_session=True,
            )


# ---------------------------------------------------------------------- at the launcher


class _Template:
    """The launcher's handle of the template, from which hosts are forked."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._orders, self._reports = process, process.stdin, process.stdout
        os.set_blocking(self._reports.fileno(), False)
        self._line = b""
        self._unborn: deque[_Forked] = deque()
        self._born: dict[int, _Forked] = {}

    @property
    def is_there(self) -> bool:
        return self._process.poll() is None

    def fork(self, order: _Order) -> "_Forked":
        """Order a fork. The template may still be importing."""
        self._orders.write(msgspec.json.encode(order) + b"\n")
        forked = _Forked(self)
        self._unborn.append(forked)
        return forked

    def read(self) -> None:
        """Read its reports."""
        over = not self.is_there
        while not self._reports.closed and (chunk := self._reports.read(1 << 16)):
            *lines, self._line = (self._line + chunk).split(b"\n")
            for report in (msgspec.json.decode(line, type=_Report) for line in lines):
                if report.status is None:
                    forked = self._born[report.pid] = self._unborn.popleft()
                    forked.is_born(report.pid)
                elif report.pid in self._born:
                    self._born.pop(report.pid).has_ended(report.status)
                else:
                    self._unborn.popleft().has_ended(report.status)
        if over:
            for forked in self._unborn:
                forked.has_ended(self._process.returncode)
            self._unborn.clear()
            for pid, forked in [*self._born.items()]:
                if forked.is_gone:
                    self._born.pop(pid).has_ended(UNKNOWN)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Kill the template, which has no state."""
        self._orders.close()
        self._process.kill()
        self._process.wait()
        self.read()
        self._reports.close()


class _Forked:
    """The process of a host that is, or will be, a fork."""

    def __init__(self, template: _Template) -> None:
        self._template = template
        self.pid = 0
        """The pid; 0 before the fork is made."""
        self.returncode: int | None = None
        self._descriptor = -1
        self._is_unwanted = False

    def is_born(self, pid: int) -> None:
        self.pid = pid
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return  # The next report says that it has ended.
        if self._is_unwanted:
            self._signal(signal.SIGKILL)

    def has_ended(self, status: int) -> None:
        self.returncode = status
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def is_gone(self) -> bool:
        """True if it has ended, even without a report."""
        poll = select.poll()
        if self._descriptor >= 0:
            poll.register(self._descriptor, select.POLLIN)
        return self._descriptor < 0 or bool(poll.poll(0))

    def poll(self) -> int | None:
        if self.returncode is None:
            self._template.read()
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            self._signal(sig)

    def _signal(self, sig: int) -> None:
        if self._descriptor >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, sig)

    def kill(self) -> None:
        self._is_unwanted = True
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        while (status := self.poll()) is None:
            if self._is_unwanted and not self.pid:
                self._template.kill()  # The template may hang before it forks.
            sleep(0.005)
        return status


# ---------------------------------------------------------------------- in the template


def forks(sockets: Sequence[int], modules: Sequence[str]) -> int:
    """Run the template, which forks by order of the launcher. Return only in each fork, with its socket.

    Args:
        sockets: the sockets of all forks.
        modules: the modules that forks need.
    """
    for name in modules:
        if name.partition(".")[0] == "covey":
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # The collector writes to objects that it examines, which would copy shared memory.
    poll = select.poll()
    poll.register(0, select.POLLIN)
    children: dict[int, int] = {}
    line = b""
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in children:
                poll.unregister(descriptor)
                os.close(descriptor)
                pid = children.pop(descriptor)
                _report(_Report(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
                continue
            chunk = os.read(0, 1 << 16)
            if not chunk:
                leave(0)
            *lines, line = (line + chunk).split(b"\n")
            for order in (msgspec.json.decode(text, type=_Order) for text in lines):
                try:
                    pid = os.fork()
                except OSError as error:
                    with open(order.log, "a") as log:
                        print(error.strerror, file=log)
                    _report(_Report(0, 1))
                    continue
                if pid == 0:
                    _separate(order, [*children, *(other for other in sockets if other != order.socket)])
                    return order.socket
                _report(_Report(pid))
                handle = os.pidfd_open(pid)
                children[handle] = pid
                poll.register(handle, select.POLLIN)


def leave(code: int) -> NoReturn:
    """End this process without cleaning up, which would write to shared memory and double it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _report(report: _Report) -> None:
    os.write(1, msgspec.json.encode(report) + b"\n")


def _separate(order: _Order, closed: Sequence[int]) -> None:
    """Separate a fork from the template: another session, and no descriptors of other hosts."""
    os.setsid()
    for descriptor in closed:
        os.close(descriptor)
    nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nothing)
    os.close(log)
