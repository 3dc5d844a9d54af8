"""Data of a user's own: all forms make the same run, and data that cannot be used are refused in one line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset

import covey
from covey.data import from_arrays, from_columns, from_torch, padded
from covey.learning.dataset import Dataset
from covey.learning.datasets.digests import digest
from covey.learning.datasets.stored import load, store
from covey.parts.errors import DataError, RunError
from covey.parts.parameters import build
from covey.runtime.experiment import Experiment
from tests.conftest import models_of, simulate, table

FEATURES = ["a", "b", "c", "d"]
SAMPLES, TESTS = 90, 30


def drawn(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Samples of three separable classes; a quarter is written in few digits of a CSV."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return (np.round(4 * draw.standard_normal((count, 4)) + 8 * labels[:, None]) / 4 + 0.0).astype(np.float32), labels


X, Y = drawn(SAMPLES)
X_TEST, Y_TEST = drawn(TESTS, 2)
USERS = np.array([f"user {index % 12}" for index in range(SAMPLES)])


class Pairs(TorchDataset):
    """A map-style data set of torch, with a transform."""

    def __init__(self, x, y, transform=lambda x: x):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.transform(torch.from_numpy(self.x[index])), int(self.y[index])


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


class Columned:
    """A data set with the form of Hugging Face's: names of columns, and lists by name."""

    def __init__(self, x, y):
        self._columns = {"features": x.tolist(), "label": y.tolist(), "text": ["some words"] * len(x)}
        self.column_names = list(self._columns)

    def __len__(self):
        return len(self._columns["label"])

    def __getitem__(self, key):
        return self._columns[key]


def make(samples: int = SAMPLES, *, seed: int = 1):
    x, y = drawn(samples, seed)
    return from_arrays(x, y, test=(X_TEST, Y_TEST))


def frame(x, y, **more):
    return pd.DataFrame({**dict(zip(FEATURES, x.T, strict=True)), "label": y, **more})


def written(folder: Path) -> None:
    frame(X, Y).to_csv(folder / "train.csv", index=False)
    frame(X_TEST, Y_TEST).to_csv(folder / "test.csv", index=False)
    frame(X, Y).to_parquet(folder / "train.parquet")
    frame(X_TEST, Y_TEST).to_parquet(folder / "test.parquet")
    arrays = {"x": X, "y": Y, "x_test": X_TEST, "y_test": Y_TEST}
    np.savez(folder / "data.npz", **arrays)
    (folder / "arrays").mkdir()
    for name, values in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", values)


def mapped(folder: Path):
    return [np.load(folder / "arrays" / f"{name}.npy", mmap_mode="r") for name in ("x", "y", "x_test", "y_test")]


WAYS = {
    "tuples": lambda folder: ((X, Y), (X_TEST, Y_TEST)),
    "arrays": lambda folder: from_arrays(X, Y, test=(X_TEST, Y_TEST)),
    "doubles": lambda folder: from_arrays(X.astype(np.float64), Y.astype(np.int32), test=(X_TEST.astype(float), Y_TEST)),
    "tensors": lambda folder: from_arrays(torch.tensor(X), torch.tensor(Y), test=(torch.tensor(X_TEST), torch.tensor(Y_TEST))),
    "lists": lambda folder: from_arrays(X.tolist(), Y.tolist(), test=(X_TEST.tolist(), Y_TEST.tolist())),
    "mapped": lambda folder: from_arrays(*mapped(folder)[:2], test=tuple(mapped(folder)[2:])),
    "torch": lambda folder: from_torch(Pairs(X, Y), test=Pairs(X_TEST, Y_TEST)),
    "a transform": lambda folder: from_torch(Pairs(X - 1, Y, lambda x: x + 1), test=Pairs(X_TEST, Y_TEST)),
    "iterable": lambda folder: from_torch(Stream(X, Y), test=Stream(X_TEST, Y_TEST)),
    "tensor data set": lambda folder: from_torch(
        TensorDataset(torch.tensor(X), torch.tensor(Y)), test=TensorDataset(torch.tensor(X_TEST), torch.tensor(Y_TEST))
    ),
    "hugging face": lambda folder: from_columns(Columned(X, Y), x="features", y="label", test=Columned(X_TEST, Y_TEST)),
    "splits": lambda folder: from_columns(
        {"train": Columned(X, Y), "test": Columned(X_TEST, Y_TEST)}, x="features", y="label"
    ),
    "pandas": lambda folder: from_columns(frame(X, Y), y="label", test=frame(X_TEST, Y_TEST)),
    "named columns": lambda folder: from_columns(frame(X, Y, user=USERS), x=FEATURES, y="label", test=frame(X_TEST, Y_TEST)),
    "csv": lambda folder: {"kind": "csv", "path": "train.csv", "target": "label", "test": "test.csv"},
    "parquet": lambda folder: {"kind": "parquet", "path": "train.parquet", "target": "label", "test": "test.parquet"},
    "npz": lambda folder: {"kind": "npz", "path": "data.npz"},
    "npy": lambda folder: {"kind": "npy", "path": "arrays"},
    "function": lambda folder: "tests.test_own_data:make",
    "function with arguments": lambda folder: {"kind": "tests.test_own_data:make", "samples": SAMPLES},
}  # fmt: skip


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    world, _ = simulate(tables(from_arrays(X, Y, test=(X_TEST, Y_TEST))))
    return models_of(world)


