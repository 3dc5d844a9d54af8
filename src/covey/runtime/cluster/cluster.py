"""The engine `cluster`: its settings, and the session of a run."""

import math
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.parts.errors import ConfigurationError
from covey.parts.machine import default_workers
from covey.parts.parameters import param
from covey.runtime.cluster.placement import Bundle, Strategy, shortage
from covey.runtime.cluster.session import connected, library
from covey.runtime.emulation.hosted import Hosted
from covey.runtime.experiment import Experiment

if TYPE_CHECKING:
    from covey.runtime.emulation.launcher.makers import Maker, Trust, Wanted

_DAYS = 365
"""The validity of the certificates of a run, which no run outlives."""


class Cluster(Hosted):
    """Real time: nodes in Ray actors on the machines of a cluster, which exchange real bytes over TCP."""

    kind = "cluster"
    address: str | None = param(
        "The address of the head of the Ray cluster. By default that of the environment's RAY_ADDRESS or, without "
        "one, Ray is started on this machine.",
        default=None,
    )
    placement: Strategy = param(
        "The places of hosts: spread over machines, packed onto few, or each on a machine of its own.",
        default="spread",
    )
    cores: float = param("The cores of a host.", default=1.0, gt=0)
    gpus: float = param("The GPUs of a host; a fraction if several hosts share one.", default=0.0, ge=0)
    memory: float | None = param("The gigabytes of memory of a host; by default, any.", default=None, gt=0)

    ship: bool = param(
        "Whether hosts get the samples of their nodes and the test samples from this machine, instead of loading them.",
        default=False,
    )

    _run = "a cluster"

    @property
    def bundle(self) -> Bundle:
        """The resources of a host."""
        return Bundle(self.cores, self.gpus, None if self.memory is None else self.memory * 1e9)

    def check_task(self, experiment: Experiment) -> None:
        if experiment.task is not None and experiment.task.is_private:
            raise ConfigurationError(
                "The data of the task are private, with hosts that were started by `covey host --data`: choose the "
                "engine emulation, and name its 'hosts'."
            )
        if experiment.task is not None:
            experiment.task.portable(None)

    def workers_of(self, hosts: int) -> int:
        return self.workers or max(1, int(self.cores))

    @contextmanager
    def ready_for(self, nodes: int) -> Iterator[None]:
        count = self.count(nodes)
        store: dict[str, Any] = {"store": None} if self.ship else {}  # Ray's own default is a third of the memory.
        with connected(self.address, cores=default_workers(), **store) as session:
            there = session.ray.cluster_resources()
            short = shortage(self.bundle, count, there)
            if short is not None and session.is_here:
                cores = math.floor(100 * there.get("CPU", 1.0) / count) / 100
                raise ConfigurationError(
                    f"{count} hosts ask for {short} that Ray has on this machine: set 'nodes_per_process' of the "
                    f"engine to have fewer hosts, or its 'cores' to {cores:g}."
                )
            yield

    def maker(self, wanted: "Wanted") -> "Maker":
        from covey.runtime.cluster.actors import Actors

        return Actors(library(), wanted, self)

    def trust(self) -> "Trust":
        return own_trust()


def own_trust() -> "Trust":
    """A new secret, and certificates of a new authority that lives as long as the run."""
    from covey.runtime.emulation.launcher.makers import Trust
    from covey.runtime.emulation.transport.certificates import Authority, Certificates
    from covey.runtime.emulation.transport.handshake import LAUNCHER

    authority = Authority(_DAYS)
    with tempfile.TemporaryDirectory(prefix="covey-") as folder:
        authority.issue(Path(folder), LAUNCHER)
        return Trust(secrets.token_hex(32).encode(), Certificates.load(Path(folder)), authority)
