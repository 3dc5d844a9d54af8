"""Changes without effect: other numbers for the nodes, and earlier questions to a part."""

import dataclasses
import itertools
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.topology import Topology
from covey.learning.datasets.synthetic import GaussianBlobs
from covey.learning.running_node import RunningLearningNode
from covey.network.graph import Graph
from covey.parts import kinds
from covey.parts.parameters import Setting, build, param
from covey.parts.rng import generator, mix, purpose_key
from covey.runtime.experiment import Experiment
from covey.runtime.node import Program
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World
from tests.conftest import Written, models_of, table
from tests.examples import (
    BLOBS,
    DISTILS,
    FEDERATED,
    IN_NETWORK,
    IN_PROGRAM,
    LEARNING,
    NODES,
    NOT_HERE,
    RUNS,
    SERVED,
    Keeping,
    family_class,
    part_table,
    run_table,
)


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
        self.weighted = self.inner.weighted  # type: ignore[misc]

    def one_way(self) -> bool:
        return self.inner.one_way()

    def draw(self, setting: Setting, t: int) -> Graph:
        graph, names = self.inner.draw(setting, t), np.array(self.order)
        return Graph(setting.nodes, names[graph.sources], names[graph.targets], graph.weights)


def run_renumbered(program: Program, order: list[int]) -> tuple[torch.Tensor, list[float], list[int]]:
    """The models, when each node was done, and how much it sent, by their old names, where node i is called order[i].

    It keeps its data, its speed and its private randomness. Uplinks have no limit, as they serve low numbers first.
    """
    task = {**BLOBS, "partition": {"kind": "dirichlet", "alpha": 0.5}, "batch_size": 8, "validation": 0.1}
    tables = table(task={**task, **DISTILS.get(program.kind, {})}, rounds=4)
    tables["network"].update(bandwidth=None, compute={"kind": "log-normal", "median": 500.0})
    tables["program"] = program
    prepared = prepare(Experiment.from_table(tables), workers=1)
    prepared.task.indices = {order[node]: index for node, index in prepared.task.indices.items()}
    before = {new: old for old, new in enumerate(order)}
    prepared = dataclasses.replace(prepared, roles=[prepared.roles[before[id]] for id in before])
    written = Written()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            RunningLearningNode,
            "random",
            lambda node, purpose, *key: generator(node.stage.seed, f"node {purpose}", before[node.id], *key),
        )
        world = World(prepared, written)
        if world.sampler is not None:
            holders = tuple(order[node] for node in world.sampler.overlay.holders)
            world.sampler.overlay = dataclasses.replace(world.sampler.overlay, holders=holders)
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


CHOOSE = ("ad-psgd", "asynchronous-epidemic", "gossip-learning", "swarm-non-blocking")
"""Programs that choose among neighbours by their order: each node has one neighbour here."""


def renumberings(kind: str) -> st.SearchStrategy[list[int]]:
    """Ways to rename twelve nodes that leave a program's roles where they are."""
    if kind in SERVED:
        return st.permutations(range(1, NODES)).map(lambda rest: [0, *rest])
    if kind in CHOOSE:
        return st.permutations(range(NODES // 2)).map(lambda pairs: [2 * p + side for p in pairs for side in (0, 1)])
    return st.permutations(range(NODES)).filter(lambda order: order != list(range(NODES)))


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


BY_NUMBER = [
    *(("sharing", kind) for kind in ("random", "random-layers", "cesar")),
    *(("topology", kind) for kind in ("d-cliques", "diverse-neighbours", "stl-fw")),
    *(("program", kind) for kind in ("ad-psgd-queued", "clique-averaging", "divshare", "swarm", "swift-push")),
    *(("program", kind) for kind in ("cpfl", "fleet")),
]
"""The parts in which draws, labels, cliques or times of a node follow from its number, so that others can compute them. With
`common`, all nodes draw alike: those are renumbered below."""
RENUMBERED = [
    *((family, kind, {}) for family, kind in RUNS if family in IN_PROGRAM and (family, kind) not in BY_NUMBER),
    *(
        ("program", kind, {"clients": "uniform"} if kind in FEDERATED else {})
        for kind in LEARNING
        if ("program", kind) not in BY_NUMBER
    ),
    ("program", "gossip", {"overlap": True}),
    *(
        ("program", "gossip", {"sharing": {"kind": kind, "budget": 0.5, "common": True}})
        for kind in ("random", "random-layers")
    ),
    (
        "program",
        "fedavg",
        {"clients": "uniform", "aggregation": "mean", "server_optimizer": 0.5, "work": {"proximal_mu": 0.1}},
    ),
]
"""The clients of FedAvg are drawn by number, so all are chosen here."""


@pytest.fixture(scope="module", params=RENUMBERED, ids=lambda case: "-".join(map(str, case[:2])))
def plain(request, files):
    """A case, and the outcome of its run without other numbers."""
    family, kind, changes = request.param
    program = renumberable(family, kind, files, changes, lambda topology: topology)
    return family, kind, changes, run_renumbered(program, list(range(NODES)))


@given(data=st.data())
@settings(max_examples=2, deadline=None)
def test_renumbering_the_nodes_changes_nothing(plain, files, data):
    family, kind, changes, (models, ended, sent) = plain
    order = data.draw(renumberings(kind))
    renamed = renumberable(family, kind, files, changes, lambda inner: Renumbered(inner=inner, order=order))
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
    if family == "devices":
        return {
            (n, now): [dict(part.features(n, now)), part.seconds(n, 1.0, now, (2, n))]
            for n, now in turn(itertools.product(range(setting.nodes), (0.0, 0.07, 3.0)))
        }
    if family == "energy":
        return {n: part.joules(n, n, 100.0, 10 * n, 5 * n) for n in turn(range(setting.nodes))}
    if family == "learning-rate":
        return {t: part.factor(t) for t in turn(range(5))}
    assert family == "partition"
    data = GaussianBlobs(samples=240).load(Path())
    return {"parts": [own.tolist() for own in part.assign(data, setting.nodes, setting.seed)]}


class _Named(Keeping):
    """All of a node that a schedule may ask for here."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.state: dict[str, typing.Any] = {}


ASKED = [
    (family, kind)
    for family in ("topology", "schedule", *IN_NETWORK, "learning-rate", "partition")
    for kind in kinds.built_in()[family]
    if (family, kind) not in NOT_HERE
]


@pytest.mark.parametrize(("family", "kind"), ASKED)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=5, deadline=None)
def test_what_a_part_says_depends_on_the_seed_and_the_key_and_not_on_what_was_asked_before(family, kind, seed, files):
    setting = Setting(
        NODES, seed, 10, holders=tuple(range(NODES)), label_counts=np.eye(NODES, 4, dtype=int) + 1, rounds=5
    )
    answers = []
    for backwards in (False, True):
        part = build(family_class(kinds.load(family, kind)), part_table(family, kind, files))
        part.ready(setting)
        answers.append(said(family, part, setting, backwards))
    assert answers[0] == answers[1]
