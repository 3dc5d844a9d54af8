"""Examples that several tests share: programs by name, one that records, and each kind in a small experiment."""

import itertools
import json
import math
import types
import typing
from pathlib import Path

from covey.learning.node import LearningNode, LearningProgram
from covey.parts import kinds
from covey.parts.parameters import Part
from covey.parts.pieces import Piece
from tests.conftest import simulate, table

NODES = 12
EPIDEMIC = {"kind": "epidemic-oracle", "degree": 3}
PROGRAMS = {
    "ring": {"kind": "gossip", "topology": "ring"},
    "overlap": {"kind": "gossip", "topology": "torus", "overlap": True},
    "epidemic-oracle": {"kind": "gossip", "topology": EPIDEMIC},
    "epidemic-local": {"kind": "gossip", "topology": {"kind": "epidemic-local", "degree": 3}},
    "periodic": {"kind": "gossip", "topology": EPIDEMIC, "schedule": {"kind": "periodic", "every": 2}},
    "fedavg": {"kind": "fedavg", "clients": 4},
    "ad-psgd": {"kind": "ad-psgd", "topology": "ring"},
    "gossip-learning": {"kind": "gossip-learning", "topology": "ring", "period": "20ms"},
}
IMPATIENT = {"kind": "tests.programs.impatient:Impatient", "topology": "ring"}
"""Waits for ever, and is checked by nobody."""
NEVER_WAITS = {
    *("ad-psgd-queued", "asynchronous-epidemic", "divshare", "gossip-learning", "swift", "swift-push"),
}
"""The programs without a patience, because no node waits for another."""
NEEDS_ALL = {"d2", "gradient-tracking"}
"""The programs that are refused where messages can be lost."""
ONE_SHOT = ("fedavg-1", "ensemble", "fedkd", "feddf")
"""The programs in which a client sends one message."""
FEDERATED = ("fedavg", "fednova", "scaffold", "fedsgd")
"""The programs that are made of the parts of fedavg."""
ASYNCHRONOUSLY_SERVED = ("fedasync", "fedbuff", "dynsgd", "fleet")
"""The programs in which clients end when a server has made its versions."""
SILENT = ("local", "centralised")
"""The programs in which nothing is sent."""
SERVED = (*FEDERATED, *ASYNCHRONOUSLY_SERVED, "cpfl", *ONE_SHOT, "fens", "robust-inference", *SILENT)
"""The programs in which node 0 is a server."""
SYNCHRONOUS = ["ring", "overlap", "epidemic-oracle", "epidemic-local", "periodic", "fedavg"]
SLOW = {"compute": {"kind": "stragglers", "samples_per_second": 500, "fraction": 0.25, "slowdown": 4}}


class Recorded(LearningProgram):
    """Runs what a test wants, and remembers what it saw."""

    kind = "recorded"

    def prepare(self, setting):
        super().prepare(setting)
        self.seen = []

    async def run(self, node: LearningNode) -> None:
        raise NotImplementedError


def run_program(program, **changes):
    """Run a program in the small experiment: the world, what was written, and what the program saw."""
    tables = table(**changes)
    tables["program"] = program
    world, written = simulate(tables)
    return world, written, world.program.seen


