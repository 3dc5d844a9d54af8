"""Data that may be larger than memory: arrays mapped from files, and inputs that a function reads."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from covey.data import from_arrays, from_reader, from_torch
from covey.learning.dataset import Dataset, Location
from covey.learning.datasets.digests import digest
from covey.parts.errors import ConfigurationError, DataError
from covey.parts.parameters import build
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate

SAMPLES, FEATURES = 1 << 16, 10_000  # 650 MB of bytes, in a sparse file that takes no space.


def anonymous_bytes() -> int:
    """The memory of this process that no file backs."""
    status = Path("/proc/self/status")
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if found is None:
        pytest.skip("the kernel does not tell the memory that no file backs")
    return 1024 * int(found[1])


def write(folder: Path, samples: int, features: int) -> dict:
    """Arrays of which the first samples are not zero, and the table of their data set."""
    folder.mkdir()
    for suffix, count in (("", samples), ("_test", 60)):
        x = np.lib.format.open_memmap(folder / f"x{suffix}.npy", mode="w+", dtype=np.uint8, shape=(count, features))
        x[:60, ::7] = 200 * (np.arange(60)[:, None] % 2)
        x.flush()
        np.save(folder / f"y{suffix}.npy", np.arange(count) % 2)
    return {"kind": "npy", "path": str(folder)}


def test_a_run_reads_no_more_than_it_uses(tmp_path):
    settings = {"rounds": 1, "network": {"nodes": 3}}
    simulate(table(task={"dataset": write(tmp_path / "small", 600, 8)}, **settings))  # Imports, threads, caches.
    dataset = write(tmp_path / "large", SAMPLES, FEATURES)
    before = anonymous_bytes()
    world, written = simulate(table(task={"dataset": dataset}, **settings))
    assert anonymous_bytes() - before < SAMPLES * FEATURES / 10
    assert len(world.task.learner.data.train) == SAMPLES
    assert {row[2] for row in written.figures} >= {"loss", "accuracy"}


def test_the_data_of_a_host_stay_in_their_files(tmp_path):
    local = {"dataset": write(tmp_path / "own", 600, 8)}
    private = build(Dataset, {"kind": "private", "shape": [8], "numbers": "uint8", "classes": 2})
    data = private.load_at(Location(tmp_path, range(3), here=[0, 1, 2], local=local))
    mapped = np.load(tmp_path / "own" / "x.npy", mmap_mode="r")
    assert data.train.inputs.mapped_from == tmp_path / "own" / "x.npy"
    assert np.array_equal(data.train.inputs.numpy(), mapped)
    dealt = np.sort(np.concatenate(data.own.train))
    assert np.array_equal(dealt, np.arange(600))
    assert [part.tolist() for part in data.own.test] == [list(range(60))] * 3


def test_a_mapped_run_is_that_of_the_arrays_in_memory(tmp_path):
    dataset = write(tmp_path / "files", 600, 8)
    arrays = [torch.from_numpy(np.load(tmp_path / "files" / f"{name}.npy")) for name in ("x", "y", "x_test", "y_test")]
    settings = {"rounds": 2, "network": {"nodes": 3}}
    expected = models_of(simulate(table(task={"dataset": (tuple(arrays[:2]), tuple(arrays[2:]))}, **settings))[0])
    assert torch.equal(models_of(simulate(table(task={"dataset": dataset}, **settings))[0]), expected)


# ---------------------------------------------------------------------- inputs that a function reads

PICTURES = np.random.default_rng(3).integers(0, 256, (120, 1, 8, 8)).astype(np.uint8)
LABELS = np.arange(120) % 3
SMALL = {"rounds": 2, "network": {"nodes": 3}}


def pictures(*, numbers: bool = False):
    """A data set that is read, as hosts call it."""
    stored = PICTURES / np.float32(255) if numbers else PICTURES
    return from_reader(lambda indices: stored[indices], LABELS, columns={"user": np.arange(120) % 6})


class Network(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3))


@pytest.mark.parametrize("model", ["logistic", Network])
@pytest.mark.parametrize("numbers", [False, True])
def test_a_run_on_inputs_that_are_read_is_that_of_arrays(model, numbers):
    stored = PICTURES / np.float32(255) if numbers else PICTURES
    arrays = from_arrays(stored, LABELS, columns={"user": np.arange(120) % 6})
    found = []
    for dataset in (arrays, pictures(numbers=numbers)):
        task = {"dataset": dataset, "model": model, "partition": {"kind": "natural", "by": "user"}, "local_steps": 2}
        world, written = simulate(table(task=task, engine={"workers": 2}, **SMALL))
        found.append((models_of(world), written.figures))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert digest(pictures().data) == digest(from_arrays(PICTURES, LABELS).data)


def test_only_what_is_needed_is_read():
    large = np.zeros((1 << 20, 32), dtype=np.uint8)
    sizes = []

    def read(indices):
        sizes.append(len(indices))
        return large[indices]

    dataset = from_reader(read, np.arange(len(large)) % 2, test=(lambda indices: large[indices], np.arange(600) % 2))
    simulate(table(task={"dataset": dataset}, **SMALL))
    assert max(sizes) <= 256
    assert sum(sizes) < 5000


def test_hosts_call_the_function_that_makes_the_data(tmp_path):
    tables = table(task={"dataset": f"{__name__}:pictures", "model": "logistic"}, **SMALL)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, models_of(simulate(tables)[0]), atol=1e-5)
    with pytest.raises(ConfigurationError, match="read by a function of this process: name a function of your own"):
        pictures().portable(tmp_path / "data")


def later(indices):
    return PICTURES[indices] if 0 in indices else PICTURES[indices][:, :, 1:]


def holed(indices):
    x = PICTURES[indices].astype(np.float32)
    x[indices == 40] = np.nan
    return x


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda indices: PICTURES[indices + 120], "The 'x' of the data cannot be read: IndexError"),
        (lambda indices: PICTURES[0], "The 'x' of the data must be"),
        (lambda indices: np.array(["a"] * len(indices)), "The 'x' of the data must be numbers. Got strings instead."),
        (
            lambda indices: PICTURES[:2],
            "The 'x' of the data must be read for each of the given indices. Got 2 for 1 index",
        ),
        (
            later,
            "The 'x' of the data must be torch.uint8 of (96, 1, 8, 8) for 96 samples. Got torch.uint8 of (96, 1, 7,",
        ),
        (holed, "The 'x' of the data must be finite numbers. Got nan in sample 40"),
    ],
)
def test_a_reader_that_does_not_fit_is_one_line(read, said):
    with pytest.raises(DataError) as caught:
        simulate(table(task={"dataset": from_reader(read, LABELS)}, **SMALL))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- streams that are written to files


class Stream(IterableDataset):
    """Samples in their order, of which the last may be another one."""

    def __init__(self, count=60, last=None):
        self.count, self.last = count, last

    def __iter__(self):
        for index in range(self.count):
            yield torch.from_numpy(PICTURES[index]), torch.tensor(LABELS[index])
        if self.last is not None:
            yield self.last


def test_a_stream_is_written_to_files_and_mapped(tmp_path):
    streamed = from_torch(Stream(), test=Stream(30), into=tmp_path / "files").data
    assert streamed.train.inputs.mapped_from == tmp_path / "files" / "x.npy"
    again = build(Dataset, {"kind": "npy", "path": str(tmp_path / "files")}).load(tmp_path)
    arrays = from_arrays(PICTURES[:60], LABELS[:60], test=(PICTURES[:30], LABELS[:30])).data
    assert digest(streamed) == digest(again) == digest(arrays)
    with pytest.raises(DataError, match=r"must be a new one: it has x\.npy\. To use what it holds, name the dataset"):
        from_torch(Stream(), test=Stream(), into=tmp_path / "files")
    limited = from_torch(Stream(), test=Stream(9), limit=12, into=tmp_path / "few").data
    assert (len(limited.train), len(limited.test)) == (12, 9)


@pytest.mark.parametrize(
    ("options", "last", "said"),
    [
        ({}, None, "The 'test' of data that are written to files must be a data set of the test samples. Got 0.2 instead."),
        ({"test": Stream(), "collate": list}, None, "The data must have 'collate' or 'into', not both"),
        ({"test": Stream(0)}, None, "The test data must have a sample or more. Got none."),
        ({"test": Stream()}, (PICTURES[0, 0], 1), "The inputs of the dataset must be uint8 of (1, 8, 8), as its first sample. Got uint8 of (8, 8) in sample 60."),
        ({"test": Stream()}, (PICTURES[0] / 2, 1), "The inputs of the dataset must be uint8 of (1, 8, 8), as its first sample. Got float32 of"),
        ({"test": Stream()}, ("a", 1), "The inputs of the dataset must be numbers. Got strings instead."),
        ({"test": Stream()}, 7, "The dataset must give pairs (x, y). Got 7 as sample 60 instead."),
    ],
)  # fmt: skip
def test_a_stream_that_does_not_fit_is_one_line(tmp_path, options, last, said):
    with pytest.raises(DataError) as caught:
        from_torch(Stream(60, last), into=tmp_path / "files", **options)
    assert str(caught.value).startswith(said)
