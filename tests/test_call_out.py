"""Hosts that cannot be called: they call out, and their callers meet them at a host that can be called."""

import asyncio
import socket
import threading
from collections import Counter
from contextlib import asynccontextmanager, contextmanager

import pytest

from covey.parts.errors import ConfigurationError, CoveyError
from covey.runtime.emulation.host.host import Host
from covey.runtime.emulation.transport import meeting as module
from covey.runtime.emulation.transport.address import Address, check_meetings, read_addresses
from covey.runtime.emulation.transport.certificates import Certificates, make
from covey.runtime.emulation.transport.door import Door, Purpose, knock, shown
from covey.runtime.emulation.transport.meeting import Meeting, call_out
from tests.conftest import table
from tests.hosts import TOKEN, emulate, launch
from tests.strangers import soon, within

QUICK = table(rounds=3, network={"nodes": 6, "latency": 0.0, "bandwidth": None, "compute": 1e6})


@contextmanager
def hosts_behind(count, certificates=None, number=None):
    """A host that can be called, and others that call out to it; their addresses as the launcher has them."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listening = Address("127.0.0.1", 0).listen()
    listening.setblocking(False)
    meeting = Address.of(listening)
    own = [None] * count if certificates is None else certificates
    made = [Host(TOKEN, one, patience=5.0) for one in own]
    serving = [asyncio.run_coroutine_threadsafe(made[0].serve(listening), loop)]
    for at, host in enumerate(made[1:], 1):
        out = at if number is None else number, meeting
        serving.append(asyncio.run_coroutine_threadsafe(host.serve(None, out=out), loop))
    try:
        yield made, [meeting, *[Address(meeting.host, meeting.port, behind=True)] * (count - 1)]
    finally:
        for task in serving:
            task.cancel()

        async def settle():
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait(others, timeout=5) if others else None

        asyncio.run_coroutine_threadsafe(settle(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_hosts_behind_another_run_as_hosts_that_can_be_called(tmp_path):
    tables = {**QUICK, "program": {"kind": "gossip", "topology": "complete"}}
    (tmp_path / "own").mkdir()
    (tmp_path / "behind").mkdir()
    _, plain = emulate(tables, tmp_path / "own", 3)
    with hosts_behind(3) as (made, addresses):
        _, found = launch(tables, tmp_path / "behind", addresses)
        _, again = launch(tables, tmp_path / "behind", addresses)
    assert [row[:2] for row in sorted(found.rows)] == [row[:2] for row in sorted(plain.rows)]
    losses = [sorted((node, t, name, value) for node, t, name, value in w.figures) for w in (plain, found, again)]
    assert losses[0] == losses[1] == losses[2]
    assert not made[0].refused["wrong-purpose"]


def test_hosts_behind_another_show_their_own_certificates(tmp_path):
    behind = "behind 127.0.0.1:7000"
    launcher, *folders = make(tmp_path / "certs", ["127.0.0.1:7000", behind, behind], 2)
    certificates = [Certificates.load(folder) for folder in folders]
    assert [one.number for one in certificates] == [0, 1, 2]
    assert (launcher / "hosts").read_text().splitlines() == ["127.0.0.1:7000", behind, behind]
    with hosts_behind(3, certificates) as (_, addresses):
        _, found = launch(QUICK, tmp_path, addresses, certs=str(launcher))
    assert max(row[1] for row in found.rows) == 3


def test_a_host_that_poses_as_another_one_is_not_taken_for_it(tmp_path):
    behind = "behind 127.0.0.1:7000"
    launcher, *folders = make(tmp_path / "certs", ["127.0.0.1:7000", behind, behind], 2)
    first, second, _ = map(Certificates.load, folders)
    refused = pytest.raises(CoveyError, match="shows the certificate of host-1 instead of that of host-2")
    with hosts_behind(2, [first, second], number=2) as (_, (meeting, other)), refused:
        launch(QUICK, tmp_path, [meeting, other, other], certs=str(launcher), wait="3s")


# ---------------------------------------------------------------------- the door


class Meet:
    """A door at which hosts leave connections."""

    def __init__(self, port=0):
        self.came, self.refused = [], Counter()
        self.listening = Address("127.0.0.1", port).listen()
        self.where = self.listening.getsockname()
        self.meeting = Meeting(lambda reason: self.refused.update([reason]))
        self.door = Door(
            self.listening,
            TOKEN,
            hidden=False,
            come=lambda caller, knocked: self.came.append(caller),
            refused=lambda reason: self.refused.update([reason]),
            elsewhere=self.meeting,
        )

    async def call(self, purpose, number, then=b"", token=TOKEN):
        loop = asyncio.get_running_loop()
        caller = socket.socket()
        caller.setblocking(False)
        await loop.sock_connect(caller, self.where)
        await loop.sock_sendall(caller, knock(token, shown(self.where), purpose, number) + then)
        return caller

    def left(self, number):
        return len(self.meeting._left.get(number, ()))


@asynccontextmanager
async def meet(port=0):
    made = Meet(port)
    try:
        yield made
    finally:
        made.door.close()


async def read(connection, count):
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, count), 5)


def test_a_caller_and_a_host_that_left_a_connection_hear_each_other():
    async def main():
        async with meet() as here:
            host = await here.call(Purpose.LEAVE, 7)
            await soon(lambda: here.left(7))
            caller = await here.call(Purpose.ASK, 7, then=b"hello")
            loop = asyncio.get_running_loop()
            assert await read(host, 99) == b"hello"
            await loop.sock_sendall(host, b"x" * 300_000)
            host.shutdown(socket.SHUT_WR)
            got = 0
            while piece := await read(caller, 1 << 20):
                got += len(piece)
            assert got == 300_000
            await loop.sock_sendall(caller, b"bye")
            assert await read(host, 99) == b"bye"
            caller.close()
            assert await read(host, 99) == b""
            host.close()
            await soon(lambda: not here.meeting._joined)

    within(main())


def test_a_caller_waits_for_a_host_that_comes_later_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)

    async def main():
        async with meet() as here:
            caller = await here.call(Purpose.ASK, 3, then=b"hello")
            host = await here.call(Purpose.LEAVE, 3)
            assert await read(host, 99) == b"hello"
            nobody = await here.call(Purpose.ASK, 4)
            assert await read(nobody, 99) == b""
            assert here.refused == {"not-there": 1}
            for one in (caller, host, nobody):
                one.close()

    within(main())


def test_connections_that_have_ended_or_speak_first_or_are_too_many_are_dropped():
    async def main():
        async with meet() as here:
            gone, loud, *more = [await here.call(Purpose.LEAVE, 1) for _ in range(module.MOST_LEFT)]
            await soon(lambda: here.left(1) == module.MOST_LEFT)
            gone.close()
            await asyncio.get_running_loop().sock_sendall(loud, b"me first")
            await soon(lambda: here.left(1) == module.MOST_LEFT - 2)
            more += [await here.call(Purpose.LEAVE, 1) for _ in range(5)]
            await soon(lambda: here.left(1) == module.MOST_LEFT and not here.door._silent)
            caller = await here.call(Purpose.ASK, 1, then=b"hello")
            found = [asyncio.create_task(read(one, 99)) for one in more]
            await soon(lambda: any(one.done() and one.result() == b"hello" for one in found))
            for one in found:
                one.cancel()
            await asyncio.gather(*found, return_exceptions=True)
            for one in (loud, caller, *more):
                one.close()

    within(main())


def test_strangers_leave_nothing_and_reach_nobody():
    async def main():
        async with meet() as here:
            host = await here.call(Purpose.LEAVE, 1)
            await soon(lambda: here.left(1))
            strangers = [await here.call(purpose, 1, token=b"another secret") for purpose in Purpose]
            await soon(lambda: len(here.came) == len(strangers))
            assert here.left(1) == 1
            assert not here.meeting._joined
            other = await here.call(9, 1)
            assert await read(other, 99) == b""
            assert here.refused == {"wrong-purpose": 1}
            for purpose in (Purpose.ASK, Purpose.LEAVE):
                unknown = await here.call(purpose, 1 << 31)
                assert await read(unknown, 99) == b""
                unknown.close()
            assert here.refused == {"wrong-purpose": 1, "wrong-host": 2}
            assert not here.meeting._asking
            for one in (host, other, *strangers, *here.came):
                one.close()

    within(main())


def test_a_host_calls_out_again_when_its_connections_break(monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.1)

    async def main():
        came = []
        async with meet() as here:
            port = here.where[1]
            door = Door(
                None, TOKEN, hidden=False, come=lambda caller, knocked: came.append((caller, knocked)), refused=print
            )
            address = Address("127.0.0.1", port)
            calling = asyncio.create_task(call_out(door, 5, address, TOKEN, hidden=False))
            await soon(lambda: here.left(5) == module.LEFT)
        await asyncio.sleep(0.2)
        async with meet(port) as here:
            await soon(lambda: here.left(5) == module.LEFT)
            callers = [
                await here.call(Purpose.ASK, 5, then=knock(TOKEN, shown(here.where))) for _ in range(2 * module.LEFT)
            ]
            await soon(lambda: len(came) == len(callers))
            assert all(knocked for _, knocked in came)
            calling.cancel()
            for one in [*callers, *(caller for caller, _ in came)]:
                one.close()
        door.close()

    within(main())


# ---------------------------------------------------------------------- what users write


def test_addresses_behind_another(tmp_path):
    behind = Address.parse("behind [::1]:7000")
    assert behind == Address("::1", 7000, behind=True)
    assert str(behind) == "behind [::1]:7000"
    (tmp_path / "hosts").write_text("10.0.0.1:7000 # the server\nbehind 10.0.0.1:7000\n")
    found = [*map(Address.parse, read_addresses(tmp_path / "hosts"))]
    check_meetings(found)
    with pytest.raises(ConfigurationError, match=r"^Host 1 is behind 10\.0\.0\.2:7000, which must be the address of"):
        check_meetings([found[0], Address("10.0.0.2", 7000, behind=True)])
    with pytest.raises(ConfigurationError, match="must be the address of another host"):
        make(tmp_path / "certs", ["behind 10.0.0.1:7000"], 2)
    with pytest.raises(ConfigurationError, match=r"Got 10\.0\.0\.1:7000 more than once"):
        make(tmp_path / "certs", ["10.0.0.1:7000"] * 2, 2)


def test_commands_of_hosts_that_call_out(tmp_path, covey):
    _, out, _ = covey("certs", str(tmp_path / "certs"), "--hosts", "127.0.0.1:7000", "behind 127.0.0.1:7000")
    assert "covey host --listen 127.0.0.1:7000 --certs host-0" in out
    assert "covey host --call-out 127.0.0.1:7000 --certs host-1" in out
    code, _, err = covey("host", "--call-out", "127.0.0.1:7000")
    assert code == 2
    assert "A host needs --certs" in err
    (tmp_path / "token").write_text("x" * 40)
    (tmp_path / "token").chmod(0o600)
    code, _, err = covey("host", "--call-out", "127.0.0.1:7000", "--token-file", str(tmp_path / "token"))
    assert (code, err) == (
        2,
        "covey: A host that calls out needs --certs, the folder of its certificates. Make them with `covey certs`.\n",
    )
    certs = str(tmp_path / "certs" / "host-1")
    code, _, err = covey("host", "--call-out", "behind 127.0.0.1:7000", "--certs", certs)
    assert "must be an address that can be called. Got 'behind 127.0.0.1:7000' instead." in err
