"""Python's way in: `covey.run`, `resume`, `sweep`, `check`, `compare`, `report`, `infer`, `list`.

The commands call the same.
"""

from covey.api.running import RUNS, as_experiment, facts, new_folder, resume, run

__all__ = ["RUNS", "as_experiment", "facts", "new_folder", "resume", "run"]
