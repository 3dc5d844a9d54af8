"""Runs: folders on disk. Nothing else writes or reads them."""

from covey.runs.run import Run
from covey.runs.writer import RunWriter, latest_checkpoint

__all__ = ["Run", "RunWriter", "latest_checkpoint"]
