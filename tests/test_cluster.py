"""The cluster without Ray: its settings, what it says of missing things, and the reasons of ends."""

import asyncio
import logging
import signal
import socket
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import covey
from covey.parts.errors import ConfigurationError, RunError
from covey.runtime.cluster import endings, session
from covey.runtime.cluster.crew import cores_each
from covey.runtime.cluster.placement import Bundle, shortage
from covey.runtime.cluster.versions import difference, versions
from covey.runtime.emulation.host.log import sent_to_launcher
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import check

TABLES = {
    "program": {"kind": "gossip", "topology": "ring"},
    "task": {"dataset": "digits", "model": "logistic"},
    "network": {"nodes": 6},
}


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__("a long traceback")
        self.cause = cause


class OutOfMemoryError(RayError):
    pass


class ObjectStoreFullError(RayError):
    pass


class OutOfDiskError(RayError):
    pass


KINDS = {kind.__name__: kind for kind in (RayTaskError, OutOfMemoryError, ObjectStoreFullError, OutOfDiskError)}


@pytest.fixture
def ray(monkeypatch):
    """A stand-in for Ray, which takes each call."""
    made = SimpleNamespace(
        exceptions=SimpleNamespace(**KINDS),
        is_initialized=lambda: False,
        shutdown=lambda: None,
        init=lambda **more: None,
    )
    monkeypatch.setitem(sys.modules, "ray", made)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return made


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 9))
def test_actors_have_the_most_cores_with_which_each_fits_on_one_machine(machines, count):
    cores = cores_each(machines, count)
    room = [sum(has // each for has in machines) for each in range(1, 14)]
    assert room[cores - 1] >= count or cores == 1
    assert all(fits < count for fits in room[cores:])


def connect(address=None):
    with session.connected(address, cores=1) as made:
        return made


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"needs Ray: pip install 'covey\[cluster\]' brings it\."):
        covey.run({**TABLES, "engine": "cluster"}, out=tmp_path / "run")


def test_a_cluster_that_does_not_answer_is_named_at_once(ray, monkeypatch):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # Nobody listens.
        where = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(
            RunError, match=rf"^No Ray cluster answers at {where}: start one there with `ray start --head`\.$"
        ):
            connect(where)
        monkeypatch.setenv("RAY_ADDRESS", where)
        with pytest.raises(RunError, match=f"No Ray cluster answers at {where}"):
            connect()
    with pytest.raises(RunError, match="No Ray cluster answers at nonsense"):
        connect("nonsense")


def test_an_address_of_a_client_is_refused(ray):
    with pytest.raises(
        ConfigurationError, match=r"'address' of the engine must be that of the head.*Got 'ray://a:10001'"
    ):
        connect("ray://a:10001")


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("local", OSError("no room"), "Ray cannot be started on this machine: no room"),
        (
            "auto",
            ConnectionError("none"),
            "No Ray cluster runs on this machine: start one with `ray start --head`. none",
        ),
        (
            "local",
            RuntimeError("Version mismatch:\n Ray 2.60\n and 2.61"),
            "other versions than this machine: Version mismatch: Ray 2.60 and 2.61",
        ),
    ],
)
def test_what_ray_says_becomes_one_line(ray, where, error, said):
    def fail(**settings):
        raise error

    ray.init = fail
    with pytest.raises(RunError) as caught:
        connect(where)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ray_takes_no_signal_away_and_an_open_connection_stays(ray):
    handler = signal.getsignal(signal.SIGTERM)
    closed = []
    ray.init = lambda **settings: signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ray.shutdown = lambda: closed.append(True)
    with session.connected(None, cores=1) as made:
        assert made.is_here
        assert signal.getsignal(signal.SIGTERM) is handler
    assert closed == [True]
    ray.is_initialized = lambda: True
    assert not connect().is_here
    assert closed == [True]


def test_what_is_missing_is_said_with_what_is_there():
    host = Bundle(cores=2, gpus=0.5, memory=4e9)
    assert shortage(host, 3, {"CPU": 6.0, "GPU": 2.0, "memory": 12e9}) is None
    assert shortage(host, 3, {"CPU": 4.0, "memory": 12e9}) == "6 cores of 4 and 1.5 GPUs of 0"
    assert shortage(host, 1, {"CPU": 8.0, "GPU": 1.0, "memory": 1e9}) == "4 GB of memory of 1"
    assert shortage(Bundle(1), 3, {"CPU": 4.0}, {"CPU": 2.0}) == "3 cores of 4 (2 free)"
    assert Bundle(1.5).options() == {"num_cpus": 1.5, "num_gpus": 0.0}
    assert host.table() == {"CPU": 2, "GPU": 0.5, "memory": 4e9}


