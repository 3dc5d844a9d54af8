"""Runs: folders on disk. Nothing else writes or reads them."""

from covey.runs.resuming import Resumable, examine, latest_checkpoint, resuming
from covey.runs.run import Run
from covey.runs.writer import RunWriter

__all__ = ["Resumable", "Run", "RunWriter", "examine", "latest_checkpoint", "resuming"]
