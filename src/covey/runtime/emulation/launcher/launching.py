"""The start of the launcher in the event loop of this thread or, if this one already runs a loop, of another."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from covey.messages.payloads import Payload
from covey.runtime.emulation.launcher.launcher import Launcher
from covey.runtime.experiment import Outcome, Progress
from covey.runtime.interruption import handled
from covey.runtime.prepared import Prepared
from covey.runtime.runs import RunWriter

if TYPE_CHECKING:
    from covey.runtime.emulation.hosted import Hosted


def launch(
    prepared: Prepared,
    settings: "Hosted",
    writer: RunWriter | None,
    progress: Callable[[Progress], None] | None,
    checkpoint: Payload | None,
) -> Outcome:
    """Run an experiment on hosts, also if this thread already runs an event loop. The arguments are `Launcher`'s."""
    launchers: list[Launcher] = []

    async def run() -> Outcome:
        launchers.append(Launcher(prepared, settings, writer, progress, checkpoint))
        return await launchers[0].run()

    def interrupt() -> None:
        if launchers:
            launchers[0].on_interrupt()
        else:
            asyncio.get_running_loop().call_soon(interrupt)

    if asyncio._get_running_loop() is None:
        return asyncio.run(run())
    return _beside(run, interrupt, prepared.task.begin_thread)


def _beside(
    main: Callable[[], Coroutine[Any, Any, Outcome]], interrupt: Callable[[], None], begin: Callable[[], None]
) -> Outcome:
    """Run a coroutine in the event loop of another thread, and wait for it.

    Args:
        main: returns the coroutine.
        interrupt: called in that loop for every Ctrl-C and SIGTERM that this thread receives.
        begin: called first in that thread.
    """
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()

    def work() -> Outcome:
        begin()
        with runner:
            return runner.run(main())

    def on_interrupt(number: int, frame: Any) -> None:
        with suppress(RuntimeError):  # The loop is closed: the run has ended.
            loop.call_soon_threadsafe(interrupt)

    with ThreadPoolExecutor(1, "covey-launcher") as thread, handled(on_interrupt):
        # In the caller's context, by which a notebook attributes output to a cell.
        return thread.submit(copy_context().run, work).result()
