"""The messages that observed nodes received, in a database of their own."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts.errors import RunError, WireError
from covey.runtime.runs.schema import OBSERVED, TRUTH

_TABLE = """
CREATE TABLE IF NOT EXISTS messages (time REAL NOT NULL, node INTEGER NOT NULL, frame BLOB NOT NULL)
"""


@dataclass(frozen=True)
class ObservedMessage:
    """One message as the node had it that received it."""

    time: float
    """When it arrived, in seconds on the nodes' clock."""
    receiver: int
    sender: int
    round: int | None
    tag: str
    bytes: int
    """Of its wire encoding."""
    payload: Payload


class ObservedWriter:
    """Writes what is observed; rows are on the disk when `flush` has returned.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        (folder / OBSERVED).parent.mkdir(exist_ok=True)
        self._database = sqlite3.connect(folder / OBSERVED, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_TABLE)
        self._rows: list[tuple[float, int, bytes]] = []
        (self.bytes,) = self._database.execute("SELECT IFNULL(SUM(LENGTH(frame)), 0) FROM messages").fetchone()
        """How much is kept, with what waits to be written."""

    def add(self, rows: Sequence[tuple[float, int, bytes]]) -> None:
        """Keep messages: (time, node, frame)."""
        self._rows += rows
        self.bytes += sum(len(frame) for _, _, frame in rows)

    def flush(self) -> None:
        """Write what is kept."""
        if self._rows:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO messages VALUES (?,?,?)", self._rows)
            self._database.execute("COMMIT")
            self._rows = []

    def truncate(self, clocks: Sequence[float]) -> None:
        """Forget what came to each node after a time, before it comes again."""
        self.flush()
        self._database.execute("BEGIN")
        for node, clock in enumerate(clocks):
            time = clock if clock > 0 else -1.0
            self._database.execute("DELETE FROM messages WHERE node = ? AND time > ?", (node, time))
        self._database.execute("COMMIT")
        (self.bytes,) = self._database.execute("SELECT IFNULL(SUM(LENGTH(frame)), 0) FROM messages").fetchone()

    def forget(self, node: int, time: float) -> None:
        """Forget what came to one node after a time."""
        self.flush()
        self._database.execute("DELETE FROM messages WHERE node = ? AND time > ?", (node, time))

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        self._database.close()


class Observed:
    """What some nodes of a run have seen: all that an attack may use beside the experiment itself.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __iter__(self) -> Iterator[ObservedMessage]:
        return self.messages()

    def messages(self, receiver: int | None = None, tag: str | None = None) -> Iterator[ObservedMessage]:
        """The messages in the order of their times, of one receiver or tag alone where these are given.

        Raises:
            RunError: they cannot be read, or are damaged.
        """
        for time, node, frame in self._rows():
            if receiver is not None and node != receiver:
                continue
            try:
                found = wire.decode(frame, wire.FILES)
            except WireError as error:
                raise RunError(f"The run {self._folder} has no readable {OBSERVED}: {error}.") from error
            if tag is None or found.tag == tag:
                yield ObservedMessage(time, node, found.sender, found.round, found.tag, found.size, found.payload)

    def _rows(self) -> Iterator[tuple[float, int, bytes]]:
        file = (self._folder / OBSERVED).absolute()
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
                database.execute("PRAGMA trusted_schema=OFF")
                query = "SELECT time, node, frame FROM messages ORDER BY time, node, rowid"
                for time, node, frame in database.execute(query):
                    if type(time) is not float or type(node) is not int or type(frame) is not bytes:
                        raise RunError(
                            f"The run {self._folder} has no readable {OBSERVED}: a row is none of a message."
                        )
                    yield time, node, frame
        except sqlite3.Error as error:
            raise RunError(f"The run {self._folder} has no readable {OBSERVED}: {error}.") from error


def read_truth(folder: Path) -> dict[str, Any]:
    """What really happened, for who scores an attack: `samples_of/NODE`, which training samples a node holds.

    Raises:
        RunError: it cannot be read.
    """
    try:
        with np.load(folder / TRUTH, allow_pickle=False) as found:
            return dict(found)
    except Exception as error:
        # numpy, zipfile and zlib raise whatever damaged bytes lead them to.
        raise RunError(f"The run {folder} has no readable {TRUTH}: {error or 'it ends too early'}.") from error
