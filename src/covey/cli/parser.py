"""The commands, their flags and their help."""

import argparse
from collections.abc import Callable
from pathlib import Path

from covey import __version__

Command = Callable[[argparse.Namespace], int]


def _lazily(module: str, name: str) -> Command:
    """A command that is imported when it is called, so that help does not load torch."""

    def command(arguments: argparse.Namespace) -> int:
        from importlib import import_module

        chosen: Command = getattr(import_module(f"covey.cli.{module}"), name)
        return chosen(arguments)

    return command


def make_parser() -> argparse.ArgumentParser:
    """The parser of `covey` and all of its commands."""
    parser = argparse.ArgumentParser(
        prog="covey",
        description="Write a decentralized-learning protocol once; run it over thousands of nodes in virtual time.",
        epilog="Start with: covey demo, then: covey new DIR",
    )
    parser.add_argument("--version", action="version", version=f"covey {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Command, summary: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=command)
        return added

    def takes_experiment(
        command: argparse.ArgumentParser, *, optional: bool = False, metavar: str = "FILE.toml", help: str = ""
    ) -> None:
        nargs = "?" if optional else None
        command.add_argument("file", metavar=metavar, type=Path, nargs=nargs, help=help or "the experiment")
        command.add_argument("--seed", type=int, help="short for --set seed=SEED")
        command.add_argument("--engine", help="short for --set engine.kind=ENGINE")
        command.add_argument("--data", type=Path, help="the data folder (default: the environment's COVEY_DATA)")

    def takes_set(command: argparse.ArgumentParser, help: str) -> None:
        command.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help=help)

    def takes_runs(command: argparse.ArgumentParser, more: str = "") -> None:
        help = f"the folder of a run, or a folder that holds such folders{more}"
        command.add_argument("runs", metavar="RUN", nargs="+", type=Path, help=help)

    def takes_labels(command: argparse.ArgumentParser, of: str) -> None:
        command.add_argument(
            "--label", metavar="TEXT", action="append", default=[], dest="labels",
            help=f"the name of a {of}; give one for each, in order (default: the keys that differ)",
        )  # fmt: skip

    run = add(
        "run", _lazily("running", "run"), "Run an experiment.", "covey run experiment.toml --set rounds=20 --seed 7"
    )
    takes_experiment(run, optional=True)
    takes_set(run, "set a key of the experiment, with dots between nested keys; may be repeated")
    run.add_argument("--out", type=Path, help="the run's folder (default: a new one under runs/)")
    run.add_argument("--resume", metavar="RUN", type=Path, help="resume an interrupted run")
    run.add_argument("--watch", action="store_true", help="open the live page of the run in a browser")
    run.add_argument("--json", action="store_true", help="print the summary as JSON, without progress")

    sweep = add(
        "sweep",
        _lazily("running", "sweep"),
        "Run an experiment with every combination of values; seeds are shown as mean and standard deviation.",
        "covey sweep experiment.toml --set program.topology.degree=2,4,7 --set seed=1,2,3",
    )
    takes_experiment(sweep)
    takes_set(sweep, "values of a key, separated by commas; may be repeated for all combinations")
    sweep.add_argument("--out", type=Path, help="the folder of the run folders (default: a new one under runs/)")
    sweep.add_argument(
        "--extend",
        action="store_true",
        help="continue in the folder: keep finished runs, resume others or, without a checkpoint, begin them again",
    )
    sweep.add_argument(
        "--jobs", metavar="N", type=int, default=1,
        help="the number of runs at a time, each in a process of its own (default: 1)",
    )  # fmt: skip
    sweep.add_argument("--json", action="store_true", help="print the table as JSON, without progress")

    check = add(
        "check",
        _lazily("checking", "check"),
        "Validate an experiment and show all its keys, its graph, model and bytes. "
        "Or check the files of a run against their checksums.",
        "covey check experiment.toml\n  covey check runs/demo-001/d-psgd",
    )
    takes_experiment(check, metavar="FILE.toml|RUN", help="the experiment, or the folder of a run")
    takes_set(check, "set a key of the experiment; may be repeated")
    check.add_argument(
        "--save-graph", metavar="EDGES", type=Path,
        help="write the graph and its weights to a file for the topology edges",
    )  # fmt: skip
    check.add_argument("--json", action="store_true", help="print JSON")

    listing = add("list", _lazily("listing", "list_kinds"), "List the parts of experiments.", "covey list topology")
    listing.add_argument("family", nargs="?", help="a family, such as topology or model")
    listing.add_argument("kind", nargs="?", help="a kind of the family, such as ring")
    listing.add_argument("--json", action="store_true", help="print JSON")

    show = add("show", _lazily("showing", "show"), "Show the results of a run.", "covey show runs/demo-001/d-psgd")
    show.add_argument("run", metavar="RUN", type=Path)
    show.add_argument("--json", action="store_true", help="print JSON")

    compare = add(
        "compare",
        _lazily("showing", "compare"),
        "Compare runs in a table, each experiment with mean and standard deviation over its seeds.",
        "covey compare runs/demo-001\n  covey compare runs/sweep-001 --table latex > table.tex",
    )
    takes_runs(compare)
    compare.add_argument(
        "--table", choices=("latex", "markdown", "csv"), help="print it for a paper, a page or another program"
    )
    compare.add_argument(
        "--metric", action="append", default=[],
        help="show this metric, of nodes or the network; may be repeated (default: accuracy, loss, bytes and time)",
    )  # fmt: skip
    takes_labels(compare, "row")
    compare.add_argument("--each", action="store_true", help="give every run a row, even if runs differ only in seeds")
    compare.add_argument(
        "--reach", metavar="ACCURACY", type=float, action="append", default=[],
        help="print the first time at which the mean over nodes reached an accuracy; may be repeated",
    )  # fmt: skip
    compare.add_argument("--json", action="store_true", help="print the summary of every run as JSON")

    plot = add(
        "plot",
        _lazily("showing", "plot"),
        "Draw a metric of runs against rounds, time, bytes or energy; runs that differ only in seeds are one line.",
        "covey plot runs/demo-001/d-psgd --metric accuracy --against bytes --out figure.png\n"
        "  covey plot runs/demo-001/epidemic-learning --graph --round 3 --out graph.png\n"
        "  covey plot experiment.toml --graph --out graph.svg",
    )
    takes_runs(plot, "; with --graph also the file of an experiment")
    plot.add_argument("--metric", default="accuracy", help="the metric to draw (default: accuracy)")
    plot.add_argument(
        "--against", default="rounds", choices=("rounds", "time", "bytes", "energy"), help="the horizontal axis"
    )
    plot.add_argument("--out", type=Path, default=Path("figure.png"), help="PNG, SVG or PDF (default: figure.png)")
    plot.add_argument("--each", action="store_true", help="draw one line per run, even if runs differ only in seeds")
    takes_labels(plot, "line")
    other = plot.add_mutually_exclusive_group()
    other.add_argument(
        "--histogram", action="store_true", help="draw the distribution of the metric's final values, of one run"
    )
    other.add_argument("--holdings", action="store_true", help="draw the samples of each node, of one run")
    other.add_argument(
        "--graph", action="store_true",
        help="draw the graph of one run or FILE.toml: nodes coloured by labels, groups together, lines as wide as the "
        "weights of merging",
    )  # fmt: skip
    plot.add_argument("--round", metavar="N", type=int, help="with --graph: the round, from 0 (default: 0)")
    plot.add_argument("--data", type=Path, help="with --graph FILE.toml: the data folder (default: COVEY_DATA)")

    report = add(
        "report",
        _lazily("showing", "report"),
        "Write a self-contained HTML page about runs.",
        "covey report runs/demo-001/d-psgd runs/demo-001/epidemic-learning",
    )
    takes_runs(report)
    takes_labels(report, "experiment")
    report.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default: report.html)")

    watch = add(
        "watch",
        _lazily("watching", "watch"),
        "Show runs in a browser while they grow: a page at an address of this machine, until Ctrl-C.",
        "covey watch runs\n  covey watch runs --listen 10.0.0.1:8765 --certs certs/launcher",
    )
    watch.add_argument(
        "folder", metavar="FOLDER", nargs="?", type=Path, default=Path("runs"),
        help="a folder of runs, or that of one (default: runs)",
    )  # fmt: skip
    watch.add_argument(
        "--listen", metavar="ADDRESS", default="127.0.0.1:8765",
        help="the address of the page; all but loopback need --token or --certs (default: 127.0.0.1:8765)",
    )  # fmt: skip
    watch.add_argument("--token", action="store_true", help="let only those read the page who have its link")
    watch.add_argument(
        "--certs", metavar="DIR", type=Path, help="this machine's folder from `covey certs`, to encrypt the page"
    )
    watch.add_argument("--open", action="store_true", help="open the page in a browser")
    watch.add_argument("--ends-with-input", action="store_true", help=argparse.SUPPRESS)

    export = add(
        "export",
        _lazily("showing", "export"),
        "Write the metrics of a run, one row per node and evaluated round.",
        "covey export runs/demo-001/d-psgd --format csv --out metrics.csv",
    )
    export.add_argument("run", metavar="RUN", type=Path)
    export.add_argument(
        "--models", metavar="FILE", type=Path, help="write the tensors of a final model to a safetensors file instead"
    )
    export.add_argument(
        "--node", default="average", help="the node of the model: an id, or average or best of those evaluated, or kept"
    )
    export.add_argument(
        "--tensorboard", metavar="DIR", type=Path, help="write event files for TensorBoard to a folder instead"
    )
    export.add_argument("--format", choices=("csv", "parquet"), default="csv")
    export.add_argument("--out", type=Path, help="the file (default for CSV: standard output)")

    host = add(
        "host",
        _lazily("hosting", "host"),
        "Run a host, which waits for a launcher and runs nodes of an emulation on this machine.",
        "covey host --listen 10.0.0.1:7000 --certs host-0",
    )
    where = host.add_mutually_exclusive_group(required=True)
    where.add_argument("--listen", metavar="ADDRESS", help="the address to listen on; all but loopback need --certs")
    where.add_argument(
        "--call-out", metavar="ADDRESS",
        help="the address of another host at which this one, which cannot be called, meets its callers",
    )  # fmt: skip
    where.add_argument("--socket", metavar="FD", type=int, help="a bound socket that this process inherits")
    where.add_argument("--forks", metavar="FD", type=int, nargs="+", help=argparse.SUPPRESS)
    host.add_argument("--modules", nargs="*", default=[], help=argparse.SUPPRESS)
    host.add_argument(
        "--data", metavar="FILE.toml", help="the data of this host's nodes, which stay here; or module:function"
    )
    host.add_argument("--certs", metavar="DIR", type=Path, help="this host's folder from `covey certs`")
    host.add_argument(
        "--token-file", metavar="FILE", type=Path,
        help="the secret that launchers and hosts share (default: that of the certificates)",
    )  # fmt: skip
    host.add_argument("--once", action="store_true", help="end after one run, or after a minute without a launcher")

    cluster = add(
        "cluster",
        _lazily("clustering", "cluster"),
        "Check the machines of a Ray cluster: their cores, GPUs and versions, and how fast they answer.",
        "covey cluster check --address 10.0.0.1:6379",
    )
    cluster.add_argument("what", choices=("check",), help="what to do: check")
    cluster.add_argument(
        "--address", help="the address of its head (default: RAY_ADDRESS or, without one, Ray is started here)"
    )
    cluster.add_argument(
        "--wait", metavar="SECONDS", type=float, default=60.0, help="the time in which each must answer (default: 60)"
    )
    cluster.add_argument("--json", action="store_true", help="print JSON")

    attack = add(
        "attack",
        _lazily("attacking", "attack"),
        "Attack a run with what its observed nodes received: what do its messages tell of the data of others?",
        "covey run experiment.toml --set observer.nodes=0,1\n"
        "  covey attack runs/run-s1-001 --kind linkability,membership-loss",
    )
    attack.add_argument("run", metavar="RUN", type=Path, help="the folder of a run with an observer")
    attack.add_argument(
        "--kind", metavar="KIND[,KIND]", action="append", required=True, help="the attacks; see covey list attack"
    )
    takes_set(attack, "set a parameter of an attack, as in --set membership-loss.messages=20; may be repeated")
    attack.add_argument(
        "--out", type=Path, help="the folder of tables and figures (default: attacks in that of the run)"
    )
    attack.add_argument("--data", type=Path, help="the data folder (default: the environment's COVEY_DATA)")
    attack.add_argument("--json", action="store_true", help="print JSON")

    infer = add(
        "infer",
        _lazily("inferring", "infer"),
        "Let the clients of a run answer its test samples, some with lies: how accurate are rules that combine them?",
        "covey infer runs/ensemble-s1-001 --rule mean,trimmed-mean,deepset --attack sia,pgd-cw --faulty 4",
    )
    infer.add_argument(
        "run", metavar="RUN", type=Path, help="the folder of a run whose clients have models of their own"
    )
    infer.add_argument(
        "--rule", metavar="KIND[,KIND]", action="append", default=[],
        help="the rules; see covey list inference-rule (default: those without training and, with validation samples, "
        "deepset)",
    )  # fmt: skip
    infer.add_argument(
        "--attack", metavar="KIND[,KIND]", action="append", default=[],
        help="the attacks; see covey list inference-attack (default: all)",
    )  # fmt: skip
    infer.add_argument("--faulty", metavar="F", type=int, help="the number of clients that lie (default: a quarter)")
    infer.add_argument("--samples", metavar="N", type=int, help="the greatest number of test samples (default: all)")
    infer.add_argument("--seed", type=int, default=0, help="the seed of liars, training and attacks (default: 0)")
    infer.add_argument(
        "--on-invalid", choices=("reject", "project"), default="reject",
        help="refuse outputs that are not probabilities, or project them (default: reject)",
    )  # fmt: skip
    takes_set(infer, "set a parameter of a rule or an attack, as in --set deepset.hidden=64; may be repeated")
    infer.add_argument(
        "--out", type=Path, help="the folder of the table and the figure (default: inference in that of the run)"
    )
    infer.add_argument("--data", type=Path, help="the data folder (default: the environment's COVEY_DATA)")
    infer.add_argument("--json", action="store_true", help="print JSON")

    certs = add(
        "certs",
        _lazily("certifying", "certs"),
        "Make certificates for a launcher and its hosts, with a folder for each machine.",
        "covey certs certs --hosts 10.0.0.1:7000 10.0.0.2:7000",
    )
    certs.add_argument("folder", metavar="DIR", type=Path, help="a new folder")
    certs.add_argument(
        "--hosts", metavar="ADDRESS", nargs="+", required=True, help="the address at which each host listens, in order"
    )
    certs.add_argument("--days", type=int, default=30, help="the days for which certificates are valid (default: 30)")

    new = add(
        "new",
        _lazily("creating", "new"),
        "Make a working folder: an experiment, an algorithm and data of your own, and a test.",
        "covey new mine",
    )
    new.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")

    demo = add(
        "demo",
        _lazily("demo", "demo"),
        "100 nodes learn handwritten digits without a server: D-PSGD on a static graph against Epidemic Learning.",
        "covey demo",
    )
    completion = add(
        "completion",
        _lazily("completing", "completion"),
        "Print the script that completes commands, options, kinds and run folders in a shell.",
        'eval "$(covey completion bash)"\n  covey completion fish > ~/.config/fish/completions/covey.fish',
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.add_argument("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    demo.add_argument("--out", type=Path, help="the folder (default: a new one under runs/)")
    return parser
