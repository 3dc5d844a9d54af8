"""The door of a host: a caller with the token is admitted, however many others call."""

import asyncio
import errno
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, closing

import pytest

from covey.parts.errors import WireError
from covey.runtime.emulation.transport import door as module
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.door import KNOCK_BYTES, Door, call, knock, shown
from covey.runtime.emulation.transport.handshake import LAUNCHER, Caller
from tests.conftest import table
from tests.hosts import TOKEN, hosts, launch
from tests.strangers import call as reach
from tests.strangers import eventually, running, soon, tables, within

QUICK = table(rounds=2, network={"nodes": 2, "latency": 0.0, "bandwidth": None, "compute": 1e6})
FLOOD = """
import socket, sys, time
from collections import deque
port, said = int(sys.argv[1]), sys.argv[2].encode()
kept, end = deque(), time.monotonic() + 30
print("begins", flush=True)
while time.monotonic() < end:
    caller = socket.socket()
    caller.setblocking(False)
    try:
        caller.connect_ex(("127.0.0.1", port))
        caller.send(said)
    except OSError:
        pass
    kept.append(caller)
    if len(kept) > 400:
        kept.popleft().close()
"""
"""Calls a port of this machine as fast as it goes for half a minute, says something or nothing, and keeps 400 calls
open."""


class Hall:
    """A door, and who came in by it."""

    def __init__(self, *, hidden=False):
        self.came, self.refused = [], Counter()
        self.listening = Address("127.0.0.1", 0).listen()
        self.where = self.listening.getsockname()
        self.door = Door(
            self.listening,
            TOKEN,
            hidden=hidden,
            come=lambda caller, knocked: self.came.append((caller, knocked)),
            refused=lambda reason: self.refused.update([reason]),
        )

    def call(self, said=b""):
        caller = socket.create_connection(self.where)
        caller.sendall(said)
        return caller

    def close(self):
        self.door.close()
        for caller, _ in self.came:
            caller.close()


@asynccontextmanager
async def hall(**settings):
    with closing(Hall(**settings)) as made:
        yield made


def test_who_knocks_is_let_by_at_once_and_nothing_of_what_it_says_is_lost():
    async def main():
        async with hall() as here:
            first = knock(TOKEN, shown(here.where))
            assert len(first) == KNOCK_BYTES
            with here.call(first + b"what comes next"):
                await soon(lambda: here.came)
                ((caller, knocked),) = here.came
                assert knocked
                assert caller.recv(100) == b"what comes next"

    within(main())


@pytest.mark.parametrize(
    "pieces", [[1, KNOCK_BYTES - 1], [4, KNOCK_BYTES - 4], [KNOCK_BYTES - 1, 1], [16, 16, KNOCK_BYTES - 32]]
)
def test_a_knock_may_come_in_pieces(pieces):
    async def main():
        async with hall() as here:
            rest = knock(TOKEN, shown(here.where))
            with here.call() as caller:
                for piece in pieces:
                    caller.sendall(rest[:piece])
                    rest = rest[piece:]
                    await asyncio.sleep(0.015)
                await soon(lambda: here.came)
                assert here.came[0][1]

    within(main())


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"C",
        b"CVYK",
        b"CVYK" + bytes(44),
        knock(b"another secret", "127.0.0.1 1"),
        knock(TOKEN, "127.0.0.1 1"),
    ],
    ids=["nothing", "HTTP", "one letter", "too short", "no proof", "another secret", "another address"],
)
def test_others_are_asked_who_they_are_a_little_later(said):
    async def main():
        async with hall() as here:
            with here.call(said):
                await soon(lambda: here.came)
                ((caller, knocked),) = here.came
                assert not knocked
                rest = b"" if len(said) == KNOCK_BYTES else said
                assert rest == (caller.recv(100) if rest else b"")

    within(main())


def test_a_knock_where_certificates_say_more_is_of_no_address():
    async def main():
        async with hall(hidden=True) as here:
            with here.call(knock(TOKEN, "")), here.call(knock(TOKEN, shown(here.where))):
                await soon(lambda: len(here.came) == 2)
                assert [knocked for _, knocked in here.came] == [True, False]

    within(main())


