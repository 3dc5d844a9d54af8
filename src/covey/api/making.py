"""The making of the runs of a sweep, one after the other."""

import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from covey.api.planning import Member
from covey.api.running import resume_as, run
from covey.parts.errors import CoveyError
from covey.runtime.experiment import Experiment, Progress
from covey.runtime.runs import Run
from covey.runtime.runs.schema import CHECKPOINTS
from covey.view.progress import ProgressDisplay

Outcome = Run | CoveyError | None
"""The run, why it failed, or None if it was stopped before it recorded anything."""


@dataclass(frozen=True)
class Making:
    """The settings with which the runs of a sweep are made.

    Attributes:
        folder: the folder of the run folders.
        planned: the number of all runs of the sweep.
        data: the data folder; None for that of the environment.
        quiet: whether to show no bars.
        lines: whether to print lines instead where there is no terminal.
    """

    folder: Path
    planned: int
    data: Path | str | None
    quiet: bool
    lines: bool


def one_by_one(members: Sequence[Member], making: Making) -> Generator[tuple[Member, Outcome]]:
    """Make runs in this process, each with its bar, until one is interrupted."""
    for member in members:
        experiment = member.planned.experiment
        title = f"[{member.number}/{making.planned}] {member.name}"
        rounds, nodes = experiment.rounds, experiment.network.nodes
        try:
            with ProgressDisplay(title, rounds, nodes, silent=making.quiet, lines=making.lines) as display:
                done = make(
                    experiment,
                    member.folder,
                    continued=member.before is not None,
                    data=making.data,
                    progress=display,
                    quiet=making.quiet,
                )
        except CoveyError as error:
            yield member, error
            continue
        yield member, done
        if done.status == "interrupted":
            return


def make(
    experiment: Experiment,
    folder: Path,
    *,
    continued: bool,
    data: Path | str | None,
    progress: Callable[[Progress], None],
    quiet: bool = True,
) -> Run:
    """Make a run.

    Args:
        experiment: its experiment.
        folder: its folder.
        continued: whether the folder has something of it: it is resumed or, without a checkpoint, begun again.
        data: the data folder; None for that of the environment.
        progress: called with its progress.
        quiet: whether to show no bar of a download.

    Raises:
        CoveyError: it failed.
    """
    if continued and any((folder / CHECKPOINTS).glob("*")):
        return resume_as(lambda _: experiment, folder, data=data, progress=progress, quiet=quiet)
    if continued and Run(folder).status != "running":
        shutil.rmtree(folder)  # Without a checkpoint it cannot be resumed.
    return run(experiment, out=folder, data=data, progress=progress, quiet=quiet)
