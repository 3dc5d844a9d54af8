"""Preparation: every part is checked once without data and prepared once with them, and errors precede downloads."""

from collections import defaultdict

import pytest

import covey
from covey.learning import loading
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, parts_of
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import check, prepare
from tests.conftest import table
from tests.examples import COMPRESSED, NODES, RUNS, run_table

FAULTS = [{"kind": "cut", "links": [[0, 1]], "at": "50ms", "lasts": "10ms"}]
CLIQUES = {"kind": "d-cliques", "size": 4}


@pytest.fixture
def calls(monkeypatch):
    """By part, what was called with which setting, in order."""
    called = defaultdict(list)
    for name in ("check", "prepare"):
        method = getattr(Part, name)

        def counted(part, setting, *, name=name, method=method):
            called[id(part)].append((name, setting))
            method(part, setting)

        monkeypatch.setattr(Part, name, counted)
    return called


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (family, kind)
        for family, kind in RUNS
        if family not in ("partition", "model", "objective", "metric", "augmentation")
    ],
)
def test_a_part_is_checked_without_data_and_then_prepared_once_with_them(family, kind, files, calls):
    tables = run_table(family, kind, files, observer={"nodes": [1]}, faults=[])
    if family == "program" and kind == "gossip":
        tables = {**tables, "faults": FAULTS, "program": {**tables["program"], "patience": "1s"}}
    prepared = prepare(Experiment.from_table(tables))
    prepared.task.close()
    experiment = prepared.experiment
    for top in (experiment.program, experiment.network, experiment.observer, *experiment.faults):
        for part in parts_of(top):
            (first, before), (second, after) = calls[id(part)]
            assert (first, second) == ("check", "prepare"), part.title()
            assert (before.parameters, before.pieces, before.label_counts) == (0, (), None)
            assert after.parameters > 0
            assert after.pieces


