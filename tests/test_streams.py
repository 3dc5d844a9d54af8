"""Streams of samples, one for each node: shuffled in blocks, and read again from the same batch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey import api
from covey.data import from_stream
from covey.learning.datasets.streaming import Streams
from covey.learning.jobs import Training
from covey.learning.node import Work
from covey.parts.errors import ConfigurationError, CoveyError, DataError
from tests import folders
from tests.conftest import models_of, simulate, table
from tests.folders import rows
from tests.hosts import emulate

CENTRES = np.array([[3.0, 0.0], [-2.0, 2.0], [-2.0, -2.0]])
TEST = (CENTRES[np.arange(60) % 3] + 0.1 * np.arange(60)[:, None] % 1, np.arange(60) % 3)
HERE = "tests.test_streams"


def samples(node, length=None):
    """Samples without end, or of a length, in which classes come in long rows."""
    draw = np.random.default_rng(node)
    for index in itertools.count() if length is None else range(length):
        label = index // 20 % 3
        yield CENTRES[label] + draw.normal(size=2), label


def make(count: int = 40, block: int = 60):
    return from_stream(samples, test=TEST, count=count, block=block, classes=3)


def numbered(length=None):
    """Streams whose samples are numbered."""

    def of(node):
        for index in itertools.count() if length is None else range(length):
            yield np.float32([node, index]), index + 0.5

    return of


@settings(max_examples=30, deadline=None)
@given(
    block=st.integers(1, 9),
    length=st.sampled_from([None, 5, 23]),
    takes=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=6),
)
def test_every_block_is_its_samples_in_some_order(block, length, takes):
    stream = from_stream(
        numbered(length), test=(np.zeros((2, 2), np.float32), [0.5, 1.5]), count=8, block=block
    ).data.stream
    whole = Streams(stream, 3, 2).take(1, 0, 60)
    numbers = (whole[1] - 0.5).long()
    assert torch.equal(whole[0][:, 1].long(), numbers)
    assert (whole[0][:, 0] == 1).all()
    for first in range(0, 60 - block, block):
        expected = [index if length is None else index % length for index in range(first, first + block)]
        assert sorted(numbers[first : first + block].tolist()) == sorted(expected)
    streams = Streams(stream, 3, 2)
    for start, count in takes:
        inputs, targets = streams.take(1, start, count)
        assert torch.equal(inputs, whole[0][start : start + count])
        assert torch.equal(targets, whole[1][start : start + count])
    if block > 4 and length is None:
        assert not torch.equal(Streams(stream, 4, 2).take(1, 0, 60)[1], whole[1])


def test_a_run_learns_and_is_the_same_with_any_number_of_workers_and_in_hosts(tmp_path):
    task = {"dataset": f"{HERE}:make", "model": "logistic", "local_epochs": 1, "batch_size": 16}
    found = []
    for engine in ({"workers": 1}, {"workers": 3, "chunk": 2}, {"kernel": "module"}):
        tables = table(task=task, rounds=4, network={"nodes": 4}, engine=engine)
        world, written = simulate(tables)
        found.append(models_of(world))
        assert all(node.samples_used == 4 * 3 * 16 for node in world.nodes)
    assert np.mean([row[3] for row in written.figures if row[1:3] == (4, "accuracy")]) > 0.9
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[0], found[2], atol=1e-5)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, found[0], atol=1e-5)


def test_a_resumed_run_continues_at_the_same_batch(tmp_path):
    task = {**folders.tiny()["task"], "dataset": f"{HERE}:make", "partition": "iid"}
    whole, stopped = (way(tmp_path / way.__name__, task=task) for way in (folders.finished, folders.interrupted))
    assert api.resume(stopped).status == "finished"
    assert rows(stopped) == rows(whole)
    assert (stopped / "models.npy").read_bytes() == (whole / "models.npy").read_bytes()


def learner():
    return simulate(table(task={"dataset": make(), "model": "logistic"}, rounds=1, network={"nodes": 2}))[
        0
    ].task.learner


def test_what_needs_all_samples_is_refused(tmp_path):
    made = learner()
    weighted = Training(0, made.initial(0), 1, 0, 0, Work(weights=torch.ones(40)))
    full = Training(0, made.initial(0), 1, 0, 0, Work(steps=1), gradient="all")
    for use, what in (
        (lambda: made.splits.indices("train", 0), "train split"),
        (lambda: made.train([weighted]), "weights of samples"),
        (lambda: made.cost(full), "gradient on all samples"),
    ):
        with pytest.raises(
            ConfigurationError, match=f"^The samples of each node come in a stream, which gives no {what}"
        ):
            use()
    with pytest.raises(ConfigurationError, match="read by a function of this process"):
        make().portable(tmp_path)


def ends_badly(node):
    yield from samples(node, 45)
    yield np.zeros(3), 1


def raises(node):
    yield from samples(node, 45)
    raise OSError("no such shard")


def strange(node):
    yield from samples(node, 45)
    yield np.zeros(2), 7


@pytest.mark.parametrize(
    ("dataset", "task", "said"),
    [
        (lambda: from_stream(samples, test=0.2, count=9, classes=3), {}, "The 'test' of a stream must be the pair (x, y)"),
        (lambda: from_stream(samples, test=TEST, count=0, classes=3), {}, "The 'count' of a stream must be an int of at least 1. Got 0"),
        (lambda: from_stream(samples, test=TEST, count=9), {}, "The 'classes' of a stream must be a number or names"),
        (lambda: from_stream(lambda node: iter(()), test=TEST, count=9, classes=3), {}, "A stream must give pairs (x, y). Got none instead."),
        (lambda: from_stream(lambda node: iter([1]), test=TEST, count=9, classes=3), {}, "A stream must give pairs (x, y). Got 1 instead."),
        (lambda: from_stream(ends_badly, test=TEST, count=9, block=50, classes=3), {}, "The samples of a stream must be one array"),
        (lambda: from_stream(raises, test=TEST, count=9, block=50, classes=3), {}, "The stream of node 0 fails: OSError: no such shard"),
        (lambda: from_stream(strange, test=TEST, count=9, block=50, classes=3), {}, "The targets of a stream must be classes in [0, 3)."),
        (make, {"validation": 0.1}, "The samples of each node come in a stream, which gives no validation samples."),
        (make, {"partition": "shards"}, "The dataset given has a stream for each node, and no 'partition' deals it out."),
    ],
)  # fmt: skip
def test_a_wrong_stream_is_one_line(dataset, task, said):
    with pytest.raises(CoveyError) as caught:
        simulate(table(task={"dataset": dataset(), "model": "logistic", **task}, network={"nodes": 2}))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DataError | ConfigurationError)
