"""Ray actors that compute trainings of a simulation.

They are not hosts: they have no state and no nodes, and nothing in the results depends on which of them computed.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from covey.parts.errors import RunError
from covey.parts.machine import default_workers
from covey.runtime.cluster.endings import reason
from covey.runtime.cluster.placement import Bundle, Places, shortage
from covey.runtime.cluster.session import connected
from covey.runtime.prepared import Prepared, prepare

_RESTARTS = 3
"""The number of times for which Ray may restart an actor, which has no state to lose."""
_TRIALS = 3
_WAIT = 60.0
"""The seconds for which actors wait for a place that other work takes."""
_LOOK = 0.1


class Hand:
    """An actor that computes trainings.

    Args:
        table: the tables of the experiment.
        data: the data folder.
        compute: the settings of computing.
    """

    def __init__(self, table: dict[str, Any], data: str, compute: dict[str, Any]) -> None:
        from covey.runtime.experiment import Experiment

        experiment = Experiment.from_table(table)
        self._task = prepare(experiment, data=Path(data), **compute).task
        self._task.begin_thread()

    def signature(self) -> dict[str, int | str]:
        """The facts that must be equal in all processes."""
        return self._task.signature()

    def answer(self, given: Any) -> Any:
        return self._task.answer(given)

    def echo(self, models: np.ndarray) -> np.ndarray:
        return models


class RayCrew:
    """Some actors with the data and the model of an experiment.

    Args:
        ray: the module ray, connected.
        prepared: the experiment.
        count: the number of actors.
        cores, gpus: those of each.
        compute: the settings of computing of each.
    """

    def __init__(
        self, ray: Any, prepared: Prepared, count: int, *, cores: int, gpus: int, compute: dict[str, Any]
    ) -> None:
        self._ray, self.count, self.processors = ray, count, count * cores
        bundle = Bundle(cores, gpus)
        short = shortage(bundle, count, ray.cluster_resources())
        if short is not None:
            raise RunError(f"{count} actors of the simulation ask for {short} of the cluster.")
        self._places = Places(ray, bundle, count, "spread")
        self._wait()
        table = prepared.experiment.to_table()
        del table["engine"]
        table.pop("callback", None)
        made = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RESTARTS)(Hand)
        self._hands = [
            made.options(**bundle.options(), scheduling_strategy=self._places.at(number)).remote(
                table, str(prepared.data), {**compute, "workers": cores}
            )
            for number in range(count)
        ]
        for there in self._got([hand.signature.remote() for hand in self._hands]):
            if there != prepared.task.signature():
                raise RunError(
                    "An actor of the simulation has other data or another model: all must load the same files."
                )

    def _wait(self) -> None:
        late = time.monotonic() + _WAIT
        while not self._places.are_there:
            if time.monotonic() > late:
                missing = self._places.missing()
                self._places.close()
                raise RunError(f"Actors of the simulation have no place after {_WAIT:g} seconds: {missing}.")
            time.sleep(_LOOK)

    def _got(self, references: list[Any]) -> list[Any]:
        try:
            found: list[Any] = self._ray.get(references)
        except self._ray.exceptions.RayError as error:
            raise RunError(f"An actor of the simulation ended: {reason(error)}.") from error
        return found

    def train(self, given: Mapping[int, Any]) -> Mapping[int, Any]:
        results = self._got([self._hands[home].answer.remote(batch) for home, batch in given.items()])
        return dict(zip(given, results, strict=True))

    def way(self, models: np.ndarray) -> float:
        took = []
        for _ in range(_TRIALS):
            began = time.perf_counter()
            self._got([self._hands[0].echo.remote(models)])
            took.append(time.perf_counter() - began)
        return min(took)

    def close(self) -> None:
        """End the actors."""
        for hand in self._hands:
            self._ray.kill(hand)
        self._places.close()


def cores_each(machines: Sequence[int], count: int) -> int:
    """The most cores that each of some actors can have. An actor is on one machine.

    Args:
        machines: the cores of each machine.
        count: the number of actors.
    """
    fits = (cores for cores in range(max(machines, default=1), 1, -1) if sum(has // cores for has in machines) >= count)
    return next(fits, 1)


@contextmanager
def crew_for(prepared: Prepared, actors: int | None, compute: dict[str, Any]) -> Iterator[RayCrew]:
    """The crew of a run: by default an actor for each GPU, if it computes on GPUs, else for each machine.

    Args:
        prepared: the experiment.
        actors: the number of actors.
        compute: the settings of computing.

    Raises:
        CoveyError: Ray or the resources are not there.
    """
    with connected(None, cores=default_workers()) as session:
        there = session.ray.cluster_resources()
        gpus = int(str(compute["device"]).startswith("cuda"))
        machines = [int(node["Resources"].get("CPU", 0)) for node in session.ray.nodes() if node["Alive"]]
        count = actors or (max(1, int(there.get("GPU", 0))) if gpus else len(machines))
        cores = cores_each(machines, count)
        crew = RayCrew(session.ray, prepared, count, cores=cores, gpus=gpus, compute=compute)
        try:
            yield crew
        finally:
            crew.close()
