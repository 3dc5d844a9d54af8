"""A part of a user's own of every family: it runs, differs from a built-in one, and is checked."""

import ast
import json
import math
from importlib import import_module
from pathlib import Path

import pytest
import tomli_w
import torch

import covey as package
from covey import Experiment, Part, run
from covey.decentralized.schedule import EveryRound
from covey.decentralized.topology import Ring, Topology
from covey.federated.server_optimizers import ServerSGD
from covey.learning.models import MLP, Model
from covey.learning.objectives import CrossEntropy, OwnLoss
from covey.learning.optimizers import SGD
from covey.network.churn import NoChurn
from covey.network.energy import NoEnergy
from covey.network.faults import Slow
from covey.network.latency import ConstantLatency
from covey.parts.errors import ConfigurationError
from covey.parts.kinds import built_in as families
from covey.parts.kinds import is_registered
from covey.parts.parameters import parts_of
from tests.conftest import models_of, simulate
from tests.examples import Recorded, family_class, run_program
from tests.hosts import emulate
from tests.programs import own_families as own

QUICK = {"nodes": 5, "latency": "20ms", "bandwidth": "20Mbit/s", "compute": 1000}
TASK = {
    "dataset": "digits",
    "model": "logistic",
    "batch_size": 8,
    "partition": "iid",
    "optimizer": {"kind": "sgd", "lr": 0.3, "schedule": {"kind": "constant"}},
    "loss": "own",
}
GOSSIP = {"kind": "gossip", "topology": "ring", "sharing": "full", "schedule": "every-round"}
FEDAVG = {"kind": "fedavg", "clients": {"kind": "uniform", "count": 3}, "work": "local", "server_optimizer": "sgd"}

# Tasks follow each other at a distance that real time does not change.
FLEET = {
    "kind": "fleet",
    "lr": 0.3,
    "period": "800ms",
    "profiler": {"kind": "constant", "samples": 8},
    "delays": {"mean": "250ms"},
}


def experiment(program=GOSSIP, **changes):
    base = {"seed": 3, "rounds": 4, "program": program, "task": TASK, "network": QUICK}
    for name, value in changes.items():
        base[name] = {**base[name], **value} if isinstance(base.get(name), dict) else value
    return {**base, "evaluation": {"every": 2, "samples": 60}}


def mine(part, **parameters):
    return {"kind": f"{own.__name__}:{part.__qualname__}", **parameters}


def within(optimizer):
    return experiment(task={"optimizer": {**TASK["optimizer"], **optimizer}})


FENS, HELD = {"kind": "fens", "aggregator": "average"}, {"validation": 0.2}
INFERENCE = {"kind": "robust-inference", "rule": "mean", "faulty": 1, "liars": 1, "lie": "sia", "batch": 2000}
PLAIN, CLIENTS, ASKED = experiment(), experiment(FEDAVG), experiment(FLEET)
QUANTIZED = {**GOSSIP, "sharing": {"kind": "quantized", "compressor": "sign"}}
PLACED = {
    "program": (experiment({**GOSSIP, **mine(own.Twice)}), PLAIN),
    "task": (experiment(task=mine(own.Ones)), PLAIN),
    "topology": (experiment({**GOSSIP, "topology": mine(own.Line)}), PLAIN),
    "sharing": (experiment({**GOSSIP, "sharing": mine(own.Negative)}), PLAIN),
    "compressor": (
        experiment({**GOSSIP, "sharing": {"kind": "quantized", "compressor": mine(own.Halves)}}),
        experiment(QUANTIZED),
    ),
    "schedule": (experiment({**GOSSIP, "schedule": mine(own.Odd)}), PLAIN),
    "aggregation": (experiment({**GOSSIP, "aggregation": mine(own.Largest)}), PLAIN),
    "client-selection": (experiment({**FEDAVG, "clients": mine(own.Even)}), CLIENTS),
    "client-work": (experiment({**FEDAVG, "work": mine(own.Backwards)}), CLIENTS),
    "server-optimizer": (experiment({**FEDAVG, "server_optimizer": mine(own.Signed)}), CLIENTS),
    "profiler": (experiment({**FLEET, "profiler": mine(own.Halving)}), ASKED),
    "staleness": (
        experiment({**FLEET, "weights": {"dampening": mine(own.Never)}}),
        experiment({**FLEET, "weights": {"dampening": "constant"}}),
    ),
    "aggregator": (experiment({**FENS, "aggregator": mine(own.Boldest)}, task=HELD), experiment(FENS, task=HELD)),
    "inference-rule": (experiment({**INFERENCE, "rule": mine(own.First)}), experiment(INFERENCE)),
    "inference-attack": (experiment({**INFERENCE, "lie": mine(own.Last)}), experiment(INFERENCE)),
    "dataset": (experiment(task={"dataset": mine(own.Rows)}), PLAIN),
    "partition": (experiment(task={"partition": mine(own.Dealt)}), PLAIN),
    "model": (experiment(task={"model": mine(own.Unbiased)}), PLAIN),
    "optimizer": (within(mine(own.Signs)), PLAIN),
    "objective": (experiment(task={"loss": mine(own.Hinge)}), PLAIN),
    "metric": (experiment(task={"metrics": [mine(own.Margin)]}), experiment(task={"metrics": ["macro-f1"]})),
    "augmentation": (
        experiment(task={"augmentation": [mine(own.Louder)]}),
        experiment(task={"augmentation": [{"kind": "noise", "deviation": 0.1}]}),
    ),
    "learning-rate": (within({"schedule": mine(own.Halved)}), PLAIN),
    "latency": (experiment(network={"latency": mine(own.Uphill)}), PLAIN),
    "bandwidth": (experiment(network={"bandwidth": mine(own.Thin)}), PLAIN),
    "compute": (experiment(network={"compute": mine(own.Tired)}), PLAIN),
    "devices": (experiment(network={"devices": mine(own.Sleepy)}), experiment(network={"devices": "phones"})),
    "energy": (experiment(network={"energy": mine(own.Metered)}), PLAIN),
    "churn": (
        experiment({**GOSSIP, "patience": "80ms"}, network={"churn": mine(own.Gone)}),
        experiment({**GOSSIP, "patience": "80ms"}),
    ),
    "fault": (
        experiment({**GOSSIP, "patience": "80ms"}, faults=[mine(own.Deaf, nodes=[2], at=0)]),
        experiment({**GOSSIP, "patience": "80ms"}),
    ),
    "callback": (experiment(callback=[mine(own.Slower)]), experiment(callback=["early-stopping"])),
    "engine": (experiment(engine=mine(own.Counted)), PLAIN),
}
"""Of each family: an experiment with a part of the user's own, and the same with a built-in one."""

