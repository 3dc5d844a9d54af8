"""Data of a user that cannot be used: one line names each mistake."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import covey
from covey.data import from_arrays, from_columns, from_reader, from_torch, padded
from covey.learning.dataset import Dataset
from covey.learning.datasets.given import of_object
from covey.parts.errors import ConfigurationError, CoveyError, DataError
from covey.parts.parameters import build
from covey.runtime.experiment import Experiment
from tests.conftest import simulate
from tests.test_own_data import USERS, X_TEST, Y_TEST, Pairs, X, Y, frame, tables, written


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
        ("tests.test_refused_data:returns_nothing", DataError, r"The function tests.test_refused_data:returns_nothing must return \(x, y\),"),
        ("tests.test_refused_data:fails", DataError, r"The dataset tests.test_refused_data:fails fails: ValueError: no disk \("),
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
    kind = "tests.test_refused_data:Wrong"
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
        simulate(tables({"kind": "tests.test_refused_data:Wrong", "change": change}))


def test_data_given_in_python_stay_on_this_machine(in_folder):
    engine = {"kind": "emulation", "hosts": ["127.0.0.1:7000"], "token_file": "token"}
    with pytest.raises(ConfigurationError, match="was given in Python, and hosts on other machines have none of it"):
        covey.run({**tables((X, Y)), "engine": engine}, out="run")


def test_other_objects_are_no_data_sets():
    assert of_object(7) is None
    assert of_object("digits") is None
