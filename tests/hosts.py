"""Hosts inside the tests' own process: real sockets and threads, without the start-up of a process."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from covey.runtime.emulation.host.host import Host
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.certificates import Certificates
from covey.runtime.emulation.transport.door import Door
from covey.runtime.experiment import Experiment, Outcome
from covey.runtime.prepared import prepare
from tests.conftest import Written

TOKEN = b"a secret that only tests share"


def token_file(folder: Path) -> Path:
    """The file with the secret of the tests, in a folder."""
    file = folder / "token"
    file.touch(mode=0o600)
    file.write_bytes(TOKEN)
    return file


def answering(listening: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> Door:
    """Answers those who call a socket, as a protocol of the test's own does; until it is closed."""
    loop, tasks = asyncio.get_running_loop(), set()

    def come(caller: socket.socket, knocked: bool) -> None:
        task = loop.create_task(loop.connect_accepted_socket(factory, caller))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return Door(listening, TOKEN, hidden=False, come=come, refused=print)


@contextmanager
def hosts(
    count: int, certificates: Sequence[Certificates] = (), **settings: Any
) -> Iterator[list[tuple[Host, Address]]]:
    """Some hosts that wait for launchers, on a thread of their own; those that have certificates over TLS."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    serving = []
    try:
        running = []
        for number in range(count):
            listening = Address("127.0.0.1", 0).listen()
            listening.setblocking(False)
            host = Host(TOKEN, certificates[number] if certificates else None, **settings)
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
    with hosts(count) as running:
        return launch(tables, folder, [address for _, address in running], checkpoint=checkpoint)


def launch(
    tables: dict[str, Any], folder: Path, addresses: Sequence[Address], *, checkpoint: Any = None, **engine: Any
) -> tuple[Outcome, Written]:
    """Run an experiment on hosts that wait at some addresses."""
    token = str(token_file(folder))
    settings = {"hosts": [str(address) for address in addresses], "token_file": token, "wait": "20s", **engine}
    experiment = Experiment.from_table({**tables, "engine": {"kind": "emulation", **settings}})
    prepared = prepare(experiment, **experiment.engine.compute_settings())
    written = Written()
    try:
        outcome = experiment.engine.execute(prepared, written, checkpoint=checkpoint)
    finally:
        prepared.task.close()
    return outcome, written


def processes_of(launcher: int) -> list[int]:
    """The ids of the processes that a launcher's process has started, and of what those have; the last is a host's."""
    found: list[int] = []
    for task in Path(f"/proc/{launcher}/task").glob("*"):
        with suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *processes_of(child)]
    return found
