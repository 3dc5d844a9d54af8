"""The engine `emulation`: hosts on this machine, or those that users have started."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param
from covey.runtime.emulation.hosted import Hosted
from covey.runtime.emulation.transport.address import Address, check_meetings, read_addresses
from covey.runtime.experiment import Experiment

if TYPE_CHECKING:
    from covey.runtime.emulation.launcher.makers import Maker, Trust, Wanted


class Emulation(Hosted):
    """Real time: nodes in processes that exchange real bytes over TCP, on this machine or on several."""

    kind = "emulation"
    hosts: list[str] = param(
        "The addresses of hosts that were started by `covey host`. By default, processes are started on this machine.",
        factory=list,
    )
    hosts_file: Path | None = param("The file with the addresses of hosts, one per line.", default=None)
    token_file: Path | None = param(
        "The file with the secret of the hosts; by default, that of the certificates.", default=None
    )
    certs: Path | None = param("The launcher's folder from `covey certs`.", default=None)

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

    def check_task(self, experiment: Experiment) -> None:
        if experiment.task is not None and experiment.task.is_private and not self.hosts:
            raise ConfigurationError(
                "The 'hosts' of the engine are missing: the data of the task are private, with hosts that were started "
                "by `covey host --data`."
            )
        if self.hosts and experiment.task is not None:
            experiment.task.portable(None)
        if self.hosts:
            self._check_alone(experiment)

    def _check_alone(self, experiment: Experiment) -> None:
        """Check that nodes which must have a host of their own do: whoever runs a host sees all of its nodes."""
        owners = self.owners(experiment.network.nodes)
        for node in experiment.program.nodes_with_hosts_of_their_own(len(owners)):
            others = owners.count(owners[node]) - 1
            if others:
                raise ConfigurationError(
                    f"The 'hosts' of the engine must give node {node} one of its own: with another node there, "
                    f"{experiment.program.named()} protects nothing from whoever runs that host. Got {others} more on "
                    f"{self.hosts[owners[node]]}: name as many hosts as nodes."
                )

    def here(self) -> Sequence[int] | None:
        return () if self.hosts else None

    @property
    def starts_hosts(self) -> bool:
        return not self.hosts

    @property
    def how_many(self) -> str:
        return "the engine names so many 'hosts'" if self.hosts else super().how_many

    def hosts_for(self, nodes: int) -> int:
        return len(self.hosts) if self.hosts else super().hosts_for(nodes)

    def workers_of(self, hosts: int) -> int:
        return super().workers_of(1 if self.hosts else hosts)

    def maker(self, wanted: "Wanted") -> "Maker":
        from covey.runtime.emulation.launcher.makers import Called
        from covey.runtime.emulation.launcher.processes import Processes, can_fork

        if self.hosts:
            return Called([Address.parse(text) for text in self.hosts])
        return Processes(wanted, forks=can_fork())

    def trust(self) -> "Trust":
        from covey.runtime.emulation.launcher.makers import Trust
        from covey.runtime.emulation.transport.token import read_token

        if self.certs is None:
            own = secrets.token_hex(32).encode()
            return Trust(own if self.token_file is None else read_token(self.token_file))
        from covey.runtime.emulation.transport.certificates import TOKEN_FILE, Certificates
        from covey.runtime.emulation.transport.handshake import LAUNCHER, title

        certificates = Certificates.load(self.certs)
        if certificates.owner != title(LAUNCHER):
            raise ConfigurationError(
                f"The 'certs' of the engine must be the launcher's. Those in {self.certs} are of {certificates.owner}."
            )
        return Trust(read_token(self.token_file or self.certs / TOKEN_FILE), certificates)
