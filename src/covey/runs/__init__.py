"""Runs: folders on disk. Nothing else writes or reads them."""

from covey.runs.resuming import Resumable, latest_checkpoint, resuming
from covey.runs.run import Run
from covey.runs.writer import RunWriter

__all__ = ["Resumable", "Run", "RunWriter", "latest_checkpoint", "resuming"]