def tables(dataset, **task):
    return table(rounds=2, network={"nodes": 6}, task={"dataset": dataset, **task}, evaluation={"every": 1})


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_give_data_makes_the_same_run(way, in_folder, expected):
    written(in_folder)
    world, _ = simulate(tables(WAYS[way](in_folder)))
    assert torch.equal(models_of(world), expected)
    assert digest(world.task.learner.data) == from_arrays(X, Y, test=(X_TEST, Y_TEST)).digest


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(30)), seed=st.integers(0, 5))
def test_permuted_samples_with_a_permuted_partition_make_the_same_run(order, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("permuted")
    held = [list(range(node, 30, 3)) for node in range(3)]
    place = {sample: index for index, sample in enumerate(order)}
    found = []
    for samples, parts in ((np.arange(30), held), (np.array(order), [[place[s] for s in part] for part in held])):
        (folder / "parts.json").write_text(json.dumps(parts))
        dataset = from_arrays(X[samples], Y[samples], test=(X_TEST, Y_TEST))
        changes = tables(
            dataset, partition={"kind": "file", "file": str(folder / "parts.json")}, validation=0.2, batch_size=3
        )
        world, log = simulate({**changes, "seed": seed, "network": {"nodes": 3}})
        found.append((models_of(world), log.figures))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_a_share_of_each_class_is_held_out_the_same_for_each_seed():
    data = from_arrays(X, Y, test=0.2).data
    assert torch.bincount(data.test.targets).tolist() == [6, 6, 6]
    assert len(data.train) == 72
    again = from_arrays(X, Y, test=0.2).data
    assert torch.equal(data.test.inputs, again.test.inputs)


def test_names_are_numbered_and_kept():
    names = np.array(["cat", "dog", "ant"])
    data = from_arrays(X, names[Y], test=(X_TEST, names[Y_TEST])).data
    assert list(data.label_names) == ["ant", "cat", "dog"]
    assert data.classes == 3
    assert torch.equal(data.train.targets, torch.tensor([[1, 2, 0][label] for label in Y]))
    given_order = from_arrays(X, names[Y], test=(X_TEST, names[Y_TEST]), classes=["cat", "dog", "ant", "bee"]).data
    assert torch.equal(given_order.train.targets, torch.tensor(Y))
    assert given_order.classes == 4


def test_bytes_stay_bytes_and_are_scaled():
    x = np.arange(4 * 64, dtype=np.uint8).reshape(4, 64)
    data = from_arrays(x, [0, 1, 0, 1], test=(x, [0, 1, 0, 1])).data
    assert data.train.inputs.dtype == torch.uint8
    assert torch.equal(data.scaled(data.train.inputs), torch.from_numpy(x).float() * (1 / 255))


@pytest.mark.parametrize("by", ["user", "numbers"])
def test_a_natural_partition_goes_by_any_column(by):
    columns = {"user": USERS, "numbers": np.arange(SAMPLES) % 12}
    dataset = from_arrays(X, Y, test=(X_TEST, Y_TEST), columns=columns)
    partition = build(
        covey.LearningTask, {"dataset": dataset, "model": "logistic", "partition": {"kind": "natural", "by": by}}
    ).partition
    parts = partition.assign(dataset.data, 6, seed=3)
    assert sorted(np.concatenate(parts)) == list(range(SAMPLES))
    assert [len({USERS[sample] for sample in part}) for part in parts] == [2] * 6


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("age", "The 'by' of the partition natural must be a column of the data, which has user. Got 'age' instead."),
        (None, "which this one does not have: give one of its columns as 'by': user."),
    ],
)
def test_a_natural_partition_names_the_columns_that_there_are(by, said):
    dataset = from_arrays(X, Y, columns={"user": USERS})
    with pytest.raises(DataError) as caught:
        simulate(tables(dataset, partition={"kind": "natural", **({} if by is None else {"by": by})}))
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize("users", [[None, "p", "q"], [np.nan, 1.0, 2.0], ["", "p", "q"], [pd.NA, "p", "q"]])
def test_a_natural_partition_refuses_samples_without_an_owner(users):
    dataset = from_arrays(X, Y, test=(X_TEST, Y_TEST), columns={"user": users * 30})
    with pytest.raises(
        DataError, match=r"^The column 'user', .* must have a value .* Got none for 30 of 90: fill them in"
    ):
        simulate(tables(dataset, partition={"kind": "natural", "by": "user"}))


def test_padded_sequences_have_one_type_that_holds_all():
    assert padded([[], [3, 1]])["ids"].tolist() == [[0, 0], [3, 1]]
    assert padded([[], [3, 1]])["ids"].dtype == torch.int64
    assert padded([[1], [0.5]])["ids"].tolist() == [[1.0], [0.5]]


