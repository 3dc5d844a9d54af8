"""The command line, from a folder of its own."""

import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import covey as covey_package
from covey import api
from covey.cli.tables import table_lines
from covey.runtime.experiment import Progress
from covey.runtime.runs import Run
from covey.view.progress import ProgressDisplay
from covey.view.words import counted, figure

EXPERIMENT = """
seed = 1
rounds = 6

[program]
kind = "gossip"
topology = { kind = "epidemic-oracle", degree = 3 }

[task]
dataset = "digits"
model = "logistic"
batch_size = 7
local_steps = 1
partition = { kind = "shards", per_node = 2 }
optimizer = { kind = "sgd", lr = 0.5 }

[network]
nodes = 20
latency = "20ms"
bandwidth = "100Mbit/s"

[evaluation]
every = 2
"""


@pytest.fixture
def file(in_folder):
    path = in_folder / "experiment.toml"
    path.write_text(EXPERIMENT)
    return path


def test_how_hosts_fared_is_shown_in_its_units(file, covey, in_folder):
    covey("run", "experiment.toml", "--out", "a", "--set", "rounds=1")
    figures = {"uplink_asked": 1e7, "uplink_achieved": 9.94e6, "send_late": 0.0123, "memory": 3e8, "dropped/lost": 7.0}
    with sqlite3.connect(in_folder / "a" / "metrics.sqlite") as metrics:
        metrics.executemany("INSERT INTO hosts VALUES (1.0, 0, ?, ?)", list(figures.items()))
    metrics.close()
    shown = {line.split()[0]: line.split()[1:] for line in covey("show", "a")[1].splitlines() if line.split()}
    assert shown["uplink_asked"] == ["10.0", "Mbit/s"]
    assert shown["uplink_achieved"] == ["9.9", "Mbit/s"]
    assert shown["send_late"] == ["12", "ms"]
    assert shown["memory"] == ["300.0", "MB"]
    assert shown["dropped/lost"] == ["7"]


