"""The functions that run an experiment from Python: `covey.run(experiment) -> Run`."""

import platform
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from covey import __version__
from covey.api.protecting import epsilons
from covey.parts.errors import ConfigurationWarning, CoveyError, RunError
from covey.parts.tracebacks import short_traceback
from covey.runtime.callbacks import Callback, Evaluated
from covey.runtime.experiment import Experiment, Progress
from covey.runtime.prepared import Prepared, notes_on_cycles, prepare
from covey.runtime.runs import Run, RunWriter, refused, resuming

RUNS = Path("runs")
"""The folder of runs whose folder is not given."""


@short_traceback()
def run(
    experiment: Experiment | Mapping[str, Any] | Path | str,
    *,
    out: Path | str | None = None,
    data: Path | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    quiet: bool = False,
    watch: bool = False,
    callbacks: Sequence[Callback | Callable[[Evaluated], None]] = (),
) -> Run:
    """Run an experiment to its end; on a terminal and in a notebook, a bar shows its progress.

    Args:
        experiment: the object, its tables, or its TOML file.
        out: the run's folder. By default, a new one under `runs/`.
        data: the data folder. By default, `COVEY_DATA`.
        progress: called from time to time with the progress of the run. It replaces the bar.
        quiet: show no progress bar, neither of the run nor of a download.
        watch: draw the curve of the accuracy below the bar, or of the loss if there is no accuracy.
        callbacks: more callbacks than the experiment has, or functions that are called after every evaluated round.
            The run's folder does not know them: give them to `resume` again.

    Returns:
        The run, with its metrics, its models and, in `drops`, the number of dropped messages by reason.
        Ctrl-C ends it early, with a checkpoint to resume from.

    Raises:
        CoveyError: the experiment or its data are wrong. The text is one line.

    Warns:
        ConfigurationWarning: rounds or evaluations end within a schedule's cycle, so accuracies are not comparable.
    """
    chosen = as_experiment(experiment)
    for note in notes_on_cycles(chosen):
        warnings.warn(note[0].upper() + note[1:] + ".", ConfigurationWarning, stacklevel=3)
    folder = Path(out) if out is not None else new_folder(f"{chosen.name}-s{chosen.seed}")
    prepared = _prepare(chosen, data, quiet, callbacks)
    writer = RunWriter.create(folder, chosen.to_table(), facts(prepared))
    _choose_rows(prepared, writer)
    graph = prepared.program.graph(0)
    if graph is not None:
        writer.graph(graph, prepared.program.has_one_graph)
    counts = prepared.setting.label_counts
    holdings = counts if counts is not None else prepared.task.holdings()
    if holdings is not None:
        writer.holdings(holdings)
    layout = prepared.task.layout()
    if layout is not None:
        writer.layout(*layout)
    if chosen.observer is not None:
        writer.truth(prepared.task.truth())
    with _shown(progress, chosen, folder, quiet, watch) as shown:
        return _execute(prepared, writer, shown, None)


@short_traceback()
def resume(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    dataset: Any = None,
    progress: Callable[[Progress], None] | None = None,
    quiet: bool = False,
    watch: bool = False,
    callbacks: Sequence[Callback | Callable[[Evaluated], None]] = (),
) -> Run:
    """Resume an interrupted run from its latest checkpoint. The arguments are those of `run`.

    Args:
        dataset: the data set, if the run began with one that was given in Python; see `covey.data`.

    Raises:
        RunError: the run has finished, is being written, was changed or damaged, or has no checkpoint, or its data
            differ from those that it began with. Nothing is deleted then.
    """

    def of(run: Run) -> Experiment:
        experiment = Experiment.from_table(run.experiment)
        if dataset is not None:
            experiment.task = replace(experiment.task, dataset=dataset)  # type: ignore[type-var]
        return experiment

    return resume_as(of, folder, data=data, progress=progress, quiet=quiet, watch=watch, callbacks=callbacks)


