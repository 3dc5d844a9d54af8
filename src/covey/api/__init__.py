"""Python's way in: `covey.run`, `resume`, `sweep`, `check` and `list`. The commands call the same functions."""

from covey.api.running import RUNS, as_experiment, facts, new_folder, resume, run

__all__ = ["RUNS", "as_experiment", "facts", "new_folder", "resume", "run"]
