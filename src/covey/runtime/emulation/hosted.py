"""The common part of engines that run nodes on hosts, in real time."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError
from covey.parts.machine import default_workers
from covey.parts.parameters import param
from covey.parts.quantities import Seconds
from covey.runtime.emulation.host.inbox import ENTRIES
from covey.runtime.emulation.transport.descriptors import make_room, needed_by_host, needed_by_launcher
from covey.runtime.experiment import Engine, Experiment, Outcome, Progress
from covey.runtime.prepared import Prepared, check_importable
from covey.runtime.runs import RunWriter
from covey.runtime.sampler import Overlay

if TYPE_CHECKING:
    from covey.runtime.emulation.launcher.makers import Maker, Trust, Wanted

_WITH_RELAYS = 3
"""The least number of hosts if messages pass a relay."""
_LONGER = 4
"""The number of whole models per round and neighbour from which on the size of the inbox is not checked."""


class Hosted(Engine):
    """Real time: nodes on hosts, which are processes that exchange real bytes over TCP."""

    clock = "real"
    nodes_per_process: int | None = param(
        "The nodes of a process. By default, there are as many processes as processors.",
        default=None,
        ge=1,
    )
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

    _run: ClassVar[str] = "an emulation"
    """A run of the engine, for messages."""
    _least = 1
    """The least number of processes, if it is not set."""

    def check_with(self, experiment: Experiment) -> None:
        overlay = experiment.program.overlay(experiment.network.nodes)
        if overlay is not None:
            self._check_overlay(experiment, overlay)
        # Only the launcher calls callbacks.
        check_importable(dataclasses.replace(experiment, callback=[]), f"the processes of {self._run}")
        self.check_task(experiment)
        count = self.count(experiment.network.nodes)
        make_room(max(needed_by_launcher(count, starts_them=self.starts_hosts), needed_by_host(count)), count)
        for fault in experiment.faults:
            if fault.of not in (None, count):
                raise ConfigurationError(
                    f"The 'of' of {fault.named()} must be the number of hosts, {count}; {self.how_many}. Got "
                    f"{fault.of} instead."
                )

    def check_task(self, experiment: Experiment) -> None:
        """Refuse a task whose data hosts would not have.

        Raises:
            ConfigurationError: they would not.
        """

    def _check_overlay(self, experiment: Experiment, overlay: Overlay) -> None:
        """Check that relays exist, and that no fault must know the ends of a message between names."""
        self._least = _WITH_RELAYS if overlay.relays else 1
        count = self.count(experiment.network.nodes)
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
        hosts = self.count(prepared.network.nodes)
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

    def compute_settings(self) -> dict[str, Any]:
        return {"device": self.device, "workers": 1, "chunk": self.chunk, "kernel": self.kernel}

    # ------------------------------------------------------------------ hosts

    @property
    def starts_hosts(self) -> bool:
        """True if a run starts its hosts."""
        return True

    @property
    def how_many(self) -> str:
        """The way to another number of hosts, for messages."""
        return "set 'nodes_per_process' to have others"

    def hosts_for(self, nodes: int) -> int:
        """The number of hosts for a number of nodes, which may be too large."""
        if self.nodes_per_process is not None:
            return -(-nodes // self.nodes_per_process)
        return min(max(default_workers(), self._least), nodes)

    def count(self, nodes: int) -> int:
        """The number of hosts.

        Raises:
            ConfigurationError: there are more hosts than nodes.
        """
        count = self.hosts_for(nodes)
        if count > nodes:
            raise ConfigurationError(f"The engine has {count} hosts for {nodes} nodes: remove some.")
        return count

    def owners(self, nodes: int) -> list[int]:
        """The host of every node. See `count`."""
        count = self.count(nodes)
        return [node * count // nodes for node in range(nodes)]

    def workers_of(self, hosts: int) -> int:
        """The number of computing threads in each of `hosts` processes."""
        return self.workers or max(1, default_workers() // hosts)

    def maker(self, wanted: "Wanted") -> "Maker":
        """The maker of the processes of a run's hosts. An engine with hosts elsewhere overrides only this method.

        Raises:
            OSError: the system refuses a process.
        """
        raise NotImplementedError

    def trust(self) -> "Trust":
        """The secret that hosts must hold, and the launcher's certificates.

        Raises:
            ConfigurationError: the file of the secret or of a certificate cannot be read.
        """
        raise NotImplementedError

    @contextmanager
    def ready_for(self, nodes: int) -> Iterator[None]:
        """Get what starts hosts, for as long as a run of a number of nodes takes.

        Raises:
            CoveyError: it is not there.
        """
        yield

    def execute(
        self,
        prepared: Prepared,
        writer: RunWriter | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        checkpoint: Payload | None = None,
    ) -> Outcome:
        from covey.runtime.emulation.launcher.launching import launch

        with self.ready_for(prepared.network.nodes), prepared.task.at_work():
            return launch(prepared, self, writer, progress, checkpoint)


def _rounds_at_once(prepared: Prepared) -> int:
    """The number of rounds of which messages may wait at a node."""
    # A neighbour that has all its messages begins its next round while its receivers still wait for others.
    has_neighbours = prepared.program.graph(0) is not None or prepared.overlay is not None
    return 2 if prepared.program.synchronous and has_neighbours else 1


def _waiting_models(prepared: Prepared) -> int:
    """The memory of messages that wait at a node if every message is one whole model."""
    return prepared.program.most_received() * (prepared.task.model_bytes + ENTRIES) * _rounds_at_once(prepared)
