"""Computes off the event loop: what several nodes of a host ask for meanwhile is computed together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from covey.runtime.jobs import Job

A = TypeVar("A")


class Trainer:
    """Does the jobs of the nodes of one host, on one thread beside the event loop.

    Args:
        begin: what that thread does first.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._thread = ThreadPoolExecutor(1, "covey-train", initializer=begin)
        self._waiting: list[tuple[Job, asyncio.Future[None]]] = []
        self._computing: asyncio.Task[None] | None = None

    async def do(self, job: Job) -> None:
        """Do a job; it then has what came of it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, done))
        if self._computing is None:
            self._computing = asyncio.create_task(self._compute())
        await done

    async def _compute(self) -> None:
        # All nodes of a host often ask in the same turn of the loop: let them.
        await asyncio.sleep(0)
        try:
            while self._waiting:
                await self._do_some()
        finally:
            self._computing = None

    async def _do_some(self) -> None:
        """Do the first job that waits, with others of its worker; whoever asked for one gets what goes wrong."""
        batch = self._waiting[:1]
        try:
            worker = batch[0][0].worker
            # So few at a time that the first need not wait long for the last.
            batch = [entry for entry in self._waiting if entry[0].worker is worker][: worker.soon]
            self._waiting = [entry for entry in self._waiting if entry not in batch]
            await self.apart(partial(worker.do, [job for job, _ in batch]))
        except Exception as error:
            self._waiting = [entry for entry in self._waiting if entry not in batch]
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
        for _, done in batch:
            if not done.done():
                done.set_result(None)

    async def apart(self, work: Callable[[], A]) -> A:
        """Do something on the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the thread when it has done what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)