@pytest.fixture
def without_data(monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("the data are loaded before the mistake is found")

    monkeypatch.setattr(loading, "load_learner", load)


def gossip(**changes):
    return {"program": {"kind": "gossip", "topology": "ring", **changes}}


MISTAKES = {
    "a bound that is the number of nodes": (
        gossip(topology={"kind": "random-regular", "degree": 12}),
        "The 'degree' of the topology random-regular must be",
    ),
    "a bound inside a part of a part": (
        gossip(topology={"kind": "redrawn", "every": 2, "topology": {"kind": "epidemic-local", "degree": 12}}),
        "The 'degree' of the topology epidemic-local must be",
    ),
    "a degree without a regular graph": (
        {**gossip(topology={"kind": "random-regular", "degree": 3}), "network": {"nodes": 11}},
        "must be even if the number of nodes is odd",
    ),
    "a file of edges that is missing": (gossip(topology={"kind": "edges", "file": "no.txt"}), "cannot be read"),
    "weights for an undirected graph alone": (
        gossip(topology="exponential", aggregation="metropolis-hastings"),
        "needs an undirected graph",
    ),
    "weights that no topology gives": (gossip(aggregation="given"), "needs a topology with weights of its own"),
    "messages that are lost": ({**gossip(), "network": {"loss": 0.1}}, "The 'patience' of the program gossip must"),
    "training while changes are sent": (
        gossip(sharing={"kind": "stc", "budget": 0.1, "gamma": 0.5}, overlap=True),
        "Set 'overlap' to false",
    ),
    "public copies over a graph that changes": (
        gossip(topology="one-peer-exponential", sharing={"kind": "stc", "budget": 0.1, "gamma": 0.5}),
        "needs a static topology",
    ),
    "a common start that is none": (
        {**gossip(sharing={"kind": "stc", "budget": 0.1, "gamma": 0.5}), "task": {"same_start": False}},
        "so the 'same_start' of the task must be true",
    ),
    "power gossip with a directed graph": (
        gossip(topology="exponential", aggregation="mean", sharing="power-gossip"),
        "needs a static undirected graph",
    ),
    "more masks than neighbours": (gossip(sharing={"kind": "secure-aggregation", "masks": 2}), "The 'masks' of the"),
    "masks with an aggregation that has no weights": (
        gossip(sharing="secure-aggregation", aggregation="median"),
        "needs weights that are known beforehand",
    ),
    "budgets for other nodes": (
        gossip(schedule={"kind": "greedy", "budget": [1, 2]}),
        "must be one int, or a list of 12",
    ),
    "a battery that nobody knows": (
        gossip(schedule={"kind": "skiptrain", "battery": 0.1}),
        "needs a network with batteries",
    ),
    "matchings of a directed graph": (
        gossip(topology={"kind": "matcha", "budget": 0.5, "topology": "exponential"}),
        "The 'topology' of the topology matcha must be static and undirected",
    ),
    "steps along gradients without cliques": (
        {"program": {"kind": "clique-averaging", "topology": "ring", "lr": 0.1}},
        "must have cliques",
    ),
    "gradients that a sharing cannot hide": (
        {
            "program": {
                "kind": "clique-averaging",
                "topology": {"kind": "random-cliques", "size": 5},
                "lr": 0.1,
                "sharing": "secure-aggregation",
            }
        },
        "to average gradients with: its model would reveal its own",
    ),
    "pairs that are on one side": (
        {"program": {"kind": "ad-psgd", "topology": "complete"}},
        "The 'topology' of the program ad-psgd must be bipartite",
    ),
    "clients without weights": (
        {"program": {"kind": "fedavg", "aggregation": "metropolis-hastings"}},
        "needs an undirected graph, but that of clients and their server is directed",
    ),
    "a compressed answer of too many clients": (
        {"program": {**COMPRESSED, "clients": 12}},
        "must be an int in [1, nodes)",
    ),
    "a matrix of delays that is missing": (
        {**gossip(), "network": {"latency": {"kind": "matrix", "file": "no.csv"}}},
        "no.csv",
    ),
    "a trace of devices that is missing": (
        {**gossip(), "network": {"energy": {"kind": "devices", "file": "no.csv"}}},
        "no.csv",
    ),
    "a fault of a node that is not there": (
        {**gossip(patience="1s"), "faults": [{"kind": "kill", "nodes": [12], "at": "1s"}]},
        "must be a list of different ints in [0, nodes)",
    ),
    "a slow uplink without a rate": (
        {
            "program": {"kind": "gossip", "topology": "ring"},
            "network": {"bandwidth": {"kind": "constant", "rate": float("inf")}},
            "faults": [{"kind": "slow", "uplink": 2.0, "nodes": [1], "at": "1s"}],
        },
        "must be 1 in a network without 'bandwidth' or 'uplink'",
    ),
    "an observer that is not there": ({**gossip(), "observer": {"nodes": [12]}}, "The 'nodes' of the observer"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_before_data_are_loaded(mistake, without_data):
    changes, said = MISTAKES[mistake]
    experiment = Experiment.from_table(table(**changes))
    for ask in (check, prepare):
        with pytest.raises(ConfigurationError) as caught:
            ask(experiment)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


LATER = {
    "cliques of data without classes": (
        {
            **gossip(topology=CLIQUES),
            "task": {"dataset": "linear-regression", "model": "linear"},
        },
        "The topology d-cliques needs data with classes",
    ),
    "masks in cliques that are too small": (
        gossip(
            topology={"kind": "diverse-neighbours", "degree": 3}, sharing={"kind": "secure-aggregation", "masks": 3}
        ),
        "The 'masks' of the sharing secure-aggregation must be below",
    ),
    "pairs in cliques": (
        {"program": {"kind": "ad-psgd", "topology": CLIQUES}},
        "The 'topology' of the program ad-psgd must be bipartite",
    ),
    "a part of a model that is not there": (
        gossip(sharing={"kind": "full", "share": ["head.*"]}),
        "head.*",
    ),
    "a compressor that may lose all": (
        gossip(sharing={"kind": "choco", "gamma": 0.5, "compressor": {"kind": "qsgd", "levels": 1, "unbiased": True}}),
        "must be a contraction",
    ),
}


@pytest.mark.parametrize("mistake", LATER)
def test_what_only_data_tell_is_found_when_they_are_there(mistake):
    changes, said = LATER[mistake]
    experiment = Experiment.from_table(table(**changes))
    check(experiment)
    with pytest.raises(ConfigurationError) as caught:
        prepare(experiment)
    assert said in str(caught.value)


def test_a_graph_by_labels_cannot_be_drawn_too_early():
    experiment = Experiment.from_table(table(**gossip(topology=CLIQUES)))
    program = experiment.program
    check(experiment)
    prepared = prepare(experiment)
    assert prepared.program.topology.at(0).n == NODES
    prepared.task.close()
    program.topology.check(prepared.setting.__class__(NODES))
    with pytest.raises(
        ConfigurationError, match="The topology d-cliques depends on the labels of nodes, which are not known"
    ):
        program.topology.at(0)


def shorten(experiment):
    experiment.task.model.hidden.append(-3)


def spoil(experiment):
    experiment.faults.append(3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shorten, "The 'hidden' of the model mlp must be a list, each an int in [1, inf). Got [8, -3] instead."),
        (
            spoil,
            "The 'faults' of the experiment must be a list, each a fault. Got [3] instead. "
            "Known: corrupt, cut, kill, pause, slow.",
        ),
    ],
)
@pytest.mark.parametrize("ready", [check, prepare])
def test_what_was_changed_in_place_is_checked_before_a_run(change, said, ready, without_data):
    experiment = Experiment.from_table(
        table(task={"dataset": "digits", "model": {"kind": "mlp", "hidden": [8]}}, faults=[])
    )
    change(experiment)
    with pytest.raises(ConfigurationError) as caught:
        ready(experiment)
    assert str(caught.value) == said


def test_an_experiment_is_as_strict_after_a_run(tmp_path):
    experiment = Experiment.from_table(table(rounds=1, network={"nodes": 2}))
    covey.run(experiment, out=tmp_path / "run")
    for part, name, value in (
        (experiment, "rounds", -5),
        (experiment, "nonsense", 3),
        (experiment, "network", {"nodes": 0}),
        (experiment.task.optimizer, "lr", "fast"),
        (experiment.network, "latency", {"kind": "constant", "seconds": -1}),
    ):
        before = experiment.to_table()
        with pytest.raises(ConfigurationError, match=r"^(The '\w+' of the|Unknown key 'nonsense')"):
            setattr(part, name, value)
        assert experiment.to_table() == before