NETWORKED = {"latency", "bandwidth", "compute", "devices", "energy", "churn", "fault"}
"""Families whose parts do not decide, but for what is lost, on what is learned."""
JUDGED = {"metric", "aggregator", "inference-rule", "inference-attack"}
"""Families whose parts decide on what is judged."""


def test_there_is_one_of_every_family():
    # Attacks are no parts of experiments: tests/test_attacks.py has one of a user's own. Profiles and levels are of a
    # program that learns nothing: tests/test_semantic_clustering.py has some. No program takes an enclave yet.
    assert PLACED.keys() == families().keys() - {"attack", "enclave", "profiles", "privacy-levels"}
    for family, (tables, _) in PLACED.items():
        assert used(tables, family), family


def used(tables, family):
    """The titles of a user's own parts of a family in an experiment that was read from its tables."""
    read = Experiment.from_table(tables)
    return [part.title() for part in parts_of(read) if part.family == family and not is_registered(type(part))]


def disguised(tables, family):
    """An experiment in which every part of a family is of a class of the user's own that does what the built-in does."""
    read = Experiment.from_table(tables)
    for part in parts_of(read):
        if part.family == family:
            part.__class__ = type(type(part).__name__, (type(part),), {"__module__": __name__})
            assert not is_registered(type(part))
    return read


def fingerprint(tables):
    world, written = simulate(tables)
    sizes = [tuple(model.shape) for model in (node.model for node in world.nodes)]
    models = [node.model.tolist() for node in world.nodes]
    return sizes, models, written.rows, written.figures, sorted(written.happened)


@pytest.mark.parametrize("family", PLACED)
def test_it_has_an_effect_that_tells_it_apart_from_a_built_in(family):
    tables, built_in = PLACED[family]
    if family == "engine":
        before = own.Counted.runs
        assert run(tables).summary()["rounds"] == 4
        assert own.Counted.runs == before + 1
        return
    found, usual = fingerprint(tables), fingerprint(built_in)
    assert found != usual
    if family not in NETWORKED | JUDGED:
        assert found[1] != usual[1]
    # It is the effect that tells it apart, and not that it is the user's own.
    assert fingerprint(disguised(built_in, family)) == usual