def test_reversed_arrays_are_taken():
    dataset = from_arrays(X[::-1], Y[::-1])
    assert dataset.digest == from_arrays(X[::-1].copy(), Y[::-1].copy()).digest


def test_columns_of_a_share_are_those_of_the_samples_that_remain():
    data = from_arrays(np.arange(40.0), np.arange(40) % 2, columns={"number": np.arange(40)}).data
    assert np.array_equal(data.columns["number"], data.train.inputs.numpy())


def test_data_are_not_copied():
    dataset = from_arrays(X, Y, test=(X_TEST, Y_TEST))
    assert np.shares_memory(dataset.data.train.inputs.numpy(), X)
    experiment = Experiment.from_table(tables(dataset))
    assert experiment.task.dataset.data is dataset.data


# ---------------------------------------------------------------------- engines and resumes


@pytest.mark.parametrize("way", ["tuples", "function", "csv"])
def test_both_engines_have_the_same_data(way, in_folder):
    written(in_folder)
    dataset = WAYS[way](in_folder)
    runs = []
    for engine in ({"kind": "simulation"}, {"kind": "emulation", "nodes_per_process": 3}):
        changes = {**tables(dataset), "network": {"nodes": 6}, "engine": engine}
        runs.append(covey.run(changes, out=engine["kind"]))
    assert runs[0].facts["data"] == runs[1].facts["data"]
    assert torch.allclose(runs[0].models, runs[1].models, atol=1e-5)


class Interrupts:
    """Ends a run after some rounds."""

    def __init__(self, rounds):
        self.rounds = rounds

    def __call__(self, progress):
        if progress.rounds >= self.rounds:
            raise KeyboardInterrupt


def interrupted(dataset, out, **changes):
    experiment = {**tables(dataset), "rounds": 40, "checkpoint": {"every": 1}, **changes}
    with pytest.raises(KeyboardInterrupt):
        covey.run(experiment, out=out, progress=Interrupts(2))


def test_a_run_of_given_data_is_resumed_with_the_same_data_alone(in_folder):
    pair = ((X, Y), (X_TEST, Y_TEST))
    whole = covey.run({**tables(pair), "rounds": 40}, out="whole")
    interrupted(pair, "run")
    with pytest.raises(DataError, match="give them again"):
        covey.resume("run")
    with pytest.raises(RunError, match="cannot be resumed: its data set differs from that with which it began"):
        covey.resume("run", dataset=((X, 2 - Y), (X_TEST, Y_TEST)))
    again = covey.resume("run", dataset=pair)
    assert torch.equal(again.models, whole.models)


def test_a_file_that_was_changed_is_noticed_by_a_resume(in_folder):
    written(in_folder)
    interrupted({"kind": "csv", "path": "train.csv", "target": "label", "test": "test.csv"}, "run")
    frame(X, 2 - Y).to_csv("train.csv", index=False)
    with pytest.raises(RunError, match="its data set differs"):
        covey.resume("run")


def test_a_run_of_given_data_gives_its_module(in_folder):
    run = covey.run(tables(((X, Y), (X_TEST, Y_TEST))), out="run")
    module = run.module("average")
    outputs = module(torch.from_numpy(X_TEST))
    assert outputs.shape == (TESTS, 3)


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(["float32", "uint8", "int64"]),
    shape=st.lists(st.integers(1, 3), max_size=3),
    names=st.booleans(),
)
def test_stored_data_are_the_same(kind, shape, names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "data"
    x = np.arange(12 * int(np.prod(shape))).reshape(12, *shape).astype(kind)
    y = np.array(["p", "q"])[np.arange(12) % 2] if names else np.arange(12) % 2
    data = from_arrays(x, y, test=0.5, columns={"user": ["a", "b"] * 6}, scale=0.5).data
    store(data, folder)
    again = load(folder)
    assert digest(again) == digest(data)
    assert list(again.label_names) == list(data.label_names)
    assert again.columns["user"].tolist() == data.columns["user"].tolist()
    assert again.train.inputs.dtype == data.train.inputs.dtype


def test_arrays_of_files_are_linked_to_and_not_copied(in_folder):
    written(in_folder)
    data = WAYS["mapped"](in_folder).data
    store(data, in_folder / "stored")
    assert (in_folder / "stored" / "x.npy").resolve() == (in_folder / "arrays" / "x.npy")
    part = mapped(in_folder)[0][:40]
    store(from_arrays(part, Y[:40], test=(X_TEST, Y_TEST)).data, in_folder / "part")
    assert not (in_folder / "part" / "x.npy").is_symlink()
    assert np.array_equal(np.load(in_folder / "part" / "x.npy"), X[:40])


def test_features_of_a_csv_can_be_standardized(in_folder):
    written(in_folder)
    table = {"kind": "csv", "path": "train.csv", "target": "label", "test": 0.2, "standardize": True, "keep": ["d"]}
    data = build(Dataset, table).load(in_folder)
    assert data.sample_shape == (3,)
    assert torch.allclose(data.train.inputs.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(data.train.inputs.std(0, correction=0), torch.ones(3), atol=1e-5)
    assert set(data.columns) == {"d"}
    assert len(data.columns["d"]) == len(data.train)
