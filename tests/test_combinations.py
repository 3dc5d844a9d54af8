"""Combinations of systems: each runs, or is refused beforehand with the reason."""

import itertools
import math
import tomllib
import warnings

import pytest
import torch

from covey.parts import kinds
from covey.parts.errors import ConfigurationError, CoveyError
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import check
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS, IN_PROGRAM, NODES, part_table

ROUNDS = 3
CLIQUES = {"kind": "d-cliques", "size": 4, "swaps": 20}
OWN = "none"
"""The value that stands for the program's own choice of an aggregation."""


def covering(*factors):
    """Few rows with a level of each factor, in which any two levels of different factors meet; always the same ones."""
    pairs = list(itertools.combinations(range(len(factors)), 2))
    missing = {(a, x, b, y) for a, b in pairs for x in factors[a] for y in factors[b]}
    rows = []
    while missing:
        a, x, b, y = min(missing)
        row = {a: x, b: y}
        for index, levels in enumerate(factors):
            if index not in row:
                known = sorted(row)
                row[index] = max(
                    levels,
                    key=lambda level, index=index, known=known: sum(
                        ((p, row[p], index, level) if p < index else (index, level, p, row[p])) in missing
                        for p in known
                    ),
                )
        missing -= {(a, row[a], b, row[b]) for a, b in pairs}
        rows.append(tuple(row[index] for index in range(len(factors))))
    return rows


LEVELS = [[*kinds.built_in()[family]] for family in IN_PROGRAM]
LEVELS[IN_PROGRAM.index("aggregation")].append(OWN)
ROWS = covering(*LEVELS)


def test_the_rows_cover_all_pairs_of_kinds_with_few_of_all_combinations():
    for (a, first), (b, second) in itertools.combinations(enumerate(LEVELS), 2):
        assert {(row[a], row[b]) for row in ROWS} == set(itertools.product(first, second))
    assert len(ROWS) < 2 * len(LEVELS[0]) * len(LEVELS[1])


def outcome(tables):
    """The outcome of a combination: empty if it runs well, else the line that refuses it before any work."""
    tables = {**tables, "evaluation": {"every": tables["rounds"], "samples": 20}}
    experiment = Experiment.from_table(tables)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            world, written = simulate(experiment)  # It begins with all of `check`.
        except ConfigurationError as error:
            return str(error)
    assert all(node.round == tables["rounds"] for node in world.nodes)
    assert torch.isfinite(models_of(world)).all()
    losses = [value for _, _, name, value in written.figures if name == "loss"]
    assert len(losses) == len(world.nodes)
    assert all(map(math.isfinite, losses))
    return None


def gossip(files, topology="ring", sharing="full", schedule="every-round", aggregation=OWN, **changes):
    """A tiny experiment of parts by their kinds or as tables."""
    named = {"topology": topology, "sharing": sharing, "schedule": schedule, "aggregation": aggregation}
    parts = {
        family: part_table(family, part, files) if isinstance(part, str) else part
        for family, part in named.items()
        if part != OWN
    }
    program = {"kind": "gossip", **parts, **changes.pop("program", {})}
    task = {**BLOBS, "batch_size": 8, **changes.pop("task", {})}
    network = {"nodes": NODES, **changes.pop("network", {})}
    return table(program=program, task=task, network=network, rounds=ROUNDS, **changes)


SAYS_WHY = ("needs", "must", "sends what")


@pytest.mark.parametrize("sharing", kinds.built_in()["sharing"])
def test_any_topology_sharing_schedule_and_aggregation_run_together_or_are_refused(sharing, files):
    """Row by row; a sharing at a time, that a failure names it."""
    rows, ran = [row for row in ROWS if row[IN_PROGRAM.index("sharing")] == sharing], 0
    for row in rows:
        try:
            line = outcome(gossip(files, *row))
        except CoveyError as error:
            pytest.fail(f"{row} is refused too late: {error}")
        ran += line is None
        if line is not None:
            assert "\n" not in line, row
            assert any(word in line for word in SAYS_WHY), (row, line)
            assert any(kind in line for kind in row), (row, line)
            if row[-1] != OWN and f"aggregation {row[-1]}" in line:
                # The refusal of an aggregation must not hide the outcomes of the other parts.
                rows.append((*row[:-1], OWN))
    assert ran >= 5