BLOBS = {"dataset": {"kind": "gaussian-blobs", "samples": 240, "test_samples": 60}, "model": "logistic"}
PUBLIC = {"dataset": {"kind": "gaussian-blobs", "samples": 60, "test_samples": 10}}
DISTILS = {
    "cpfl": {"public": PUBLIC, "validation": 0.2},
    **{kind: {"public": PUBLIC} for kind in ("fedkd", "feddf")},
}
"""The parts of the task that programs with a distillation need."""
FLEET = {"lr": 0.3, "period": "100ms", "profiler": {"kind": "constant", "samples": 8}}
EXAMPLES: dict[tuple[str, str], dict[str, typing.Any]] = {
    ("task", "learning"): BLOBS,
    ("program", "gossip"): {"topology": "ring"},
    ("program", "clique-averaging"): {"topology": {"kind": "random-cliques", "size": 4}, "lr": 0.1},
    ("program", "push-sum"): {"topology": {"kind": "epidemic-local", "degree": 3}},
    ("program", "shatter"): {"virtual_nodes": 3, "degree": 2, "placement": "own"},
    ("program", "shatter-apart"): {"virtual_nodes": 3, "degree": 2},
    ("program", "gossip-learning"): {"topology": "ring", "period": "20ms"},
    **{("program", kind): {"clients": 4} for kind in FEDERATED},
    ("program", "fedbuff"): {"buffer": 3},
    # Not as int8, which rounds models, for a test in which nothing is learned.
    ("program", "fens"): {"models": "float32"},
    ("program", "cpfl"): {"cohorts": 3, "count": 3, "distillation": {"epochs": 2, "batch_size": 16}},
    **{("program", kind): {"distillation": {"epochs": 2, "batch_size": 16}} for kind in ("fedkd", "feddf")},
    ("program", "fleet"): FLEET,
    ("program", "ad-psgd"): {"topology": "ring"},
    ("program", "swift"): {"topology": "ring"},
    ("program", "divshare"): {"omega": 0.3, "fanout": 3},
    ("program", "d2"): {"topology": "ring"},
    ("program", "gradient-tracking"): {"topology": "ring"},
    ("program", "quasi-global-momentum"): {"topology": "ring", "beta": 0.5},
    ("program", "relay-sgd"): {"topology": "tree"},
    ("topology", "random-regular"): {"degree": 4},
    ("topology", "d-cliques"): {"size": 4, "swaps": 20},
    ("topology", "random-cliques"): {"size": 4},
    ("topology", "diverse-neighbours"): {"degree": 4},
    ("topology", "stl-fw"): {"budget": 4},
    ("topology", "erdos-renyi"): {"probability": 0.5},
    ("topology", "epidemic-oracle"): {"degree": 3},
    ("topology", "epidemic-local"): {"degree": 3},
    ("topology", "mosaic"): {"degree": 2, "fragments": 1},
    ("topology", "redrawn"): {"topology": EPIDEMIC, "every": 2},
    ("topology", "equitopo-static"): {"shifts": 2},
    ("topology", "base-graph"): {"degree": 2},
    ("topology", "matcha"): {"topology": {"kind": "random-regular", "degree": 4}, "budget": 0.5},
    ("latency", "uniform"): {"low": 0.001, "high": 0.02},
    ("latency", "log-normal"): {"median": 0.01},
    ("latency", "plane"): {"per_unit": 0.02},
    ("latency", "per-node"): {"median": 0.005},
    ("latency", "constant"): {"seconds": 0.01},
    ("bandwidth", "constant"): {"rate": "1Mbit/s"},
    ("bandwidth", "log-normal"): {"median": "1Mbit/s"},
    ("bandwidth", "stragglers"): {"rate": "1Mbit/s", "fraction": 0.25, "slowdown": 4.0},
    ("compute", "log-normal"): {"median": 500.0},
    ("compute", "constant"): {"samples_per_second": 500.0},
    ("compute", "stragglers"): {"samples_per_second": 500.0, "fraction": 0.25, "slowdown": 4.0},
    ("devices", "phones"): {"fixed": "20ms", "drift": 0.2, "period": "100ms", "noise": 0.1},
    ("energy", "constant"): {"power": "5W", "per_byte_out": "20nJ", "per_byte_in": "10nJ"},
    ("churn", "rate"): {"mean_up": "100ms", "mean_down": "30ms"},
    ("partition", "dirichlet"): {"alpha": 0.5},
    ("partition", "quantity"): {"alpha": 1.0},
    ("partition", "draws"): {"per_node": 20},
    ("client-work", "budgets"): {"steps": 3},
    # All are needed, so that times decide on nothing.
    ("client-selection", "over-selection"): {"fraction": 1.0},
    ("optimizer", "guessed"): {"of": {"kind": "sgd", "momentum": 0.9}, "guesses": 2},
    ("learning-rate", "step"): {"every": 2, "gamma": 0.5},
    ("learning-rate", "cosine"): {"rounds": 5},
    ("augmentation", "noise"): {"deviation": 0.1},
    ("schedule", "periodic"): {"every": 2},
    ("schedule", "greedy"): {"budget": 3},
    ("sharing", "random"): {"budget": 0.3},
    ("sharing", "random-layers"): {"budget": 0.5},
    ("sharing", "top-k"): {"budget": 0.3},
    ("sharing", "jwins"): {"level": 3},
    ("sharing", "fft"): {"budget": 0.3},
    ("sharing", "choco"): {"compressor": {"kind": "top-k", "budget": 0.3}, "gamma": 0.5},
    ("sharing", "stc"): {"budget": 0.3, "gamma": 0.5},
    ("sharing", "quantized"): {"compressor": "int8"},
    ("sharing", "cesar"): {"subset": {"kind": "random", "budget": 0.5}},
    # Noise so small that nodes with equal models stay so, for a test.
    ("sharing", "zip-dl"): {"sigma": 1e-7},
    ("sharing", "muffliato"): {"sigma": 1e-7, "steps": 2},
}
"""The required parameters of each kind in an experiment that works."""
WHOLE: dict[tuple[str, str], dict[str, typing.Any]] = {
    **{("sharing", kind): {"budget": 1.0} for kind in ("random", "random-layers", "top-k", "jwins", "fft")},
    ("sharing", "mosaic"): {},
    ("sharing", "choco"): {"compressor": {"kind": "top-k", "budget": 1.0}, "gamma": 1.0},
    ("sharing", "cesar"): {"subset": {"kind": "random", "budget": 1.0}},
    **{("sharing", kind): {"sigma": 0.0} for kind in ("zip-dl", "muffliato")},
    # Of two exchanges in turn, one is through all of a matrix's smaller side.
    ("sharing", "power-gossip"): {"rank": 1000, "iterations": 2},
}
"""The parameters with which a sharing sends the whole model."""
NEVER_WHOLE = {"quantized": "rounds every value", "stc": "says signs and one magnitude"}
"""Sharings that cannot send the whole model as it is, and why."""
FILES = {
    ("topology", "edges"): "".join(f"{i} {(i + step) % NODES} 0.2\n" for i in range(NODES) for step in (1, 5)),
    ("latency", "matrix"): "\n".join(",".join(f"0.0{1 + (i * j) % 7}" for j in range(NODES)) for i in range(NODES)),
    ("bandwidth", "trace"): "bandwidth\n" + "".join(f"{10**6 + 10**5 * i}\n" for i in range(NODES)),
    ("compute", "trace"): "samples_per_second\n" + "".join(f"{200 + 50 * i}\n" for i in range(NODES)),
    ("devices", "trace"): "device,samples_per_second,temperature\n"
    + "".join(f"d{i % 3},{200 + 50 * i},{20 + i}\n" for i in range(NODES)),
    ("churn", "availability"): json.dumps(
        {str(i): {"active": [0, 200 + i], "inactive": [150 + i, 390], "finish_time": 400} for i in range(NODES)}
    ),
    ("churn", "trace"): "node,event,time\n3,crash,0.05\n3,return,0.12\n5,join,0.08\n",
    ("partition", "file"): "sample,node\n" + "".join(f"{sample},{sample % NODES}\n" for sample in range(200)),
}
"""The content of the file of each kind that reads one."""
IN_PROGRAM = ("topology", "sharing", "schedule", "aggregation")
IN_FEDAVG = {"client-selection": "clients", "client-work": "work", "server-optimizer": "server_optimizer"}
"""The places of parts of each family in the program fedavg."""
IN_FLEET = {"profiler": ("profiler",), "staleness": ("weights", "dampening")}
"""The same in the program fleet."""
COMPRESSED = {"kind": "fedavg", "clients": 4, "up": {"kind": "ternary", "budget": 0.3}, "down": "fp16"}
"""A server and clients that send compressed changes."""
IN_NETWORK = ("latency", "bandwidth", "compute", "devices", "churn", "energy")
NOT_HERE = {
    ("program", "semantic-clustering"): "learns nothing",
    ("partition", "natural"): "needs data with owners",
    **dict.fromkeys((("compute", "devices"), ("energy", "device-power")), "needs devices"),
    **{("augmentation", kind): "is of images" for kind in ("horizontal-flip", "random-crop")},
    **{("metric", kind): "is of values" for kind in ("mse", "mae", "r2")},
    **{("model", kind): "is of another task" for kind in kinds.built_in()["model"] if kind not in ("logistic", "mlp")},
}
LEARNING = [kind for kind in kinds.built_in()["program"] if ("program", kind) not in NOT_HERE]
"""The programs that learn."""
RUNS = [
    (family, kind)
    for family in (
        *("program", *IN_PROGRAM, *IN_FEDAVG, *IN_FLEET, *IN_NETWORK),
        *("partition", "model", "objective", "metric", "optimizer", "learning-rate", "augmentation"),
    )
    for kind in kinds.built_in()[family]
    if (family, kind) not in NOT_HERE
]
"""Every kind that can stand in a small experiment."""


