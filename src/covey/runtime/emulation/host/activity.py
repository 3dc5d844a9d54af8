"""The activities of emulated nodes, and their waits for messages."""

import asyncio
from typing import Any

from covey.runtime.mailbox import Waiter


class AwaitedMessages(Waiter):
    """An activity that waits for a future."""

    __slots__ = ("woken",)

    def __init__(self, woken: asyncio.Future[None], *others: Any) -> None:
        super().__init__(*others)
        self.woken = woken


class HostActivity:
    """A second activity of a node."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task

    @property
    def done(self) -> bool:
        return self.task.done()

    async def wait(self) -> None:
        await asyncio.wait([self.task])
