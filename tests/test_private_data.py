"""Data that stay with their hosts: used for training and evaluation, and in no frame and no file elsewhere."""

import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

import covey
from covey.learning.datasets.private import Local
from covey.parts.errors import ConfigurationError, CoveyError, RunError
from covey.parts.parameters import build
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.runs.schema import COMMIT_COLUMNS
from tests.conftest import table
from tests.hosts import hosts, launch, token_file

NODES = 4
PLANTED = 1234.5678
"""A number that each record of every host has."""
NAMED = "Agatha Planted"
"""A name in each record."""


def written(folder, hosts=2, sizes=(40, 64), planted=PLANTED):
    """A file of records for each host; the classes depend on the first two numbers."""
    draw = np.random.default_rng(5)
    for host, size in zip(range(hosts), sizes, strict=True):
        x = draw.normal(size=(size, 3)).round(3)
        y = (x[:, 0] + x[:, 1] > 0).astype(int)
        y[:2] = 0, 1
        lines = [f"{a},{b},{planted + c},{NAMED},{label}" for (a, b, c), label in zip(x, y, strict=True)]
        (folder / f"host-{host}.csv").write_text("\n".join(["a,b,c,name,label", *lines]) + "\n")
    return [local(folder / f"host-{host}.csv") for host in range(hosts)]


def local(path, **changes):
    table = {"kind": "csv", "path": str(path), "target": "label", "keep": ["name"], "standardize": True, "test": 0.25}
    return {"dataset": {**table, **changes}}


PRIVATE = {"kind": "private", "shape": [3], "classes": 2}
QUICK = {"nodes": NODES, "latency": 0.0, "bandwidth": None, "compute": 1e6}


def tables(**changes):
    task = {"dataset": PRIVATE, "optimizer": {"kind": "sgd", "lr": 0.3}, "local_steps": 4}
    changes = {"rounds": 30, "network": QUICK, "evaluation": {"every": 30, "samples": None}, **changes}
    return table(**{**changes, "task": {**task, **changes.get("task", {})}})


def figures(written, name):
    return {node: value for node, _, named, value in written.figures if named == name}


@contextmanager
def serving(locals):
    """Hosts of this process, each with its own data."""
    with ExitStack() as stack:
        running = [stack.enter_context(hosts(1, local=found)) for found in locals]
        yield [address for [(_, address)] in running]


def test_each_node_learns_from_its_own_samples_and_is_judged_on_its_own(tmp_path):
    with serving(written(tmp_path)) as addresses:
        outcome, log = launch(tables(), tmp_path, addresses)
    assert outcome.finished
    accuracy, own = figures(log, "accuracy"), figures(log, "own_accuracy")
    assert set(own) == {*range(NODES)}
    assert min(own.values()) > 0.8
    assert {node: accuracy[node] for node in own} == own
    assert "consensus_distance" in {name for node, _, name, _ in log.figures if node == -1}
    assert not [name for _, _, name, _ in log.figures if name == "average_model_accuracy"]
    assert {row[0]: row[SAMPLES] for row in log.rows if row[1] == 30} == SEEN


SAMPLES = COMMIT_COLUMNS.index("samples")
SEEN = {0: 1920, 1: 1800, 2: 1500, 3: 1440}
"""30 rounds of 4 steps: of 40 records 31 are for training, 16 and 15 for the nodes of host 0, and of 64 there are 49."""


def test_common_test_samples_stand_beside_each_nodes_own(tmp_path):
    own = written(tmp_path)
    draw = np.random.default_rng(9)
    x = draw.normal(size=(30, 3)).astype(np.float32)
    np.savez(tmp_path / "common.npz", x=x, y=np.arange(30) % 2, x_test=x, y_test=np.arange(30) % 2)
    dataset = {**PRIVATE, "test": {"kind": "npz", "path": str(tmp_path / "common.npz")}}
    with serving(own) as addresses:
        _, log = launch(tables(task={"dataset": dataset}), tmp_path, addresses)
    accuracy, own_accuracy = figures(log, "accuracy"), figures(log, "own_accuracy")
    assert {round(30 * value, 6) % 1 for value in accuracy.values()} == {0.0}
    assert set(own_accuracy) == {*range(NODES)}
    assert [name for _, _, name, _ in log.figures if name == "average_model_accuracy"]


