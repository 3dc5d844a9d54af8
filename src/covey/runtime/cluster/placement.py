"""The places of hosts in a cluster: a bundle of cores, GPUs and memory for each, reserved together."""

import importlib
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

Strategy = Literal["spread", "pack", "strict-spread"]
_LOOK = 0.25
"""Seconds between two questions for the state of a placement."""
_NAMES = {"CPU": "cores", "GPU": "GPUs", "memory": "GB of memory"}


@dataclass(frozen=True)
class Bundle:
    """The resources of a host."""

    cores: float
    gpus: float = 0.0
    memory: float | None = None
    """Bytes."""

    def table(self) -> dict[str, float]:
        """The resources by Ray's names."""
        found = {"CPU": self.cores, "GPU": self.gpus, "memory": self.memory or 0.0}
        return {name: amount for name, amount in found.items() if amount}

    def options(self) -> dict[str, float]:
        """The options of an actor that takes all of it. An actor's own default is no core while it runs."""
        found: dict[str, float] = {"num_cpus": self.cores, "num_gpus": self.gpus}
        return found if self.memory is None else {**found, "memory": self.memory}


def shortage(bundle: Bundle, count: int, there: dict[str, float], free: dict[str, float] | None = None) -> str | None:
    """The resources that hosts ask for and a cluster does not have, in words; None if it has enough of all.

    Args:
        bundle: the resources of a host.
        count: the number of hosts.
        there: all resources of the cluster.
        free: the unused ones; all by default.
    """
    found = []
    for name, each in bundle.table().items():
        asked, has, left = count * each, there.get(name, 0.0), (free or there).get(name, 0.0)
        if left < asked:
            free_too = f" ({_amount(name, left)} free)" if left < has else ""
            found.append(f"{_amount(name, asked)} {_NAMES[name]} of {_amount(name, has)}{free_too}")
    return " and ".join(found) if found else None


def _amount(name: str, value: float) -> str:
    return f"{value / 1e9 if name == 'memory' else value:.3g}"


class Places:
    """The reserved places of hosts.

    Args:
        ray: the module ray, connected.
        bundle: the resources of a host.
        count: the number of hosts.
        strategy: the way in which hosts are spread over machines.
    """

    def __init__(self, ray: Any, bundle: Bundle, count: int, strategy: Strategy) -> None:
        self._ray, self.bundle, self.count, self.strategy = ray, bundle, count, strategy
        self._util = importlib.import_module("ray.util.placement_group")
        self._group = self._util.placement_group(
            [bundle.table() for _ in range(count)], strategy=strategy.replace("-", "_").upper()
        )
        self._looked, self._state = 0.0, "PENDING"

    @property
    def are_there(self) -> bool:
        """True if all places are reserved. A lost one is reserved anew."""
        if monotonic() - self._looked > _LOOK:
            self._looked = monotonic()
            self._state = self._util.placement_group_table(self._group)["state"]
        return self._state == "CREATED"

    def at(self, number: int) -> Any:
        """The scheduling strategy of a host's actor."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        return strategies.PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)

    def missing(self) -> str:
        """The reason why places are not reserved yet."""
        short = shortage(self.bundle, self.count, self._ray.cluster_resources(), self._ray.available_resources())
        if short is not None:
            return f"{self.count} hosts ask for {short} of the cluster"
        machines = sum(node["Alive"] for node in self._ray.nodes())
        if self.strategy == "strict-spread" and machines < self.count:
            return f"{self.count} hosts ask for a machine each, and the cluster has {machines}"
        return f"no machine has {_each(self.bundle)} free for a host"

    def close(self) -> None:
        """Give the places back."""
        self._util.remove_placement_group(self._group)


def _each(bundle: Bundle) -> str:
    return " and ".join(f"{_amount(name, amount)} {_NAMES[name]}" for name, amount in bundle.table().items())
