"""Computing off the event loop. Requests of several nodes of a host are computed together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from covey.runtime.jobs import Job

A = TypeVar("A")


class Trainer:
    """Does the jobs of the nodes of one host, on one thread.

    Args:
        begin: initialises that thread.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._thread = ThreadPoolExecutor(1, "covey-train", initializer=begin)
        self._waiting: list[tuple[Job, asyncio.Future[None]]] = []
        self._computing: asyncio.Task[None] | None = None

    async def do(self, job: Job) -> None:
        """Do a job, and store its result in it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, done))
        if self._computing is None:
            self._computing = asyncio.create_task(self._compute())
        await done

    async def _compute(self) -> None:
        # All nodes of a host often submit jobs in the same turn of the loop.
        await asyncio.sleep(0)
        try:
            while self._waiting:
                await self._do_some()
        finally:
            self._computing = None

    async def _do_some(self) -> None:
        """Do the first waiting job, with others of its worker. Errors go to the requesting nodes."""
        batch = self._waiting[:1]
        try:
            worker = batch[0][0].worker
            # Only a few at a time, so that the first need not wait long for the last.
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
        """Call a function on the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the thread after its current work."""
        self._thread.shutdown(wait=False, cancel_futures=True)