@pytest.mark.parametrize("program", [{"kind": "fedavg", "clients": 2}, {"kind": "push-sum", "topology": "ring"}])
def test_other_programs_learn_from_private_data_too(program, tmp_path):
    network = {**QUICK, "nodes": 5}
    with serving(written(tmp_path)) as addresses:
        outcome, log = launch(tables(program=program, network=network, rounds=6), tmp_path, addresses)
    assert outcome.finished
    assert len(figures(log, "own_accuracy")) == 4 + (program["kind"] == "push-sum")


def test_each_node_may_have_a_data_set_of_its_own(tmp_path):
    written(tmp_path, hosts=4, sizes=(20, 30, 40, 50))
    files = [local(tmp_path / f"host-{number}.csv")["dataset"] for number in range(4)]
    with serving([{"nodes": files[:2]}, {"nodes": files[2:]}]) as addresses:
        outcome, log = launch(tables(rounds=3, evaluation={"every": 3}), tmp_path, addresses)
    assert outcome.finished
    assert set(figures(log, "own_accuracy")) == {*range(NODES)}


def test_a_host_may_have_one_node_alone(tmp_path):
    with serving(written(tmp_path, hosts=3, sizes=(20, 30, 40))) as addresses:
        outcome, _ = launch(tables(rounds=2, network={**QUICK, "nodes": 3}), tmp_path, addresses)
    assert outcome.finished


# ---------------------------------------------------------------------- what nobody else sees


def marks():
    """The forms of a planted record: as text, and as numbers of either width."""
    number = np.array([PLANTED])
    return [NAMED.encode(), str(PLANTED).encode(), number.tobytes(), number.astype(np.float32).tobytes()]


def recorded(monkeypatch):
    """All frames that anybody in this process sends, before they are sealed."""
    sent, send = [], Connection.send

    def record(self, parts, *more, **named):
        sent.append(b"".join(bytes(part) for part in parts) if not isinstance(parts, bytes) else parts)
        return send(self, parts, *more, **named)

    monkeypatch.setattr(Connection, "send", record)
    return sent


def test_no_frame_and_no_file_of_the_launcher_has_a_planted_record(tmp_path, monkeypatch):
    records = tmp_path / "records"
    records.mkdir()
    found = written(records)
    for own in found:
        own["dataset"]["standardize"] = False
    with monkeypatch.context() as patched:
        sent = recorded(patched)
        with serving(found) as addresses:
            engine = {
                "kind": "emulation",
                "hosts": [str(address) for address in addresses],
                "token_file": str(token_file(tmp_path)),
            }
            run = covey.run({**tables(rounds=3, checkpoint={"every": 1}), "engine": engine}, out=tmp_path / "run")
    assert len(sent) > 50
    everything = b"".join(sent) + b"".join(path.read_bytes() for path in run.folder.rglob("*") if path.is_file())
    assert b"own_accuracy" in b"".join(sent)
    assert not [mark for mark in marks() if mark in everything]
    assert not (run.folder / "holdings.npy").exists()
    # The marks are what records look like: they are in what the hosts have read.
    assert NAMED.encode() in (records / "host-0.csv").read_bytes()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a,b,c,name,label\n1,2,3,Agatha Planted,0\n1,2,Agatha Planted,x,1\n", "DataError"),
        ("a,b\n1,2,3\n", "DataError"),
    ],
)
def test_an_error_at_a_host_quotes_nothing_of_its_data(text, kind, tmp_path, caplog):
    found = written(tmp_path)
    (tmp_path / "host-1.csv").write_text(text)
    with serving(found) as addresses, pytest.raises(CoveyError) as caught:
        launch(tables(), tmp_path, addresses)
    assert str(caught.value) == f"Host 1 fails with a {kind}, whose text may quote its own data: its log has it."
    assert "host-1.csv" in caplog.text