def test_other_versions_are_one_sentence():
    here = {"covey": "0.1.0", "torch": "2.13.0", "python": "3.11.7"}
    assert difference("m", {**here, "python": "3.11.2"}, here) is None
    assert (
        difference("m", {**here, "python": "3.12.7"}, here)
        == "The machine m has python 3.12.7, and this one 3.11.7: install the same."
    )
    assert (
        difference("m", {**here, "torch": "none"}, here)
        == "The machine m has torch none, and this one 2.13.0: install the same."
    )
    assert versions()["covey"] == covey.__version__


OOM = (
    "Memory on the node (IP: 10.0.0.1, ID: x) where the lease was running was 15.00GB / 16.00GB (0.93), which exceeds the "
    "memory usage threshold of 0.9."
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemoryError(OOM), "killed by Ray for memory"),
        (RayTaskError(RunError("No launcher connected.")), "No launcher connected."),
        (ObjectStoreFullError("put"), "the object store of its machine is full"),
        (RayError("The actor is dead because its node has died."), "its machine has left the cluster"),
        (
            RayError("The actor is dead because its worker process has died. Worker exit type: x"),
            "its process was killed or crashed",
        ),
        (RayError("The actor is dead because it was killed by `ray.kill`."), "killed by the launcher"),
        (RayError("ModuleNotFoundError: No module named 'covey'"), "its machine has no module covey"),
        (RayError("another\nthing"), "another thing"),
    ],
)
def test_the_reason_of_an_end(ray, error, said):
    assert endings.reason(error) == said


def test_a_host_that_was_killed_for_memory_says_how_many_nodes_would_fit(ray):
    error = OutOfMemoryError(OOM)
    # Two hosts of 6 GB on a machine with 3 GB of others: (14.4 - 3) / 2 = 5.7 of 6 GB, with a tenth spared.
    assert (
        endings.advice(error, nodes=10, peak=6e9, hosts=2)
        == " at 6.00 GB with 10 nodes; its machine has 16.00 GB, where about 8 would fit"
    )
    assert endings.advice(error, nodes=1, peak=14e9, hosts=1).endswith("its machine has 16.00 GB, too little for one")
    assert endings.advice(OutOfMemoryError("?"), nodes=2, peak=1e9, hosts=1) == " at 1.00 GB with 2 nodes"
    assert endings.advice(error, nodes=2, peak=0.0, hosts=1) == ""


def experiment(**engine):
    return Experiment.from_table({**TABLES, "engine": {"kind": "cluster", **engine}})


def test_hosts_and_threads_follow_from_the_settings():
    engine = experiment(nodes_per_process=2, cores=2.5).engine
    assert engine.owners(6) == [0, 0, 1, 1, 2, 2]
    assert engine.workers_of(3) == 2
    assert experiment(workers=5).engine.workers_of(3) == 5
    assert experiment(cores=0.5).engine.workers_of(3) == 1
    check(experiment(nodes_per_process=2))


def test_private_data_are_refused():
    tables = {**TABLES, "task": {"dataset": {"kind": "private", "shape": [1]}, "model": "logistic"}}
    made = Experiment.from_table({**tables, "engine": {"kind": "cluster", "nodes_per_process": 3}})
    with pytest.raises(ConfigurationError, match="private"):
        check(made)


def test_the_log_of_a_host_is_sent_from_any_thread():
    class Control:
        def __init__(self):
            self.frames, self.queued = [], 0

        def send(self, parts):
            self.frames.append(b"".join(map(bytes, parts)))

    async def log():
        control, logger = Control(), logging.getLogger("covey.host.tests")
        logger.setLevel(logging.INFO)
        with sent_to_launcher(logger, control):
            logger.info("here")
            await asyncio.to_thread(logger.warning, "two\nlines")
            await asyncio.sleep(0.01)
        logger.info("nobody listens")
        await asyncio.sleep(0.01)
        return control.frames

    first, second = asyncio.run(log())
    assert b"here" in first
    assert b"two lines" in second
