"""Data of a user's own: all forms make the same run, and data that cannot be used are refused in one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import covey
from covey.data import from_arrays, from_columns, from_reader, from_torch, padded
from covey.learning.dataset import Dataset
from covey.learning.datasets.digests import digest
from covey.learning.datasets.given import of_object
from covey.learning.datasets.stored import load, store
from covey.parts.errors import ConfigurationError, CoveyError, DataError, RunError
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


# ---------------------------------------------------------------------- what cannot be used


def holed(value):
    x = X.copy()
    x[7, 2] = value
    return x


ONE_HOT = np.eye(3)[Y]
DATA = "The 'y' of the data"
WRONG = {
    "lengths": (lambda: from_arrays(X, Y[:-1]), f"{DATA} must have an entry for each of 90 samples. Got 89 instead."),
    "one-based": (lambda: from_arrays(X, Y + 1), f"{DATA} must be classes from 0 on. Got 1 to 3: y - 1 begins with 0."),
    "signs": (lambda: from_arrays(X, np.where(Y > 0, 1, -1)), f"{DATA} must be classes from 0 on. Got -1 to 1: y.astype(str) has them numbered."),
    "gaps": (lambda: from_arrays(X, 2 * Y), f"{DATA} must have samples of each class from 0 to 4. Got none of class 1, the first of 2: y.astype(str) has them numbered, or give classes=5."),
    "column": (lambda: from_arrays(X, Y[:, None]), f"{DATA} must be one class a sample. Got 90 x 1, a column: y[:, 0] has no second dimension."),
    "one-hot": (lambda: from_arrays(X, ONE_HOT.astype(int)), f"{DATA} must be one class a sample. Got 90 x 3, one-hot: y.argmax(1) has the classes."),
    "one-hot floats": (lambda: from_arrays(X, ONE_HOT, objective="classes"), f"{DATA} must be one class a sample. Got 90 x 3, one-hot: y.argmax(1) has the classes."),
    "floats": (lambda: from_arrays(X, Y.astype(float)), f"{DATA} must be integers where they are classes: y.astype(int). Got whole numbers of float64; where numbers are to be predicted, give objective='values'."),
    "float classes": (lambda: from_arrays(X, Y.astype(float), objective="classes"), f"{DATA} must be classes: y.astype(int). Got float64 instead."),
    "nan": (lambda: from_arrays(holed(np.nan), Y), "The 'x' of the data must be finite numbers. Got nan in sample 7, the first of 1 such of 90: fill them in, or leave these samples out."),
    "infinity": (lambda: from_arrays(holed(-np.inf), Y), "The 'x' of the data must be finite numbers. Got -inf in sample 7, the first of 1 such of 90: fill them in, or leave these samples out."),
    "nan values": (lambda: from_arrays(X, np.where(Y == 1, np.nan, 0.5)), f"{DATA} must be finite numbers. Got nan in sample 1, the first of 30 such of 90: leave these samples out."),
    "nothing": (lambda: from_arrays(X[:0], Y[:0]), "The 'x' of the data must have a sample or more. Got none."),
    "no test": (lambda: from_arrays(X, Y, test=(X[:0], Y[:0])), "The 'x' of the test data must have a sample or more. Got none."),
    "too small a share": (lambda: from_arrays(X[:6], Y[:6], test=0.1), "The 'test' of the data must be a share that keeps a sample of some class for testing, or a pair (x, y). Got 0.1 of 6 samples instead."),
    "no share": (lambda: from_arrays(X, Y, test=20), "The 'test' of the data must be a share in (0, 1), or a pair (x, y) of test samples. Got 20 instead."),
    "new class": (lambda: from_arrays(X, Y, test=(X_TEST, Y_TEST + 1)), "The 'y' of the test data must be classes in [0, 3), of which all are in the training data. Got 3, the first of 10: give 'classes', or leave these samples out."),
    "new name": (lambda: from_arrays(X, Y.astype(str), test=(X_TEST, (Y_TEST + 1).astype(str))), "The 'y' of the test data must have classes among those of the training samples. Got '3', the first of 1 others: list all in 'classes', or leave these samples out."),
    "shape": (lambda: from_arrays(X, Y, test=(X_TEST[:, :3], Y_TEST)), "The 'x' of the test data must have samples of the shape 4, as the training data. Got 3."),
    "scaled test": (lambda: from_arrays(X.astype(np.uint8), Y, test=(X_TEST, Y_TEST)), "The 'x' of the test data must be uint8, as the training data. Got float32 instead."),
    "ragged": (lambda: from_arrays([[1.0, 2.0], [3.0]], [0, 1]), "The 'x' of the data must be one array: all samples of one shape. Got some that differ."),
    "texts": (lambda: from_arrays(np.array(["a", "b"]), [0, 1]), "The 'x' of the data must be numbers. Got strings instead."),
    "objects": (lambda: from_arrays(np.array([{}, {}]), [0, 1]), "The 'x' of the data must be numbers. Got objects, such as dict instead."),
    "missing label": (lambda: from_arrays(X[:3], np.array(["a", None, "b"])), f"{DATA} must have a value for each sample. Sample 1 has none, the first of 1: leave these out."),
    "missing label of pandas": (lambda: from_arrays(X[:3], np.array(["a", pd.NA, "b"])), f"{DATA} must have a value for each sample. Sample 1 has none, the first of 1: leave these out."),
    "one class": (lambda: from_arrays(X, 0 * Y), f"{DATA} must have two classes or more. Got one."),
    "no objective": (lambda: from_arrays(X, Y, objective="labels"), "The 'objective' of the data must be one of 'classes', 'sequence', 'values'. Got 'labels' instead."),
    "loader": (lambda: from_torch(DataLoader(Pairs(X, Y))), "The dataset must be a Dataset of torch. Got a DataLoader instead: give its 'dataset'."),
    "no pairs": (lambda: from_torch(TensorDataset(torch.tensor(X))), "The dataset must give pairs (x, y). Got a tuple of Tensor of 4 as sample 0 instead."),
    "random transform": (lambda: from_torch(Pairs(X, Y, lambda x: x + torch.rand(()))),
        "The dataset draws random numbers, and is read only once: leave random transforms out. The task's "
        "'augmentation' draws them again for each batch."
    ),
    "no column": (lambda: from_columns(frame(X, Y), y="lable"), "Unknown column 'lable' of the data; did you mean 'label'? Known: a, b, c, d, label."),
    "feature of words": (lambda: from_columns(frame(X, Y, user=USERS), y="label"), "The column 'user' of the data must be one number a sample to be a feature. Got object instead: name the features, without it."),
    "no columns": (lambda: from_columns(X, y="label"), "The dataset must have columns with names. Got ndarray of 90 x 4 instead."),
    "sparse": (lambda: from_arrays(torch.tensor(X).to_sparse(), Y), "The 'x' of the data must be an array. Got a sparse tensor: to_dense() makes one."),
    "masked": (lambda: from_arrays(np.ma.masked_greater(X, 1), Y), "The 'x' of the data must be an array. Got a masked one with values left out: filled(value) makes one."),
    "no numbers": (lambda: from_arrays(X[:, :0], Y), "The 'x' of the data must have a number or more in each sample. Got the shape 0."),
    "no function": (lambda: from_reader(X, Y), "The 'x' of the data must be a function of indices that returns inputs. Got ndarray of 90 x 4 instead."),
    "dicts": (lambda: from_torch([{"x": X[0], "y": 1}]), "The dataset must give pairs (x, y). Got a dict of x, y as sample 0 instead: give a 'collate' that makes a pair of all samples."),
    "collated alone": (lambda: from_torch(Pairs(X, Y), collate=lambda samples: samples), "The 'collate' of the data must return a pair (x, y). Got 90 entries instead."),
    "column twice": (lambda: from_columns(pd.concat([frame(X, Y)] * 2, axis=1), y="label"), "The dataset must have each column once. Got 'a' more than once."),
    "padded texts": (lambda: padded(["ab", "c"]), "Each sequence to be padded must be an array with an entry for each sample. Got 'ab' instead."),
    "padded words": (lambda: padded([["ab"], ["c"]]), "The sequences to be padded must be of numbers. Got <U2 instead."),
    "three": (lambda: build(Experiment, tables((X, Y, X_TEST))),
        "The dataset must be (x, y), ((x, y), (x_test, y_test)), a Dataset of torch or the result of a function of "
        "covey.data. Got 3 entries instead."
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_what_cannot_be_used_is_refused_in_one_line(mistake):
    give, said = WRONG[mistake]
    with pytest.raises(CoveyError) as caught:
        give()
    assert str(caught.value) == said


CSVS = {
    "no file": ("", {"path": "none.csv"}, "The 'path' of the dataset csv is no file: none.csv is not in"),
    "no target": ("a,b\n1,2\n3,4\n", {}, "Unknown column 'label' of the data. Known: a, b."),
    "a word": ("a,label\n1,0\nx,1\n", {}, "The column 'a' of data.csv must be numbers to be a feature. Got 'x' in line 3: name it in 'keep', or the features in 'features'."),
    "a hole": ("a,label\n1,0\n,1\n", {}, "The column 'a' of data.csv must be numbers to be a feature. Got nothing in line 3"),
    "fields": ("a,label\n1,0\n1,2,3\n", {}, "Line 3 of data.csv must have 2 fields, as its first line. Got 3 instead."),
    "empty": ("a,label\n", {}, "The file data.csv must have a first line that is followed by samples. Got 'a,label'."),
    "no label": ("a,label\n1,0\n2,\n3,1\n", {}, "The target 'label' of data.csv must have a value in each line. Line 3 has none, the first of 1: leave these out."),
    "twice": ("a,a\n1,2\n", {}, "The file data.csv must have a first line that names each column once. Got 'a,a'."),
    "one-based": ("a,label\n1,1\n2,2\n", {}, "The target 'label' of data.csv must be classes from 0 on. Got 1 to 2: y - 1 begins with 0."),
    "nan": ("a,label\n1,1\nnan,0\n", {}, "The features of data.csv must be finite numbers. Got nan in sample 1"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", CSVS)
def test_what_is_wrong_with_a_csv_is_reported_in_one_line(mistake, in_folder):
    text, changes, said = CSVS[mistake]
    (in_folder / "data.csv").write_text(text)
    dataset = build(Dataset, {"kind": "csv", "path": "data.csv", "target": "label", **changes})
    with pytest.raises(DataError) as caught:
        dataset.load(in_folder)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_features_of_a_csv_can_be_standardized(in_folder):
    written(in_folder)
    table = {"kind": "csv", "path": "train.csv", "target": "label", "test": 0.2, "standardize": True, "keep": ["d"]}
    data = build(Dataset, table).load(in_folder)
    assert data.sample_shape == (3,)
    assert torch.allclose(data.train.inputs.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(data.train.inputs.std(0, correction=0), torch.ones(3), atol=1e-5)
    assert set(data.columns) == {"d"}
    assert len(data.columns["d"]) == len(data.train)


@pytest.mark.parametrize("name", ["data.npz", "train.parquet"])
def test_damaged_files_are_named(name, in_folder):
    written(in_folder)
    (in_folder / name).write_bytes((in_folder / name).read_bytes()[:100])
    kind = name.rpartition(".")[2]
    table = {"kind": kind, "path": name, **({"target": "label"} if kind == "parquet" else {})}
    with pytest.raises(DataError, match=f"^The file {name} cannot be read: "):
        build(Dataset, table).load(in_folder)


def returns_nothing():
    return None


def fails(samples: int = 3):
    raise ValueError("no disk")


@pytest.mark.parametrize(
    ("dataset", "error", "said"),
    [
        ("tests.test_own_data:returns_nothing", DataError, r"The function tests.test_own_data:returns_nothing must return \(x, y\),"),
        ("tests.test_own_data:fails", DataError, r"The dataset tests.test_own_data:fails fails: ValueError: no disk \("),
        ({"kind": "tests.test_own_data:make", "size": 3}, ConfigurationError, "Unknown key 'size' of the dataset tests.test_own_data:make; did you mean 'seed'"),
        ({"kind": "tests.test_own_data:make", "samples": "3"}, ConfigurationError, "The 'samples' of the dataset tests.test_own_data:make must be an int. Got '3' instead."),
        (X, ConfigurationError, "The 'dataset' of the task must be a dataset. Got ndarray of 90 x 4 instead."),
    ],
)  # fmt: skip
def test_a_function_that_gives_no_data_is_refused_in_one_line(dataset, error, said):
    with pytest.raises(error, match=said) as caught:
        simulate(tables(dataset))
    assert "\n" not in str(caught.value)


class Wrong(Dataset):
    kind = "tests.test_own_data:Wrong"
    change: str = covey.param("The error in the data.")

    def load(self, folder, *, quiet=True):
        data = from_arrays(X, Y, test=(X_TEST, Y_TEST)).data
        train, test = data.train, data.test
        return {
            "fewer targets": replace(data, train=replace(train, targets=train.targets[:-1])),
            "no test": replace(data, test=replace(test, inputs=test.inputs[:0], targets=test.targets[:0])),
            "nan": replace(data, train=replace(train, inputs=torch.from_numpy(holed(np.nan)))),
            "label": replace(data, test=replace(test, targets=test.targets + 1)),
            "shape": replace(data, test=replace(test, inputs=test.inputs[:, :3])),
        }[self.change]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("fewer targets", "targets .* must be as many as the 90 inputs. Got 89 instead."),
        ("no test", "The test inputs .* must be one or more. Got none."),
        ("nan", "The training inputs .* must be finite numbers. Got nan in sample 7"),
        ("label", r"The test targets .* must be classes in \[0, 3\). Got some from 1 to 3 instead."),
        ("shape", r"The test inputs .* must be \(4,\) of torch.float32, as the training inputs. Got \(3,\)"),
    ],
)
def test_what_a_data_set_of_ones_own_makes_is_checked(change, said):
    with pytest.raises(DataError, match=said):
        simulate(tables({"kind": "tests.test_own_data:Wrong", "change": change}))


def test_data_given_in_python_stay_on_this_machine(in_folder):
    engine = {"kind": "emulation", "hosts": ["127.0.0.1:7000"], "token_file": "token"}
    with pytest.raises(ConfigurationError, match="was given in Python, and hosts on other machines have none of it"):
        covey.run({**tables((X, Y)), "engine": engine}, out="run")


def test_other_objects_are_no_data_sets():
    assert of_object(7) is None
    assert of_object("digits") is None
