"""Writers for experiment trackers: TensorBoard, Weights & Biases, MLflow. Each needs an extra of covey."""

import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.runtime.callbacks.callback import Began, Callback, Evaluated

_WORDS = {0.0: "min", 0.1: "q10", 0.5: "median", 0.9: "q90", 1.0: "max"}


def scalars(at: Evaluated) -> dict[str, float]:
    """The figures of a round under the names of trackers: mean and quantiles over nodes, and those of the network."""
    found = {}
    for name in at.nodes:
        found[f"{name}/mean"] = at.figure(name)
        found |= {f"{name}/{_WORDS[share]}": value for share, value in at.quantiles(name, tuple(_WORDS)).items()}
    return {**found, **{f"network/{name}": float(value) for name, value in at.network.items()}, "time": at.time}


class Tracker(Callback):
    """A callback that writes figures for a tracker."""

    acts = False
    module: ClassVar[str]
    """The module that it needs."""
    extra: ClassVar[str]
    """The extra of covey that brings the module."""

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self.imported()

    def imported(self) -> Any:
        """The module.

        Raises:
            ConfigurationError: it is not installed.
        """
        try:
            return import_module(self.module)
        except ImportError as error:
            raise ConfigurationError(
                f"The callback {self.title()} needs {self.module.partition('.')[0]}: pip install 'covey[{self.extra}]'."
            ) from error


class TensorBoard(Tracker):
    """Writes event files for TensorBoard."""

    kind = "tensorboard"
    module, extra = "tensorboard.summary", "tensorboard"
    folder: Path | None = param(
        'The folder of the files; by default "tensorboard" in the folder of the run.', default=None
    )

    def begin(self, run: Began) -> None:
        self._folder, self._since = self.folder or run.folder / "tensorboard", run.round
        self._writer: Any = None

    def evaluated(self, at: Evaluated) -> None:
        if self._writer is None:
            self._writer = self._opened()
        for name, value in scalars(at).items():
            self._writer.add_scalar(name, value, at.round)

    def _opened(self) -> Any:
        self.imported()
        made = import_module("torch.utils.tensorboard").SummaryWriter
        # A resumed run repeats what followed its checkpoint.
        return made(str(self._folder), purge_step=self._since + 1 if self._since else None)

    def end(self, status: str) -> None:
        if self._writer is not None:
            self._writer.close()


class WandB(Tracker):
    """Logs to Weights & Biases."""

    kind = "wandb"
    module, extra = "wandb", "wandb"
    project: str = param("The project.", default="covey")
    mode: Literal["online", "offline", "disabled"] = param(
        "The destination of figures, as `wandb.init` takes it.", default="online"
    )

    def begin(self, run: Began) -> None:
        self._run = self.imported().init(
            project=self.project,
            name=run.folder.name,
            id=run.state.get("id"),
            resume="allow",
            mode=self.mode,
            dir=str(run.folder),
            config=dict(run.experiment),
        )
        run.state["id"] = str(self._run.id)

    def evaluated(self, at: Evaluated) -> None:
        self._run.log(scalars(at), step=at.round)

    def end(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


class MLflow(Tracker):
    """Logs to MLflow."""

    kind = "mlflow"
    module, extra = "mlflow", "mlflow"
    uri: str | None = param("The tracking server or folder; by default that of MLFLOW_TRACKING_URI.", default=None)
    experiment: str = param("The name of the experiment there.", default="covey")

    def begin(self, run: Began) -> None:
        self._mlflow = mlflow = self.imported()
        self._client = mlflow.MlflowClient(tracking_uri=self.uri)
        if run.state.get("id") is None:
            known = self._client.get_experiment_by_name(self.experiment)
            experiment = known.experiment_id if known else self._client.create_experiment(self.experiment)
            made = self._client.create_run(experiment, run_name=run.folder.name)
            run.state["id"] = str(made.info.run_id)
            for key, value in _flat(run.experiment):
                self._client.log_param(made.info.run_id, key, str(value)[:_LONGEST])
        self._id = run.state["id"]

    def evaluated(self, at: Evaluated) -> None:
        now, metric = int(time.time() * 1000), self._mlflow.entities.Metric
        self._client.log_batch(self._id, [metric(name, value, now, at.round) for name, value in scalars(at).items()])

    def end(self, status: str) -> None:
        self._client.set_terminated(self._id, {"finished": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED"))


_LONGEST = 500
"""The characters of a parameter that MLflow takes."""


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested tables by keys with dots."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value
