"""A disk that forgets what was not synced: records what is written to a folder, and rebuilds it as a power cut leaves it.

SQLite is heard through a VFS of its own library that stands before the usual one; other files through `os`.
"""

import _sqlite3
import ctypes
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_POINTER = ctypes.c_void_p
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, _POINTER, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
_DELETE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_int)
_CLOSE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int)
_METHODS = {1: 12, 2: 16, 3: 18}
"""The number of functions in the methods of a file, by their version."""


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("longest_path", ctypes.c_int),
        ("next", _POINTER),
        ("name", ctypes.c_char_p),
        ("data", _POINTER),
        ("open", _POINTER),
        ("delete", _POINTER),
        ("others", _POINTER * 14),
    ]


class _Methods(ctypes.Structure):
    _fields_ = [("version", ctypes.c_int), ("functions", _POINTER * 18)]


@dataclass
class _File:
    """The bytes that were written to a file, and those that were synced."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(where, what) was written since; None where it was cut there."""

    def write(self, at: int, data: bytes | None) -> None:
        _apply(self.content, at, data)
        self.since.append((at, data))

    def sync(self) -> None:
        self.synced, self.since = bytes(self.content), []


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    content.extend(bytes(max(at - len(content), 0)))
    if data is None:
        del content[at:]
    else:
        content[at : at + len(data)] = data


