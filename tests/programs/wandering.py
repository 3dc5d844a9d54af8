"""An engine whose hosts come back at other addresses, with other certificates."""

import subprocess
import sys

from covey.runtime.content import Content
from covey.runtime.emulation.launcher.makers import Maker, Wanted
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.certificates import TOKEN_FILE, Certificates
from covey.runtime.emulation.transport.handshake import title
from covey.runtime.node import Node, Program
from covey.runtime.state import State
from tests.programs.spawned import Commands, Spawned


class Note(Content):
    round: int


class Memory(State):
    heard: int = 0
    silent: int = 0
    back: bool = False


class Chatting(Program):
    """Two nodes talk in every round until one that was silent for some rounds is heard again, or stays silent."""

    tolerates_loss = True

    async def run(self, node: Node) -> None:
        memory, other = node.keep(Memory), 1 - node.id
        async for t in node.rounds():
            node.send([other], Note(round=t), round=t)
            await node.sleep(0.02)
            inbox = await node.receive(round=t, senders=[other], timeout=0.05)
            if any(note.round == t for note in node.usable(inbox, Note)):
                memory.back |= memory.silent > 3
                memory.heard, memory.silent = memory.heard + 1, 0
            else:
                memory.silent += memory.heard > 0
            if memory.back or memory.silent > (20 if node.id else 600):
                return


class Wandering(Spawned):
    """Hosts that are plain commands, each at a new port with a new certificate."""

    kind = "wandering"

    def trust(self):
        from covey.runtime.cluster.cluster import own_trust

        return own_trust()

    def maker(self, wanted: Wanted) -> Maker:
        return Nomads(wanted)


class Nomads(Commands):
    """Starts `covey host` with a certificate for this start alone."""

    marks: list[tuple[int, str]] = []
    """The certificates of all starts, for tests."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        self._marks: dict[int, str] = {}

    def address(self, number: int) -> Address | None:
        return self.addresses[number] if number in self._marks else None

    def mark(self, number: int) -> str:
        return self._marks.get(number, "")

    def start(self, number: int) -> None:
        self.started.append(number)
        listening = Address("127.0.0.1", 0).listen()
        self.addresses[number] = address = Address.of(listening)
        folder = self.wanted.folder / f"{title(number)}-{len(self.started)}"
        folder.mkdir(mode=0o700)
        self.wanted.authority.issue(folder, number, address)
        (folder / TOKEN_FILE).touch(mode=0o600)
        (folder / TOKEN_FILE).write_bytes(self.wanted.token)
        self._marks[number] = Certificates.load(folder).mark
        self.marks.append((number, self._marks[number]))
        command = ["host", "--socket", str(listening.fileno()), "--once", "--certs", str(folder)]
        with open(self.wanted.log(number), "ab") as log:
            self.hosts[number] = subprocess.Popen(
                [sys.executable, "-m", "covey", *command], stdout=log, stderr=log, pass_fds=[listening.fileno()]
            )
        listening.close()
