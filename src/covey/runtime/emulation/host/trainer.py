"""Computes off the event loop: what several nodes of a host ask for meanwhile is computed together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from covey.learning.dataset import Split
from covey.learning.learner import Learner, Training
from covey.runtime.node import Metrics
from covey.runtime.snapshots import computed

A = TypeVar("A")


class Trainer:
    """Trains and evaluates for the nodes of one host, on one thread beside the event loop.

    Args:
        learner: computes.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self._thread = ThreadPoolExecutor(1, "covey-train", initializer=torch.set_num_threads, initargs=(1,))
        self._waiting: list[tuple[Training, asyncio.Future[None]]] = []
        self._computing: asyncio.Task[None] | None = None

    async def train(self, training: Training) -> None:
        """Compute a training; it then has its `update`."""
        training.start = computed(training.start)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((training, done))
        if self._computing is None:
            self._computing = asyncio.create_task(self._compute())
        await done

    async def _compute(self) -> None:
        # All nodes of a host often ask in the same turn of the loop: let them.
        await asyncio.sleep(0)
        try:
            while self._waiting:
                # So few at a time that the first need not wait long for the last.
                batch, self._waiting = self._waiting[: self._at_once], self._waiting[self._at_once :]
                trainings = [training for training, _ in batch]
                try:
                    await self.apart(partial(self.learner.train, trainings))
                except Exception as error:
                    for _, done in batch:
                        if not done.done():
                            done.set_exception(error)
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)
        finally:
            self._computing = None

    @property
    def _at_once(self) -> int:
        return max(1, self.learner.chunk) * self.learner.workers

    async def evaluate(self, model: torch.Tensor, split: Split) -> Metrics:
        """The figures of a model."""
        (metrics,) = await self.apart(lambda: self.learner.evaluate([model], split))
        return metrics

    async def apart(self, work: Callable[[], A]) -> A:
        """Do something on the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the thread when it has done what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)
