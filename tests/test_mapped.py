"""Arrays that are mapped from files stay there: data may be larger than memory."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from covey.learning.dataset import Dataset, Location
from covey.parts.parameters import build
from tests.conftest import models_of, simulate, table

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
