"""A launcher finds its hosts: their addresses, its wait, and its report of those that do not come."""

import socket
import threading
import time

import pytest

from covey.parts.errors import ConfigurationError, RunError
from covey.runtime.emulation.transport.address import Address
from tests.conftest import table
from tests.hosts import hosts, launch

QUICK = table(rounds=2, network={"nodes": 6, "latency": 0.0, "bandwidth": None, "compute": 1e6})


def test_the_launcher_says_who_is_missing(tmp_path):
    with hosts(1) as ((_, address),), Address("127.0.0.1", 0).listen() as mute:
        closed = Address("127.0.0.1", 1)
        began = time.monotonic()
        with pytest.raises(RunError) as caught:
            launch(QUICK, tmp_path, [closed, address, Address.of(mute)], wait="1.5s")
        assert time.monotonic() - began < 8
        assert str(caught.value) == (
            f"2 of 3 hosts are missing after 1.5 seconds: 0 at {closed} (no process listens there), 2 at "
            f"{Address.of(mute)} (it does not answer)."
        )


def test_small_messages_do_not_wait_for_others():
    with Address("127.0.0.1", 0).listen() as listening:
        assert listening.proto == socket.IPPROTO_TCP  # Or asyncio leaves Nagle's algorithm on.


def test_a_launcher_waits_for_a_host_that_serves_another(tmp_path):
    with hosts(1) as ((host, address),):
        host._run = object()
        with pytest.raises(RunError, match=r"1 of 1 hosts are missing after 0\.5 seconds: .*\(busy\)"):
            launch(QUICK, tmp_path, [address], wait="500ms")
        threading.Timer(0.5, lambda: setattr(host, "_run", None)).start()
        assert launch(QUICK, tmp_path, [address])[0].finished


def test_hosts_stand_in_a_file(tmp_path):
    file = tmp_path / "hosts"
    with hosts(2) as running:
        file.write_text("# the cluster\n\n" + "".join(f"  {address}  # one\n" for _, address in running))
        outcome, _ = launch(QUICK, tmp_path, [], hosts_file=str(file))
    assert outcome.finished
    with pytest.raises(ConfigurationError, match="The engine has both 'hosts' and a 'hosts_file'"):
        launch(QUICK, tmp_path, [Address("127.0.0.1", 7000)], hosts_file=str(file))
    file.write_text("# nobody\n")
    with pytest.raises(ConfigurationError, match="must have one address per line"):
        launch(QUICK, tmp_path, [], hosts_file=str(file))
    file.write_text("nowhere\n")
    with pytest.raises(ConfigurationError, match=r'Line 1 of the hosts file .* must be an address, "host:port"'):
        launch(QUICK, tmp_path, [], hosts_file=str(file))
    with pytest.raises(ConfigurationError, match=r"The hosts file .* cannot be read: No such file"):
        launch(QUICK, tmp_path, [], hosts_file=str(tmp_path / "none"))