class Disk:
    """The events at the files of a folder, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[tuple[Any, ...]] = []
        self._files: dict[str, _File] = {}
        self._names: dict[str, _File] = {}
        """The files that there are after a cut, by their paths."""

    def note(self, what: str, *about: Any) -> None:
        """Something happens; `about` begins with a path."""
        if str(about[0]).startswith(str(self.folder)):
            self.events.append((what, *about))

    def kills(self) -> Iterator[dict[str, bytes]]:
        """The content of the files after a kill of the process after an event: all written bytes stay."""
        for event in self.events:
            self._follow(*event)
            yield {os.path.relpath(name, self.folder): bytes(file.content) for name, file in self._files.items()}

    def cuts(self, seed: int | None = None) -> Iterator[tuple[tuple[Any, ...], dict[str, bytes]]]:
        """(the last event, what the files hold) for a cut after every event.

        Args:
            seed: decides what else stays; without one, nothing does that was not synced.
        """
        draw = None if seed is None else random.Random(seed)
        for event in self.events:
            self._follow(*event)
            yield event, self._left(draw)

    def _follow(self, what: str, path: str, *about: Any) -> None:
        files, names = self._files, self._names
        if what == "create":
            files.setdefault(path, _File())
        elif what in ("write", "truncate"):
            files[path].write(about[0], about[1] if what == "write" else None)
        elif what == "sync":
            files[path].sync()
        elif what == "delete":
            files.pop(path, None)
        elif what == "rename":
            files[about[0]] = files.pop(path)
        elif what == "sync folder":
            for name in [name for name in names if os.path.dirname(name) == path]:
                del names[name]
            names.update({name: file for name, file in files.items() if os.path.dirname(name) == path})

    def _left(self, draw: random.Random | None) -> dict[str, bytes]:
        names = self._names
        if draw is not None and draw.random() < 0.5:
            names = self._files
        left = {}
        for name, file in names.items():
            content = bytearray(file.synced)
            for at, data in file.since if draw is not None else ():
                if draw is not None and draw.random() < 0.5:
                    _apply(content, at, data)
            left[os.path.relpath(name, self.folder)] = bytes(content)
        return left


def rebuilt(left: dict[str, bytes], folder: Path) -> Path:
    """The folder as a cut leaves it."""
    for name, content in left.items():
        if not name.endswith("-shm"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


@contextmanager
def recording(folder: Path) -> Iterator[Disk]:
    """Record what happens to the files of a folder."""
    disk = Disk(folder)
    with pytest.MonkeyPatch.context() as patch, _recording_sqlite(disk):
        _record_files(disk, patch)
        yield disk


def _record_files(disk: Disk, patch: pytest.MonkeyPatch) -> None:
    fsync, replace, unlink = os.fsync, os.replace, os.unlink
    known: set[str] = set()

    def hold(path: str) -> None:
        """Note the content of a file, which was written by calls that are not observed."""
        if path not in known:
            disk.note("create", path)
            known.add(path)
        disk.note("truncate", path, 0)
        disk.note("write", path, 0, Path(path).read_bytes())

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path):
            disk.note("sync folder", path)
        else:
            hold(path)
            disk.note("sync", path)

    def replaced(source: Any, target: Any) -> None:
        if str(source) not in known:
            hold(str(source))
        replace(source, target)
        known.discard(str(source))
        disk.note("rename", str(source), str(target))

    def unlinked(path: Any, **options: Any) -> None:
        unlink(path, **options)
        known.discard(str(path))
        disk.note("delete", str(path))

    patch.setattr(os, "fsync", synced)
    patch.setattr(os, "replace", replaced)
    patch.setattr(os, "unlink", unlinked)


@contextmanager
def _recording_sqlite(disk: Disk) -> Iterator[None]:
    library = ctypes.CDLL(_sqlite3.__file__)
    if not hasattr(library, "sqlite3_vfs_register"):
        pytest.skip("this Python's SQLite cannot be listened to")
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    usual = library.sqlite3_vfs_find(None)
    real_open, real_delete = _OPEN(usual.contents.open), _DELETE(usual.contents.delete)
    paths: dict[int, str] = {}
    made: dict[int, _Methods] = {}
    kept: list[Any] = []

    def methods_like(address: int) -> _Methods:
        real = _Methods()
        (version,) = ((ctypes.c_int).from_address(address),)
        ctypes.memmove(ctypes.byref(real), address, 8 + 8 * _METHODS[min(version.value, 3)])
        close, write = _CLOSE(real.functions[0]), _WRITE(real.functions[2])
        truncate, sync = _TRUNCATE(real.functions[3]), _SYNC(real.functions[4])

        def on_write(file: int, data: int, length: int, at: int) -> int:
            if file in paths:
                disk.note("write", paths[file], at, ctypes.string_at(data, length))
            return write(file, data, length, at)

        def on_truncate(file: int, size: int) -> int:
            if file in paths:
                disk.note("truncate", paths[file], size)
            return truncate(file, size)

        def on_sync(file: int, flags: int) -> int:
            result = sync(file, flags)
            if file in paths:
                disk.note("sync", paths[file])
                if paths[file].endswith(("-wal", "-journal")):
                    # SQLite syncs the folder of a log that is new.
                    disk.note("sync folder", os.path.dirname(paths[file]))
            return result

        def on_close(file: int) -> int:
            paths.pop(file, None)
            return close(file)

        heard = [(0, _CLOSE(on_close)), (2, _WRITE(on_write)), (3, _TRUNCATE(on_truncate)), (4, _SYNC(on_sync))]
        for place, function in heard:
            real.functions[place] = ctypes.cast(function, _POINTER)
        kept.append((heard, close, write, truncate, sync))
        return real

    def on_open(_: int, name: int | None, file: int, flags: int, out: Any) -> int:
        result = real_open(ctypes.addressof(usual.contents), name, file, flags, out)
        if result == 0 and name is not None:
            path = ctypes.string_at(name).decode()
            paths[file] = path
            disk.note("create", path)
            methods = _POINTER.from_address(file)
            if methods.value not in made:
                made[methods.value] = methods_like(methods.value)
            methods.value = ctypes.addressof(made[methods.value])
        return result

    def on_delete(_: int, name: bytes, sync_folder: int) -> int:
        result = real_delete(ctypes.addressof(usual.contents), name, sync_folder)
        disk.note("delete", name.decode())
        if sync_folder:
            disk.note("sync folder", os.path.dirname(name.decode()))
        return result

    listening = _Vfs.from_buffer_copy(usual.contents)
    functions = _OPEN(on_open), _DELETE(on_delete)
    listening.name = b"listening"
    listening.open, listening.delete = (ctypes.cast(function, _POINTER) for function in functions)
    library.sqlite3_vfs_register(ctypes.byref(listening), 1)
    try:
        yield
    finally:
        library.sqlite3_vfs_register(usual, 1)
        library.sqlite3_vfs_unregister(ctypes.byref(listening))
        # Connections that are still open go on calling them.
        _KEPT.append((listening, functions, made, kept))


_KEPT: list[Any] = []