@pytest.mark.parametrize("topology", kinds.built_in()["topology"])
def test_with_the_aggregation_left_open_models_run_over_every_topology(topology, files):
    assert outcome(gossip(files, topology)) is None


@pytest.mark.parametrize("program", ["clique-averaging", "ad-psgd", "gossip-learning"])
def test_any_topology_runs_under_the_other_programs_or_is_refused(program, files):
    refused = {}
    for topology in kinds.built_in()["topology"]:
        tables = gossip(files)
        tables["program"] = {
            **part_table("program", program, files),
            "topology": part_table("topology", topology, files),
        }
        refused[topology] = outcome(tables)
    assert None in refused.values()
    for line in filter(None, refused.values()):
        assert "\n" not in line
        assert line.startswith(f"The 'topology' of the program {program} must "), line


@pytest.mark.parametrize("sharing", kinds.built_in()["sharing"])
@pytest.mark.parametrize("overlap", [False, True])
def test_any_sharing_runs_over_cliques_with_and_without_clique_averaging_and_overlap(sharing, overlap, files):
    averaging = {"kind": "clique-averaging", "lr": 0.1, "overlap": overlap}
    for program in ({"overlap": overlap}, averaging):
        line = outcome(gossip(files, CLIQUES, sharing, program=program))
        if program is averaging and sharing in ("zip-dl", "muffliato"):
            assert "adds noise to models only, and gradients are sent, too" in line
        elif not overlap:
            assert line is None
        elif program is averaging:
            assert "'overlap'" in line
        else:
            assert line is None or "sends the change of training, so it cannot send while a node trains" in line


NO_SENSE = {
    "CHOCO on a graph that changes": (
        {"topology": "epidemic-oracle", "sharing": "choco"},
        "The sharing choco needs a static topology",
    ),
    "STC on redrawn cliques": (
        {"topology": {"kind": "redrawn", "every": 2, "topology": CLIQUES}, "sharing": "stc"},
        "The sharing stc needs a static topology",
    ),
    "STC from different models": (
        {"sharing": "stc", "task": {"same_start": False}},
        "The sharing stc sends changes since the common start, so the 'same_start' of the task must be true.",
    ),
    "Metropolis-Hastings weights on a directed graph": (
        {"topology": "epidemic-local", "aggregation": "metropolis-hastings"},
        "The aggregation metropolis-hastings needs an undirected graph, but epidemic-local is directed.",
    ),
    "the weights of a topology without weights": (
        {"topology": CLIQUES, "aggregation": "given"},
        "The aggregation given needs a topology with weights of its own, and d-cliques has none.",
    ),
    "changes that are sent while a node trains": (
        {"sharing": {"kind": "cesar", "subset": {"kind": "top-k", "budget": 0.5}}, "program": {"overlap": True}},
        "The sharing cesar sends the change of training, so it cannot send while a node trains.",
    ),
    "CESAR with too few neighbours": (
        {"sharing": {"kind": "cesar", "masks": 2, "subset": {"kind": "random", "budget": 0.5}}},
        "The 'masks' of the sharing cesar must be below the number of neighbours of every node.",
    ),
    "PowerGossip on a directed graph": (
        {"topology": "exponential", "sharing": "power-gossip"},
        "The sharing power-gossip needs a static undirected graph",
    ),
    "a share of batteries that nobody knows": (
        {"schedule": {"kind": "skiptrain", "battery": 0.1}},
        "The 'battery' of the schedule skiptrain needs a network with batteries",
    ),
    "a share of batteries where the network counts power alone": (
        {"schedule": {"kind": "greedy", "battery": 0.1}, "network": {"energy": "5W"}},
        "The 'battery' of the schedule greedy needs a network with batteries",
    ),
    "gradients of a clique whose nodes train when each likes": (
        {
            "topology": CLIQUES,
            "schedule": {"kind": "skiptrain", "budget": 2},
            "program": {"kind": "clique-averaging", "lr": 0.1},
        },
        "The 'schedule' of the program clique-averaging must have all nodes train in the same rounds",
    ),
}


