"""The folders of runs. Only this package writes and reads them."""

from covey.runtime.runs.course import Course, Point
from covey.runtime.runs.folders import find_runs, run_folders
from covey.runtime.runs.observed import Observed, ObservedMessage, read_truth
from covey.runtime.runs.resuming import Resumable, examine, latest_checkpoint, refused, resuming
from covey.runtime.runs.run import Run
from covey.runtime.runs.writer import RunWriter

__all__ = [
    "Course",
    "Observed",
    "ObservedMessage",
    "Point",
    "Resumable",
    "Run",
    "RunWriter",
    "examine",
    "find_runs",
    "latest_checkpoint",
    "read_truth",
    "refused",
    "resuming",
    "run_folders",
]
