"""The messages that observed nodes received, in a separate database."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts.errors import RunError, WireError, one_line
from covey.runtime.observers import OWN
from covey.runtime.runs.schema import OBSERVED, TRUTH

_TABLE = """
CREATE TABLE IF NOT EXISTS messages (time REAL NOT NULL, node INTEGER NOT NULL, frame BLOB NOT NULL)
"""


@dataclass(frozen=True)
class ObservedMessage:
    """A message that an observed node received."""

    time: float
    """The time of its arrival, in seconds of the nodes' clock."""
    receiver: int
    name: int | None
    """The name of the receiver's virtual node for which it came; None for a message to the node itself. Its sender is
    then a name, too."""
    sender: int
    round: int | None
    tag: str
    bytes: int
    """The bytes of its frame."""
    payload: Payload


class ObservedWriter:
    """Writes observed messages. After `flush` they are on the disk.

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
        """The bytes of kept messages, including those that are not written yet."""

    def add(self, rows: Sequence[tuple[float, int, bytes]]) -> None:
        """Add messages: (time, node, frame)."""
        self._rows += rows
        self.bytes += sum(len(frame) for _, _, frame in rows)

    def flush(self) -> None:
        """Write the messages to the disk."""
        if self._rows:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO messages VALUES (?,?,?)", self._rows)
            self._database.execute("COMMIT")
            self._rows = []

    def truncate(self, clocks: Sequence[float]) -> None:
        """Delete the messages of each node after a time, which will arrive again."""
        self.flush()
        self._database.execute("BEGIN")
        for node, clock in enumerate(clocks):
            time = clock if clock > 0 else -1.0
            self._database.execute("DELETE FROM messages WHERE node = ? AND time > ?", (node, time))
        self._database.execute("COMMIT")
        (self.bytes,) = self._database.execute("SELECT IFNULL(SUM(LENGTH(frame)), 0) FROM messages").fetchone()

    def forget(self, node: int, time: float) -> None:
        """Delete the messages of one node after a time."""
        self.flush()
        self._database.execute("DELETE FROM messages WHERE node = ? AND time > ?", (node, time))

    def close(self) -> None:
        """Write the remaining messages, and close the database."""
        self.flush()
        self._database.close()


class Observed:
    """The messages that observed nodes of a run received: the input of attacks, beside the experiment itself.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __iter__(self) -> Iterator[ObservedMessage]:
        return self.messages()

    def count(self) -> int:
        """The number of messages, without decoding them.

        Raises:
            RunError: they cannot be read.
        """
        ((count,),) = self._selected("SELECT COUNT(*) FROM messages")
        return int(count)

    def messages(self, receiver: int | None = None, tag: str | None = None) -> Iterator[ObservedMessage]:
        """The messages in order of time, of all receivers and tags or of given ones.

        Raises:
            RunError: the messages cannot be read or are damaged.
        """
        for found in self._decoded(receiver):
            if (tag is None or found.tag == tag) and not _is_own(found):
                yield found

    def models(self, node: int) -> Iterator[ObservedMessage]:
        """The own models of an observed node after its rounds, each the `model` of a payload.

        Raises:
            RunError: they cannot be read or are damaged.
        """
        return (found for found in self._decoded(node) if _is_own(found))

    def _decoded(self, receiver: int | None) -> Iterator[ObservedMessage]:
        for time, node, frame in self._rows():
            if receiver is not None and node != receiver:
                continue
            try:
                found = wire.decode(frame, wire.FILES)
            except WireError as error:
                raise RunError(f"The run {self._folder} has no readable {OBSERVED}: {one_line(error)}.") from error
            name = None if found.receiver == node else found.receiver
            yield ObservedMessage(time, node, name, found.sender, found.round, found.tag, found.size, found.payload)

    def _rows(self) -> Iterator[tuple[float, int, bytes]]:
        for time, node, frame in self._selected("SELECT time, node, frame FROM messages ORDER BY time, node, rowid"):
            if type(time) is not float or type(node) is not int or type(frame) is not bytes:
                raise RunError(f"The run {self._folder} has no readable {OBSERVED}: a row is not a message.")
            yield time, node, frame

    def _selected(self, query: str) -> Iterator[tuple[Any, ...]]:
        file = (self._folder / OBSERVED).absolute()
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
                database.execute("PRAGMA trusted_schema=OFF")
                yield from database.execute(query)
        except sqlite3.Error as error:
            raise RunError(f"The run {self._folder} has no readable {OBSERVED}: {one_line(error)}.") from error


def _is_own(found: ObservedMessage) -> bool:
    return found.tag == OWN and found.sender == found.receiver


NAMES = "names/"
"""The beginning of the entries with the names of virtual nodes, before the round from which on each holds."""


def holder_of(truth: Mapping[str, np.ndarray], nodes: int, sender: int) -> int:
    """The node that acts under a name, or the node itself.

    Args:
        truth: the ground truth.
        nodes: the number of nodes of the network.
        sender: the name or id.
    """
    if sender < nodes:
        return sender
    found = {int(name.removeprefix(NAMES)): holders for name, holders in truth.items() if name.startswith(NAMES)}
    t, place = divmod(sender - nodes, next(iter(found.values())).shape[1])
    since = max(round for round in found if round <= t)
    return int(found[since][t - since, place])


def read_truth(folder: Path) -> dict[str, Any]:
    """The ground truth for the scoring of attacks: `samples_of/NODE`, the training samples of each node, and
    `names/ROUND`, the node behind each name of virtual nodes from that round on (rounds x virtual nodes; see
    `holder_of`).

    Raises:
        RunError: the file cannot be read.
    """
    try:
        with np.load(folder / TRUTH, allow_pickle=False) as found:
            return dict(found)
    except OSError as error:
        raise RunError(f"The run {folder} has no readable {TRUTH}: {error.strerror or error}.") from error
    except Exception as error:
        # numpy, zipfile and zlib raise various errors for damaged bytes.
        raise RunError(f"The run {folder} has no readable {TRUTH}: it is damaged.") from error