def test_the_oldest_of_many_silent_callers_makes_room_unless_it_has_knocked(monkeypatch):
    monkeypatch.setattr(module, "_LOOK", 60.0)

    async def main():
        async with hall() as here:
            here.door.most = 3
            callers = [here.call() for _ in range(3)]
            await soon(lambda: len(here.door._silent) == 3)
            callers[1].sendall(knock(TOKEN, shown(here.where)))
            callers += [here.call() for _ in range(2)]
            await soon(lambda: here.came)
            assert [knocked for _, knocked in here.came] == [True]
            assert here.refused == {"too-many-strangers": 1}
            assert callers[0].recv(1) == b""
            for caller in callers:
                caller.close()

    within(main())


def test_few_strangers_are_asked_who_they_are_and_more_of_them_later(monkeypatch):
    monkeypatch.setattr(module, "_BURST", 5.0)
    monkeypatch.setattr(module, "_A_SECOND", 2.0)

    async def main():
        async with hall() as here:
            callers = [here.call(b"GET /") for _ in range(20)]
            await soon(lambda: len(here.came) + here.refused["too-many-strangers"] == 20)
            assert 5 <= len(here.came) < 15
            before = len(here.came)
            await asyncio.sleep(1.2)
            callers += [here.call(b"GET /") for _ in range(2)]
            await soon(lambda: len(here.came) == before + 2)
            for caller in callers:
                caller.close()

    within(main())


def test_a_system_without_files_closes_no_door(monkeypatch):
    class Full:
        """A listening socket of a system that has none left at first."""

        def __init__(self, listening):
            self.listening, self.times = listening, 3

        def __getattr__(self, name):
            return getattr(self.listening, name)

        def accept(self):
            self.times -= 1
            if self.times >= 0:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.listening.accept()

    async def main():
        async with hall() as here:
            here.door._listening = Full(here.listening)
            with here.call(knock(TOKEN, shown(here.where))):
                await soon(lambda: here.came)
            assert here.refused == {"no-files": 3}

    within(main())


def test_a_call_that_nobody_takes_is_made_again_and_only_one_is_kept():
    async def main():
        # By itself, the system would try after a second; a busy machine may take as long once, but not each time.
        assert any([await taken_after() < 0.9 for _ in range(3)])

    async def taken_after():
        with Address("127.0.0.1", 0).listen() as listening:
            listening.listen(0)
            where = listening.getsockname()
            waiting = []  # The system drops calls that come behind these.
            for _ in range(3):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(where)
            began = time.monotonic()
            calling = asyncio.create_task(call("127.0.0.1", where[1], lambda there: b"hello"))
            await asyncio.sleep(0.1)
            listening.listen(100)
            listening.setblocking(False)
            listening.accept()[0].close()
            mine = await calling
            taken = time.monotonic() - began
            for caller in [*waiting, mine]:
                caller.close()
            return taken

    within(main())


def test_a_call_that_is_refused_ends_at_once():
    async def main():
        with pytest.raises(ConnectionRefusedError):
            await call("127.0.0.1", 1, lambda there: b"")

    within(main())


@pytest.mark.parametrize("said", ["", "CVYK" * 20], ids=["silent", "knocking"])
def test_a_flood_of_calls_keeps_neither_launchers_nor_hosts_out(said, tmp_path):
    async def meet(host, address):
        async with running((host, address), tables()):
            for who in (1, 2):
                await reach(address, Caller("this run", who))
        with pytest.raises(WireError, match="wrong-run"):
            await reach(address, Caller("another run", 1))

    with hosts(1) as ((host, address),):
        flood = subprocess.Popen(
            [sys.executable, "-c", FLOOD, str(address.port), said], stdout=subprocess.PIPE, text=True
        )
        try:
            assert flood.stdout.readline() == "begins\n"
            eventually(lambda: host.refused["too-many-strangers"] > 1000)
            within(meet(host, address))  # In seconds, not when the flood is over: it has no end.
            assert flood.poll() is None, "the flood goes on"
        finally:
            flood.kill()
            flood.communicate()
        assert launch(QUICK, tmp_path, [address])[0].finished


def test_who_knocks_and_says_nothing_more_makes_room_for_who_does():
    async def main():
        host, address = served
        silent = []
        for _ in range(host._most + 5):
            caller = socket.create_connection((address.host, address.port))
            caller.sendall(knock(TOKEN, shown((address.host, address.port))))
            silent.append(caller)
        await soon(lambda: host.refused["too-many-strangers"] == 5)
        assert (await reach(address, Caller("a run", LAUNCHER))) is not None
        for caller in silent:
            caller.close()

    with hosts(1) as (served,):
        within(main())
