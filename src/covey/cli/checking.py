"""`covey check`."""

import argparse

from covey.api.checking import check as check_it
from covey.api.checking import with_every_key
from covey.cli.running import read
from covey.cli.tables import print_json, say
from covey.parts.errors import ConfigurationError
from covey.runtime.experiment import Experiment


def check(arguments: argparse.Namespace) -> int:
    """Validate an experiment and print its keys, model, data, graph and bytes; or check a run against its checksums."""
    experiment = None
    if arguments.file.is_dir():
        if arguments.overrides or arguments.seed is not None or arguments.engine or arguments.save_graph:
            raise ConfigurationError("The check of a run takes no --set, --seed, --engine or --save-graph.")
    else:
        experiment = Experiment.from_table(read(arguments))
    checked = check_it(
        experiment or arguments.file, data=arguments.data, quiet=arguments.json, save_graph=arguments.save_graph
    )
    if arguments.json:
        print_json(checked)
        return 0
    if experiment is None:
        say(checked.title)
    else:
        print(with_every_key(experiment))
        print()
    for subject, words in checked.lines:
        say(f"{subject:<11} {words}")
    print("ok")
    return 0
