"""Hosts inside the tests' own process: real sockets and threads, without the seconds that a process takes to start."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from covey.engines.emulation.address import Address
from covey.engines.emulation.host import Host
from covey.engines.prepared import prepare
from covey.experiment import Experiment, Outcome
from tests.conftest import Written

TOKEN = b"a secret that only tests share"


@contextmanager
def hosts(count: int, **settings: Any) -> Iterator[list[tuple[Host, Address]]]:
    """Some hosts that wait for launchers, on a thread of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    serving = []
    try:
        running = []
        for _ in range(count):
            listening = Address("127.0.0.1", 0).listen()
            listening.setblocking(False)
            host = Host(TOKEN, **settings)
            serving.append(asyncio.run_coroutine_threadsafe(host.serve(listening), loop))
            running.append((host, Address.of(listening)))
        yield running
    finally:
        for task in serving:
            task.cancel()

        async def settle() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(settle(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def emulate(tables: dict[str, Any], folder: Path, count: int = 2, *, checkpoint: Any = None) -> tuple[Outcome, Written]:
    """Run an experiment on hosts of this process."""
    token = folder / "token"
    token.write_bytes(TOKEN)
    with hosts(count) as running:
        engine = {"kind": "emulation", "hosts": [str(a) for _, a in running], "token_file": str(token), "wait": "20s"}
        experiment = Experiment.from_table({**tables, "engine": engine})
        prepared = prepare(experiment, **experiment.engine.compute_settings())
        written = Written()
        try:
            outcome = experiment.engine.execute(prepared, written, checkpoint=checkpoint)
        finally:
            prepared.learner.close()
    return outcome, written