@pytest.mark.parametrize("family", sorted(PLACED.keys() - {"engine"}))
def test_hosts_run_it_too(family, tmp_path):
    tables, _ = PLACED[family]
    outcome, written = emulate(tables, tmp_path)
    world, simulated = simulate(tables)
    assert outcome.finished
    if family not in ("churn", "fault", "callback"):  # A host hears of a callback's wish a moment later.
        assert torch.allclose(outcome.models, models_of(world), atol=1e-4)
    times = {node: max(row[2] for row in written.rows if row[0] == node) for node in range(5)}
    virtual = {node: max(row[2] for row in simulated.rows if row[0] == node) for node in range(5)}
    if family in ("latency", "bandwidth", "compute", "devices"):
        assert all(times[node] > 0.9 * virtual[node] for node in times)
    if family == "energy":
        spent = [[row for row in of.figures if row[2] == "energy"] for of in (written, simulated)]
        assert sorted(spent[0]) == sorted(spent[1]) != []
    if family == "metric":
        expected = {row[:3]: row[3] for row in simulated.figures if row[2] == "margin"}
        reported = {row[:3]: row[3] for row in written.figures if row[2] == "margin"}
        assert reported == pytest.approx(expected, abs=1e-4)
        assert len(reported) == 2 * 5
    if family == "churn":
        assert [row[1] for row in written.happened if row[2] == "left"] == [1]
    if family == "fault":
        assert world.refused["lost in thought"] == world.nodes[2].messages_out > 0
        assert any(value for _, _, name, value in written.of_hosts if name == "dropped/lost in thought")