def resume_as(
    experiment_of: Callable[[Run], Experiment],
    folder: Path | str,
    *,
    data: Path | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    quiet: bool = False,
    watch: bool = False,
    callbacks: Sequence[Callback | Callable[[Evaluated], None]] = (),
) -> Run:
    """Resume an interrupted run with its experiment, of which its folder does not have what was given in Python."""
    with resuming(Path(folder)) as opened:
        prepared = _prepare(experiment_of(opened.run), data, quiet, callbacks)
        change = prepared.change_since(opened.run.facts)
        if change is not None:
            prepared.task.close()
            raise refused(opened.run.folder, change)
        try:
            prepared.experiment.engine.check_checkpoint(prepared, opened.checkpoint)
        except RunError as error:
            prepared.task.close()
            raise opened.refused(error) from error
        writer = RunWriter.resume(opened, facts(prepared))
        _choose_rows(prepared, writer)
    with _shown(progress, prepared.experiment, opened.run.folder, quiet, watch) as shown:
        return _execute(prepared, writer, shown, opened.checkpoint)


def _shown(
    progress: Callable[[Progress], None] | None, experiment: Experiment, folder: Path, quiet: bool, watch: bool
) -> AbstractContextManager[Callable[[Progress], None]]:
    """The function that is called with a run's progress; by default it draws a bar."""
    if progress is not None:
        return nullcontext(progress)
    from covey.view.progress import ProgressDisplay

    nodes = experiment.network.nodes
    return ProgressDisplay(
        folder.name, experiment.rounds, nodes, silent=quiet, lines=False, watch=watch, duration=experiment.duration
    )


def _prepare(experiment: Experiment, data: Path | str | None, quiet: bool, callbacks: Sequence[Any]) -> Prepared:
    given = [Callback.of(callback) for callback in callbacks]
    folder = None if data is None else Path(data)
    prepared = prepare(experiment, data=folder, quiet=quiet, **experiment.engine.compute_settings())
    prepared.callbacks.add(given)
    return prepared


def _execute(
    prepared: Prepared,
    writer: RunWriter,
    progress: Callable[[Progress], None] | None,
    checkpoint: Any,
) -> Run:
    status, ended, callbacks = "failed", {}, prepared.callbacks
    try:
        if checkpoint is not None:
            callbacks.thaw(checkpoint)
        callbacks.begin(writer.folder, prepared.experiment.to_table())
        outcome = prepared.experiment.engine.execute(prepared, writer, progress=progress, checkpoint=checkpoint)
        status = "finished" if outcome.finished else "interrupted"
        ended = {"time": outcome.time}
        if outcome.finished and outcome.models is not None and prepared.experiment.output.models:
            writer.models(outcome.models)
        if outcome.finished and outcome.states:
            writer.states(outcome.states)
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except BaseException:
        status = "failed"
        raise
    finally:
        prepared.task.close()
        writer.finish(status, ended)
        if status != "finished":
            with suppress(CoveyError):  # The run says why it ended.
                callbacks.end(status)
    if status == "finished":
        callbacks.end(status)
    return Run(writer.folder)


def _choose_rows(prepared: Prepared, writer: RunWriter) -> None:
    """Let the writer keep the rows of some nodes, if the experiment says so."""
    if prepared.recorded is not None:
        writer.keep_commits_of(prepared.recorded, prepared.setting.nodes)


def as_experiment(experiment: Experiment | Mapping[str, Any] | Path | str) -> Experiment:
    """The experiment of an object, its tables or its file."""
    if isinstance(experiment, Experiment):
        return experiment
    if isinstance(experiment, Mapping):
        return Experiment.from_table(experiment)
    return Experiment.from_file(experiment)


def new_folder(stem: str) -> Path:
    """A folder under `runs/` that does not exist yet, named by the stem and a number."""
    number = 1
    while (RUNS / f"{stem}-{number:03d}").exists():
        number += 1
    return RUNS / f"{stem}-{number:03d}"


def facts(prepared: Prepared) -> dict[str, Any]:
    """The provenance that a run's folder records: versions, machine, command, seed, data and program."""
    return {
        "covey": __version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": prepared.setting.seed,
        "nodes": prepared.setting.nodes,
        "clock": prepared.setting.clock,
        **prepared.task.facts(),
        "program": prepared.program.title(),
        "commits": "all" if (kept := prepared.recorded) is None else f"{len(kept):,} of {prepared.setting.nodes:,}",
        **({"privacy": stated} if (stated := epsilons(prepared)) else {}),
    }
