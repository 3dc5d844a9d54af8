"""One test for everything that has a name: declared well, described, strict about its parameters, and true to what
the contract says of every program on every engine and of every part.

Shapes: N nodes, P parameters.
"""

import dataclasses
import itertools
import math
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey import kinds, wire
from covey.cli.listing import described
from covey.engines.prepared import prepare
from covey.engines.simulation.node import SimulatedNode
from covey.engines.simulation.world import World
from covey.errors import ConfigurationError
from covey.experiment import Checkpoint, Evaluation, Experiment, Output
from covey.network import Network
from covey.node import Program
from covey.parameters import (
    MISSING,
    Limits,
    Part,
    Quantity,
    Setting,
    build,
    default_of,
    expectation,
    fields_of,
    param,
    to_table,
)
from covey.rng import generator, mix, purpose_key
from covey.task.datasets.synthetic import GaussianBlobs
from covey.task.task import Task
from covey.topology import Graph, Topology
from tests.conftest import Written, models_of, simulate, table

ALL = [(family, kind) for family, known in kinds.KINDS.items() for kind in known]
REQUIRED = {
    "degree": 2,
    "every": 2,
    "probability": 0.5,
    "topology": "ring",
    "file": "some.csv",
    "per_node": 2,
    "rate": "1Mbit/s",
    "median": 1.0,
    "sigma": 0.5,
    "low": 0.001,
    "high": 0.002,
    "seconds": 0.1,
    "samples_per_second": 100.0,
    "fraction": 0.1,
    "slowdown": 10.0,
    "mean_up": "10s",
    "mean_down": "1s",
    "rounds": 10,
    "base": 0.001,
    "span": 0.01,
}


def example(family: str, kind: str, **changes: object) -> Part:
    """A part of a kind with its required parameters filled in."""
    cls = kinds.load(family, kind)
    table: dict[str, object] = {
        name: REQUIRED.get(name, 1) for name in fields_of(cls) if default_of(cls, name) is MISSING
    }
    return build(family_class(cls), {"kind": kind, **table, **changes})


def family_class(cls: type) -> type:
    """The class below `Part` that a part derives from and that names its family."""
    return next(base for base in reversed(cls.__mro__) if getattr(base, "family", "") and issubclass(base, Part))


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_every_kind_says_its_name_what_it_is_and_what_its_parameters_are(family, kind):
    cls = kinds.load(family, kind)
    assert cls.family == family
    assert cls.kind == kind
    entry = described(family, kind)
    assert len(entry["summary"]) > 10
    assert entry["summary"].endswith(".")
    for parameter in entry["parameters"]:
        assert parameter["doc"].endswith("."), parameter["name"]
        assert parameter["is"] != "a value" or parameter["name"] == "graph"


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_every_kind_survives_the_way_to_a_file_and_back(family, kind):
    part = example(family, kind)
    assert build(family_class(type(part)), to_table(part)) == part


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_every_kind_refuses_what_it_does_not_know(family, kind):
    with pytest.raises(ConfigurationError, match=rf"Unknown key 'nonsense' of the {family} {kind}"):
        example(family, kind, nonsense=1)


def wrong_values(hint: typing.Any, limits: Limits) -> list[object]:
    """Values that a parameter must refuse."""
    origin = typing.get_origin(hint)
    if limits.choices or origin is typing.Literal:
        return ["nonsense"]
    bare = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    if type(None) in typing.get_args(hint) and len(bare) == 1:
        return wrong_values(bare[0], limits)
    quantity = origin is typing.Annotated and isinstance(hint.__metadata__[0], Quantity)
    if hint in (int, float) or quantity:
        wrong: list[object] = [True, [], "12 bananas"]
        if hint is not int:
            wrong.append(math.nan)
        low = limits.ge if limits.ge is not None else limits.gt
        if isinstance(low, int | float):
            wrong.append(low - 1 if hint is int else low - 0.5)
        if isinstance(limits.gt, int | float):
            wrong.append(limits.gt)
        high = limits.le if limits.le is not None else limits.lt
        if isinstance(high, int | float) and high != float("inf"):
            wrong.append(high + 1 if hint is int else high + 0.5)
        return wrong
    if origin in (list, dict) or hint is dict:
        return [3, "nonsense"]
    if isinstance(hint, type) and issubclass(hint, Part):
        return [[]]
    return {bool: [1, "yes"], str: [3], Path: [3]}.get(hint, [])


