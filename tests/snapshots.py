"""Snapshots of nodes that learn, made by hand."""

from typing import Any

from covey.learning.jobs import Learned
from covey.learning.loaded import LoadedLearning
from covey.runtime.snapshots import Snapshot, pack


def untaught(device: Any = "cpu") -> LoadedLearning:
    """A task that packs and unpacks, and has no data."""
    task = LoadedLearning.__new__(LoadedLearning)
    task.device = device
    return task


def packed(snapshots: list[Snapshot]) -> dict[str, Any]:
    """Snapshots as the entries of a payload."""
    return pack(snapshots, untaught())


__all__ = ["Learned", "Snapshot", "packed", "untaught"]