@pytest.mark.parametrize("parts", NO_SENSE.values(), ids=NO_SENSE)
def test_what_makes_no_sense_is_refused_before_data_are_loaded(parts, files):
    chosen, line = parts
    with pytest.raises(ConfigurationError) as caught:
        check(Experiment.from_table(gossip(files, **chosen)))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_cliques_by_labels_can_be_redrawn_and_need_labels(files):
    redrawn = {"kind": "redrawn", "every": 1, "topology": CLIQUES}
    assert outcome(gossip(files, redrawn)) is None
    regression = {"dataset": "linear-regression", "model": "linear"}
    assert outcome(gossip(files, redrawn, task=regression)).startswith("The topology d-cliques needs data with classes")


def test_clique_averaging_keeps_to_schedules_in_which_all_train_at_once(files):
    for schedule in (
        "periodic",
        {"kind": "skiptrain", "training": 1, "synchronization": 1},
        {"kind": "greedy", "budget": 1},
    ):
        program = {"kind": "clique-averaging", "lr": 0.1}
        assert outcome(gossip(files, CLIQUES, schedule=schedule, program=program)) is None


SKIPTRAIN_EL_JWINS = """
rounds = 4
[program]
kind = "gossip"
topology = { kind = "epidemic-oracle", degree = 3 }
sharing = { kind = "jwins", alphas = [0.1, 1.0], probabilities = [0.9, 0.1], level = 2 }
schedule = { kind = "skiptrain", training = 1, synchronization = 1 }
[task]
dataset = { kind = "gaussian-blobs", samples = 240, test_samples = 60 }
model = "logistic"
[network]
nodes = 8
energy = "devices"
"""
D_CLIQUES_CHOCO = """
rounds = 4
[program]
kind = "clique-averaging"
lr = 0.1
topology = { kind = "d-cliques", size = 4 }
sharing = { kind = "choco", gamma = 0.5, compressor = { kind = "top-k", budget = 0.2 } }
[task]
dataset = { kind = "gaussian-blobs", samples = 240, test_samples = 60 }
model = "logistic"
partition = { kind = "shards", per_node = 1 }
[network]
nodes = 8
"""


def test_skiptrain_epidemic_learning_and_jwins_are_one_experiment():
    tables = tomllib.loads(SKIPTRAIN_EL_JWINS)
    assert outcome(tables) is None
    world, written = simulate(tables)
    whole, _ = simulate({**tables, "program": {**tables["program"], "sharing": "full"}})
    assert all(node.messages_out == 4 * 3 for node in world.nodes)
    assert {(row[1], row[4]) for row in written.rows} == {(1, 1), (2, 1), (3, 2), (4, 2)}
    assert 0 < sum(node.bytes_out for node in world.nodes) < sum(node.bytes_out for node in whole.nodes)


def test_d_cliques_and_choco_are_one_experiment_that_keeps_the_mean():
    tables = tomllib.loads(D_CLIQUES_CHOCO)
    assert outcome(tables) is None
    tables["program"]["lr"] = 0.0
    tables["task"]["same_start"] = False
    world, _ = simulate({**tables, "evaluation": {"samples": 20}})
    starts = torch.stack([world.task.learner.initial(node) for node in range(8)])
    models = models_of(world)
    assert torch.allclose(models.mean(0), starts.mean(0), atol=1e-5)
    assert (models - models.mean(0)).norm() < (starts - starts.mean(0)).norm()