CASES = [
    (family, kind, name, value)
    for family, kind in ALL
    for name, (hint, limits) in fields_of(kinds.load(family, kind)).items()
    for value in wrong_values(hint, limits)
]


@pytest.mark.parametrize(("family", "kind", "name", "value"), CASES)
def test_every_parameter_refuses_a_wrong_value_in_the_house_sentence(family, kind, name, value):
    hint, limits = fields_of(kinds.load(family, kind))[name]
    with pytest.raises(ConfigurationError) as caught:
        example(family, kind, **{name: value})
    expected = f"The '{name}' of the {family} {kind} must be {expectation(hint, limits)}. Got {value!r} instead."
    assert str(caught.value) == expected


SECTIONS: dict[type[Part], dict[str, typing.Any]] = {
    Experiment: {"program": "fedavg", "task": {"dataset": "digits", "model": "logistic"}, "network": {"nodes": 3}},
    Task: {"dataset": "digits", "model": "logistic"},
    Network: {"nodes": 3},
    Evaluation: {},
    Checkpoint: {},
    Output: {},
}
"""The parts of an experiment file of which there is one kind, with what they require."""


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (section, name, value)
        for section in SECTIONS
        for name, (hint, limits) in fields_of(section).items()
        for value in wrong_values(hint, limits)
    ],
)
def test_every_key_of_a_section_refuses_a_wrong_value_in_the_house_sentence(section, name, value):
    hint, limits = fields_of(section)[name]
    with pytest.raises(ConfigurationError) as caught:
        build(section, {**SECTIONS[section], name: value})
    expected = f"The '{name}' of {section.named()} must be {expectation(hint, limits)}. Got {value!r} instead."
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("family", "kind", "name"),
    [
        (family, kind, name)
        for family, kind in ALL
        for name, (_, limits) in fields_of(kinds.load(family, kind)).items()
        if limits.depends_on_nodes
    ],
)
def test_a_bound_that_is_the_number_of_nodes_is_checked_against_it(family, kind, name):
    hint, limits = fields_of(kinds.load(family, kind))[name]
    value = NODES + 1 if limits.le == "nodes" else NODES
    with pytest.raises(ConfigurationError) as caught:
        example(family, kind, **{name: value}).prepare(Setting(NODES))
    expected = f"must be {expectation(hint, limits)}. Got {value} instead (nodes is {NODES})."
    assert str(caught.value) == f"The '{name}' of the {family} {kind} {expected}"


