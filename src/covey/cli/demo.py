"""`covey demo`."""

import argparse

from covey import api
from covey.cli.running import report
from covey.cli.tables import print_table
from covey.runtime.experiment import Experiment
from covey.view.progress import ProgressDisplay
from covey.view.summary import summary_table

TOPOLOGIES = {
    "d-psgd": {"kind": "random-regular", "degree": 4},
    "epidemic-learning": {"kind": "epidemic-oracle", "degree": 4},
}


def experiment(name: str) -> Experiment:
    """The experiment of one of the two runs of the demo."""
    return Experiment.from_table(
        {
            "name": name,
            "seed": 1,
            "rounds": 100,
            "program": {"kind": "gossip", "topology": TOPOLOGIES[name]},
            "task": {
                "dataset": "digits",
                "model": "logistic",
                "batch_size": 7,
                "partition": {"kind": "shards", "per_node": 2},
                "optimizer": {"kind": "sgd", "lr": 0.5},
            },
            "network": {"nodes": 100, "latency": "20ms", "bandwidth": "100Mbit/s"},
            "evaluation": {"every": 5},
        }
    )


def demo(arguments: argparse.Namespace) -> int:
    """Run two experiments of 100 nodes, then print a table and draw a figure."""
    from covey import view

    folder = arguments.out or api.new_folder("demo")
    print("100 nodes learn handwritten digits. Each holds about two of the ten digits, and")
    print("sends to 4 others in a round: with D-PSGD always the same 4, with Epidemic")
    print("Learning a new random 4.", flush=True)
    runs = []
    for name in TOPOLOGIES:
        chosen = experiment(name)
        with ProgressDisplay(name, chosen.rounds, chosen.network.nodes) as display:
            runs.append(api.run(chosen, out=folder / name, progress=display))
        if runs[-1].status == "interrupted":
            return report(runs[-1], as_json=False)
    figure = folder / "accuracy.png"
    view.save(view.curves(runs, "accuracy", "rounds"), figure)
    columns, rows = summary_table(runs, [run.summary() for run in runs])
    named = [[run.folder.name, *row] for run, row in zip(runs, rows, strict=True)]
    print_table("after 100 rounds", ("algorithm", *columns), named)
    print(f"\nfigure: {figure}")
    print(f"runs:   {' '.join(str(run.folder) for run in runs)}")
    print(f"more:   covey report {' '.join(str(run.folder) for run in runs)}")
    return 0
