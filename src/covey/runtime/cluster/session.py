"""The connection to a Ray cluster, or to Ray started on this machine."""

import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from covey.parts.errors import ConfigurationError, RunError, one_line

_ANSWER = 3.0
"""The seconds within which the head of a cluster must answer."""
_GOODBYE = 5.0
"""The seconds after which the end of a session is no longer waited for."""
_STORE = 256 << 20
"""The bytes of the object store of Ray on this machine. No message passes it."""


def library() -> Any:
    """The module ray.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigurationError(
            "The engine cluster, or workers = 'ray', needs Ray: pip install 'covey[cluster]' brings it."
        ) from error


def answers(address: str, seconds: float = _ANSWER) -> bool:
    """True if a process listens at the address of a head."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def head() -> str:
    """The address of the head of the connected cluster."""
    found: str = library().get_runtime_context().gcs_address
    return found


@dataclass(frozen=True)
class Session:
    """A connection to a cluster."""

    ray: Any
    """The module ray, connected."""
    is_here: bool
    """True if Ray was started on this machine, for this session alone."""


@contextmanager
def connected(
    address: str | None, *, cores: int, gpus: int | None = None, store: int | None = _STORE
) -> Iterator[Session]:
    """Connect to a cluster, or start Ray on this machine.

    A connection that this process has already is used, and left open.

    Args:
        address: the address of the head; by default, that of RAY_ADDRESS. Without any, Ray is started here.
        cores: the cores of Ray on this machine, if it is started.
        gpus: its GPUs; by default, all.
        store: the bytes of its object store; None for a part of the memory.

    Raises:
        RunError: no cluster is at the address, or it does not fit this process.
    """
    ray = library()
    if ray.is_initialized():
        yield Session(ray, is_here=False)
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    _check(where)
    here = {"num_cpus": cores, "num_gpus": gpus, "object_store_memory": store, "include_dashboard": False}
    handler = _handler()
    try:
        ray.init(
            address=where,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(here if where == "local" else {}),
        )
    except Exception as error:
        _end(ray)
        raise RunError(_why(error, where)) from error
    finally:
        _restore(handler)
    try:
        yield Session(ray, is_here=where == "local")
    finally:
        _end(ray)


def _check(where: str) -> None:
    """Refuse an address where no head can be. Ray would try for many minutes."""
    if where in ("local", "auto"):
        return
    if "://" in where:
        raise ConfigurationError(
            f"The 'address' of the engine must be that of the head of a Ray cluster, such as '10.0.0.1:6379'. The run "
            f"must begin on a machine of the cluster. Got {where!r} instead."
        )
    if not answers(where):
        raise RunError(f"No Ray cluster answers at {where}: start one there with `ray start --head`.")


def _why(error: Exception, where: str) -> str:
    """The reason why a cluster cannot be used, in one line."""
    text = one_line(error)
    if "ersion mismatch" in text:
        return f"The Ray cluster at {where} has other versions than this machine: {text}"
    if where == "auto":
        return f"No Ray cluster runs on this machine: start one with `ray start --head`. {text}"
    if where == "local":
        return f"Ray cannot be started on this machine: {text}"
    return f"The Ray cluster at {where} cannot be used: {text}"


def _end(ray: Any) -> None:
    """End the session. A cluster without a head does not answer, so this takes only some seconds."""
    handler = _handler()
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(_GOODBYE)
    _restore(handler)


def _handler() -> Any:
    return signal.getsignal(signal.SIGTERM)


def _restore(handler: Any) -> None:
    """Restore the handler of SIGTERM, which Ray replaces."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
