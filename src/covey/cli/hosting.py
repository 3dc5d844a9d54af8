"""`covey host`."""

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from covey.cli import main
from covey.parts.errors import ConfigurationError, RunError
from covey.runtime.emulation.host.host import SILENCE, Host
from covey.runtime.emulation.launcher.processes import forks, leave
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.token import read_token
from covey.runtime.experiment import read_table
from covey.runtime.interruption import handled

if TYPE_CHECKING:
    from covey.runtime.emulation.transport.certificates import Certificates


def host(arguments: argparse.Namespace) -> int:
    """Run a host that waits for launchers."""
    if arguments.listen is not None or arguments.call_out is not None:
        return _serve(arguments)
    # Signals are ignored: a cluster signals every process of a job at once, and the launcher stops its hosts in order.
    with handled(signal.SIG_IGN):
        return _serve(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.forks is not None:
        own = forks(arguments.forks, arguments.modules)
        leave(main(["host", "--socket", str(own), "--once", "--token-file", str(arguments.token_file)]))
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    token, certificates = _trust(arguments)
    local = None if arguments.data is None else _local(arguments.data)
    alone = arguments.listen is not None or arguments.call_out is not None
    out = None if arguments.call_out is None else _called(arguments, certificates)
    listening = None if out is not None else _listening(arguments, certificates)
    try:
        made = Host(token, certificates, silence=SILENCE if alone else None, local=local)
        serving = made.serve(listening, out=out, once=arguments.once)
        asyncio.run(_until_asked_to_end(serving) if alone else serving)
    except TimeoutError:
        raise RunError("No launcher connected.") from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    return 0


def _local(text: str) -> Mapping[str, Any]:
    """The tables with this host's own data: those of a TOML file, or a function of the user's own."""
    from covey.learning.datasets.private import Local
    from covey.parts.parameters import build

    named = not text.endswith(".toml") and all(text.partition(":"))
    tables = {"dataset": text} if named else read_table(text, "file")
    build(Local, tables)  # A mistake shows now.
    return tables


async def _until_asked_to_end(serving: Coroutine[Any, Any, None]) -> None:
    """Await the server, which SIGTERM cancels as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    with handled(lambda number, frame: task.get_loop().call_soon_threadsafe(task.cancel), (signal.SIGTERM,)):
        await serving


def _trust(arguments: argparse.Namespace) -> "tuple[bytes, Certificates | None]":
    """The shared secret, and the certificates of this host (None on one machine)."""
    if arguments.certs is None:
        if arguments.token_file is None:
            raise ConfigurationError("A host needs --certs or, for launchers on this machine only, --token-file.")
        return read_token(arguments.token_file), None
    from covey.runtime.emulation.transport.certificates import TOKEN_FILE, Certificates
    from covey.runtime.emulation.transport.handshake import LAUNCHER, title

    certificates = Certificates.load(arguments.certs)
    if certificates.owner == title(LAUNCHER):
        raise ConfigurationError(f"The certificates in {arguments.certs} are the launcher's: a host needs its own.")
    return read_token(arguments.token_file or arguments.certs / TOKEN_FILE), certificates


def _called(arguments: argparse.Namespace, certificates: "Certificates | None") -> tuple[int, Address]:
    """The number of this host, which cannot be called, and the address to which it calls out."""
    address = Address.parse(arguments.call_out)
    if address.behind:
        raise ConfigurationError(f"The --call-out must be an address that can be called. Got {str(address)!r} instead.")
    if certificates is None:
        raise ConfigurationError(
            "A host that calls out needs --certs, the folder of its certificates. Make them with `covey certs`."
        )
    print(f"covey host calls out to {address} as {certificates.owner}; Ctrl-C ends it.", flush=True)
    return certificates.number, address


def _listening(arguments: argparse.Namespace, certificates: "Certificates | None") -> socket.socket:
    """The bound socket at which launchers connect."""
    if arguments.listen is None:
        listening = _inherited(arguments.socket)
    else:
        address = Address.parse(arguments.listen)
        try:
            listening = address.listen()
        except OSError as error:
            raise RunError(f"The host cannot listen on {address}: {error.strerror or error}.") from error
    bound = Address.of(listening)
    if certificates is None and not bound.is_loopback:
        listening.close()
        raise ConfigurationError(
            f"{bound} is reachable from other machines: give the folder of this host's certificates as --certs. "
            f"Make them with `covey certs`."
        )
    if arguments.listen is not None:
        named = "" if certificates is None else f" as {certificates.owner}"
        print(f"covey host listens on {bound}{named}; Ctrl-C ends it.", flush=True)
    listening.setblocking(False)
    return listening


def _inherited(descriptor: int) -> socket.socket:
    """The bound socket that this process inherited."""
    try:
        listening = socket.socket(fileno=descriptor)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The --socket must be the descriptor of a bound socket. Got {descriptor} instead: {error}."
        ) from error
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        listening.close()
        raise ConfigurationError(
            f"The --socket must be a TCP socket. Got {descriptor}, a {listening.family.name}, instead."
        )
    return listening
