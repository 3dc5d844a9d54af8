"""The engine `simulation`: its settings, and the execution of a run."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError
from covey.parts.machine import default_workers
from covey.parts.parameters import param
from covey.runtime.experiment import Engine, Outcome, Progress
from covey.runtime.interruption import handled
from covey.runtime.prepared import Prepared
from covey.runtime.runs import RunWriter
from covey.runtime.simulation.arrays import ArrayRounds, against, can_restore, too_few
from covey.runtime.simulation.arrays.memory import check_memory, has_room
from covey.runtime.simulation.checkpoints import check, restore
from covey.runtime.simulation.world import World
from covey.runtime.task import Gain


class Simulation(Engine):
    """Virtual time in one process. Trainings of many nodes are computed together."""

    kind = "simulation"
    device: str = param("The device that computes: cpu, cuda, cuda:1 ...", default="cpu")
    workers: int | Literal["ray"] | None = param(
        'The number of threads that compute; by default, one per processor. With "ray", the actors of a Ray cluster '
        "compute trainings where that is faster. It does not change results.",
        default=None,
        ge=1,
    )
    actors: int | None = param(
        'The number of actors of workers = "ray"; by default one for each machine or, on GPUs, for each GPU.',
        default=None,
        ge=1,
    )
    spread: Literal["measured", "always"] = param(
        "The trainings that leave this process: those for which a measurement says that it is faster, or all. It is "
        'read with workers = "ray".',
        default="measured",
    )
    chunk: int = param("The nodes that are computed together; 0 is the kernel's choice.", default=0, ge=0)
    kernel: Literal["auto", "stacked", "module", "vmap"] = param("The tensor program that trains.", default="auto")
    rounds: Literal["auto", "arrays", "events"] = param(
        "The way of rounds: as arrays of all nodes, if they are known beforehand, or as events of single nodes. It "
        "does not change results. By default, arrays from 1,000 nodes on, where they are possible.",
        default="auto",
    )

    def compute_settings(self) -> dict[str, Any]:
        workers = default_workers() if self.workers in (None, "ray") else self.workers
        return {"device": self.device, "workers": workers, "chunk": self.chunk, "kernel": self.kernel}

    def against_arrays(self, prepared: Prepared) -> str | None:
        """The reason why rounds are computed as events, as the end of a sentence; None if as arrays."""
        if self.rounds == "events":
            return "the engine's 'rounds' say so"
        if self.workers == "ray":
            return "its 'workers' are actors"
        why_not = against(prepared)
        return why_not if why_not or self.rounds == "arrays" else too_few(prepared)

    def check_prepared(self, prepared: Prepared) -> None:
        super().check_prepared(prepared)
        why_not = against(prepared) if self.rounds == "arrays" else None
        if why_not is not None:
            raise ConfigurationError(
                f"The 'rounds' of {self.named()} must be 'auto' or 'events' here. Got 'arrays' instead, but {why_not}."
            )
        check_memory(prepared, as_arrays=self.against_arrays(prepared) is None)

    def rounds_in_words(self, prepared: Prepared) -> str | None:
        why_not = self.against_arrays(prepared)
        return "as arrays of all nodes" if why_not is None else f"as events of single nodes: {why_not}"

    @contextmanager
    def _spread(self, prepared: Prepared) -> Iterator[Gain | None]:
        """Let the actors of a cluster compute trainings, if this is wanted."""
        if self.workers != "ray":
            yield None
            return
        from covey.runtime.cluster.crew import crew_for

        settings = {**self.compute_settings(), "chunk": self.chunk}
        with crew_for(prepared, self.actors, settings) as crew:
            yield prepared.task.spread(crew, here=default_workers(), always=self.spread == "always")

    def expected(self, prepared: Prepared) -> str | None:
        if self.workers != "ray":
            return None
        with prepared.task.at_work(), self._spread(prepared) as gain:
            return None if gain is None else gain.in_words()

    def check_checkpoint(self, prepared: Prepared, checkpoint: Payload) -> None:
        super().check_checkpoint(prepared, checkpoint)
        check(checkpoint, prepared.setting.nodes, prepared.task)

    def execute(
        self,
        prepared: Prepared,
        writer: RunWriter | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        checkpoint: Payload | None = None,
    ) -> Outcome:
        if self.against_arrays(prepared) is None and (checkpoint is None or can_restore(checkpoint)):
            with prepared.task.at_work():
                arrays = ArrayRounds(prepared, writer, progress, spare=has_room(prepared))
                if checkpoint is not None:
                    arrays.restore(checkpoint)
                return arrays.run()
        with prepared.task.at_work(), self._spread(prepared):
            world = World(prepared, writer, progress)
            if checkpoint is None:
                if world.sampler is not None and writer is not None and prepared.experiment.observer is not None:
                    writer.add_truth(world.sampler.truth(0, world.rounds))
                world.begin()
            else:
                restore(world, checkpoint)
            with _interruptible(world):
                world.run()
        models = prepared.task.result([prepared.task.kept(node) for node in world.nodes])
        states = [dict(node.state) for node in world.nodes] if prepared.keeps_states else []
        return Outcome(finished=not world.stopped_early, time=world.now, models=models, states=states)


def _interruptible(world: World) -> AbstractContextManager[None]:
    """Make the first Ctrl-C or SIGTERM stop the world where it can be resumed, and the second one at once."""

    def on_interrupt(number: int, frame: Any) -> None:
        if world.interrupted:
            raise KeyboardInterrupt
        world.interrupt()

    return handled(on_interrupt)
