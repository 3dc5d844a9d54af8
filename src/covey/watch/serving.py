"""The server of `covey watch`: its address, its link and its end."""

import errno
import secrets
import socket
import ssl
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from covey.parts.errors import ConfigurationError, RunError
from covey.runtime.emulation.transport.address import Address
from covey.watch.folder import Folder

DEFAULT = "127.0.0.1:8765"
"""The address at which the page is."""
_PORTS = 200
"""The ports that are tried for the next free one."""


def serve(
    path: Path,
    listen: str = DEFAULT,
    *,
    needs_token: bool = False,
    certs: Path | None = None,
    opens: bool = False,
    ends_with_input: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        path: a folder of runs, or that of one.
        listen: the address. The port 0 means any free one.
        needs_token: reading needs the token of the link, too.
        certs: the folder of certificates of this machine, from `covey certs`; the page is then encrypted.
        opens: open the page in a browser.
        ends_with_input: end when standard input ends, and not on Ctrl-C. The folder may come to be later.
        say: prints a line.

    Raises:
        ConfigurationError: starlette or uvicorn are missing, or the address cannot be used.
        RunError: the folder does not exist.
    """
    Server = _imported()
    if not ends_with_input and not path.is_dir():
        raise RunError(f"There is no folder {path}. Give the folder of a run, or one that holds folders of runs.")
    address = Address.parse(listen)
    if not (address.is_loopback or needs_token or certs is not None):
        raise ConfigurationError(
            f"At {address} other machines can read the runs. Give --token, so that they need the link, or --certs DIR, "
            f"which also encrypts the page."
        )
    encrypted = None if certs is None else _encrypted(certs)
    listening = _bound(address)
    address = Address(address.host, Address.of(listening).port)
    token = secrets.token_urlsafe(32)
    link = f"http{'s' if encrypted else ''}://{_named(address)}/#token={token}"
    folder = Folder(path)
    server = Server(folder)
    app = server.app(address, token, is_private=needs_token or not address.is_loopback)
    say(f"{_found(folder)} The page, with the right to stop and resume runs: {link}")
    with tempfile.TemporaryDirectory(prefix="covey-watch-") as private:
        if opens and not _opened(link, Path(private)):
            say("No browser was found here: open the link yourself.")
        _run(app, server, listening, encrypted, ends_with_input)


def _imported() -> Any:
    try:
        import uvicorn  # noqa: F401

        from covey.watch.server import Server
    except ImportError as error:
        raise ConfigurationError("covey watch needs starlette and uvicorn: pip install 'covey[view]'.") from error
    return Server


def _found(folder: Folder) -> str:
    count = len(folder.runs())
    if not count:
        return f"{folder.path} holds no run yet; the page shows runs as they begin."
    return f"{folder.path}: {count} run{'s' if count > 1 else ''}."


def _named(address: Address) -> Address:
    """The address in the link: of a server at all addresses, the name of this machine."""
    return Address(socket.gethostname(), address.port) if address.host in ("0.0.0.0", "::") else address


def _bound(address: Address) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        ConfigurationError: the port is in use, or the address is not one of this machine.
    """
    try:
        return address.listen()
    except OSError as error:
        why = error.strerror
        if error.errno == errno.EADDRINUSE:
            why = "it is in use"
            free = _free(address)
            if free is not None:
                raise ConfigurationError(f"{address} is in use. {free} is free: --listen {free}") from error
    raise ConfigurationError(f"The page cannot be at {address}: {why}.")


def _free(address: Address) -> Address | None:
    """The address with the next free port."""
    for port in range(address.port + 1, min(address.port + _PORTS, 1 << 16)):
        try:
            Address(address.host, port).listen().close()
        except OSError:
            continue
        return Address(address.host, port)
    return None


def _encrypted(certs: Path) -> ssl.SSLContext:
    """The TLS context of a server with the certificate of this machine. The token tells who may read, not TLS.

    Raises:
        ConfigurationError: the folder has no certificate that a browser accepts of a server.
    """
    from covey.runtime.emulation.transport.certificates import Certificates
    from covey.runtime.emulation.transport.handshake import LAUNCHER, title

    found = Certificates.load(certs)
    if found.owner == title(LAUNCHER):
        raise ConfigurationError(
            f"The certificate in {certs} is the launcher's, which calls and is never called: no browser would accept "
            f"it. Give --certs the folder of this machine's host, such as {certs.parent / 'host-0'}."
        )
    context = found.served
    context.verify_mode = ssl.CERT_NONE
    return context


def _opened(link: str, private: Path) -> bool:
    """Open the page in a browser, by way of a file that only this user can read: all can see a browser's arguments."""
    page = private / "open.html"
    page.touch(mode=0o600)
    page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0;url={escape(link)}">')
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return False
    # A browser in the terminal would take it from the run.
    return not isinstance(found, webbrowser.GenericBrowser) and found.open(page.as_uri())


def _run(app: Any, server: Any, listening: socket.socket, encrypted: ssl.SSLContext | None, ends: bool) -> None:
    import uvicorn

    config = uvicorn.Config(
        app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=2, server_header=False,
        http="h11", ws="none", limit_concurrency=200,
    )  # fmt: skip
    config.load()
    config.ssl = encrypted
    running: Any = uvicorn.Server(config)
    begin = running.handle_exit

    def handle_exit(number: int, frame: Any) -> None:
        server.is_over = True
        begin(number, frame)

    running.handle_exit = handle_exit
    if ends:
        threading.Thread(target=_end_with_input, args=(running, server), daemon=True).start()
    running.run(sockets=[listening])


def _end_with_input(running: Any, server: Any) -> None:
    """End the server when standard input ends: the process that started this one is then gone."""
    while sys.stdin.buffer.read(4096):
        pass
    server.is_over = True
    running.should_exit = True
