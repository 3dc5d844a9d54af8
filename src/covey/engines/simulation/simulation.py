"""The engine `simulation`: its settings."""

from typing import Any, Literal

from covey.experiment import Engine
from covey.parameters import param


class Simulation(Engine):
    """Virtual time in one process; the training of all nodes that are ready is computed together."""

    kind = "simulation"
    device: str = param("Where to compute: cpu, cuda, cuda:1 ...", "cpu")
    workers: int | None = param("Threads that compute; as many as processors by default. Changes no result.", None, ge=1)
    chunk: int = param("How many nodes are computed together; 0 leaves it to the kernel.", 0, ge=0)
    kernel: Literal["auto", "stacked", "module", "vmap"] = param("The tensor program that trains.", "auto")

    def compute_settings(self) -> dict[str, Any]:
        """How to compute, as `Learner` takes it."""
        from covey.task.learner import default_workers

        workers = self.workers or default_workers()
        return {"device": self.device, "workers": workers, "chunk": self.chunk, "kernel": self.kernel}
