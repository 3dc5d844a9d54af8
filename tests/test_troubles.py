"""Every sharing and program in every network with failures: it runs to its end, or is refused first."""

import warnings

import pytest
import torch

from covey.parts import kinds
from covey.parts.errors import ConfigurationError
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import check
from tests.conftest import models_of, simulate, table
from tests.examples import (
    ASYNCHRONOUSLY_SERVED,
    COMPRESSED,
    DISTILS,
    EXAMPLES,
    LEARNING,
    NEEDS_ALL,
    NEVER_WAITS,
    SILENT,
)

TASK = {
    "dataset": {"kind": "gaussian-blobs", "samples": 160, "test_samples": 20},
    "model": {"kind": "mlp", "hidden": [6]},
    "batch_size": 8,
}
PATIENCE = "40ms"
ROUNDS = 8
RATE = {"kind": "rate", "mean_up": "80ms", "mean_down": "30ms"}
LOSSES = {
    "loss": {"network": {"loss": 0.15}},
    "churn": {"network": {"churn": RATE}},
    "leave": {"network": {"churn": {**RATE, "leave": 0.1, "late": 0.4}}},
    "kill": {"faults": [{"kind": "kill", "nodes": [0, 4], "at": "40ms", "back": "60ms"}]},
    "kill for good": {"faults": [{"kind": "kill", "host": 1, "of": 3, "at": "40ms"}]},
    "cut": {"faults": [{"kind": "cut", "fraction": 0.5, "at": "40ms", "lasts": "60ms"}]},
    "corrupt": {"faults": [{"kind": "corrupt", "fraction": 1.0, "at": "20ms", "probability": 0.2}]},
}
DELAYS = {
    "pause": {"faults": [{"kind": "pause", "nodes": [0, 4], "at": "40ms", "lasts": "120ms"}]},
    "slow": {"faults": [{"kind": "slow", "fraction": 0.5, "at": "40ms", "compute": 20}]},
    "none": {},
}
NAMED = {
    "loss": "a 'loss' of 0.15",
    "churn": "the churn rate",
    "leave": "the churn rate",
    **{name: f"the fault {name.split()[0]}" for name in ("kill", "kill for good", "cut", "corrupt")},
}
REGULAR = {"kind": "random-regular", "degree": 4}
CLIQUES = {"kind": "clique-averaging", "lr": 0.1, "topology": {"kind": "random-cliques", "size": 4}}
SHARINGS = {kind: {"kind": kind, **EXAMPLES.get(("sharing", kind), {})} for kind in kinds.built_in()["sharing"]}
SHARINGS["choco, moving first"] = {**SHARINGS["choco"], "order": "move-first"}
SHARINGS["secure-aggregation, with recovery"] = {"kind": "secure-aggregation", "recovery": "shamir"}
SHARINGS["power-gossip, in steps"] = {"kind": "power-gossip", "iterations": 2}
PROGRAMS = {
    **{f"gossip: {name}": {"kind": "gossip", "topology": REGULAR, "sharing": part} for name, part in SHARINGS.items()},
    **{f"clique-averaging: {name}": {**CLIQUES, "sharing": SHARINGS[name]} for name in ("full", "choco", "stc")},
    **{
        kind: {"kind": kind, **EXAMPLES.get(("program", kind), {})}
        for kind in LEARNING
        if kind not in ("gossip", "clique-averaging")
    },
    "fedavg, compressed": COMPRESSED,
    "fedavg, compressed up": {**COMPRESSED, "down": None},
    "fedavg, compressed down": {**COMPRESSED, "up": None},
}


def experiment(program, trouble, patience=None):
    patient = {"patience": patience} if patience else {}
    program = {name: value for name, value in {**program, **patient}.items() if value is not None}
    evaluation = {"every": ROUNDS, "samples": 20}
    task = {**TASK, "validation": 0.2} if program["kind"] == "fens" else {**TASK, **DISTILS.get(program["kind"], {})}
    return table(program=program, task=task, rounds=ROUNDS, evaluation=evaluation, **trouble)


def whole(nodes, name):
    """The nodes that do all rounds, unless they are away."""
    return [node for node in nodes if node.id == 0] if name in ASYNCHRONOUSLY_SERVED else nodes


