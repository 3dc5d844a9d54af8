"""Ray actors as the processes of hosts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.parts.errors import RunError
from covey.runtime.cluster import endings
from covey.runtime.cluster.member import Introduction, actor_class
from covey.runtime.cluster.placement import Places
from covey.runtime.cluster.session import answers, head
from covey.runtime.cluster.versions import difference, versions
from covey.runtime.emulation.launcher.makers import UNKNOWN, HostGone, Maker, Wanted
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.certificates import Issued

if TYPE_CHECKING:
    from covey.runtime.cluster.cluster import Cluster

_FEW = 3
"""The number of times in a row for which the head may not answer. It is asked once a second."""
_ASK = 0.5
"""The seconds within which it must answer."""


@dataclass(eq=False)
class _Started:
    """The actor of a host."""

    actor: Any
    introduction: Any
    """The reference of its first words."""
    serving: Any = None
    """The reference of its work, once it has a certificate."""
    address: Address | None = None
    issued: Issued | None = None
    status: int | None = None
    error: BaseException | None = None


class Actors(Maker):
    """A maker of hosts that are Ray actors.

    Args:
        ray: the module ray, connected.
        wanted: the requirements of the run.
        settings: the settings of the engine.
    """

    starts = True
    shares_files = False
    same_paths = True
    ends_within = 2.0

    def __init__(self, ray: Any, wanted: Wanted, settings: "Cluster") -> None:
        self._ray, self._wanted, self._settings = ray, wanted, settings
        self._class: Any = actor_class()
        self._places = Places(ray, settings.bundle, wanted.count, settings.placement)
        self._hosts: dict[int, _Started] = {}
        self._head, self._silent = head(), 0
        self._common = self._shipped(None)
        """The reference of the data of all hosts, which Ray sends once to a machine; None if hosts load them."""

    def start(self, number: int) -> None:
        self.kill(number)
        options = {**self._settings.bundle.options(), "scheduling_strategy": self._places.at(number)}
        actor = self._class.options(**options).remote()
        self._hosts[number] = _Started(actor, actor.introduce.remote(self._wanted.modules))

    def address(self, number: int) -> Address | None:
        host = self._hosts.get(number)
        if host is not None and host.serving is None and self._places.are_there and self._is_done(host.introduction):
            self._admit(number, host)
        return None if host is None else host.address

    def _is_done(self, reference: Any) -> bool:
        done, _ = self._ray.wait([reference], timeout=0)
        return bool(done)

    def _admit(self, number: int, host: _Started) -> None:
        """Give a host its certificate, and let it serve."""
        try:
            said: Introduction = self._ray.get(host.introduction)
        except Exception as error:
            self._has_ended(host, error)
            return
        other = difference(said["machine"], said["versions"], versions())
        if other is not None:
            raise RunError(other)
        address, authority = Address(said["host"], said["port"]), self._wanted.authority
        assert authority is not None
        host.issued = issued = authority.answer(said["request"], number, address)
        host.serving = host.actor.serve.remote(
            self._wanted.token,
            issued.certificate,
            issued.authority,
            self._settings.wait,
            self._common,
            self._shipped(number),
        )
        host.address = address

    def _shipped(self, number: int | None) -> Any:
        """The reference of what is shipped to a host or, with None, to all."""
        if not self._settings.ship:
            return None
        try:
            return self._ray.put(self._wanted.shipment(number))
        except (self._ray.exceptions.ObjectStoreFullError, self._ray.exceptions.OutOfDiskError) as error:
            raise RunError(
                "The data do not fit into Ray's object store on this machine: start Ray with a larger "
                "--object-store-memory, or leave 'ship' out and copy them to all machines."
            ) from error

    def mark(self, number: int) -> str:
        host = self._hosts.get(number)
        return "" if host is None or host.issued is None else host.issued.mark

    def problem(self, number: int) -> str | None:
        return "its actor starts" if self._places.are_there else self._places.missing()

    def poll(self, number: int) -> int | None:
        host = self._hosts.get(number)
        if host is None:
            return UNKNOWN
        if host.status is None:
            reference = host.serving or host.introduction
            if self._is_done(reference):
                try:
                    self._ray.get(reference)
                except Exception as error:
                    self._has_ended(host, error)
                else:
                    host.status = 0 if host.serving is not None else None
        return host.status

    @staticmethod
    def _has_ended(host: _Started, error: Exception) -> None:
        host.status, host.error = UNKNOWN, error

    def last_words(self, number: int, log: Path | None, *, nodes: int = 0, peak: float = 0.0) -> str:
        self.poll(number)
        host = self._hosts.get(number)
        if host is None or host.error is None:
            return ""
        words = endings.reason(host.error)
        if endings.is_for_memory(host.error):
            places = [other.address.host for other in self._hosts.values() if other.address is not None]
            here = max(places.count(host.address.host), 1) if host.address is not None else 1
            words += endings.advice(host.error, nodes=nodes, peak=peak, hosts=here)
        return words

    def check(self) -> None:
        self._silent = 0 if answers(self._head, _ASK) else self._silent + 1
        if self._silent >= _FEW:
            raise HostGone(f"The head of the Ray cluster at {self._head} does not answer.")

    def kill(self, number: int) -> None:
        host = self._hosts.get(number)
        if host is not None and not self._silent:
            self._ray.kill(host.actor, no_restart=True)

    def wake(self, number: int) -> None:
        """Do nothing: the host wakes by itself."""

    def close(self) -> None:
        if self._silent:
            return  # Ray would wait for its head, and then end this process.
        for number in self._hosts:
            self.kill(number)
        self._places.close()
