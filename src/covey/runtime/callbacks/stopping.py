"""Early stopping, and the best model of a run."""

from pathlib import Path

import numpy as np

from covey.messages.files import replacing
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param
from covey.runtime.callbacks.callback import Began, Evaluated, Following
from covey.runtime.runs.schema import BEST


class EarlyStopping(Following):
    """Ends the run if a figure no longer improves, or once it is good enough."""

    kind = "early-stopping"
    patience: int = param("The number of successive evaluations that may bring no improvement.", default=5, ge=1)
    goal: float | None = param("The value of the figure with which the run ends, too.", default=None)

    def evaluated(self, at: Evaluated) -> None:
        if self.waits(at, self.patience):
            at.stop(
                f"{self.metric} has not improved since round {at.state['best_round']}, where it was "
                f"{at.state['best']:.4g}"
            )
        elif self.goal is not None and self.gain(at.figure(self.metric), self.goal) >= 0:
            at.stop(f"{self.metric} is {at.figure(self.metric):.4g} after round {at.round}")


class BestModel(Following):
    """Keeps the average model of the round in which a figure was best: `run.module("kept")`."""

    kind = "best-model"
    acts = False

    def begin(self, run: Began) -> None:
        if not run.experiment["evaluation"]["average"]:
            raise ConfigurationError("The callback best-model keeps average models: 'evaluation.average' must be true.")
        self._file: Path = run.folder / BEST

    def evaluated(self, at: Evaluated) -> None:
        if self.improves(at):
            model = at.average_model()
            if model is not None:
                with replacing(self._file) as file:
                    np.save(file, np.asarray(model, dtype=np.float32), allow_pickle=False)
