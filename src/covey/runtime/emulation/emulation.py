"""The engine `emulation`: its settings, and a run from beginning to end."""

import dataclasses
import math
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError
from covey.parts.kinds import why_not_importable
from covey.parts.machine import default_workers
from covey.parts.parameters import param, parts_of
from covey.parts.quantities import Seconds
from covey.runtime.emulation.host.inbox import ENTRIES
from covey.runtime.emulation.transport.address import Address, read_addresses
from covey.runtime.emulation.transport.descriptors import make_room, needed_by_host, needed_by_launcher
from covey.runtime.experiment import Engine, Experiment, Outcome, Progress
from covey.runtime.prepared import Prepared
from covey.runtime.runs import RunWriter

if TYPE_CHECKING:
    from covey.runtime.emulation.launcher.makers import Maker, Wanted
    from covey.runtime.emulation.transport.certificates import Certificates


_LONGER = 4
"""How many whole models a neighbour may send in a round before nobody looks whether an inbox has room for it."""


class Emulation(Engine):
    """Real time: nodes in processes that exchange real bytes over TCP, on this machine or on several."""

    kind = "emulation"
    clock = "real"
    nodes_per_process: int | None = param(
        "How many nodes a process hosts; by default so many that there are as many processes as processors.",
        default=None,
        ge=1,
    )
    hosts: list[str] = param(
        "The addresses of hosts that were started by `covey host`; by default processes are started here.",
        factory=list,
    )
    hosts_file: Path | None = param("A file that says instead what the hosts are: an address a line.", default=None)
    token_file: Path | None = param(
        "The file with the secret that the hosts were started with; by default that of the certificates.", default=None
    )
    certs: Path | None = param("The launcher's folder, of those that `covey certs` made for the hosts.", default=None)
    wait: Seconds = param("How long to wait for hosts to become ready.", default=120.0, gt=0)
    restarts: int = param(
        "How many times within 'restarts_within' a host that is gone is started or called again; 0 for never.",
        default=5,
        ge=0,
    )
    restarts_within: Seconds = param("For how long a start counts among the 'restarts'.", default=600.0, gt=0)
    buffer: int = param(
        "How many megabytes may wait in a node's inbox, at its links, and for another host; what is more is dropped. "
        "Of an inbox, what one other host sends takes no more than is still free.",
        default=256,
        ge=1,
    )
    device: str = param("Where to compute: cpu, cuda, cuda:1 ...", default="cpu")
    workers: int | None = param("Threads that compute in each process.", default=None, ge=1)
    chunk: int = param("How many nodes are computed together; 0 leaves it to the kernel.", default=0, ge=0)
    kernel: Literal["auto", "stacked", "module", "vmap"] = param("The tensor program that trains.", default="auto")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hosts_file is not None:
            # From here on there are only addresses: a run's folder says which ones, and the hosts do not have the file.
            if self.hosts:
                raise ConfigurationError("The engine has both 'hosts' and a 'hosts_file': leave one of them away.")
            self.hosts, self.hosts_file = read_addresses(self.hosts_file), None
        for text in self.hosts:
            address = Address.parse(text)
            if self.certs is None and not address.is_loopback:
                raise ConfigurationError(
                    f"The host {address} is not on this machine: 'certs' of the engine must name the launcher's "
                    f"certificates. Make them with `covey certs`."
                )
        if self.hosts and self.certs is None and self.token_file is None:
            raise ConfigurationError("The 'token_file' of the engine is missing: hosts want to see their secret.")
        if self.certs is not None and not self.hosts:
            raise ConfigurationError(
                "The engine has 'certs' and no 'hosts': `covey certs` has written their addresses beside the "
                "certificates, in the file 'hosts', which 'hosts_file' can name."
            )

    def check_with(self, experiment: Experiment) -> None:
        _check_importable(experiment)
        if self.hosts and experiment.task is not None:
            experiment.task.portable(None)
        count = max(self.owners(experiment.network.nodes)) + 1
        make_room(max(needed_by_launcher(count, starts_them=not self.hosts), needed_by_host(count)), count)
        for fault in experiment.faults:
            if fault.of not in (None, count):
                how = "the engine names so many 'hosts'" if self.hosts else "set 'nodes_per_process' to have others"
                raise ConfigurationError(
                    f"The 'of' of {fault.named()} must be the number of hosts, {count}; {how}. Got {fault.of} instead."
                )

    def check_prepared(self, prepared: Prepared) -> None:
        hosts = max(self.owners(prepared.network.nodes)) + 1
        # One other host gets no more than half of an inbox, and may have all that a node hears from.
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
            count = min(default_workers(), nodes)
        if count > nodes:
            raise ConfigurationError(f"The engine has {count} hosts for {nodes} nodes: leave some away.")
        return [node * count // nodes for node in range(nodes)]

    def workers_of(self, hosts: int) -> int:
        """How many threads compute in each of so many processes."""
        here = 1 if self.hosts else hosts
        return self.workers or max(1, default_workers() // here)

    def maker(self, wanted: "Wanted") -> "Maker":
        """Who makes the processes of a run's hosts. An engine that has them elsewhere overrides this and nothing else.

        Raises:
            OSError: the system refuses.
        """
        from covey.runtime.emulation.launcher.makers import Called
        from covey.runtime.emulation.launcher.processes import Processes, can_fork

        if self.hosts:
            return Called([Address.parse(text) for text in self.hosts])
        return Processes(wanted, forks=can_fork())

    def trust(self) -> "tuple[bytes, Certificates | None]":
        """(the secret that hosts must hold, the launcher's certificates).

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
    """Messages of how many rounds may wait at a node."""
    # A neighbour that has heard everybody begins its next round while its receivers still wait for others.
    return 2 if prepared.program.synchronous and prepared.program.graph(0) is not None else 1


def _waiting_models(prepared: Prepared) -> int:
    """The memory that waits at a node if every message is one whole model."""
    return prepared.program.most_received() * (prepared.task.model_bytes + ENTRIES) * _rounds_at_once(prepared)


def _check_importable(experiment: Experiment) -> None:
    """Whether other processes can have all parts of an experiment.

    Raises:
        ConfigurationError: they cannot.
    """
    for part in parts_of(dataclasses.replace(experiment, callback=[])):  # Only the launcher calls callbacks.
        why = why_not_importable(type(part)) if part.family else None
        if why is not None:
            name = part.title().rpartition(":")[2].rpartition(".")[2]
            raise ConfigurationError(
                f"The {part.family} {name} {why}: the processes of an emulation cannot import it. "
                f"Put it into a module of its own."
            )
    Experiment.from_table(experiment.to_table())
