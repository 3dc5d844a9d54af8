"""Objects of Python as parts of an experiment, and parts of the user's own that fail."""

import json

import networkx
import numpy as np
import pytest
import torch
from torch import nn

import covey
from covey.decentralized.gossip import Gossip
from covey.decentralized.topology import FromNetworkx, Topology
from covey.learning.dataset import Dataset
from covey.learning.partition import Partition
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, DataError, RunError
from tests.conftest import models_of, simulate, table
from tests.examples import Recorded, run_program
from tests.hosts import emulate
from tests.programs.own import Doubtful, Mirror, Outer, Ring, Slower


def small(**changes):
    task = {"dataset": "digits", "model": "logistic"}
    program = {"kind": "gossip", "topology": "ring"}
    return {"rounds": 2, "program": program, "task": task, "network": {"nodes": 4}, **changes}


MODULE = {"task": {"dataset": "digits", "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}}
GRAPH = {"program": {"kind": "gossip", "topology": FromNetworkx(graph=networkx.cycle_graph(4))}}


@pytest.mark.parametrize(
    ("changes", "key"),
    [(MODULE, "The 'factory' of the model"), (GRAPH, "The 'graph' of the topology")],
    ids=["module", "graph"],
)
def test_an_object_of_python_is_run_and_marked_as_one_in_the_file(changes, key, tmp_path, request):
    run = covey.run(small(**changes), out=tmp_path / "run")
    assert run.summary()["rounds"] == 2
    code, _, err = request.getfixturevalue("covey")("check", str(tmp_path / "run" / "run.toml"))
    assert code == 2
    assert err.startswith(f"covey: {key} ")
    assert "was an object of Python" in err
    assert err.count("\n") == 1


def test_what_is_no_networkx_graph_is_reported():
    with pytest.raises(ConfigurationError, match=r"must be a networkx graph\. Got 3 instead\."):
        FromNetworkx(graph=3)


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ("1 / 0", r"The topology .*Own fails in round 0: ZeroDivisionError: division by zero \(.*\)\."),
        ("5", r"The topology .*Own must draw a Graph of 4 nodes\. Got 5 instead\."),
        ("Graph(3, np.array([0]), np.array([1]))", r"must draw a Graph of 4 nodes\. Got one of 3 instead\."),
        ("Graph(4, np.array([0]), np.array([9]))", r"draws the edge from 0 to 9 in round 0"),
        ("Graph(4, np.array([-1]), np.array([1]))", r"draws the edge from -1 to 1 in round 0"),
        ("Graph(4, np.array([1, 2]), np.array([0, 2]))", r"draws the edge from 2 to 2 in round 0"),
        ("Graph(4, np.array([1, 1]), np.array([0, 0]))", r"draws the edge from 1 to 0 in round 0"),
    ],
)
def test_a_topology_that_goes_wrong_is_named(drawn, message):
    class Own(Topology):
        def draw(self, setting, t):
            return eval(drawn, {"Graph": Graph, "np": np})

    with pytest.raises(ConfigurationError, match=message):
        simulate(table(program={"kind": "gossip", "topology": Own()}, network={"nodes": 4}))


class Broken(Dataset):
    def load(self, folder, *, quiet=True):
        raise ValueError("oh")


class Seven(Dataset):
    def load(self, folder, *, quiet=True):
        return 7


class Undealt(Partition):
    def deal(self, data, holders, generator):
        raise ValueError("oh")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"dataset": Broken()}, r"The dataset .*Broken fails: ValueError: oh \(.*\)\."),
        ({"dataset": Seven()}, r"The dataset .*Seven must make Data\. Got 7 instead\."),
        ({"partition": Undealt()}, r"The partition .*Undealt fails: ValueError: oh \(.*\)\."),
    ],
)
def test_data_of_ones_own_that_go_wrong_are_named(task, message):
    with pytest.raises(DataError, match=message):
        simulate(table(task={"dataset": "digits", "model": "logistic", **task}))


