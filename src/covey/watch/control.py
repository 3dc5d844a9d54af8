"""Stopping and resuming a run from the page."""

import os
import signal
import subprocess
import tempfile
from typing import IO

from covey.parts.errors import RunError, one_line
from covey.runtime.interpreter import command
from covey.runtime.runs import lock
from covey.watch.watched import Watched


class Control:
    """The processes that the page has started, which go on when it ends."""

    def __init__(self) -> None:
        self._resumed: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}

    def stop(self, watched: Watched) -> str:
        """Interrupt the process of a run as Ctrl-C does, and return a sentence.

        Raises:
            RunError: no process writes the run, or it cannot be found or interrupted.
        """
        if watched.status != "running":
            raise RunError(f"The run {watched.name} is not running: it is {watched.status}.")
        process = lock.holder(watched.folder)
        if process is None:
            raise RunError(
                f"The process of the run {watched.name} cannot be found from here. Press Ctrl-C where it was started."
            )
        if process == os.getpid():
            raise RunError(f"The run {watched.name} is in the process of this page. Press Ctrl-C there.")
        try:
            os.kill(process, signal.SIGINT)
        except OSError as error:
            raise RunError(
                f"The process {process} of the run {watched.name} cannot be interrupted: {error.strerror}."
            ) from error
        return "It was asked to stop. It writes a checkpoint and ends."

    def resume(self, watched: Watched) -> str:
        """Resume a run in a process of its own, and return a sentence.

        Raises:
            RunError: the run cannot be resumed.
        """
        if not watched.can_resume():
            raise RunError(
                f"The run {watched.name} cannot be resumed: it is {watched.status}"
                + (", without a checkpoint." if watched.status in ("interrupted", "failed") else ".")
            )
        before = self._resumed.get(watched.id)
        if before is not None and before[0].poll() is None:
            raise RunError(f"The run {watched.name} is being resumed.")
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        words = [*command("covey.cli", "main"), "run", "--resume", str(watched.folder.absolute())]
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
        except OSError as error:
            raise RunError(f"The run {watched.name} cannot be resumed: {error.strerror}.") from error
        self._resumed[watched.id] = process, errors
        return "It is resumed from its latest checkpoint."

    def failure(self, watched: Watched) -> str:
        """The last line of a resumption that has failed; empty without one."""
        process, errors = self._resumed.get(watched.id, (None, None))
        if process is None or errors is None or process.poll() in (None, 0, 130):
            return ""
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        return one_line(lines[-1]) if lines else f"The resumption ended with status {process.returncode}."