class Keeping(types.SimpleNamespace):
    """A stand-in for a node that has an `id` and a `state`."""

    def keep(self, state, of=""):
        return state(self, of if isinstance(of, str) else of.place)


def pieces_of(shapes, roles=None):
    """The tensors of a model with these shapes, trained ones where nothing else is said."""
    ends = list(itertools.accumulate(map(math.prod, shapes), initial=0))
    roles = roles or ["trained"] * len(shapes)
    return tuple(
        Piece(f"layer.{number}", role, *ends[number : number + 2], tuple(shape))
        for number, (shape, role) in enumerate(zip(shapes, roles, strict=True))
    )


def family_class(cls: type) -> type:
    """The class below `Part` that a part derives from and that names its family."""
    return next(base for base in reversed(cls.__mro__) if getattr(base, "family", "") and issubclass(base, Part))


def part_table(family: str, kind: str, files: Path) -> dict[str, typing.Any]:
    """A working part of a kind, as in an experiment file."""
    if (family, kind) in FILES:
        return {"kind": kind, "file": str(files / f"{family}-{kind}")}
    return {"kind": kind, **EXAMPLES.get((family, kind), {})}


def run_table(family: str, kind: str, files: Path, **changes: typing.Any) -> dict[str, typing.Any]:
    """A small experiment in which a kind has its place."""
    part = part_table(family, kind, files)
    tables = table(task={**BLOBS, "batch_size": 8}, network={"nodes": NODES}, rounds=5, evaluation={"every": 2})
    if family == "program":
        needed = {"validation": 0.2} if kind == "fens" else DISTILS.get(kind, {})
        tables["program"], tables["task"] = part, {**tables["task"], **needed}
    elif family in IN_PROGRAM:
        weighted = part_table("topology", "edges", files)
        topology: typing.Any = weighted if (family, kind) == ("aggregation", "given") else "ring"
        tables["program"] = {"kind": "gossip", "topology": topology, family: part}
    elif family in IN_FEDAVG:
        tables["program"] = {"kind": "fedavg", IN_FEDAVG[family]: part}
    elif family in IN_FLEET:
        *outer, last = IN_FLEET[family]
        placed = {last: part}
        tables["program"] = {"kind": "fleet", **FLEET, **({outer[0]: placed} if outer else placed)}
        tables["network"]["devices"] = "phones"
    elif family in IN_NETWORK:
        tables["network"][family] = part
    elif family == "learning-rate":
        tables["task"]["optimizer"] = {"kind": "sgd", "lr": 0.3, "schedule": part}
    elif family in ("metric", "augmentation"):
        tables["task"]["metrics" if family == "metric" else family] = [part]
    else:
        tables["task"]["loss" if family == "objective" else family] = part
    if family == "churn":
        tables["program"] = {"kind": "gossip", "topology": EPIDEMIC, "patience": "50ms"}
    for name, value in changes.items():
        tables[name] = {**tables.get(name, {}), **value} if isinstance(value, dict) else value
    return tables
