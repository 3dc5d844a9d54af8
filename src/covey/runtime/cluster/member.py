"""A host in the process of a Ray actor, which does the same as `covey host --once`."""

import asyncio
import importlib
import logging
import socket
from typing import Any, TypedDict

from covey.parts.errors import RunError
from covey.runtime.cluster.session import library
from covey.runtime.cluster.versions import versions
from covey.runtime.emulation.host.host import SILENCE, Host
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.certificates import Request


class Introduction(TypedDict):
    """The first words of a host."""

    request: bytes
    """Its request for a certificate, in PEM."""
    host: str
    port: int
    machine: str
    """The name of its machine."""
    versions: dict[str, str]


class Member:
    """A host. Its key is made here and stays here."""

    def introduce(self, modules: list[str]) -> Introduction:
        """Listen on a free port of this machine, and ask for a certificate.

        Args:
            modules: the modules that the run needs, which are imported meanwhile.
        """
        self._request = Request()
        own: str = importlib.import_module("ray.util").get_node_ip_address()
        self._listening = Address(own, 0).listen()
        self._modules = [name for name in modules if name.partition(".")[0] == "covey"]
        return {
            "request": self._request.pem(),
            "host": own,
            "port": Address.of(self._listening).port,
            "machine": socket.gethostname(),
            "versions": versions(),
        }

    def serve(
        self, token: bytes, certificate: bytes, authority: bytes, grace: float, common: Any = None, own: Any = None
    ) -> None:
        """Serve one run.

        Args:
            token: the secret of the run.
            certificate, authority: the answer to the request, in PEM.
            grace: the seconds to wait for the launcher.
            common, own: the data in place of files, those of all hosts and those of this one; None to load them.

        Raises:
            RunError: no launcher connected.
        """
        logging.getLogger("covey.host").setLevel(logging.INFO)
        for name in self._modules:
            importlib.import_module(name)
        self._listening.setblocking(False)
        shipped = None if common is None else (common, own)
        made = Host(
            token, self._request.accept(certificate, authority), silence=SILENCE, sends_log=True, shipped=shipped
        )
        try:
            asyncio.run(made.serve(self._listening, once=True, grace=grace))
        except TimeoutError:
            raise RunError("No launcher connected.") from None


def actor_class() -> type:
    """The class of actors. `max_restarts` is 0: one that came back without its state would be another host."""
    made: type = library().remote(max_restarts=0, max_task_retries=0)(Member)
    return made
