"""Hosts that come back at another address, with another certificate."""

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import covey
from covey.parts.errors import WireError
from covey.runtime.emulation.host.host import Host, open_connection
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.certificates import Authority, Certificates, Request
from covey.runtime.emulation.transport.handshake import LAUNCHER
from tests.hosts import TOKEN, hosts
from tests.programs.spawned import Commands
from tests.programs.wandering import Nomads, Wandering

HERE = Address("127.0.0.1", 7000)


@pytest.fixture
def authority():
    return Authority(1)


@pytest.fixture
def launcher(authority, tmp_path):
    (tmp_path / "launcher").mkdir(mode=0o700)
    authority.issue(tmp_path / "launcher", LAUNCHER)
    return Certificates.load(tmp_path / "launcher")


def certified(authority, number=0) -> Certificates:
    request = Request()
    issued = authority.answer(request.pem(), number, HERE)
    return request.accept(issued.certificate, issued.authority)


def test_others_find_a_host_that_came_back_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(Commands, "started", [])
    monkeypatch.setattr(Nomads, "marks", [])
    kill = {"kind": "kill", "host": 1, "of": 2, "at": "200ms", "back": "100ms"}
    tables = {"rounds": 2000, "program": "tests.programs.wandering:Chatting", "faults": [kill], "network": {"nodes": 2}}
    run = covey.run({**tables, "engine": Wandering(nodes_per_process=1)}, out=tmp_path / "run")
    assert run.status == "finished"
    assert Commands.started == [0, 1, 1]
    (before, after) = [mark for number, mark in Nomads.marks if number == 1]
    assert before != after
    events = run.events
    assert {"host lost", "host returned"} <= set(events["kind"])
    assert run.states[0]["back"]


def test_only_the_request_of_a_key_travels_and_the_authority_decides_on_names(authority):
    request = Request()
    asked, issued = request.pem(), authority.answer(request.pem(), 3, HERE)
    assert b"PRIVATE" not in asked + issued.certificate + issued.authority
    made = x509.load_pem_x509_certificate(issued.certificate)
    assert made.subject.rfc4514_string() == "CN=host-3"
    assert made.public_key() == x509.load_pem_x509_csr(asked).public_key()
    own = request.accept(issued.certificate, issued.authority)
    assert (own.owner, own.mark) == ("host-3", issued.mark)


def test_a_request_that_its_key_did_not_sign_is_refused(authority):
    der = bytearray(x509.load_pem_x509_csr(Request().pem()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    for request in (changed, b"", b"no request"):
        with pytest.raises(WireError, match="host-1 sent no valid request for a certificate"):
            authority.answer(request, 1, HERE)


def test_a_certificate_that_was_replaced_opens_nothing(authority, launcher):
    old, new = certified(authority), certified(authority)

    async def shown(where, mark):
        caller = Host(TOKEN, launcher)
        connection = await caller.call(0, where, mark)
        connection.abort()

    with hosts(1, [old]) as ((_, where),):
        asyncio.run(shown(where, old.mark))
        asyncio.run(shown(where, ""))
        with pytest.raises(WireError, match="a certificate that another one has replaced"):
            asyncio.run(shown(where, new.mark))


def test_a_caller_with_a_replaced_certificate_is_refused_and_counted(authority, launcher):
    from covey.runtime.emulation.transport.handshake import Caller, greet

    old, new, other = certified(authority, 1), certified(authority, 1), certified(authority, 0)

    async def calls(host, where):
        class Run:
            name, me, begun, task = "run", 0, True, None

            class peers:
                wants = staticmethod(lambda who: True)

            @staticmethod
            def knows(who):
                return True

            @staticmethod
            def mark_of(who):
                return new.mark

        host._run = Run
        connection = await open_connection(0, where, TOKEN, old, print)
        try:
            await greet(connection, TOKEN, Caller("run", 1), 0)
        finally:
            connection.abort()
            host._run = None

    with hosts(1, [other]) as ((host, where),):
        with pytest.raises(WireError):
            asyncio.run(calls(host, where))
        assert host.refused["certificate-replaced"] == 1