@pytest.mark.parametrize("family", PLACED)
def test_it_is_checked_for_what_it_is(family, covey, in_folder):
    tables, _ = PLACED[family]
    (in_folder / "own.toml").write_text(tomli_w.dumps(tables))
    code, out, err = covey("check", "own.toml", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    (title,) = used(tables, family)
    assert title in json.dumps(found["experiment"])
    if family == "aggregation":
        assert found["graph"]["doubly_stochastic"] is None
    if family == "topology":
        assert found["graph"]["edges"] == 4
    if family == "objective":
        assert title in json.dumps(found["loss"])
    if family == "metric":
        assert found["metrics"] == ["margin"]
    if family == "fault":
        assert title in found["faults"][0]
    if family == "energy":
        assert found["joules_per_node_and_training"] == 8.0
    assert covey("check", "own.toml")[0] == 0


def derived(cls, method, function):
    """A class of the user's own that differs from a built-in one in one method."""
    return type(cls.__name__, (cls,), {method: function, "__module__": __name__, "kind": cls.kind})


def overridden():
    """Of built-in classes that know a short way, such as a step that is plain: a part derived from each that must not
    take it, where it stands, and the experiment with what it is derived from."""
    still = derived(SGD, "step", lambda self, models, gradients, slots, lr: None)
    yield "optimizer", {"task": {"optimizer": still(lr=0.3)}}, PLAIN
    wide = {**TASK, "model": {"kind": "mlp", "hidden": [4]}, "loss": "cross-entropy"}
    yield "optimizer of modules", {"task": {**wide, "optimizer": still(lr=0.3)}}, experiment(task=wide)
    other = derived(OwnLoss, "losses", lambda self, outputs, targets: outputs.square().sum(-1))
    yield "objective", {"task": {"loss": other()}}, PLAIN
    stays = derived(ServerSGD, "step", lambda self, change, state: change * 0.0)
    yield "server-optimizer", {"program": {**FEDAVG, "server_optimizer": stays()}}, CLIENTS
    far = derived(ConstantLatency, "between", lambda self, sender, receiver: 0.5)
    yield "latency", {"network": {"latency": far(seconds=0.02)}}, PLAIN
    gone = derived(NoChurn, "absences", lambda self, node, setting: iter([(0.05, math.inf)] if node == 1 else []))
    patient = {**GOSSIP, "patience": "80ms"}
    yield "churn", {"network": {"churn": gone()}, "program": patient}, experiment(patient)
    metered = derived(NoEnergy, "per_sample", lambda self, node, speed: 1.0)
    yield "energy", {"network": {"energy": metered()}}, PLAIN
    muted = derived(Slow, "fate", lambda self, sender, receiver, chance: "muted")
    slow = {"kind": "slow", "nodes": [2], "at": 0, "compute": 2.0}
    faults = [muted(nodes=[2], at=0.0, compute=2.0)]
    yield "fault", {"faults": faults, "program": patient}, experiment(patient, faults=[slow])


@pytest.mark.parametrize(("changes", "usual"), [pytest.param(*case[1:], id=case[0]) for case in overridden()])
def test_a_method_of_ones_own_is_called_where_a_built_in_part_knows_a_short_way(changes, usual):
    assert fingerprint(experiment(**changes)) != fingerprint(usual)


def test_a_schedule_of_ones_own_is_not_taken_for_one_by_which_all_train_at_once():
    lazy = derived(EveryRound, "trains", lambda self, node, t: node.id > 0)
    assert EveryRound().trains_all_at_once()
    assert not lazy().trains_all_at_once()


def test_an_objective_of_ones_own_is_distinguished_from_another_of_its_name():
    namesake = derived(CrossEntropy, "losses", lambda self, outputs, targets: outputs.square().sum(-1))
    assert repr(namesake()) == repr(CrossEntropy())

    class Trains(Recorded):
        async def run(self, node):
            update = await node.train(objective=self.objectives[node.id])
            self.seen.append((node.id, update.model))

    def trained(*objectives):
        program = type("Trains", (Trains,), {"objectives": objectives})()
        return dict(run_program(program, network={"nodes": 2}, engine={"kernel": "vmap"})[2])

    together = trained(CrossEntropy(), namesake())
    assert torch.equal(together[0], trained(CrossEntropy(), CrossEntropy())[0])
    assert torch.equal(together[1], trained(namesake(), namesake())[1])
    assert not torch.equal(together[1], trained(CrossEntropy(), CrossEntropy())[1])


def test_nothing_is_claimed_of_how_a_program_of_ones_own_mixes(covey, in_folder):
    text = tomli_w.dumps(experiment({"kind": "tests.programs.impatient:Impatient", "topology": "ring"}))
    (in_folder / "own.toml").write_text(text)
    _, out, _ = covey("check", "own.toml", "--json")
    graph = json.loads(out)["graph"]
    assert graph["edges"] == 5
    assert graph["doubly_stochastic"] is graph["spectral_gap"] is graph["noise_left"] is None


def test_a_task_of_ones_own_need_not_be_one_of_learning(covey, in_folder):
    tables = {**PLAIN, "program": mine(own.Counts), "task": mine(own.Counting, first=5)}
    counted = [simulate(tables)[1].figures, emulate(tables, in_folder)[1].figures]
    for figures in counted:
        assert sorted(figures) == [(node, t, "count", 5.0 + t) for node in range(5) for t in range(1, 5)]
    (in_folder / "own.toml").write_text(tomli_w.dumps(tables))
    assert "first number 5" in " ".join(covey("check", "own.toml")[1].split())
    assert json.loads(covey("check", "own.toml", "--json")[1])["first_number"] == 5


SOURCES = Path(package.__file__).parent


def members_asked_for(text, names):
    """Lines of a module that ask whether a part is of one class of its family, and not whether it is of the family."""
    for node in ast.walk(ast.parse(text)):
        asked, compared = [], [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = [node.args[1]]
        if isinstance(node, ast.MatchClass):
            asked = [node.cls]
        if any(isinstance(side, ast.Call) and ast.unparse(side.func) == "type" for side in compared):
            asked = compared
        classes = [names.get(name.id) for one in asked for name in ast.walk(one) if isinstance(name, ast.Name)]
        of_parts = [cls for cls in classes if isinstance(cls, type) and issubclass(cls, Part) and cls.family]
        if any(cls is not family_class(cls) for cls in of_parts):
            yield node.lineno
        if any(side.endswith(".kind") and not side.endswith("dtype.kind") for side in map(ast.unparse, compared)):
            yield node.lineno


@pytest.mark.parametrize(
    "text",
    [
        "isinstance(program.topology, Ring)",
        "isinstance(topology, int | Ring)",
        "type(topology) is Ring",
        "program.topology.kind == 'ring'",
        "'ring' != topology.kind",
        "match topology:\n    case Ring(): pass",
    ],
)
def test_who_asks_for_a_member_of_a_family_is_found(text):
    assert list(members_asked_for(text, {"Ring": Ring})) != []
    assert list(members_asked_for("isinstance(found, Topology)", {"Topology": Topology})) == []


def test_nothing_behind_a_family_asks_which_of_its_members_it_has():
    found = []
    for file in SOURCES.rglob("*.py"):
        name = ".".join(("covey", *file.relative_to(SOURCES).with_suffix("").parts)).removesuffix(".__init__")
        if name not in ("covey.__main__", "covey.parts.kinds"):
            found += [(name, line) for line in members_asked_for(file.read_text(), vars(import_module(name)))]
    assert found == []


class Vast(Model):
    """A module that says how large it is."""

    def numbers(self, data):
        return 10**13

    def build(self, data):
        raise AssertionError("it was made")


class Mixed(MLP):
    """A module of which no other can be made without memory."""

    def build(self, data):
        module = super().build(data)
        assert module.layers[0].weight.sum().item() < 1e9
        return module


def test_a_model_of_ones_own_is_refused_before_it_is_made_where_it_says_that_it_is_too_large():
    with pytest.raises(
        ConfigurationError, match=r"^The model .*Vast of 10,000,000,000,000 numbers would take [\d,.]+ GB"
    ):
        simulate(experiment(task={"model": Vast()}))


def test_a_model_of_ones_own_that_cannot_be_made_without_memory_is_made_with_it():
    world, _ = simulate(experiment(task={"model": Mixed(hidden=[4])}))
    assert torch.equal(models_of(world), models_of(simulate(experiment(task={"model": MLP(hidden=[4])}))[0]))
