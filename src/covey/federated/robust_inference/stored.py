"""The outputs of the clients' final models of a run.

Shapes: N clients, S queries, C classes.
"""

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from covey.federated.robust_inference.answers import Outputs
from covey.learning.learner import Learner
from covey.learning.loaded import LoadedLearning
from covey.parts.errors import RunError
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.runs import Run
from covey.runtime.runs.schema import MODELS
from covey.runtime.runs.sums import check_sum

_AT_ONCE = 512
"""The queries that all models answer together."""


class Stored(NamedTuple):
    """The outputs of a run's clients: the nodes that hold data."""

    clients: list[int]
    """The ids of the clients, N."""
    test: Outputs
    proxy: Outputs | None
    """Their outputs for the validation samples of all clients; None without such samples."""


def stored_outputs(
    run: Run | Path | str, *, samples: int | None = None, data: Path | None = None, quiet: bool = True
) -> Stored:
    """Compute the outputs of the final models of all clients of a run.

    Args:
        run: the run, or its folder.
        samples: the greatest number of test samples; by default, all.
        data: the data folder; by default, that of the environment.
        quiet: whether to show no progress bar while data are downloaded.

    Raises:
        RunError: the run keeps no models or differs from its checksums, its data differ, or its targets are not one
            class per sample.
    """
    run = run if isinstance(run, Run) else Run(run)
    models = run.models
    if models is None:
        raise RunError(
            f"The run {run.folder} has no final models: it has not finished, or output.models was false. "
            "Inference needs one of each client."
        )
    check_sum(run.folder, MODELS)
    prepared = prepare(Experiment.from_table(run.experiment), data=data, quiet=quiet)
    task = prepared.task
    with closing(task), task.at_work():
        if not isinstance(task, LoadedLearning) or task.learner.data.objective != "classes":
            raise RunError(
                f"The run {run.folder} has no inference to attack: its targets are not one class per sample."
            )
        change = prepared.change_since(run.facts)
        if change is not None:
            raise RunError(f"The outputs of the run {run.folder} cannot be computed: {change}.")
        clients = sorted(task.indices)
        kept = [models[client].to(task.device) for client in clients]
        splits, learner = task.learner.splits, task.learner
        indices = splits.indices("test", None, samples)
        test = _outputs(learner, kept, *splits.taken("test", indices))
        held = [] if learner.data.stream is not None else [*map(np.asarray, splits.validation)]
        validation = np.concatenate([np.empty(0, np.int64), *held])
        proxy = _outputs(learner, kept, *splits.taken("validation", validation)) if len(validation) else None
    return Stored([int(client) for client in clients], test, proxy)


def _outputs(learner: Learner, models: list[Tensor], inputs: Tensor, targets: Tensor) -> Outputs:
    """The probabilities of all models for some samples, S x N x C, and the classes."""
    parts = [learner.kernel.predict(models, part).transpose(0, 1).softmax(-1) for part in torch.split(inputs, _AT_ONCE)]
    return Outputs(torch.cat(parts).float().cpu(), targets.cpu())
