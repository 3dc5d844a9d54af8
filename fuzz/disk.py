"""The disk under a run's folder: it may be full, and what was not synced is lost when the power is cut.

Of files, the content at their last fsync is safe, and their names once their folder was synced. Of SQLite's files, what
a finished checkpoint of the log has moved is safe, and what was written to the log before; later blocks of the log may
each be there or not.
"""

import errno
import io
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from covey.messages import wire
from covey.runtime.runs import writer

_BLOCK = 4096
_LOG = "metrics.sqlite-wal"
_OF_SQLITE = frozenset({"metrics.sqlite", _LOG, "metrics.sqlite-shm", "metrics.sqlite-journal"})


class Disk:
    """Watches what is written below a folder.

    Args:
        root: the folder.
        on_step: called before everything that changes a file for good.
    """

    def __init__(self, root: Path, on_step: Callable[[], None]) -> None:
        self.root, self.on_step = root, on_step
        self.is_full = False
        self._syncs_commits = False
        """Whether SQLite syncs its log with every transaction."""
        self._moved: Any = None
        """The answer of SQLite about its log when rows were last moved out of it."""
        self._reader: sqlite3.Connection | None = None
        self._synced: dict[str, bytes] = {}
        """The content that is safe of the files that are there, by their names."""
        self._safe: dict[str, bytes | None] = {}
        """The names that are safe, and the content that was when they became so."""
        self._log: bytes = b""
        """The synced part of SQLite's log."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let everything that is written meanwhile go over this disk."""
        disk = self

        class Database(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                changes = sql.startswith(("COMMIT", "PRAGMA wal_checkpoint"))
                if sql.startswith("PRAGMA synchronous="):
                    disk._syncs_commits = sql.endswith(("FULL", "EXTRA"))
                if changes:
                    disk.step(sqlite3.OperationalError("database or disk is full"))
                cursor = super().execute(sql, *arguments)
                if sql.startswith("PRAGMA wal_checkpoint"):
                    row = cursor.fetchone()
                    if row[2] > 0 and row != disk._moved:
                        disk.sync_log()  # As SQLite does before it moves anything out of it.
                    disk._moved = row
                    cursor = super().execute(f"SELECT {row[0]}, {row[1]}, {row[2]}")
                elif sql == "COMMIT" and disk._syncs_commits:
                    disk.sync_log()
                if changes:
                    disk.on_step()
                return cursor

            def executescript(self, script: str) -> sqlite3.Cursor:
                cursor = super().executescript(script)
                if disk._syncs_commits:
                    disk.sync_log()
                return cursor

        class File(io.BufferedWriter):
            def write(self, data: Any) -> int:
                if disk.is_full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(data)

        def opened(path: Any, mode: str = "r", **named: Any) -> Any:
            return File(io.FileIO(path, "w")) if mode == "wb" else open(path, mode, **named)

        def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
            return sqlite3.connect(*arguments, **named, factory=Database, timeout=0)

        class Sqlite:
            def __getattr__(self, name: str) -> Any:
                return connect if name == "connect" else getattr(sqlite3, name)

        replace = os.replace

        def replaced(old: Any, new: Any) -> None:
            disk.step(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            replace(old, new)
            content = disk._synced.pop(disk._name(Path(old)), None)
            if content is not None:
                disk._synced[disk._name(Path(new))] = content
            disk.on_step()

        with (
            mock.patch.object(writer, "sqlite3", Sqlite()),
            mock.patch.object(wire, "open", opened, create=True),
            mock.patch.object(os, "fsync", self._sync),
            mock.patch.object(os, "replace", replaced),
        ):
            yield

    def read(self) -> None:
        """Let another program read from the run's database until `let_go`."""
        self.let_go()
        if (self._runs()[-1] / "metrics.sqlite").exists():
            self._reader = sqlite3.connect(self._runs()[-1] / "metrics.sqlite", isolation_level=None)
            try:
                self._reader.execute("BEGIN")
                self._reader.execute("SELECT count(*) FROM commits").fetchone()
            except sqlite3.Error:
                self.let_go()  # It has no tables yet.

    def let_go(self) -> None:
        """Let no other program read."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def step(self, refused: Exception) -> None:
        """Something is about to be written."""
        self.on_step()
        if self.is_full:
            raise refused

    def _sync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            here = {self._name(found) for found in path.iterdir() if found.is_file()}
            gone = {name for name in self._safe if (self.root / name).parent.name == path.name} - here
            self._safe = {name: content for name, content in self._safe.items() if name not in gone}
            self._safe |= {name: self._synced.get(name) for name in here}
        elif path.name == _LOG:
            self.sync_log()
        else:
            self._synced[self._name(path)] = path.read_bytes()

    def _name(self, path: Path) -> str:
        """Of a file within its run's folder."""
        return str(Path(*path.relative_to(self.root).parts[1:]))

    def sync_log(self) -> None:
        """All that is in SQLite's log now is safe."""
        self._log = b"".join(found.read_bytes() for found in self._runs()[-1].glob(_LOG))

    def _runs(self) -> list[Path]:
        return sorted(self.root.iterdir(), key=lambda path: int(path.name))

    # ------------------------------------------------------------------ what is left

    def copied(self) -> Path:
        """A copy of the run's folder, as another process finds it now."""
        folder = self._runs()[-1]
        to = folder.with_name(str(int(folder.name) + 1))
        shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.sqlite-shm"))
        return to

    def cut(self, draw: random.Random) -> Path:
        """A copy of the run's folder after a power cut at this moment."""
        folder = self.copied()
        here = {self._relative(path, folder): path for path in folder.rglob("*") if path.is_file()}
        for name in sorted((here.keys() | self._safe.keys()) - _OF_SQLITE):
            path = folder / name
            if draw.random() < 0.5 and name in here:
                # Its name is there, whether that is safe or not.
                content = self._synced.get(name)
                if content is None:
                    content = path.read_bytes()
                    content = content[: draw.randrange(len(content) + 1)]
                path.write_bytes(content)
            elif (safe := self._safe.get(name)) is not None:
                path.write_bytes(safe)
            elif name not in self._safe:
                path.unlink()
        log = folder / _LOG
        if log.exists():
            log.write_bytes(self._what_is_left(log.read_bytes(), draw))
        self._synced = {self._relative(path, folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self._safe = dict(self._synced)
        self._log = log.read_bytes() if log.exists() else b""
        return folder

    @staticmethod
    def _relative(path: Path, folder: Path) -> str:
        return str(path.relative_to(folder))

    def _what_is_left(self, log: bytes, draw: random.Random) -> bytes:
        """Of each block of the log, what it is or what it was when it was last synced."""
        old = self._log.ljust(len(log), b"\0")[: len(log)]
        blocks = [(log if draw.random() < 0.5 else old)[at : at + _BLOCK] for at in range(0, len(log), _BLOCK)]
        left = b"".join(blocks)
        # A log that has grown may have its old length.
        return left[: len(self._log)] if len(log) > len(self._log) and draw.random() < 0.3 else left
