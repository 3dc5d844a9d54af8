"""The processes of hosts in a played run, as a maker of this machine's processes sees them."""

from typing import TYPE_CHECKING

from fuzz.virtual import Process, Socket

from covey.runtime.emulation.host import host
from covey.runtime.emulation.launcher import makers
from covey.runtime.emulation.launcher.makers import UNKNOWN, Wanted
from covey.runtime.emulation.transport.address import Address

if TYPE_CHECKING:
    from fuzz.recovery import Play


class Started:
    """The process of a host, as its maker sees it."""

    def __init__(self, play: "Play", listening: Socket, token: bytes) -> None:
        self._play = play
        self.status: int | None = None
        self._process = process = Process(play.loop, f"host {listening.port}")
        play.local.append(process)
        process.ended.append(self._has_ended)
        begins = play.loop.time() + play.loop.random.uniform(0.05, 1.0)
        process.later(begins, self._serve, listening, token)

    def _serve(self, listening: Socket, token: bytes) -> None:
        serving = self._process.run(host.Host(token).serve(listening, once=True))
        serving.add_done_callback(lambda _: self._process.kill())

    def _has_ended(self) -> None:
        self.status = 0

    def kill(self) -> None:
        self._process.kill()


class Maker(makers.Maker):
    """Makes hosts as the processes of this machine are made."""

    starts = True
    shares_files = True

    def __init__(self, play: "Play", wanted: Wanted) -> None:
        self._play, self._token = play, wanted.token
        self._sockets = [play.loop.network.listen(inherited=True) for _ in range(wanted.count)]
        self._hosts: dict[int, Started] = {}

    def address(self, number: int) -> Address:
        return Address(*self._sockets[number].getsockname())

    def start(self, number: int) -> None:
        self._hosts[number] = Started(self._play, self._sockets[number], self._token)

    def poll(self, number: int) -> int | None:
        return self._hosts[number].status if number in self._hosts else UNKNOWN

    def kill(self, number: int) -> None:
        if number in self._hosts:
            self._hosts[number].kill()

    def wake(self, number: int) -> None:
        pass

    def close(self) -> None:
        for started in self._hosts.values():
            started.kill()
