"""`covey host`."""

import argparse
import asyncio
import logging
import socket
import sys

from covey.engines.emulation.address import Address
from covey.engines.emulation.host import Host
from covey.engines.emulation.launcher import context_of
from covey.engines.emulation.token import read_token
from covey.errors import ConfigurationError, RunError


def host(arguments: argparse.Namespace) -> int:
    """Wait for launchers."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    token = read_token(arguments.token_file)
    served = context_of(arguments.certs, arguments.name, server=True)
    calling = context_of(arguments.certs, arguments.name, server=False)
    if arguments.listen is None:
        listening = socket.socket(fileno=arguments.socket)
    else:
        address = Address.parse(arguments.listen)
        if not address.is_loopback and arguments.certs is None:
            raise ConfigurationError(
                f"{address} can be reached from elsewhere: give the folder with this host's certificates as --certs. "
                f"Make them with `covey certs`."
            )
        try:
            listening = address.listen()
        except OSError as error:
            raise RunError(f"The address {address} cannot be listened on: {error.strerror or error}.") from error
        print(f"covey host listens on {Address.of(listening)}; Ctrl-C ends it.", flush=True)
    listening.setblocking(False)
    try:
        asyncio.run(Host(token, served, calling).serve(listening, once=arguments.once))
    except TimeoutError:
        raise RunError("No launcher came.") from None
    except KeyboardInterrupt:
        return 130
    return 0
