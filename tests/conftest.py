"""Shared things of tests: small experiments, and a quiet torch."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from covey.messages import wire
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.runs import RunWriter
from covey.runtime.simulation.checkpoints import restore
from covey.runtime.simulation.world import World

torch.set_num_threads(1)
os.environ["COVEY_CACHE"] = "off"  # A test that prepares data names a folder of its own.
# A loaded machine is slow, and that is no fault of a test.
settings.register_profile("covey", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("covey")


class Written(RunWriter):
    """A writer that keeps everything in memory."""

    def __init__(self) -> None:
        self.folder = Path.cwd()
        self.rows: list[tuple[Any, ...]] = []
        self.figures: list[tuple[int, int, str, float]] = []
        self.happened: list[tuple[float, int, str, str]] = []
        self.checkpoints: list[tuple[int, dict[str, Any]]] = []
        self.of_hosts: list[tuple[float, int, str, float]] = []
        self.seen: list[tuple[float, int, bytes]] = []
        self.truths: dict[str, Any] = {}
        self.added: list[tuple[float, int, str, dict[str, Any]]] = []

    def commits(self, rows):
        self.rows.extend(rows)

    def metrics(self, rows):
        self.figures.extend(rows)

    def event(self, time, node, kind, detail):
        self.happened.append((time, node, kind, detail))

    def observed(self, rows):
        self.seen.extend(rows)

    def add_truth(self, found):
        self.truths.update(found)

    def forget_observed(self, node, time):
        self.seen = [row for row in self.seen if row[1] != node or row[0] <= time]

    def records(self, rows):
        self.added.extend((*row[:3], dict(row[3])) for row in rows)

    def forget_records(self, node, time):
        self.added = [row for row in self.added if row[1] != node or row[0] <= time]

    def host_figures(self, rows):
        self.of_hosts.extend(rows)

    def forget(self, table, rounds):
        if table == "commits":
            self.rows = [row for row in self.rows if row[:2] not in rounds]
        else:
            self.figures = [figure for figure in self.figures if figure[:2] not in rounds]

    def flush(self):
        pass

    def truncate(self, moment):
        kept = {**dict(enumerate(moment.completed)), -1: moment.of_network}
        self.rows = [row for row in self.rows if row[1] <= kept[row[0]]]
        self.figures = [figure for figure in self.figures if figure[1] <= kept[figure[0]]]

    def checkpoint(self, round, payload, keep=2):
        self.checkpoints.append((round, dict(payload)))


def table(**changes: Any) -> dict[str, Any]:
    """The tables of a small experiment: 12 nodes, digits, 6 rounds of gossip on a ring."""
    base: dict[str, Any] = {
        "seed": 3,
        "rounds": 6,
        "program": {"kind": "gossip", "topology": "ring"},
        "task": {"dataset": "digits", "model": "logistic", "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.3}},
        "network": {"nodes": 12, "latency": "5ms", "bandwidth": "20Mbit/s"},
        "evaluation": {"every": 2, "samples": 60},
        "engine": {"kind": "simulation", "workers": 1},
    }
    for name, value in changes.items():
        merged = name != "program" and isinstance(value, dict) and isinstance(base.get(name), dict)
        base[name] = {**base[name], **value} if merged else value
    return base


def simulate(
    tables: dict[str, Any] | Experiment, *, checkpoint: Any = None, progress: Any = None
) -> tuple[World, Written]:
    """Run an experiment in memory."""
    experiment = tables if isinstance(tables, Experiment) else Experiment.from_table(tables)
    prepared = prepare(experiment, **experiment.engine.compute_settings())
    written = Written()
    world = World(prepared, written, progress)
    if checkpoint is None:
        world.begin()
    else:
        restore(world, checkpoint)
    world.run()
    prepared.task.close()
    return world, written


def stated_bytes(world: World) -> float | None:
    """The bytes of a node and round that `covey check` says of what a world ran."""
    return prepare(world.prepared.experiment).played.sent


def begun(tables: dict[str, Any]) -> World:
    """The world of an experiment in which nothing has happened yet."""
    return World(prepare(Experiment.from_table(tables)), Written())


def models_of(world: World) -> torch.Tensor:
    """N x P, the final models."""
    return torch.stack([node.model for node in world.nodes])


@dataclass(frozen=True)
class Overheard:
    """One message to one or several nodes, when it was given to the network."""

    time: float
    sender: int
    receivers: list[int]
    tag: str
    round: int | None
    payload: dict[str, Any]

    @property
    def encoded(self) -> bytes:
        """Its bytes."""
        return wire.encode(self.payload, tag=self.tag, sender=self.sender, round=self.round)


@pytest.fixture
def overheard(monkeypatch: pytest.MonkeyPatch) -> list[Overheard]:
    """All messages that the worlds of a test send."""
    heard: list[Overheard] = []
    post = World.post

    def listen(world, node, receivers, payload, tag, round):
        if receivers:
            heard.append(Overheard(world.now, node.id, list(receivers), tag, round, dict(payload)))
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", listen)
    return heard


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files that some kinds read, as `part_table` names them."""
    from tests.examples import FILES

    folder = tmp_path_factory.mktemp("files")
    for (family, kind), text in FILES.items():
        (folder / f"{family}-{kind}").write_text(text)
    return folder


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def covey(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line: (exit code, standard output, standard error)."""
    from covey.cli import main

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(list(arguments))
        except SystemExit as exit:
            code = int(exit.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """All rounds of the masked sharings of a test."""
    from tests.masked import watched

    return watched(monkeypatch)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads of data sets fail."""
    from covey.learning.datasets import source

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(source.urllib.request, "urlopen", refuse)


@pytest.fixture
def served(tmp_path):
    """A host that waits for callers; in the end it must serve a right launcher."""
    from tests.strangers import serve

    yield from serve(tmp_path)
