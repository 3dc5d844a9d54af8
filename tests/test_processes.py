"""The processes of hosts: their start, shared memory, and end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import covey
from covey.runtime import interpreter
from covey.runtime.emulation.launcher import processes
from covey.runtime.emulation.launcher.makers import Called, Maker, Wanted
from covey.runtime.emulation.launcher.processes import Processes, can_fork
from covey.runtime.emulation.launcher.remote import Remote
from covey.runtime.emulation.transport.address import Address

forking = pytest.mark.skipif(not can_fork(), reason="processes of hosts are forks on Linux alone")

UNNEEDED = """
import os, sys, json
import covey.cli.hosting, covey.decentralized.topology.static
unneeded = {"pandas", "matplotlib", "sklearn", "pywt", "networkx", "PIL", "sympy", "pyarrow"}
print(json.dumps([sorted(unneeded & set(sys.modules)), len(os.listdir("/proc/self/task"))]))
"""


@forking
def test_a_host_imports_no_more_than_it_needs_and_has_one_thread_when_it_forks():
    environment = {**os.environ, **processes._ENVIRONMENT}
    said = subprocess.run([sys.executable, "-c", UNNEEDED], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout == "[[], 1]\n"


def test_the_libraries_of_hosts_hold_covey_but_none_of_its_modules_by_its_last_name():
    libraries, folder = interpreter.libraries(), Path(covey.__file__).parent
    assert str(folder.parent) in libraries
    assert not [path for path in libraries if Path(path).is_relative_to(folder)]


def until(true, seconds=30.0):
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late
        time.sleep(0.005)


def is_born(process) -> bool:
    until(lambda: process.poll() is not None or process.pid)
    return process.returncode is None


def answers(listening: socket.socket) -> bool:
    """Whether somebody takes calls: a host says something first, so that its launcher knows whom it talks to."""
    with socket.create_connection(listening.getsockname(), timeout=60) as calling:
        return bool(calling.recv(1))


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(params=[True])
def started(tmp_path, request):
    """Starts hosts, each with a socket and a log of its own."""
    wanted = Wanted(2, b"a secret that only tests share", tmp_path, lambda: tmp_path)
    several = Processes(wanted, forks=request.param)

    def start(number):
        several.start(number)
        return several.processes[number]

    yield start, several.sockets
    several.close()


@forking
def test_forks_are_distinguished_killed_and_started_again(started):
    start, sockets = started
    first, second = start(0), start(1)
    unborn = start(1)
    unborn.kill()
    assert is_born(first)
    assert is_born(second)
    assert all(map(answers, sockets))
    assert unborn.wait() == -signal.SIGKILL
    template = parent_of(first.pid)
    assert parent_of(second.pid) == template != os.getpid()
    assert os.getsid(first.pid) == first.pid
    first.kill()
    assert first.wait() == -signal.SIGKILL
    again = start(0)
    assert is_born(again)
    assert parent_of(again.pid) == template
    # Where the process that they were forked from is gone, they can still be stopped, and others start.
    os.kill(template, signal.SIGKILL)
    until(lambda: parent_of(second.pid) != template)
    assert second.poll() is None
    second.kill()
    until(lambda: second.poll() is not None)
    another = start(1)
    assert another.poll() is None
    again.kill()
    until(lambda: again.poll() is not None)
    another.kill()
    another.wait()


@forking
def test_a_fork_that_cannot_begin_says_why_in_its_log(started, tmp_path):
    start, _ = started
    (tmp_path / "token").write_bytes(b"")
    refused = start(1)
    assert refused.wait() == 2
    assert "token" in (tmp_path / "host-1.log").read_text().strip().splitlines()[-1]


@pytest.mark.parametrize("started", [False], indirect=True)
def test_where_nothing_forks_a_host_is_started_by_itself(started):
    start, sockets = started
    alone = start(1)
    assert answers(sockets[1])
    assert alone.poll() is None
    alone.kill()
    assert alone.wait() == -signal.SIGKILL


def test_nothing_forks_where_processes_cannot_be_distinguished(monkeypatch):
    def refuse(pid):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    assert not can_fork()
    monkeypatch.delattr(os, "pidfd_open")
    assert not can_fork()


class Polled(Maker):
    """A maker of which only the process of its one host is asked for."""

    starts = True

    def __init__(self, process):
        self.process = process

    def address(self, number): ...
    def start(self, number): ...
    def kill(self, number): ...
    def wake(self, number): ...
    def close(self): ...
    def poll(self, number):
        return self.process.poll()


@pytest.mark.parametrize(
    ("script", "reported"),
    [
        ("import os; os.kill(os.getpid(), 9)", ": killed by signal 9"),
        ("raise SystemExit(3)", ": no room for more"),
        ("", ""),
        ("import time; time.sleep(60)", ""),
    ],
    ids=["killed", "failed", "ended", "there"],
)
def test_why_a_process_is_gone_is_its_signal_or_what_it_wrote_last(script, reported, tmp_path):
    log = tmp_path / "host-0.log"
    log.write_text("a warning\nno room for more\n")
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        if "sleep" not in script:
            process.wait()
        try:
            maker = Polled(process)
            assert Remote(0, [0], maker, log).ending() == reported
        finally:
            process.kill()
    assert Remote(0, [0], Called([Address("127.0.0.1", 1)]), log).ending() == ""
