"""Certificates of a run: admitted and refused callers, and the messages about them."""

import asyncio
import re
import shutil
import socket
import ssl
import stat
import time

import pytest
import torch

from covey.messages import wire
from covey.parts.errors import ConfigurationError, RunError, WireError
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.certificates import Authority, Certificates, make
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.handshake import LAUNCHER, LIMITS, Caller, greet
from covey.runtime.experiment import Experiment
from tests.conftest import models_of, simulate, table
from tests.hosts import TOKEN, hosts, launch, token_file

LOCAL = ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"]
QUICK = table(rounds=2, network={"nodes": 6, "latency": 0.0, "bandwidth": None, "compute": 1e6})
EXPIRED = -0.01
"""Days: certificates are valid from an hour before they are made."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of three machines and a launcher."""
    launcher, *others = make(tmp_path_factory.mktemp("certs") / "certs", LOCAL, 30)
    return {"launcher": launcher, **dict(enumerate(others))}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The same, of another authority."""
    launcher, *others = make(tmp_path_factory.mktemp("certs") / "certs", LOCAL, 30)
    return {"launcher": launcher, **dict(enumerate(others))}


def issued(folder, authority, who):
    """A certificate that a test makes by itself."""
    folder.mkdir()
    authority.issue(folder, who, Address.parse(LOCAL[max(who, 0)]))
    return folder


def unchecked(folder, owner="host-0"):
    """Certificates as they are used by somebody who does not look at them."""
    contexts = (Certificates._context(folder, server=server) for server in (True, False))
    return Certificates(owner, "", *contexts)


def loaded(folders, *numbers):
    return [Certificates.load(folders[number]) for number in numbers]


async def call(address, context, who):
    """Call a host as an attacker does, who believes everybody: what came of it."""
    if context is not None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(
            lambda: Connection(LIMITS, lambda reason: None), address.host, address.port, ssl=context
        )
        try:
            await greet(connection, TOKEN, Caller("run", who), 0)
        finally:
            connection.abort()
    except WireError as error:
        return error.reason
    except OSError as error:
        return type(error).__name__
    return "admitted"


def assert_serves(address, folder, certs):
    """The host at an address still serves its launcher."""
    outcome, _ = launch(QUICK, folder, [address], certs=str(certs))
    assert outcome.finished


# ---------------------------------------------------------------------- making them


def test_certs_writes_a_folder_for_each_machine(in_folder, covey):
    code, out, err = covey("certs", "made", "--hosts", "10.0.0.1:7000", "[fd00::1]:7000", "c.example:7000")
    assert (code, err) == (0, "")
    assert "made/host-1   covey host --listen [fd00::1]:7000 --certs host-1" in out
    assert 'certs = "made/launcher"' in out
    each = ["authority.pem", "certificate.pem", "key.pem", "token"]
    made = {part.name: sorted(file.name for file in part.iterdir()) for part in (in_folder / "made").iterdir()}
    assert made == {"launcher": sorted([*each, "hosts"]), "host-0": each, "host-1": each, "host-2": each}
    for file in (in_folder / "made").rglob("*"):
        secret = file.is_dir() or file.name in ("key.pem", "token")
        assert not secret or not stat.S_IMODE(file.stat().st_mode) & 0o077, file
    keys = {file.read_bytes() for file in (in_folder / "made").rglob("key.pem")}
    assert len(keys) == 4
    engine = {"kind": "emulation", "hosts_file": "made/launcher/hosts", "certs": "made/launcher"}
    assert Experiment.from_table({**QUICK, "engine": engine}).engine.hosts == [
        "10.0.0.1:7000",
        "[fd00::1]:7000",
        "c.example:7000",
    ]

    code, out, err = covey("certs", "made", "--hosts", "10.0.0.1:7000")
    assert (code, err) == (2, "covey: made exists, and certificates are never overwritten: name a new folder.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hosts", "10.0.0.1"], 'An address must be "host:port"'),
        (["--hosts", "10.0.0.1:1", "10.0.0.1:1"], "Every host must have an address of its own. Got 10.0.0.1:1 more"),
        (["--hosts", "tête:1"], "The host of the address tête:1 must be an IP address or a name"),
        (["--hosts", "10.0.0.1:1", "--days", "0"], "The '--days' must be an int in [1, 3650]. Got 0 instead."),
    ],
)
def test_certs_refuses(arguments, said, in_folder, covey):
    code, _, err = covey("certs", "made", *arguments)
    assert code == 2
    assert said in err
    assert not (in_folder / "made").exists()


def test_a_folder_that_cannot_be_used_is_reported(folders, others, tmp_path):
    mixed = shutil.copytree(folders[0], tmp_path / "mixed")
    shutil.copy(others[0] / "authority.pem", mixed)
    swapped = shutil.copytree(folders[0], tmp_path / "swapped")
    shutil.copy(folders[1] / "key.pem", swapped)
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = shutil.copytree(folders[0], tmp_path / "broken")
    (broken / "certificate.pem").write_text("no certificate")
    expired = issued(tmp_path / "expired", Authority(EXPIRED), 0)
    said = {
        mixed: "certificate.pem is not of authority.pem",
        swapped: "KEY_VALUES_MISMATCH",
        empty: f"No such file or directory: {empty / 'authority.pem'}",
        broken: "authority.pem or certificate.pem is not a certificate",
        expired: "they expired on ",
    }
    for folder, why in said.items():
        with pytest.raises(
            ConfigurationError, match=re.escape(f"The certificates in {folder} cannot be used: ")
        ) as caught:
            Certificates.load(folder)
        assert why in str(caught.value)


def test_each_machine_wants_its_own_folder(folders, tmp_path, covey):
    code, _, err = covey("host", "--listen", "127.0.0.1:0", "--certs", str(folders["launcher"]))
    assert code == 2
    assert "are the launcher's: a host needs its own." in err
    with pytest.raises(ConfigurationError, match=r"must be the launcher's\. Those in .* are of host-1\."):
        launch(QUICK, tmp_path, [Address.parse(LOCAL[0])], certs=str(folders[1]))


# ---------------------------------------------------------------------- using them


def test_a_run_over_tls_is_the_run_without(folders, tmp_path):
    world, _ = simulate(QUICK)
    with hosts(3, loaded(folders, 0, 1, 2)) as running:
        outcome, _ = launch(QUICK, tmp_path, [address for _, address in running], certs=str(folders["launcher"]))
        assert outcome.finished
        assert torch.allclose(outcome.models, models_of(world), rtol=1e-5, atol=1e-5)
        assert [dict(host.refused) for host, _ in running] == [{}, {}, {}]


def test_large_messages_travel_over_tls(folders, tmp_path):
    tables = table(
        rounds=2,
        task={"model": {"kind": "mlp", "hidden": [600, 600]}},
        network={"nodes": 4, "latency": 0.0, "bandwidth": None},
    )
    world, _ = simulate(tables)
    with hosts(2, loaded(folders, 0, 1)) as running:
        outcome, _ = launch(tables, tmp_path, [address for _, address in running], certs=str(folders["launcher"]))
        assert torch.allclose(outcome.models, models_of(world), rtol=1e-4, atol=1e-4)
        assert [dict(host.refused) for host, _ in running] == [{}, {}]


def bare(folders):
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def old(folders):
    context = Certificates._context(folders["launcher"], server=False)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize(
    ("reason", "who", "shows"),
    [
        ("no-certificate", LAUNCHER, lambda f, o, t: bare(f)),
        ("old-tls", LAUNCHER, lambda f, o, t: old(f)),
        ("certificate-other-authority", LAUNCHER, lambda f, o, t: unchecked(o["launcher"]).calling),
        ("certificate-expired", LAUNCHER, None),
        ("certificate-other-host", LAUNCHER, lambda f, o, t: unchecked(f[1]).calling),
        ("certificate-other-host", LAUNCHER, lambda f, o, t: unchecked(f[0]).calling),
        ("certificate-other-host", 2, lambda f, o, t: unchecked(f[1]).calling),
        ("certificate-other-host", 1, lambda f, o, t: unchecked(f["launcher"]).calling),
    ],
)
def test_who_has_the_wrong_certificate_is_refused_and_counted(reason, who, shows, folders, others, tmp_path):
    with hosts(1, loaded(folders, 0)) as ((host, address),):
        if reason == "certificate-expired":
            # That a certificate has expired is found only where its authority is the right one.
            authority = Authority(EXPIRED)
            host._certificates = unchecked(issued(tmp_path / "host", authority, 0))
            context = unchecked(issued(tmp_path / "launcher", authority, LAUNCHER)).calling
        else:
            context = shows(folders, others, tmp_path)
        came = asyncio.run(call(address, context, who))
        assert came != "admitted"
        until(lambda: host.refused)
        assert dict(host.refused) == {reason: 1}
        host._certificates = Certificates.load(folders[0])
        assert_serves(address, tmp_path, folders["launcher"])


def until(true, seconds=5.0):
    late = time.monotonic() + seconds
    while not true() and time.monotonic() < late:
        time.sleep(0.01)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", wire.encode({}, tag="hello"), b""])
def test_who_speaks_no_tls_is_refused_and_counted(said, folders, tmp_path):
    async def speak(address):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(said)
        if not said:
            writer.close()
        await reader.read()
        writer.close()

    with hosts(1, loaded(folders, 0)) as ((host, address),):
        asyncio.run(asyncio.wait_for(speak(address), 5))
        until(lambda: host.refused)
        assert dict(host.refused) == {"no-tls" if said else "closed": 1}
        assert_serves(address, tmp_path, folders["launcher"])


@pytest.mark.parametrize(
    ("host", "said", "counted"),
    [
        (
            lambda f, o, t: unchecked(o[0]),
            "its certificate is of another authority (certificate-other-authority)",
            "tls-broken-off",
        ),
        (lambda f, o, t: unchecked(f[1]), "it shows the certificate of host-1 instead of that of host-0", "closed"),
        (lambda f, o, t: unchecked(f["launcher"]), "its certificate is not for this purpose", "tls-broken-off"),
        (lambda f, o, t: None, "it speaks without TLS: it was started without certificates (no-tls)", "bad-magic"),
    ],
)
def test_the_launcher_says_which_host_has_the_wrong_certificate(host, said, counted, folders, others, tmp_path):
    with hosts(1, [host(folders, others, tmp_path)]) as ((serving, address),):
        with pytest.raises(RunError, match=re.escape(f"Host 0 at {address}: ")) as caught:
            launch(QUICK, tmp_path, [address], certs=str(folders["launcher"]))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        until(lambda: serving.refused)
        assert serving.refused[counted] == 1


def test_the_launcher_says_that_a_certificate_has_expired_or_is_of_another_address(folders, tmp_path):
    authority = Authority(30)
    (tmp_path / "elsewhere").mkdir()
    authority.issue(tmp_path / "elsewhere", 0, Address.parse("10.0.0.1:7000"))
    launcher = issued(tmp_path / "launcher", authority, LAUNCHER)
    with (
        hosts(1, [unchecked(tmp_path / "elsewhere")]) as ((_, address),),
        pytest.raises(RunError, match=r"its certificate is of another address \(certificate-other-address\)"),
    ):
        launch(QUICK, tmp_path, [address], certs=str(launcher))

    authority._from, authority._until = authority._from.replace(year=2001), authority._from.replace(year=2002)
    expired = unchecked(issued(tmp_path / "expired", authority, 0))
    with (
        hosts(1, [expired]) as ((_, address),),
        pytest.raises(RunError, match=r"its certificate has expired \(certificate-expired\)"),
    ):
        launch(QUICK, tmp_path, [address], certs=str(launcher))


def test_a_launcher_without_certificates_is_refused(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("covey.runtime.emulation.transport.handshake.SECONDS", 0.2)
    monkeypatch.setattr("covey.runtime.emulation.host.host.SECONDS", 0.5)
    with hosts(1, loaded(folders, 0)) as ((host, address),):
        with pytest.raises(RunError, match="if it has certificates, 'certs' of the engine must name the launcher's"):
            launch(QUICK, tmp_path, [address], wait="1s")
        assert host.refused.keys() == {"tls-broken-off"}
        assert_serves(address, tmp_path, folders["launcher"])


# ---------------------------------------------------------------------- where they are needed


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("no-such-name.invalid:1", False),
    ],
)
def test_what_needs_certificates(text, local, tmp_path):
    assert Address.parse(text).is_loopback is local
    engine = {"kind": "emulation", "hosts": [text], "token_file": "token"}
    if local:
        Experiment.from_table({**QUICK, "engine": engine})
    else:
        with pytest.raises(ConfigurationError, match=r"is not on this machine: 'certs' of the engine must name"):
            Experiment.from_table({**QUICK, "engine": engine})


def test_a_name_is_what_it_stands_for(monkeypatch):
    found = {"one": ["127.0.0.1"], "both": ["127.0.0.1", "10.0.0.1"], "far": ["10.0.0.1"]}
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda name, port, **_: [(2, 1, 6, "", (where, port)) for where in found[name]]
    )
    assert {name: Address(name, 1).is_loopback for name in found} == {"one": True, "both": False, "far": False}


@pytest.mark.parametrize("where", ["0.0.0.0:0", "[::]:0"])
def test_a_host_that_others_can_reach_needs_certificates(where, tmp_path, covey):
    token_file(tmp_path)
    code, _, err = covey("host", "--listen", where, "--token-file", str(tmp_path / "token"))
    assert code == 2
    assert re.fullmatch(r"covey: \S+ is reachable from other machines: give the folder .*\n", err)
    listening = Address.parse(where).listen()
    code, _, err = covey("host", "--socket", str(listening.detach()), "--token-file", str(tmp_path / "token"))
    assert code == 2
    assert "is reachable from other machines" in err


def test_what_is_no_socket_to_listen_on_is_refused_in_one_line(tmp_path, covey):
    token_file(tmp_path)
    local, _other = socket.socketpair()
    for descriptor, what in ((-1, "-1 instead: "), (9999, "9999 instead: "), (local.fileno(), "a AF_UNIX, instead")):
        code, _, err = covey("host", f"--socket={descriptor}", "--token-file", str(tmp_path / "token"))
        assert code == 2
        assert re.fullmatch(r"covey: The --socket must be .*\n", err)
        assert what in err
    local.detach()


@pytest.mark.parametrize("name", ["a..b", ".a", "x" * 64, "\udc80"])
def test_a_name_that_nobody_can_look_up_is_no_address(name):
    for text in (f"{name}:7000", f"10.0.0.1:{'7' * 5000}"):
        with pytest.raises(ConfigurationError, match='An address must be "host:port"'):
            Address.parse(text)


def test_nothing_is_sent_without_certificates_to_another_machine(tmp_path, monkeypatch):
    # As where a name has come to stand for something else since it was looked up.
    async def call(name, port, first):
        first(("10.0.0.1", port))

    monkeypatch.setattr("covey.runtime.emulation.host.host.call", call)
    with hosts(1) as ((_, address),), pytest.raises(RunError, match="certificates are missing"):
        launch(QUICK, tmp_path, [address])
