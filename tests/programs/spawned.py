"""An engine of a user's own: an emulation whose hosts are made elsewhere."""

import signal
import subprocess
import sys

from covey.runtime.emulation import Emulation
from covey.runtime.emulation.launcher.makers import UNKNOWN, Maker, Wanted
from covey.runtime.emulation.transport.address import Address
from covey.runtime.node import Node, Program


class Idle(Program):
    """Rounds of ten milliseconds in which nothing is learned, so that hosts start without torch."""

    async def run(self, node: Node) -> None:
        async for t in node.rounds():
            await node.sleep(0.01)
            node.log(round=t)


class Spawned(Emulation):
    """Hosts that are plain commands."""

    kind = "spawned"

    def maker(self, wanted: Wanted) -> Maker:
        return Commands(wanted)


class Commands(Maker):
    """Starts `covey host` as anybody would at a terminal."""

    starts = True
    shares_files = True
    started: list[int] = []
    """The numbers of the hosts that were started, for tests."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted, self.token_file = wanted, wanted.folder / "secret"
        self.token_file.touch(mode=0o600)
        self.token_file.write_bytes(wanted.token)
        bound = [Address("127.0.0.1", 0).listen() for _ in range(wanted.count)]
        self.addresses = [Address.of(listening) for listening in bound]
        for listening in bound:
            listening.close()
        self.hosts: dict[int, subprocess.Popen[bytes]] = {}

    def address(self, number: int) -> Address:
        return self.addresses[number]

    def start(self, number: int) -> None:
        self.started.append(number)
        command = ["host", "--listen", str(self.addresses[number]), "--once", "--token-file", str(self.token_file)]
        with open(self.wanted.log(number), "ab") as log:
            self.hosts[number] = subprocess.Popen([sys.executable, "-m", "covey", *command], stdout=log, stderr=log)

    def poll(self, number: int) -> int | None:
        return self.hosts[number].poll() if number in self.hosts else UNKNOWN

    def kill(self, number: int) -> None:
        if number in self.hosts:
            self.hosts[number].kill()

    def wake(self, number: int) -> None:
        self.hosts[number].send_signal(signal.SIGCONT)

    def close(self) -> None:
        for host in self.hosts.values():
            host.kill()
            host.wait()
