"""The findings of `covey.check` and `covey check` on an experiment or a run's folder."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covey.api.protecting import epsilons
from covey.api.running import as_experiment
from covey.parts import native
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import parts_of, to_table
from covey.parts.tracebacks import short_traceback
from covey.runtime.experiment import Experiment
from covey.runtime.node import Node
from covey.runtime.prepared import Prepared, notes_on_cycles, prepare
from covey.runtime.runs import Run, examine
from covey.runtime.runs.schema import SUMS
from covey.view.cards import Card
from covey.view.epsilons import epsilon_in_words
from covey.view.terminal import shown


@dataclass(frozen=True)
class Checked(Mapping[str, Any]):
    """The findings of a check by name, as `covey check --json` prints them.

    Attributes:
        found: the findings.
        lines: the same in words: pairs of a subject and a sentence.
        title: the name of the checked experiment or run.
    """

    found: Mapping[str, Any]
    lines: tuple[tuple[str, str], ...]
    title: str

    def __getitem__(self, name: str) -> Any:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __repr__(self) -> str:
        return "\n".join([shown(self.title), *(shown(f"  {subject:<11} {words}") for subject, words in self.lines)])

    def card(self) -> Card:
        """The sentences as a table, for notebooks and terminals."""
        return Card(self.title, "", rows=self.lines, figures=False)

    def _repr_html_(self) -> str:
        return self.card().html()

    def __rich__(self) -> Any:
        return self.card().rich()


@short_traceback()
def check(
    experiment: Experiment | Mapping[str, Any] | Path | str,
    *,
    data: Path | str | None = None,
    quiet: bool = False,
    save_graph: Path | None = None,
) -> Checked:
    """Validate an experiment without running it; or check the files of a run's folder.

    Args:
        experiment: the object, its tables or its TOML file; or the folder of a run.
        data: the data folder; by default `COVEY_DATA`.
        quiet: whether to show no bar while data are downloaded.
        save_graph: the file for the graph and its weights, which the topology edges reads.

    Returns:
        All keys, the model, the graph's facts, the bytes; it prints as sentences.

    Raises:
        CoveyError: the error, in one line.
    """
    if isinstance(experiment, Path | str) and Path(experiment).is_dir():
        return _check_run(Run(experiment))
    chosen = as_experiment(experiment)
    settings = {**chosen.engine.compute_settings(), "workers": 1}
    folder = None if data is None else Path(data)
    prepared = prepare(chosen, data=folder, quiet=quiet, **settings)
    found: dict[str, Any] = {
        "experiment": chosen.to_table(),
        **prepared.task.description(),
        "bytes_per_node_and_round": prepared.played.sent,
        "native": native.in_words(),
    }
    learns = "samples" in found  # A user's own task may describe itself differently.
    if learns:
        from covey.api.checking_learning import described

        found |= described(prepared, save_graph)
    elif save_graph is not None:
        raise ConfigurationError(f"The program {chosen.program.title()} has no graph to save.")
    devices = prepared.network.devices
    parts = [*parts_of(prepared.program), *([] if devices is None else [devices])]
    of_parts = {subject: words for part in parts for subject, words in part.findings().items()}
    if of_parts:
        found["parts"] = of_parts
    costs = prepared.setting.training_joules
    if costs is not None:
        found["joules_per_node_and_training"] = float(costs.mean())
    if stated := epsilons(prepared):
        found["privacy"] = stated
    rounds = chosen.engine.rounds_in_words(prepared) if learns else None
    if rounds is not None:
        found["rounds"] = rounds
    notes = notes_on_cycles(chosen)
    if notes:
        found["notes"] = notes
    if expected := chosen.engine.expected(prepared):
        found["expected"] = expected
    if chosen.faults:
        found["faults"] = [fault.in_words() for fault in chosen.faults]
    return Checked(found, tuple(_lines(prepared, found, learns=learns)), f"experiment {chosen.name}: ok")


def _lines(prepared: Prepared, found: Mapping[str, Any], *, learns: bool) -> Iterator[tuple[str, str]]:
    program = prepared.program
    if learns:
        from covey.api.checking_learning import in_words

        yield from in_words(prepared, found)
    elif program.needs is not Node:
        for name, value in prepared.task.description().items():
            yield name.replace("_", " "), str(value)
    elif prepared.experiment.task is not None:
        yield "task", f"not used: the program {program.title()} does not learn"
    yield from found.get("parts", {}).items()
    if "joules_per_node_and_training" in found:
        yield "energy", f"{found['joules_per_node_and_training']:.4g} J per training of a node, on average"
    for stated in found.get("privacy", ()):
        yield "privacy", epsilon_in_words(stated)
    if "rounds" in found:
        yield "rounds", found["rounds"]
    yield "native", found["native"]
    if "expected" in found:
        yield "workers", found["expected"]
    for words in found.get("faults", ()):
        yield "fault", words
    for words in found.get("notes", ()):
        yield "note", words


def _check_run(run: Run) -> Checked:
    files, round = examine(run.folder)
    found = {"run": str(run.folder), "status": run.status, "files": files, "resumes_after": round}
    lines = [("files", f"{files}, as in {SUMS}")]
    if round is not None:
        lines.append(("resume", f"after round {round}"))
    return Checked(found, tuple(lines), f"{run.folder}: {run.status}")


_NOTHING = "(none)"


def with_every_key(experiment: Experiment) -> str:
    """The experiment as TOML. Keys without a value are comments, because TOML has no null."""
    import tomli_w

    text = tomli_w.dumps(to_table(experiment, nothing=_NOTHING)).strip()
    return re.sub(rf'^(\w+) = "{re.escape(_NOTHING)}"$', rf"# \1 = {_NOTHING}", text, flags=re.M)