def test_a_run_is_shown_compared_drawn_exported_and_reported(file, covey, in_folder):
    code, out, err = covey("run", "experiment.toml", "--out", "a", "--set", "rounds=4")
    assert code == 0, err
    assert "accuracy" in out
    assert "round 4/4" in err
    assert covey("run", "experiment.toml", "--out", "b", "--seed", "2")[0] == 0

    code, out, _ = covey("show", "a", "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["rounds"] == 4
    assert summary["totals"]["messages_out"] == 20 * 3 * 4
    assert {"mean", "min", "max"} <= summary["final"]["accuracy"].keys()
    assert covey("show", "a")[1].startswith("a: finished")

    code, out, _ = covey("export", "a", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {"round", "node", "time", "accuracy", "loss", "bytes_out", "bytes_in"} <= rows[0].keys()
    assert [(int(row["round"]), int(row["node"])) for row in rows] == [(r, n) for r in (2, 4) for n in range(20)]
    assert sum(int(row["bytes_out"]) for row in rows[-20:]) == summary["totals"]["bytes_out"]
    assert covey("export", "a", "--format", "parquet", "--out", "a.parquet")[0] == 0
    assert (in_folder / "a.parquet").stat().st_size > 0

    code, out, _ = covey("compare", "a", "b", "--json")
    assert [entry["rounds"] for entry in json.loads(out)] == [4, 6]
    code, out, _ = covey("compare", "a", "b", "--reach", "0.01", "--reach", "1.5", "--json")
    for entry in json.loads(out):
        assert entry["reached"]["0.01"]["time"] > 0
        assert entry["reached"]["1.5"] is None
    assert "never" in covey("compare", "a", "--reach", "1.5")[1]
    for against in ("rounds", "time", "bytes"):
        assert covey("plot", "a", "b", "--against", against, "--out", f"{against}.png")[0] == 0
        assert (in_folder / f"{against}.png").read_bytes()[:4] == b"\x89PNG"
    assert covey("plot", "a", "--metric", "consensus_distance", "--out", "c.svg")[0] == 0
    assert covey("plot", "a", "--holdings", "--out", "h.png")[0] == 0
    assert covey("plot", "a", "--graph", "--out", "g.png")[0] == 0
    assert covey("plot", "a", "--histogram", "--out", "i.png")[0] == 0
    for metric, hint in (("acuracy", "; did you mean 'accuracy'?"), ("consensus_distance", "")):
        code, _, err = covey("plot", "a", "--histogram", "--metric", metric)
        assert code == 2
        assert err.startswith(f"covey: Unknown metric '{metric}' of the nodes of the run a{hint}")
        assert err.count("\n") == 1
    code, _, err = covey("plot", "a", "--against", "energy")
    assert code == 2
    assert err == "covey: The run a has no energy: draw against rounds, time or bytes.\n"


def test_an_interrupted_run_is_resumed_as_without_the_interruption(file, covey):
    assert covey("run", "experiment.toml", "--out", "whole")[0] == 0
    assert covey("run", "experiment.toml", "--out", "cut", "--set", "checkpoint.every=2")[0] == 0
    import shutil

    facts = json.loads(Path("cut/facts.json").read_text())
    facts["starts"][0]["torch"] = "torch-of-old"
    Path("cut/facts.json").write_text(json.dumps({**facts, "status": "running"}))
    shutil.rmtree("cut/models.npy", ignore_errors=True)
    whole = Path("cut/run.toml").read_text()
    Path("cut/run.toml").write_text(whole.replace("lr = 0.5", "lr = 0.6"))
    code, _, err = covey("run", "--resume", "cut")
    assert (code, err.count("\n")) == (2, 1)
    assert "its run.toml has been changed since it began" in err
    Path("cut/run.toml").write_text(whole)
    code, out, err = covey("run", "--resume", "cut", "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "finished"
    assert covey("export", "cut")[1] == covey("export", "whole")[1]
    assert re.search(
        r"\n  took .* of real time in 2 starts\n  resumed after round 4, 20\S+, with torch \S+\n",
        covey("show", "cut")[1],
    )
    assert json.loads(covey("show", "whole", "--json")[1])["starts"] == 1
    covey("report", "cut")
    assert all(
        words in Path("report.html").read_text() for words in ("<td>wall_seconds</td>", "start 2", "torch-of-old")
    )
    code, _, err = covey("run", "--resume", "cut")
    assert code == 2
    assert "has finished" in err


PAUSING = """
import os, time
from dataclasses import replace
from pathlib import Path
from covey.decentralized.topology import Ring

class Pausing(Ring):
    def at(self, t):
        if t == 3 and "PAUSE" in os.environ:
            Path("paused").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        return super().at(t)
"""


def test_ctrl_c_stops_a_run_and_says_how_it_continues_to_the_bit(file, covey, in_folder):
    (in_folder / "pausing.py").write_text(PAUSING)
    settings = ["experiment.toml", "--set", "program.topology=pausing:Pausing"]
    assert covey("run", *settings, "--out", "whole")[0] == 0
    child = subprocess.Popen(
        [sys.executable, "-m", "covey", "run", *settings, "--out", "cut"],
        env={**os.environ, "PAUSE": "1", "PYTHONPATH": str(Path(api.__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (in_folder / "paused").exists() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    (in_folder / "go").touch()
    out, err = child.communicate()
    assert child.returncode == 130, err
    assert "cut (interrupted)" in out
    assert err.splitlines()[-1] == "Interrupted. Resume with: covey run --resume cut"
    assert covey("show", "cut", "--json")[1].count('"rounds": 4') == 1

    code, out, err = covey("run", "--resume", "cut")
    assert (code, "cut (finished)" in out) == (0, True), err
    whole, cut = Run("whole"), Run("cut")
    assert torch.equal(whole.models, cut.models)
    for table in ("commits", "metrics", "network", "events"):
        assert getattr(whole, table).equals(getattr(cut, table)), table


BARE = EXPERIMENT.replace('optimizer = { kind = "sgd", lr = 0.5 }', "")


@pytest.mark.parametrize(
    ("setting", "keys", "value"),
    [
        ("task.optimizer.lr=0.25", ("task", "optimizer"), {"kind": "sgd", "lr": 0.25}),
        ("task.optimizer={lr=0.25}", ("task", "optimizer"), {"kind": "sgd", "lr": 0.25}),
        ("network.compute.samples_per_second=7", ("network", "compute"), {"kind": "constant", "samples_per_second": 7}),
        ("network.uplink.rate=7", ("network", "uplink"), {"kind": "constant", "rate": 7}),
        ("engine.workers=1", ("engine",), {"kind": "simulation", "workers": 1}),
    ],
)
def test_a_table_without_a_kind_is_of_the_usual_one(setting, keys, value, in_folder, covey):
    (in_folder / "bare.toml").write_text(BARE)
    settings = ("bare.toml", "--set", setting, "--set", "rounds=1", "--json")
    codes = [covey("run", *settings, "--out", "r")[0], covey("sweep", *settings, "--out", "s")[0]]
    code, out, err = covey("check", *settings)
    assert [*codes, code] == [0, 0, 0], err
    for found in (json.loads(out)["experiment"], Run("r").experiment, Run("s/run").experiment):
        for key in keys:
            found = found[key]
        assert {name: found[name] for name in value} == value


def test_a_file_may_have_a_table_without_a_kind(in_folder, covey):
    (in_folder / "bare.toml").write_text(f"{BARE}\n[task.optimizer]\nlr = 0.25\n")
    assert json.loads(covey("check", "bare.toml", "--json")[1])["experiment"]["task"]["optimizer"]["kind"] == "sgd"


def test_check_says_what_an_experiment_means(file, covey):
    code, out, err = covey("check", "experiment.toml", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["parameters"] == 650
    assert found["graph"]["mean_degree"] == 3
    assert found["bytes_per_node_and_round"] == 3 * found["model_bytes"]
    assert found["graph"]["expected_contraction"] == pytest.approx((1 - 3 / 19) / 4)
    code, out, _ = covey("check", "experiment.toml")
    assert "spectral gap" in out
    assert "in a run of 6 rounds, counted in the first 6 without training\n" in out
    assert out.endswith("ok\n")
    shown, _, _ = out.partition("\nmodel  ")
    assert tomllib.loads(shown) == found["experiment"]
    for table, key in (("program", "patience"), ("network", "uplink"), ("evaluation", "samples")):
        assert f"\n# {key} = (none)\n" in shown.partition(f"[{table}]")[2].partition("\n[")[0]


def test_an_infinite_rate_is_null_in_json(file, covey):
    code, out, err = covey("check", "experiment.toml", "--set", "network.bandwidth=inf", "--json")
    assert code == 0, err
    assert "Infinity" not in out
    assert json.loads(out)["experiment"]["network"]["bandwidth"]["rate"] is None


def test_list_names_everything(covey):
    code, out, _ = covey("list", "topology")
    assert code == 0
    assert "epidemic-oracle: " in out
    assert "degree: an int in [1, nodes) (required)." in out
    assert len(json.loads(covey("list", "--json")[1])) > 50
    overview = covey("list")[1]
    assert all(name in overview for name in ("gossip, gossip-learning", "epidemic-oracle", "covey list FAMILY KIND"))
    assert len(overview.splitlines()) < 40
    for arguments in (("topology", "epidemic-oracle"), ("epidemic-oracle",)):
        _, out, _ = covey("list", *arguments)
        assert out.endswith('topology = { kind = "epidemic-oracle", degree = <an int in [1, nodes)> }\n')
    assert covey("list", "topology", "ring")[1].endswith('topology = "ring"\n')
    assert covey("list", "yogi")[1].endswith('server_optimizer = "yogi"\n')
    assert "did you mean 'ring'" in covey("list", "topology", "rin")[2]


def test_list_names_the_keys_of_tables(covey):
    _, out, _ = covey("list", "program", "cpfl")
    assert "      plateau.window: an int in [1, inf) (default 20). The number of rounds" in out
    assert "      distillation.weights: one of 'label'" in out
    assert "rule." not in out  # Parts of a family have entries of their own.
    (found,) = json.loads(covey("list", "program", "cpfl", "--json")[1])
    keys = next(one["keys"] for one in found["parameters"] if one["name"] == "plateau")
    assert [key["name"] for key in keys] == ["window", "patience"]
    assert "plateau.patience: " in repr(covey_package.list("program", "cpfl"))


@pytest.mark.parametrize(
    "command", ["run", "sweep", "check", "list", "show", "compare", "plot", "report", "export", "new", "demo"]
)
def test_every_command_has_help_with_an_example(command, covey):
    code, out, _ = covey(command, "--help")
    assert code == 0
    assert f"example:\n  covey {command}" in out


MISTAKES = {
    "rnds=3": "Unknown key 'rnds' of the experiment; did you mean 'rounds'?",
    "rounds=many": "The 'rounds' of the experiment must be an int in [1, inf). Got 'many' instead.",
    "program.topology.degree=96": "The 'degree' of the topology epidemic-oracle must be an int in [1, nodes). Got 96 instead (nodes is 20).",
    "network.nodes=21": "The 'degree' of the topology epidemic-oracle must be even if the number of nodes is odd.",
    "network.nodes=2000": "must give each node a sample: nodes must be in [1, 1437]",
    "network.latency=20 parsec": "Unknown latency '20 parsec', which is neither a kind nor a duration such as \"20ms\".",
    "network=20": "The 'network' of the experiment must be a table. Got 20 instead.",
    "evaluation=often": "The 'evaluation' of the experiment must be a table. Got 'often' instead.",
    "network.bandwidth=-3": "The 'rate' of the bandwidth constant must be",
    "task.dataset=digitz": "Unknown dataset 'digitz'; did you mean 'digits'",
    "task.model=lenet": "The model lenet takes 28x28 or 32x32 images with channels first. Got samples of shape 1x8x8",
    "task.dataset=mnist": "Downloading http://127.0.0.1:9/train-images-idx3-ubyte.gz failed",
    "task.optimizer.lr=1e39": "is not finite after its training in round",
    "task.model=own_models:Raises": "The model own_models:Raises fails: RuntimeError: boom second line (",
    "task.model=own_models:Narrow": "The model own_models:Narrow predicts (7, 3) for a batch whose targets are (7,)",
    "task.model=own_models:Needy": "The 'width' of the model own_models:Needy is missing: it must be a value.",
    'task={dataset="digits",model="own_models:NotANumber",non_finite="drop"}': "The models of all nodes with data were dropped",
    "task.model=own_models:NotANumber": "The model of node 0 is not finite after its training in round 0.",
    "engine.device=cuda:77": "torch finds no",
    "program=nowhere:Program": "The program 'nowhere:Program' cannot be imported: nowhere fails with ModuleNotFoundError",
    "program=raises_at_import:Any": "cannot be imported: raises_at_import fails with ValueError: no second line",
    "program=exits_at_import:Any": "cannot be imported: exits_at_import fails with SystemExit: 3",
    "program=own_models:Other": "The program 'own_models:Other' does not exist: own_models has no Other.",
    "program=own_models:": "Unknown program 'own_models:'.",
    "program=:Class": "Unknown program ':Class'.",
    "network.latency.seconds=3": "The key 'latency' in 'network.latency.seconds' is not a table, but '20ms'.",
    "program.schedule.every=2": "Unknown key 'every' of the schedule every-round. It takes none. That kind is the default, of every-round, greedy, periodic, skiptrain.",
    "network.churn.mean_up=2": "The churn has no 'kind'. Known: availability, none, rate, trace.",
    "name=../../evil": "The 'name' of the experiment must be at most 64 letters, digits, '.', '_' and '-'",
    "name=a b/c": "must not begin with '.' or '-': it names folders. Got 'a b/c' instead.",
    "name=-v": "Got '-v' instead.",
    'name=""': "Got '' instead.",
    "nonsense": "A setting must be written \"key=value\". Got 'nonsense' instead.",
    "seed.x=3": "The key 'seed' in 'seed.x' is not a table",
}


OWN_MODELS = """
import torch

class Narrow(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 3))

class NotANumber(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    def forward(self, x):
        return super().forward(x) * float("nan")

class Raises(Narrow):
    def forward(self, x):
        raise RuntimeError("boom\\nsecond line")

class Needy(Narrow):
    def __init__(self, width):
        super().__init__()
"""


@pytest.mark.parametrize("setting", MISTAKES)
def test_a_mistake_is_one_line_and_no_traceback(setting, file, covey, monkeypatch, in_folder):
    monkeypatch.setenv("COVEY_DATA", str(in_folder / "data"))
    (in_folder / "own_models.py").write_text(OWN_MODELS)
    (in_folder / "raises_at_import.py").write_text("raise ValueError('no\\nsecond line')")
    (in_folder / "exits_at_import.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr("covey.learning.datasets.images.MNIST.mirrors", ("http://127.0.0.1:9/",))
    code, _, err = covey("run", "experiment.toml", "--set", setting, "--out", "x")
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("covey: ")]
    assert len(lines) == 1
    assert MISTAKES[setting] in lines[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.toml"), "The experiment file missing.toml cannot be read: No such file or directory."),
        (("run",), "Give an experiment"),
        (("show", "."), ". is not a run folder"),
        (("run", "experiment.toml", "--out", "experiment.toml"), "cannot be made"),
        (("run", "experiment.toml", "--out", "."), "The run folder . is not empty"),
        (("run", "latin.toml"), "The experiment file latin.toml is not valid TOML: it is not UTF-8."),
        (("sweep", "experiment.toml", "--out", "experiment.toml"), "experiment.toml is not an empty folder"),
        (
            ("sweep", "experiment.toml", "--set", "program.topology=ring,{kind='epidemic-local', degree=}"),
            "A value that begins with a quote or a bracket must be TOML. Got \"{kind='epidemic-local', degree=}\"",
        ),
        (("sweep", "experiment.toml", "--set", "=1,2"), "A setting must be written \"key=a,b,c\". Got '=1,2' instead."),
        (("list", "topologi"), "Unknown family 'topologi'; did you mean 'topology'? Near it: topology, "),
        (("list", "zzz"), "Unknown family 'zzz'. Known: aggregation, aggregator, attack, augmentation, bandwidth, "),
    ],
)
def test_other_mistakes_are_one_line_too(arguments, message, file, covey):
    Path("latin.toml").write_bytes(b'name = "\xe9"')
    code, _, err = covey(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_warning_is_one_line(file, covey):
    code, _, err = covey("check", "experiment.toml", "--set", 'program.sharing={ kind = "jwins", level = 12 }')
    assert code == 0
    assert err == (
        "covey: warning: The 'level' of the sharing jwins is 12, but sym2 can halve a model of 650 numbers only 7 times: "
        "7 is used.\n"
    )


def test_a_broken_file_names_its_line(in_folder, covey):
    (in_folder / "bad.toml").write_text("rounds = \n")
    code, _, err = covey("run", "bad.toml")
    assert code == 2
    assert "bad.toml is not valid TOML" in err
    assert "line 1" in err


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.1234, "0.123"), (-999_999.0, "-999999.000"), (1.5e20, "1.5e+20")]
)
def test_a_large_figure_is_short(value, text):
    assert figure(value) == text


@pytest.mark.parametrize("width", [100, 60, 30])
def test_a_table_too_wide_for_its_screen_goes_on_below(width):
    attacks = ["logit-flipping", "sia", "sia-colluding", "sia-white-box", "lma", "cpa", "impersonation", "pgd-cw"]
    columns = ["rule", "none", *attacks, "worst", "worst per query", "certified"]
    rows = [[rule, *(f"{index}.5" for index in range(len(columns) - 1))] for rule in ("geometric-median", "mean")]
    lines = table_lines(columns, rows, width)
    assert max(map(len, lines)) <= width
    assert [cell for line in lines if line.startswith("mean") for cell in line.split()[1:]] == rows[1][1:]
    assert table_lines(["rule"], [["mean"]], width) == ["rule", "────", "mean"]


def test_the_last_line_of_a_run_is_printed_once(capsys):
    last = Progress(3.0, 3, 1.0, 6, 0.5, None)
    with ProgressDisplay("run", 3, 2) as display:
        display(last)
        display(replace(last, accuracy=0.75))
    (line,) = capsys.readouterr().err.splitlines()
    assert "round 3/3" in line
    assert "accuracy 0.750" in line


def test_the_time_that_is_left_ends_with_the_duration_of_a_run(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("covey.view.progress.perf_counter", lambda: now)
    display = ProgressDisplay("run", 1000, 2, duration=8.0)
    for now in (1.0, 6.0):
        display(Progress(now, 1000, now / 3, int(2 * now), 0.5, None))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("18.0 s left")  # 2 of 8 seconds have taken 6.


def test_one_thing_is_no_plural():
    assert [counted(number, "training step") for number in (0, 1, 1024)] == [
        "0 training steps",
        "1 training step",
        "1,024 training steps",
    ]


SWEPT = [["degree = 2", "5", "0.551 ± 0.018", "2.1 MB"], ["degree = 4, lr = 0.25", "5", "0.726 ± 0.023", "14.3 MB"]]


def test_a_table_is_as_wide_as_the_terminal_and_cuts_no_figure():
    columns = ("configuration", "runs", "worst node", "bytes sent")
    assert table_lines(columns, SWEPT, 100) == [
        "configuration          runs     worst node  bytes sent",
        "──────────────────────────────────────────────────────",
        "degree = 2                5  0.551 ± 0.018      2.1 MB",
        "degree = 4, lr = 0.25     5  0.726 ± 0.023     14.3 MB",
    ]
    assert table_lines(columns, SWEPT, 38) == [
        "                        worst    bytes",
        "configuration   runs     node     sent",
        "──────────────────────────────────────",
        "degree = 2         5    0.551   2.1 MB",
        "                      ± 0.018",
        "degree = 4, lr     5    0.726  14.3 MB",
        "= 0.25                ± 0.023",
    ]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_display_fits_the_terminal_and_tells_how_far_a_run_is(width, monkeypatch):
    from rich.console import Console

    clock = iter([0.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr("covey.view.progress.perf_counter", lambda: next(clock))
    display = ProgressDisplay("a rather long name of a run with many settings in it", 100, 8)
    display(Progress(10, 100, 0.5, 80, 2.0, None))
    display(Progress(30, 100, 1.5, 240, 1.0, 0.75))
    screen = io.StringIO()
    Console(file=screen, width=width, force_terminal=False).print(display)
    lines = screen.getvalue().splitlines()
    assert len(lines) == (1 if width == 160 else 2)
    assert all(len(line.rstrip()) <= width for line in lines)
    words = "round 30/100, 1.5 s virtual, accuracy 0.750, 16 node-rounds/s"
    assert (words if width > 60 else words[:50]) in lines[-1]
    assert "30 %" in lines[0]
    assert "35.0 s left" in lines[0]


def test_a_run_that_continues_is_timed_from_where_it_continued(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 11.0])
    monkeypatch.setattr("covey.view.progress.perf_counter", lambda: next(clock))
    display = ProgressDisplay("run", 100, 8)
    display(Progress(90, 100, 9.0, 0, 2.0, None))
    assert display._line() == "run: round 90/100, 9.0 s virtual, loss 2.000"
    display(Progress(95, 100, 9.5, 40, 2.0, None, stopping=True))
    assert capsys.readouterr().err.splitlines() == [
        "run: round 95/100, 9.5 s virtual, loss 2.000, 4 node-rounds/s, stopping after this round"
    ]
