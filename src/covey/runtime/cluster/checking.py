"""The machines of a cluster: what each has, and how well this one can talk to it."""

import importlib
import os
import socket
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from covey.runtime.cluster.endings import reason
from covey.runtime.cluster.session import library
from covey.runtime.cluster.versions import difference, versions

_CALLS = 20
_BYTES = 32 << 20
"""The bytes by which a bandwidth is measured."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Machine:
    """A machine of a cluster, as far as it answers."""

    name: str
    address: str
    cores: float
    gpus: float
    versions: dict[str, str] | None
    """None if it does not answer."""
    call: float = 0.0
    """The seconds of a call of Ray, in the median."""
    bandwidth: float = 0.0
    """The bits per second of a plain connection, as covey's own are."""
    skew: float = 0.0
    """The seconds by which its clock is ahead of this one's."""
    problem: str | None = None
    """Why it does not fit the others, or does not answer."""


class Probe:
    """A short-lived actor on a machine."""

    def versions(self) -> dict[str, str]:
        return versions()

    def clock(self) -> float:
        return time.time()

    def listen(self) -> int:
        """Listen on a port, and return it."""
        own: str = importlib.import_module("ray.util").get_node_ip_address()
        self._listening = socket.create_server((own, 0))
        return int(self._listening.getsockname()[1])

    def receive(self) -> int:
        """Take what the next caller sends, to its end, and return the number of bytes."""
        caller, _ = self._listening.accept()
        size, piece = 0, bytearray(_PIECE)
        with caller:
            while count := caller.recv_into(piece):
                size += count
            caller.sendall(b".")
        return size


def machines(seconds: float) -> list[Machine]:
    """All machines of the connected cluster.

    Args:
        seconds: the time in which each must answer.
    """
    nodes = [node for node in library().nodes() if node["Alive"]]
    return [_looked_at(node, seconds) for node in nodes]


def _looked_at(node: dict[str, Any], seconds: float) -> Machine:
    ray = library()
    name, address, has = node["NodeManagerHostname"], node["NodeManagerAddress"], node["Resources"]
    known = {"name": name, "address": address, "cores": has.get("CPU", 0.0), "gpus": has.get("GPU", 0.0)}
    there = {f"node:{address}": 0.001}
    probe: Any = ray.remote(Probe).options(num_cpus=0, resources=there).remote()
    try:
        found = ray.get(probe.versions.remote(), timeout=seconds)
        call, skew = _timed(ray, probe)
        bandwidth = _bandwidth(ray, probe, address, seconds)
    except ray.exceptions.GetTimeoutError:
        return Machine(
            **known, versions=None, problem=f"The machine {name} does not answer within {seconds:g} seconds."
        )
    except (ray.exceptions.RayError, OSError) as error:
        return Machine(**known, versions=None, problem=f"The machine {name} cannot be used: {reason(error)}.")
    finally:
        ray.kill(probe)
    return Machine(
        **known, versions=found, call=call, bandwidth=bandwidth, skew=skew, problem=difference(name, found, versions())
    )


def _timed(ray: Any, probe: Any) -> tuple[float, float]:
    """The seconds of a call, and those by which the clock there is ahead."""
    calls, skews = [], []
    for _ in range(_CALLS):
        began, here = time.perf_counter(), time.time()
        there = ray.get(probe.clock.remote())
        calls.append(time.perf_counter() - began)
        skews.append(there - here - calls[-1] / 2)
    return median(calls), median(skews)


def _bandwidth(ray: Any, probe: Any, address: str, seconds: float) -> float:
    """The bits per second of a connection."""
    port = ray.get(probe.listen.remote(), timeout=seconds)
    receiving, piece = probe.receive.remote(), os.urandom(_PIECE)
    with socket.create_connection((address, port), timeout=seconds) as connection:
        began = time.perf_counter()
        for _ in range(_BYTES // _PIECE):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        took = time.perf_counter() - began
    ray.get(receiving, timeout=seconds)
    return 8 * _BYTES / took