# ---------------------------------------------------------------------- what does not fit


def test_a_host_without_data_is_named(tmp_path):
    with serving([written(tmp_path)[0], None]) as addresses, pytest.raises(ConfigurationError) as caught:
        launch(tables(), tmp_path, addresses)
    assert str(caught.value) == "This host has no data of its own: start it with `covey host --data FILE.toml`."


WRONG = {
    "shape": ({**PRIVATE, "shape": [4]}, {}, "must be float32 of 4, as in the experiment. Got float32 of 3 instead."),
    "numbers": ({**PRIVATE, "numbers": "uint8"}, {}, "must be uint8 of 3, as in the experiment. Got float32 of 3"),
    "values": ({**PRIVATE, "classes": None}, {}, "must be values, as in the experiment. Got classes instead."),
    "names": (
        PRIVATE,
        {"target": "name", "keep": [], "features": ["a", "b", "c"]},
        "must be 1, the number of names in the target 'name' of",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_host_whose_data_are_others_says_so_in_its_log(mistake, tmp_path, caplog):
    dataset, changes, said = WRONG[mistake]
    found = written(tmp_path)
    found[0]["dataset"] |= changes
    dataset = {name: value for name, value in dataset.items() if value is not None}
    model = "linear" if "classes" not in dataset else "logistic"
    with serving(found) as addresses, pytest.raises(CoveyError, match=r"Host \d fails with a DataError"):
        launch(tables(task={"dataset": dataset, "model": model}), tmp_path, addresses)
    assert said in caplog.text


def test_the_number_of_data_sets_must_be_that_of_the_nodes(tmp_path):
    found = written(tmp_path)
    with (
        serving([{"nodes": [found[0]["dataset"]]}, found[1]]) as addresses,
        pytest.raises(ConfigurationError) as caught,
    ):
        launch(tables(), tmp_path, addresses)
    assert "must be 2, as many as the run gives this host. Got 1 instead." in str(caught.value)


@pytest.mark.parametrize("table", [{}, {"dataset": "digits", "nodes": ["digits"]}])
def test_a_host_has_one_data_set_or_one_for_each_node(table):
    with pytest.raises(ConfigurationError, match="must be one 'dataset', or one of each node in 'nodes'"):
        build(Local, table)


@pytest.mark.parametrize("engine", [{"kind": "simulation"}, {"kind": "emulation"}])
def test_private_data_need_hosts(engine, tmp_path):
    with pytest.raises(ConfigurationError, match="'hosts' of the engine"):
        covey.run({**tables(), "engine": engine}, out=tmp_path / "run")


def test_a_program_that_sends_samples_is_refused(tmp_path):
    program = {"kind": "tests.test_private_data:Shares"}
    engine = {"kind": "emulation", "hosts": ["127.0.0.1:7000"], "token_file": "token"}
    with pytest.raises(ConfigurationError, match="sends samples, and the data of the task are private"):
        covey.run({**tables(program=program), "engine": engine}, out=tmp_path / "run")


class Shares(covey.LearningProgram):
    """Gives its samples away."""

    kind = "tests.test_private_data:Shares"
    sends_samples = True

    async def run(self, node):
        async for _ in node.rounds():
            node.send((node.id + 1) % node.nodes, {"x": node.samples("train", 1).inputs})


def test_unequal_data_that_should_be_equal_are_noticed(tmp_path, monkeypatch):
    """Hosts with their own copies of one file: as many samples with other labels are no longer the same data."""
    from covey.learning.datasets import digits

    load = digits.Digits.load
    inverted = []

    def other(self, folder, *, quiet=True):
        data = load(self, folder, quiet=quiet)
        if threading.current_thread() is not threading.main_thread() and not inverted:
            inverted.append(True)
            data.train.targets.copy_(9 - data.train.targets)
        return data

    with hosts(2) as running:
        monkeypatch.setattr(digits.Digits, "load", other)
        with pytest.raises(RunError, match=r"Host \d has another data set than the launcher: .*All must load the same"):
            launch(table(network=QUICK), tmp_path, [address for _, address in running])