@pytest.mark.parametrize("troubles", [LOSSES, pytest.param(DELAYS, marks=pytest.mark.slow)], ids=["losses", "delays"])
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in NEEDS_ALL])
def test_who_waits_with_patience_runs_to_its_end_whatever_happens(name, troubles):
    program = PROGRAMS[name]
    patience = None if program["kind"] in (*NEVER_WAITS, *SILENT) else PATIENCE
    for trouble, changes in troubles.items():
        world, written = simulate(experiment(program, changes, patience))
        here = [node for node in world.nodes if not node.mail.away]
        assert len(here) >= 3, trouble
        assert all(node.mail.ended for node in here), trouble
        assert all(node.round == ROUNDS for node in whole(here, name)), trouble
        assert torch.isfinite(models_of(world)).all(), trouble
        rejected = [detail for _, _, what, detail in written.happened if what == "rejected"]
        # Answers for work that a server has given up are late.
        late = ("it answers for version", "its sender has no task of version")
        assert not [detail for detail in rejected if not any(words in detail for words in late)], trouble


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in (*NEVER_WAITS, *SILENT)])
def test_who_waits_for_ever_is_refused_where_messages_are_lost_and_runs_where_they_are_late(name):
    program = PROGRAMS[name]
    for trouble, changes in LOSSES.items():
        with pytest.raises(ConfigurationError) as caught:
            check(Experiment.from_table(experiment(program, changes)))
        line = str(caught.value)
        if name in NEEDS_ALL:
            assert line.startswith(f"The program {name} needs every message, and the experiment has {NAMED[trouble]}.")
        else:
            assert line.startswith(f"The 'patience' of the program {program['kind']} must be given"), line
            assert f"the experiment has {NAMED[trouble]}. Set it to more" in line, line
        assert "\n" not in line
    for changes in DELAYS.values():
        world, _ = simulate(experiment(program, changes))
        assert all(node.mail.ended for node in world.nodes)
        assert all(node.round == ROUNDS for node in whole(world.nodes, name))


def test_all_that_may_lose_messages_is_named_once():
    cut = LOSSES["cut"]["faults"][0]
    changes = {"network": {"loss": 0.1, "churn": RATE}, "faults": [cut, DELAYS["pause"]["faults"][0], cut]}
    with pytest.raises(ConfigurationError, match=r"has a 'loss' of 0.1 and the churn rate and the fault cut\. Set"):
        check(Experiment.from_table(experiment(PROGRAMS["gossip: full"], changes)))


def test_a_resumed_run_is_refused_as_a_new_one_is(tmp_path):
    import covey
    from covey.runtime.runs import Run

    tables = experiment(PROGRAMS["gossip: choco"], LOSSES["loss"], PATIENCE)
    run = covey.run({**tables, "checkpoint": {"every": 4}}, out=tmp_path / "run")
    assert Run(run.folder).status == "finished"
    with pytest.raises(ConfigurationError, match="The 'patience' of the program gossip must be given"):
        covey.run(experiment(PROGRAMS["gossip: choco"], LOSSES["loss"]), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("sharing", ["choco", "stc"])
def test_a_graph_on_which_nobody_can_ask_for_a_copy_is_refused(sharing, tmp_path):
    edges = [(node, (node + step) % 12) for node in range(12) for step in (1, 5)]
    (tmp_path / "graph").write_text("\n".join(f"{a} {b} 0.2" for a, b in edges))
    topology = {"kind": "edges", "file": str(tmp_path / "graph"), "directed": True}
    program = {"kind": "gossip", "topology": topology, "sharing": SHARINGS[sharing], "aggregation": "given"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(Experiment.from_table(experiment(program, {})))
    with pytest.raises(ConfigurationError) as caught:
        check(Experiment.from_table(experiment(program, LOSSES["loss"], PATIENCE)))
    assert str(caught.value) == (
        f"The sharing {sharing} needs an undirected graph where messages may be missed (here by 'patience' and a "
        "'loss' of 0.15): a node that missed one asks its sender for the whole copy. Got edges instead, which is "
        "directed."
    )