def test_a_part_of_the_users_own_needs_no_registering(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(
        "import torch\n"
        "from covey.topology import Ring\n"
        "from covey.parameters import param\n"
        "class Mine(Ring):\n"
        "    '''A ring of mine.'''\n"
        "    colour: str = param('Its colour.', default='red')\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(2, 3)\n"
        "class Stranger: pass\n"
    )
    (tmp_path / "broken_parts.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from covey.task.models import Model
    from covey.topology import Topology

    mine = build(Topology, {"kind": "my_parts:Mine", "colour": "blue"})
    assert to_table(mine) == {"kind": "my_parts:Mine", "colour": "blue"}
    assert build(Model, "my_parts:Net").title() == "my_parts:Net"
    for name, message in {
        "my_parts:Yours": "The topology 'my_parts:Yours' does not exist: my_parts has no Yours",
        "my_parts:Stranger": "is no topology: Stranger does not derive from covey.topology",
        "broken_parts:Any": "The topology 'broken_parts:Any' cannot be imported: broken_parts fails with ModuleNotFound",
        "rng": "Unknown topology 'rng'; did you mean 'ring'",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            build(Topology, name)


def test_every_part_is_a_dataclass_with_keywords_only():
    for family, kind in ALL:
        cls = kinds.load(family, kind)
        assert all(field.kw_only for field in dataclasses.fields(cls) if field.init), cls


# ---------------------------------------------------------------------- what the contract says of runs

NODES = 12
EPIDEMIC = {"kind": "epidemic-oracle", "degree": 3}
BLOBS = {"dataset": {"kind": "gaussian-blobs", "samples": 240, "test_samples": 60}, "model": "logistic"}
EXAMPLES: dict[tuple[str, str], dict[str, typing.Any]] = {
    ("program", "gossip"): {"topology": "ring"},
    ("program", "gossip-learning"): {"topology": "ring", "period": "20ms"},
    ("program", "fedavg"): {"clients": 4},
    ("program", "ad-psgd"): {"topology": "ring"},
    ("topology", "random-regular"): {"degree": 4},
    ("topology", "erdos-renyi"): {"probability": 0.5},
    ("topology", "epidemic-oracle"): {"degree": 3},
    ("topology", "epidemic-local"): {"degree": 3},
    ("topology", "redrawn"): {"topology": EPIDEMIC, "every": 2},
    ("latency", "uniform"): {"low": 0.001, "high": 0.02},
    ("latency", "log-normal"): {"median": 0.01},
    ("latency", "plane"): {"per_unit": 0.02},
    ("latency", "per-node"): {"median": 0.005},
    ("latency", "constant"): {"seconds": 0.01},
    ("bandwidth", "constant"): {"rate": "1Mbit/s"},
    ("bandwidth", "log-normal"): {"median": "1Mbit/s"},
    ("compute", "log-normal"): {"median": 500.0},
    ("compute", "constant"): {"samples_per_second": 500.0},
    ("compute", "stragglers"): {"samples_per_second": 500.0, "fraction": 0.25, "slowdown": 4.0},
    ("churn", "rate"): {"mean_up": "100ms", "mean_down": "30ms"},
    ("partition", "dirichlet"): {"alpha": 0.5},
    ("partition", "quantity"): {"alpha": 1.0},
    ("learning-rate", "step"): {"every": 2, "gamma": 0.5},
    ("learning-rate", "cosine"): {"rounds": 5},
    ("schedule", "periodic"): {"every": 2},
}
"""What the required parameters of a kind are in an experiment that works."""
FILES = {
    ("topology", "edges"): "".join(f"{i} {(i + step) % NODES} 0.2\n" for i in range(NODES) for step in (1, 5)),
    ("latency", "matrix"): "\n".join(",".join(f"0.0{1 + (i * j) % 7}" for j in range(NODES)) for i in range(NODES)),
    ("bandwidth", "trace"): "bandwidth\n" + "".join(f"{10**6 + 10**5 * i}\n" for i in range(NODES)),
    ("compute", "trace"): "samples_per_second\n" + "".join(f"{200 + 50 * i}\n" for i in range(NODES)),
    ("churn", "trace"): "node,event,time\n3,crash,0.05\n3,return,0.12\n5,join,0.08\n",
    ("partition", "file"): "sample,node\n" + "".join(f"{sample},{sample % NODES}\n" for sample in range(200)),
}
"""What the file of a kind that reads one says."""
IN_PROGRAM = ("topology", "sharing", "schedule", "aggregation")
IN_NETWORK = ("latency", "bandwidth", "compute", "churn")
PROGRAMS = [("program", kind) for kind in kinds.KINDS["program"]]
ENGINES = list(kinds.KINDS["engine"])
NOT_HERE = {
    ("partition", "natural"): "needs data with owners",
    **{("model", kind): "is of another task" for kind in kinds.KINDS["model"] if kind not in ("logistic", "mlp")},
}
RUNS = [
    (family, kind)
    for family in ("program", *IN_PROGRAM, *IN_NETWORK, "partition", "model", "optimizer", "learning-rate")
    for kind in kinds.KINDS[family]
    if (family, kind) not in NOT_HERE
]
"""Every kind that can stand in a small experiment."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files that some parts read."""
    folder = tmp_path_factory.mktemp("files")
    for (family, kind), text in FILES.items():
        (folder / f"{family}-{kind}").write_text(text)
    return folder


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
        tables["program"] = part
    elif family in IN_PROGRAM:
        weighted = part_table("topology", "edges", files)
        topology: typing.Any = weighted if (family, kind) == ("aggregation", "given") else "ring"
        tables["program"] = {"kind": "gossip", "topology": topology, family: part}
    elif family in IN_NETWORK:
        tables["network"][family] = part
    elif family == "learning-rate":
        tables["task"]["optimizer"] = {"kind": "sgd", "lr": 0.3, "schedule": part}
    else:
        tables["task"][family] = part
    if family == "churn":
        tables["program"] = {"kind": "gossip", "topology": EPIDEMIC, "patience": "50ms"}
    for name, value in changes.items():
        tables[name] = {**tables.get(name, {}), **value} if isinstance(value, dict) else value
    return tables


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("family", "kind"), RUNS)
def test_the_same_seed_gives_the_same_models_metrics_and_bytes(family, kind, engine, files, overheard):
    outcomes = []
    for seed in (3, 3, 4):
        overheard.clear()
        experiment = Experiment.from_table(run_table(family, kind, files, seed=seed, engine={"kind": engine}))
        prepared = prepare(experiment, **experiment.engine.compute_settings())
        written = Written()
        outcome = experiment.engine.execute(prepared, written)
        prepared.learner.close()
        sent = [(m.time, m.receivers, m.encoded) for m in overheard]
        outcomes.append((outcome.models, outcome.time, sent, written.rows, written.figures, written.happened))
    (models, *rest), (models_again, *rest_again), (others, *_) = outcomes
    assert torch.equal(models, models_again)
    assert rest == rest_again
    assert not torch.equal(models, others)


@pytest.mark.parametrize(("family", "kind"), RUNS)
def test_bytes_that_are_counted_are_bytes_of_the_wire_and_nobody_writes_into_what_was_sent(
    family, kind, files, monkeypatch
):
    counted = np.zeros(NODES, dtype=np.int64)
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    post = World.post

    def listen(world, node, receivers, payload, tag, round):
        frame = wire.encode(payload, tag=tag, sender=node.id, round=round)
        counted[node.id] += len(frame) * len(receivers)
        held.extend((value, value.clone()) for value in payload.values() if isinstance(value, torch.Tensor))
        received = wire.decode(frame).payload
        assert received.keys() == payload.keys()
        assert all(type(received[name]) is type(value) for name, value in payload.items())
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", listen)
    world, _ = simulate(run_table(family, kind, files))
    assert counted.any()
    if family != "churn":  # Who leaves takes back what still queued.
        assert [node.bytes_out for node in world.nodes] == counted.tolist()
    assert all(torch.equal(now, then) for now, then in held)


@pytest.mark.parametrize(("family", "kind"), [run for run in RUNS if run[0] in ("program", *IN_PROGRAM)])
def test_a_round_sends_the_bytes_that_the_program_states(family, kind, files):
    rounds = 12
    network = {"latency": 0.0, "bandwidth": None}
    world, _ = simulate(run_table(family, kind, files, rounds=rounds, network=network))
    stated = world.prepared.round_bytes
    if stated is None:
        pytest.skip("it states none")
    assert sum(node.bytes_out for node in world.nodes) / NODES / rounds == pytest.approx(stated, rel=0.1)


@pytest.mark.parametrize(("family", "kind"), [run for run in RUNS if run[0] in ("program", *IN_PROGRAM)])
def test_identical_models_stay_as_they_are_where_nothing_is_learned(family, kind, files):
    task = {"optimizer": {"kind": "sgd", "lr": 0.0}}
    world, _ = simulate(run_table(family, kind, files, task=task))
    start = world.learner.first_model
    assert sum(node.mail.messages_in for node in world.nodes) > 0
    assert torch.allclose(models_of(world), start.expand(NODES, -1), atol=1e-6)


@pytest.mark.parametrize(("family", "kind"), [run for run in RUNS if run[0] not in ("churn", "model")])
def test_a_synchronous_program_goes_on_from_a_checkpoint_to_the_bit(family, kind, files):
    tables = run_table(family, kind, files, checkpoint={"every": 2})
    if not Experiment.from_table(tables).program.synchronous:
        pytest.skip("it is asynchronous")
    whole, written = simulate(tables)
    assert [round for round, _ in written.checkpoints] == [2, 4]
    resumed, rewritten = simulate(tables, checkpoint=wire.decode(wire.encode(written.checkpoints[0][1])).payload)
    assert torch.equal(models_of(whole), models_of(resumed))
    assert sorted(rewritten.rows) == sorted(row for row in written.rows if row[1] > 2)


def plain_sgd(world: World, holder: int, steps: int) -> torch.Tensor:
    """What torch makes of the data of one node, all of them in every step."""
    learner = world.learner
    module, own = learner._make(0), torch.from_numpy(learner.parts.of(holder))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        split = learner.data.train
        torch.nn.functional.cross_entropy(module(split.inputs[own]), split.targets[own]).backward()
        optimizer.step()
    return learner.layout.flatten(module)


ALONE = {
    "gossip": ({"topology": "complete"}, 1),
    "ad-psgd": ({"topology": "complete"}, 1),
    "fedavg": ({}, 2),
    # A node trains what it is sent; here it has itself alone to talk to.
    "gossip-learning": ({"topology": "complete"}, 1),
}
"""The smallest network of each program, with one node that holds data."""


@pytest.mark.parametrize("kind", kinds.KINDS["program"])
def test_one_node_alone_trains_as_plain_sgd_does(kind):
    parameters, nodes = ALONE[kind]
    task = {**BLOBS, "batch_size": 1000, "local_steps": 2}
    tables = table(program={"kind": kind, **parameters}, network={"nodes": nodes}, task=task, rounds=3)
    world, _ = simulate(tables)
    steps = 0 if kind == "gossip-learning" else 6
    assert torch.allclose(world.nodes[0].model, plain_sgd(world, 0, steps), atol=1e-5)


@pytest.mark.parametrize("schedule", kinds.KINDS["schedule"])
@pytest.mark.parametrize("overlap", [False, True])
def test_the_parts_of_gossip_leave_one_node_alone_to_plain_sgd(schedule, overlap, files):
    program = {
        "kind": "gossip",
        "topology": "complete",
        "overlap": overlap,
        "schedule": part_table("schedule", schedule, files),
    }
    task = {**BLOBS, "batch_size": 1000}
    world, _ = simulate(table(program=program, network={"nodes": 1}, task=task, rounds=5))
    assert torch.allclose(world.nodes[0].model, plain_sgd(world, 0, 3 if schedule == "periodic" else 5), atol=1e-5)


@pytest.mark.parametrize("sharing", kinds.KINDS["sharing"])
@pytest.mark.parametrize("aggregation", ["mean", "metropolis-hastings"])
def test_on_the_complete_graph_gossip_is_an_all_reduce(aggregation, sharing, files):
    program = {
        "kind": "gossip",
        "topology": "complete",
        "aggregation": aggregation,
        "sharing": part_table("sharing", sharing, files),
    }
    task = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
    world, _ = simulate(table(program=program, task=task, rounds=1))
    starts = torch.stack([world.learner.initial(id) for id in range(NODES)])
    assert torch.allclose(models_of(world), starts.mean(0).expand(NODES, -1), atol=1e-6)


# ---------------------------------------------------------------------- the numbers of nodes are names and no more


class Pairs(Topology):
    """Node 0 with node 1, 2 with 3 and so on: nobody has a choice."""

    def draw(self, setting: Setting, t: int) -> Graph:
        ids = np.arange(setting.nodes // 2) * 2
        return Graph.undirected(setting.nodes, ids, ids + 1)


class Renumbered(Topology):
    """Another topology, in which node i is called order[i]."""

    inner: Topology = param("The other one.")
    order: list[int] = param("The new names.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.static = self.inner.static  # type: ignore[misc]

    def one_way(self) -> bool:
        return self.inner.one_way()

    def draw(self, setting: Setting, t: int) -> Graph:
        graph, names = self.inner.draw(setting, t), np.array(self.order)
        return Graph(setting.nodes, names[graph.sources], names[graph.targets], graph.weights)


def run_renumbered(program: Program, order: list[int]) -> tuple[torch.Tensor, list[float], list[int]]:
    """The models, when each node was done, and how much it sent, by their old names, where node i is called order[i].

    It keeps its data, its speed and its private randomness. Uplinks have no limit, as they serve low numbers first.
    """
    tables = table(task={**BLOBS, "partition": {"kind": "dirichlet", "alpha": 0.5}, "batch_size": 8}, rounds=4)
    tables["network"].update(bandwidth=None, compute={"kind": "log-normal", "median": 500.0})
    tables["program"] = program
    prepared = prepare(Experiment.from_table(tables), workers=1)
    places = {order[node]: place for node, place in prepared.holders.items()}
    before = {new: old for old, new in enumerate(order)}
    prepared = dataclasses.replace(prepared, holders=places, roles=[prepared.roles[before[id]] for id in before])
    written = Written()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SimulatedNode,
            "random",
            lambda node, purpose, *key: generator(node.world.seed, f"node {purpose}", before[node.id], *key),
        )
        world = World(prepared, written)
        speeds = list(world.speeds)
        for node in world.nodes:
            world.speeds[node.id] = speeds[before[node.id]]
            node.stream = mix(purpose_key(world.seed, "train"), before[node.id])
        world.begin()
        world.run()
    ended = {row[0]: row[2] for row in sorted(written.rows)}
    return (
        models_of(world)[order],
        [ended[new] for new in order],
        [world.nodes[new].bytes_out for new in order],
    )


CHOOSE = ("ad-psgd", "gossip-learning")
"""Programs that choose among neighbours by their order: each node has one neighbour here."""


def renumberings(kind: str) -> st.SearchStrategy[list[int]]:
    """Ways to rename twelve nodes that leave a program's roles where they are."""
    if kind == "fedavg":
        return st.permutations(range(1, NODES)).map(lambda rest: [0, *rest])
    if kind in CHOOSE:
        return st.permutations(range(NODES // 2)).map(lambda pairs: [2 * p + side for p in pairs for side in (0, 1)])
    return st.permutations(range(NODES))


def renumberable(
    family: str, kind: str, files: Path, changes: dict[str, typing.Any], rename: typing.Callable[[Topology], Topology]
) -> Program:
    """A program in which a kind has its place, over a renamed topology."""
    parameters = {**run_table(family, kind, files)["program"], **changes}
    if kind in CHOOSE:
        parameters["topology"] = Pairs()
    inner = parameters.get("topology")
    if inner is not None:
        parameters["topology"] = rename(inner if isinstance(inner, Topology) else build(Topology, inner))
    return build(Program, parameters)


RENUMBERED = [
    *((family, kind, {}) for family, kind in RUNS if family in IN_PROGRAM),
    *(("program", kind, {"clients": None} if kind == "fedavg" else {}) for kind in kinds.KINDS["program"]),
    ("program", "gossip", {"overlap": True}),
    ("program", "fedavg", {"clients": None, "weighting": "equal", "server_lr": 0.5, "proximal": 0.1}),
]
"""Whom FedAvg's server chooses is drawn by number, so it chooses all here."""


@pytest.mark.parametrize(("family", "kind", "changes"), RENUMBERED)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_renumbering_the_nodes_changes_nothing(family, kind, changes, files, data):
    order = data.draw(renumberings(kind))
    plain = renumberable(family, kind, files, changes, lambda topology: topology)
    renamed = renumberable(family, kind, files, changes, lambda inner: Renumbered(inner=inner, order=order))
    models, ended, sent = run_renumbered(plain, list(range(NODES)))
    models_then, ended_then, sent_then = run_renumbered(renamed, order)
    assert torch.allclose(models, models_then, atol=1e-5)
    assert ended == pytest.approx(ended_then)
    assert sent == sent_then


# ---------------------------------------------------------------------- what a part says depends on nothing but its key


def said(family: str, part: typing.Any, setting: Setting, backwards: bool) -> dict[typing.Any, typing.Any]:
    """All that a prepared part says of five rounds or of all nodes, asked for in one order or the other."""
    turn = (lambda items: list(reversed(list(items)))) if backwards else list

    def edges(t: int) -> list[typing.Any]:
        graph = part.at(t)
        return [graph.sources.tolist(), graph.targets.tolist()]

    if family == "topology":
        return {t: edges(t) for t in turn(range(5))}
    if family == "schedule":
        return {(t, n): part.trains(_Named(n), t) for t, n in turn(itertools.product(range(5), range(3)))}
    if family == "latency":
        return {(a, b): part.between(a, b) for a, b in turn(itertools.permutations(range(setting.nodes), 2))}
    if family == "bandwidth":
        return {"rates": part.rates(setting).tolist()}
    if family == "compute":
        return {"speeds": part.speeds(setting).tolist()}
    if family == "churn":
        return {n: list(itertools.islice(part.absences(n, setting), 4)) for n in turn(range(setting.nodes))}
    if family == "learning-rate":
        return {t: part.factor(t) for t in turn(range(5))}
    assert family == "partition"
    data = GaussianBlobs(samples=240).load(Path())
    return {"parts": [own.tolist() for own in part.assign(data, setting.nodes, setting.seed)]}


class _Named:
    """All of a node that a schedule may ask for here."""

    def __init__(self, id: int) -> None:
        self.id = id


ASKED = [
    (family, kind)
    for family in ("topology", "schedule", *IN_NETWORK, "learning-rate", "partition")
    for kind in kinds.KINDS[family]
    if (family, kind) not in NOT_HERE
]


@pytest.mark.parametrize(("family", "kind"), ASKED)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=5, deadline=None)
def test_what_a_part_says_depends_on_the_seed_and_the_key_and_not_on_what_was_asked_before(family, kind, seed, files):
    setting = Setting(NODES, seed, 10, tuple(range(NODES)))
    answers = []
    for backwards in (False, True):
        part = build(family_class(kinds.load(family, kind)), part_table(family, kind, files))
        part.prepare(setting)
        answers.append(said(family, part, setting, backwards))
    assert answers[0] == answers[1]
