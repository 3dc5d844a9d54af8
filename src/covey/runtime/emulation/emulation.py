"""The engine `emulation`: its settings, and the execution of a run."""

import dataclasses
import math
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError
from covey.parts.machine import default_workers
from covey.parts.parameters import param
from covey.parts.quantities import Seconds
from covey.runtime.emulation.host.inbox import ENTRIES
from covey.runtime.emulation.transport.address import Address, check_meetings, read_addresses
from covey.runtime.emulation.transport.descriptors import make_room, needed_by_host, needed_by_launcher
from covey.runtime.experiment import Engine, Experiment, Outcome, Progress
from covey.runtime.prepared import Prepared, check_importable
from covey.runtime.runs import RunWriter
from covey.runtime.sampler import Overlay

if TYPE_CHECKING:
    from covey.runtime.emulation.launcher.makers import Maker, Wanted
    from covey.runtime.emulation.transport.certificates import Certificates


_WITH_RELAYS = 3
"""The least number of hosts if messages pass a relay."""
_LONGER = 4
"""The number of whole models per round and neighbour from which on the size of the inbox is not checked."""


class Emulation(Engine):
    """Real time: nodes in processes that exchange real bytes over TCP, on this machine or on several."""

    kind = "emulation"
    clock = "real"
    nodes_per_process: int | None = param(
        "The nodes of a process. By default, there are as many processes as processors.",
        default=None,
        ge=1,
    )
    hosts: list[str] = param(
        "The addresses of hosts that were started by `covey host`. By default, processes are started on this machine.",
        factory=list,
    )
    hosts_file: Path | None = param("The file with the addresses of hosts, one per line.", default=None)
    token_file: Path | None = param(
        "The file with the secret of the hosts; by default, that of the certificates.", default=None
    )
    certs: Path | None = param("The launcher's folder from `covey certs`.", default=None)
    wait: Seconds = param("The time to wait for hosts to become ready.", default=120.0, gt=0)
    restarts: int = param(
        "The number of restarts of a lost host, or of calls to it, within 'restarts_within'; 0 for none.",
        default=5,
        ge=0,
    )
    restarts_within: Seconds = param("The time for which a restart counts among 'restarts'.", default=600.0, gt=0)
    buffer: int = param(
        "The megabytes that may wait in a node's inbox, at its links, and for another host. Further messages are "
        "dropped. Messages of one other host take at most as much of an inbox as is still free.",
        default=256,
        ge=1,
    )
    device: str = param("The device that computes: cpu, cuda, cuda:1 ...", default="cpu")
    workers: int | None = param("The number of threads that compute in each process.", default=None, ge=1)
    chunk: int = param("The nodes that are computed together; 0 is the kernel's choice.", default=0, ge=0)
    kernel: Literal["auto", "stacked", "module", "vmap"] = param("The tensor program that trains.", default="auto")

    _least = 1
    """The least number of processes, if it is not set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hosts_file is not None:
            # Only addresses are kept: a run's folder records them, and hosts do not have the file.
            if self.hosts:
                raise ConfigurationError("The engine has both 'hosts' and a 'hosts_file': remove one of them.")
            self.hosts, self.hosts_file = read_addresses(self.hosts_file), None
        addresses = [Address.parse(text) for text in self.hosts]
        check_meetings(addresses)
        for address in addresses:
            if self.certs is None and not address.is_loopback:
                raise ConfigurationError(
                    f"The host {address} is not on this machine: 'certs' of the engine must name the launcher's "
                    f"certificates. Make them with `covey certs`."
                )
        if self.hosts and self.certs is None and self.token_file is None:
            raise ConfigurationError("The 'token_file' of the engine is missing: hosts require their secret.")
        if self.certs is not None and not self.hosts:
            raise ConfigurationError(
                "The engine has 'certs' and no 'hosts': `covey certs` has written their addresses beside the "
                "certificates, in the file 'hosts', which 'hosts_file' can name."
            )

    def check_with(self, experiment: Experiment) -> None:
        overlay = experiment.program.overlay(experiment.network.nodes)
        if overlay is not None:
            self._check_overlay(experiment, overlay)
        # Only the launcher calls callbacks.
        check_importable(dataclasses.replace(experiment, callback=[]), "the processes of an emulation")
        if experiment.task is not None and experiment.task.is_private and not self.hosts:
            raise ConfigurationError(
                "The 'hosts' of the engine are missing: the data of the task are private, with hosts that were started "
                "by `covey host --data`."
            )
        if self.hosts and experiment.task is not None:
            experiment.task.portable(None)
        if self.hosts:
            self._check_alone(experiment)
        count = max(self.owners(experiment.network.nodes)) + 1
        make_room(max(needed_by_launcher(count, starts_them=not self.hosts), needed_by_host(count)), count)
        for fault in experiment.faults:
            if fault.of not in (None, count):
                how = "the engine names so many 'hosts'" if self.hosts else "set 'nodes_per_process' to have others"
                raise ConfigurationError(
                    f"The 'of' of {fault.named()} must be the number of hosts, {count}; {how}. Got {fault.of} instead."
                )

    def _check_alone(self, experiment: Experiment) -> None:
        """Check that nodes which must have a host of their own do: whoever runs a host sees all of its nodes."""
        owners = self.owners(experiment.network.nodes)
        for node in experiment.program.alone(len(owners)):
            others = owners.count(owners[node]) - 1
            if others:
                raise ConfigurationError(
                    f"The 'hosts' of the engine must give node {node} one of its own: with another node there, "
                    f"{experiment.program.named()} protects nothing from whoever runs that host. Got {others} more on "
                    f"{self.hosts[owners[node]]}: name as many hosts as nodes."
                )

    def _check_overlay(self, experiment: Experiment, overlay: Overlay) -> None:
        """Check that relays exist, and that no fault must know the ends of a message between names."""
        self._least = _WITH_RELAYS if overlay.relays else 1
        count = max(self.owners(experiment.network.nodes)) + 1
        if count < self._least:
            raise ConfigurationError(
                f"The engine must have at least {_WITH_RELAYS} hosts for the virtual nodes of "
                f"{experiment.program.named()}: a relay must be neither end's host. Got {count} instead. With "
                f"placement = 'own' there are no relays, and addresses tell all."
            )
        for fault in experiment.faults:
            if fault.strikes_messages:
                raise ConfigurationError(
                    f"{fault.named().capitalize()} strikes messages by their ends, which no host knows where "
                    f"{experiment.program.named()} has virtual nodes: use the simulation, or another fault."
                )

    def check_prepared(self, prepared: Prepared) -> None:
        hosts = max(self.owners(prepared.network.nodes)) + 1
        # One other host gets at most half of an inbox, and may have all senders of a node.
        parts = 2 if hosts > 1 else 1
        waiting = _waiting_models(prepared)
        if waiting * _LONGER * parts > self.buffer << 20 and prepared.played.received is not None:
            size, messages = prepared.played.received
            waiting = (size + messages * ENTRIES) * _rounds_at_once(prepared)
        least = math.ceil(waiting * parts / (1 << 20))
        if least > self.buffer:
            half = ", half of which is for any one host" if hosts > 1 else ""
            raise ConfigurationError(
                f"The 'buffer' of the engine must be at least {least} here: about {math.ceil(waiting / (1 << 20))} "
                f"megabytes of messages may wait in an inbox{half}. Got {self.buffer} instead."
            )

    def here(self) -> Sequence[int] | None:
        return () if self.hosts else None

    def compute_settings(self) -> dict[str, Any]:
        return {"device": self.device, "workers": 1, "chunk": self.chunk, "kernel": self.kernel}

    def owners(self, nodes: int) -> list[int]:
        """The host of every node.

        Raises:
            ConfigurationError: there are more hosts than nodes.
        """
        if self.hosts:
            count = len(self.hosts)
        elif self.nodes_per_process is not None:
            count = -(-nodes // self.nodes_per_process)
        else:
            count = min(max(default_workers(), self._least), nodes)
        if count > nodes:
            raise ConfigurationError(f"The engine has {count} hosts for {nodes} nodes: remove some.")
        return [node * count // nodes for node in range(nodes)]

    def workers_of(self, hosts: int) -> int:
        """The number of computing threads in each of `hosts` processes."""
        here = 1 if self.hosts else hosts
        return self.workers or max(1, default_workers() // here)

    def maker(self, wanted: "Wanted") -> "Maker":
        """The maker of the processes of a run's hosts. An engine with hosts elsewhere overrides only this method.

        Raises:
            OSError: the system refuses a process.
        """
        from covey.runtime.emulation.launcher.makers import Called
        from covey.runtime.emulation.launcher.processes import Processes, can_fork

        if self.hosts:
            return Called([Address.parse(text) for text in self.hosts])
        return Processes(wanted, forks=can_fork())

    def trust(self) -> "tuple[bytes, Certificates | None]":
        """The secret that hosts must hold, and the launcher's certificates (None on one machine).

        Raises:
            ConfigurationError: the file of the secret or of a certificate cannot be read.
        """
        from covey.runtime.emulation.transport.token import read_token

        if self.certs is None:
            return secrets.token_hex(32).encode() if self.token_file is None else read_token(self.token_file), None
        from covey.runtime.emulation.transport.certificates import TOKEN_FILE, Certificates
        from covey.runtime.emulation.transport.handshake import LAUNCHER, title

        certificates = Certificates.load(self.certs)
        if certificates.owner != title(LAUNCHER):
            raise ConfigurationError(
                f"The 'certs' of the engine must be the launcher's. Those in {self.certs} are of {certificates.owner}."
            )
        return read_token(self.token_file or self.certs / TOKEN_FILE), certificates

    def execute(
        self,
        prepared: Prepared,
        writer: RunWriter | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        checkpoint: Payload | None = None,
    ) -> Outcome:
        from covey.runtime.emulation.launcher.launching import launch

        with prepared.task.at_work():
            return launch(prepared, self, writer, progress, checkpoint)


def _rounds_at_once(prepared: Prepared) -> int:
    """The number of rounds of which messages may wait at a node."""
    # A neighbour that has all its messages begins its next round while its receivers still wait for others.
    has_neighbours = prepared.program.graph(0) is not None or prepared.overlay is not None
    return 2 if prepared.program.synchronous and has_neighbours else 1


def _waiting_models(prepared: Prepared) -> int:
    """The memory of messages that wait at a node if every message is one whole model."""
    return prepared.program.most_received() * (prepared.task.model_bytes + ENTRIES) * _rounds_at_once(prepared)
