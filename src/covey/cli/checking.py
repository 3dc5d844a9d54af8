"""`covey check`."""

import argparse
import re
from typing import Any

from covey.cli.running import read
from covey.cli.tables import print_json, say
from covey.parts import native
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import to_table
from covey.runtime.experiment import Experiment
from covey.runtime.node import Node
from covey.runtime.prepared import notes_on_cycles, prepare
from covey.runtime.runs import Run, examine
from covey.runtime.runs.schema import SUMS


def check(arguments: argparse.Namespace) -> int:
    """Validate an experiment, and print its keys, model, data, graph and bytes."""
    if arguments.file.is_dir():
        return _check_run(arguments)
    experiment = Experiment.from_table(read(arguments))
    settings = {**experiment.engine.compute_settings(), "workers": 1}
    prepared = prepare(experiment, data=arguments.data, quiet=arguments.json, **settings)
    resolved = experiment.to_table()
    found: dict[str, Any] = {
        "experiment": resolved,
        **prepared.task.description(),
        "bytes_per_node_and_round": prepared.played.sent,
        "native": native.in_words(),
    }
    learns = "samples" in found  # A user's own task may describe itself differently.
    if learns:
        from covey.cli.checking_learning import described

        found |= described(prepared, arguments.save_graph)
    elif arguments.save_graph is not None:
        raise ConfigurationError(f"The program {experiment.program.title()} has no graph to save.")
    costs = prepared.setting.training_joules
    if costs is not None:
        found["joules_per_node_and_training"] = float(costs.mean())
    notes = notes_on_cycles(experiment)
    if notes:
        found["notes"] = notes
    if experiment.faults:
        found["faults"] = [fault.in_words() for fault in experiment.faults]
    if arguments.json:
        print_json(found)
        return 0
    print(_with_every_key(experiment))
    print()
    if learns:
        from covey.cli.checking_learning import say_what_is_learned

        say_what_is_learned(prepared, found)
    elif prepared.program.needs is not Node:
        for name, value in prepared.task.description().items():
            say(f"{name.replace('_', ' '):<11} {value}")
    elif experiment.task is not None:
        say(f"task        not used: the program {experiment.program.title()} does not learn")
    if "joules_per_node_and_training" in found:
        say(f"energy      {found['joules_per_node_and_training']:.4g} J per training of a node, on average")
    say(f"native      {found['native']}")
    for words in found.get("faults", ()):
        say(f"fault       {words}")
    for words in found.get("notes", ()):
        say(f"note        {words}")
    print("ok")
    return 0


def _check_run(arguments: argparse.Namespace) -> int:
    """Check the folder of a run against its checksums."""
    if arguments.overrides or arguments.seed is not None or arguments.engine or arguments.save_graph:
        raise ConfigurationError("The check of a run takes no --set, --seed, --engine or --save-graph.")
    run = Run(arguments.file)
    files, round = examine(run.folder)
    if arguments.json:
        print_json({"run": str(run.folder), "status": run.status, "files": files, "resumes_after": round})
        return 0
    say(f"{run.folder}: {run.status}")
    say(f"files       {files}, as {SUMS} says")
    if round is not None:
        say(f"resume      after round {round}")
    print("ok")
    return 0


_NOTHING = "(none)"


def _with_every_key(experiment: Experiment) -> str:
    """The experiment as TOML. Keys without a value are comments, because TOML has no null."""
    import tomli_w

    text = tomli_w.dumps(to_table(experiment, nothing=_NOTHING)).strip()
    return re.sub(rf'^(\w+) = "{re.escape(_NOTHING)}"$', rf"# \1 = {_NOTHING}", text, flags=re.M)