def test_a_program_that_is_no_coroutine_is_reported():
    class Plain(Recorded):
        def run(self, node):
            return None

    with pytest.raises(ConfigurationError, match=r"The 'run' of the program .*Plain must be an async function"):
        run_program(Plain(), network={"nodes": 2})


def test_trouble_with_the_run_folder_is_not_the_programs():
    class Unlucky(Recorded):
        async def run(self, node):
            raise RunError("The run folder x cannot be written: disk I/O error.")

    with pytest.raises(RunError, match=r"^The run folder x cannot be written: disk I/O error\.$"):
        run_program(Unlucky(), network={"nodes": 1})


OWN = {
    "program": Slower(topology="ring"),
    "topology": Gossip(topology=Mirror()),
    "shadowing": Gossip(topology=Ring()),
    "sharing": Gossip(topology="ring", sharing=Doubtful()),
    "nested": Gossip(topology=Outer.Inner()),
}


@pytest.fixture(params=OWN)
def own(request):
    """An experiment with a part of the user's own that declares a kind."""
    return small(program=OWN[request.param], rounds=4, checkpoint={"every": 2}, output={"models": True})


def test_a_run_with_an_own_part_is_resumed(own, tmp_path):
    whole = covey.run(own, out=tmp_path / "run")
    models = whole.models
    facts = json.loads((whole.folder / "facts.json").read_text())
    (whole.folder / "facts.json").write_text(json.dumps({**facts, "status": "running"}))
    again = covey.resume(whole.folder)
    assert again.status == "finished"
    assert len(again.facts["starts"]) == 2
    assert np.array_equal(again.models, models)


def test_hosts_run_an_own_part(own, tmp_path):
    outcome, _ = emulate(own, tmp_path)
    world, _ = simulate(own)
    assert torch.allclose(outcome.models, models_of(world), atol=1e-5)
    builtin, _ = simulate({**own, "program": {"kind": "gossip", "topology": "ring"}})
    same = type(own["program"].topology) is not Ring
    assert same or not torch.allclose(models_of(builtin), models_of(world), atol=1e-3)


def local():
    class Local(Slower):
        kind = "local"

    return Local(topology="ring")


def of_a_script():
    return type("Slow", (Slower,), {"__module__": "__main__", "kind": "slow"})(topology="ring")


def of_no_file():
    return type("Slow", (Slower,), {"__module__": "made_up", "kind": "slow"})(topology="ring")


def hidden():
    return type("Slower", (Slower,), {"__module__": Slower.__module__, "__qualname__": "Slower"})(topology="ring")


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (local, "Local is defined inside a function"),
        (of_a_script, "Slow is defined in the script or notebook that was started"),
        (of_no_file, "Slow is defined in made_up, which is no module that can be imported"),
        (hidden, "Slower is another one than that of its module tests.programs.own"),
    ],
)
def test_what_no_host_can_import_is_refused_before_anything_begins_and_simulated(program, why, tmp_path):
    tables = small(program=program())
    engine = {"kind": "emulation", "nodes_per_process": 2}
    with pytest.raises(ConfigurationError) as caught:
        covey.run({**tables, "engine": engine}, out=tmp_path / "real")
    assert str(caught.value) == (
        f"The program {why}: the processes of an emulation cannot import it. Put it into a module."
    )
    assert not (tmp_path / "real").exists()
    assert covey.run(tables, out=tmp_path / "simulated").status == "finished"


def test_an_object_of_python_is_refused_before_hosts_begin(tmp_path):
    with pytest.raises(ConfigurationError, match="The 'factory' of the model was an object of Python"):
        covey.run(small(**MODULE, engine={"kind": "emulation"}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("tests.test_own_parts:local.<locals>.Local", "it was defined inside a function, where nothing finds it again"),
        ("__main__:Lost", "it was defined in a script or notebook, and this process has not run it"),
    ],
)
def test_a_file_says_why_it_cannot_be_loaded_again(kind, why):
    with pytest.raises(ConfigurationError, match=f"^The program '{kind}' does not exist: {why}.$"):
        covey.Experiment.from_table(small(program={"kind": kind, "topology": "ring"}))
