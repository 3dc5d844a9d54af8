"""The data sets of tables in their publishers' formats."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from covey.learning.datasets.arrays import held_out
from covey.learning.datasets.tables import Adult, MovieLens1M, MovieLens100K
from tests.published import listed, same, sentence

pytestmark = pytest.mark.usefixtures("no_network")


# MovieLens


def ratings(users: int = 6, each: int = 10) -> list[tuple[int, int, int, int]]:
    """Users and films have gaps between their numbers."""
    generator = np.random.default_rng(0)
    return [
        (3 * user, 5 * int(film), int(generator.integers(1, 6)), 881250949)
        for user in range(1, users + 1)
        for film in generator.choice(np.arange(1, 21), each, replace=False)
    ]


@pytest.mark.parametrize(
    ("dataset", "where", "separator"),
    [(MovieLens100K(), "ml-100k/u.data", "\t"), (MovieLens1M(), "ml-1m/ratings.dat", "::")],
)
@pytest.mark.parametrize("packed", [False, True])
def test_movielens(tmp_path: Path, dataset: MovieLens100K, where: str, separator: str, packed: bool) -> None:
    rows = ratings()
    text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    path = tmp_path / where
    path.parent.mkdir()
    path.write_text(text)
    if packed:
        with zipfile.ZipFile(tmp_path / f"{path.parent.name}.zip", "w") as archive:
            archive.writestr(where, text)
    listed(tmp_path)
    if packed:
        path.unlink()
    data = dataset.load(tmp_path)
    assert (data.objective, data.sizes) == ("values", {"users": 6, "items": len({row[1] for row in rows})})
    assert (len(data.train), len(data.test)) == (48, 12)
    assert data.train.inputs.dtype == torch.int64
    assert data.train.targets.dtype == torch.float32
    assert data.owners is not None
    assert torch.equal(data.owners, data.train.inputs[:, 0])
    assert torch.bincount(data.test.inputs[:, 0]).tolist() == [2] * 6
    assert list(data.owner_names) == ["3", "6", "9", "12", "15", "18"]
    films = sorted({row[1] for row in rows})
    known = {(int(data.owner_names[user]), films[film]) for user, film in data.train.inputs.tolist()}
    known |= {(int(data.owner_names[user]), films[film]) for user, film in data.test.inputs.tolist()}
    assert known == {row[:2] for row in rows}
    assert same(dataset.load(tmp_path), data)


def test_a_zip_that_unpacks_to_more_than_was_published(tmp_path: Path) -> None:
    archive = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("ml-100k/u.data", bytes(30_000_000))
    assert archive.stat().st_size < 40_000
    listed(tmp_path)
    assert f"{archive} is damaged: expected a readable archive, found more than 2,000,000 bytes in it." in sentence(
        MovieLens100K(), tmp_path
    )
    assert list((tmp_path / "ml-100k").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\t2\t3\n", "expected four integers a line, found 1 lines of 3"),
        ("", "expected four integers a line, found"),
        ("1\t2\t3\t4\n1\tx\t3\t4\n", "expected four integers a line, found could not convert string 'x'"),
        ("1\t2\t3\t4\n1\t2\t3\n", "expected four integers a line, found"),
        ("1\t2\t3\t4\n1\t2\t6\t4\n", "expected ratings in [1, 5], found 6 in line 2"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_damaged_movielens(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "ml-100k" / "u.data"
    path.parent.mkdir()
    path.write_text(text)
    listed(tmp_path)
    found = sentence(MovieLens100K(), tmp_path)
    assert found.startswith(f"The file {path} is damaged: ")
    assert expected in found


def test_too_few_ratings_to_keep_one_for_testing(tmp_path: Path) -> None:
    path = tmp_path / "ml-100k" / "u.data"
    path.parent.mkdir()
    path.write_text("1\t2\t3\t4\n1\t3\t3\t4\n")
    listed(tmp_path)
    assert sentence(MovieLens100K(), tmp_path) == (
        "The 'test' of the dataset movielens-100k must be a fraction that keeps a rating of some user for testing. "
        "Got 0.2 instead, and no user has more than 2 ratings."
    )


def test_held_out_takes_a_share_of_every_group() -> None:
    groups = np.random.default_rng(0).integers(0, 7, 500)
    chosen = held_out(groups, 0.3)
    assert np.array_equal(np.bincount(groups[chosen], minlength=7), np.floor(0.3 * np.bincount(groups)))
    assert np.array_equal(held_out(groups, 0.3), chosen)


# Adult


RECORD = "39, {work}, 77516, Bachelors, 13, Never-married, ?, Husband, White, {sex}, 2174, 0, {hours}, Cuba, {label}"


def records(count: int, dot: str) -> list[str]:
    return [
        RECORD.format(
            work=("Private", "State-gov", "?")[at % 3],
            sex=("Male", "Female")[at % 2],
            hours=20 + at,
            label=("<=50K", ">50K")[at % 4 == 0] + dot,
        )
        for at in range(count)
    ]


def write_adult(folder: Path, *, single: bool) -> None:
    folder.mkdir()
    if single:
        header = "age,workclass,fnlwgt,education,educational-num,marital-status,occupation,relationship,race,gender,"
        header += "capital-gain,capital-loss,hours-per-week,native-country,income"
        lines = [line.replace(", ", ",") for line in records(36, "")]
        (folder / "adult.csv").write_text("\n".join([header, *lines]) + "\n")
    else:
        (folder / "adult.data").write_text("\n".join(records(24, "")) + "\n\n")
        (folder / "adult.test").write_text("\n".join(["|1x3 Cross validator", *records(12, ".")]) + "\n")
    listed(folder)


@pytest.mark.parametrize("single", [True, False])
def test_adult(tmp_path: Path, single: bool) -> None:
    write_adult(tmp_path / "adult", single=single)
    data = Adult().load(tmp_path)
    assert data.train.inputs.shape == (24, 6 + 3 + 1 + 1 + 1 + 1 + 1 + 2 + 1)
    assert data.test.inputs.shape == (12, 17)
    assert data.train.inputs.dtype == torch.float32
    assert int(data.train.targets.sum()) == 6
    assert int(data.test.targets.sum()) == 3
    hours = data.train.inputs[:, 15]
    assert hours.mean().abs() < 1e-6
    assert (hours.std(correction=0) - 1).abs() < 1e-6
    assert torch.equal(data.train.inputs[:, 0], torch.zeros(24))
    assert torch.equal(data.train.inputs[:, 1:4].sum(1), torch.ones(24))
    assert same(Adult().load(tmp_path), data)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1,2,3", "expected 15 fields, the last <=50K or >50K, in line 38, found 3, the last '3'"),
        (RECORD.format(work="x", sex="y", hours=1, label="rich"), "in line 38, found 15, the last 'rich'"),
        (
            RECORD.format(work="x", sex="y", hours="many", label=">50K"),
            "expected a number as field 13 of line 38, found 'many'",
        ),
    ],
)
def test_damaged_adult(tmp_path: Path, line: str, expected: str) -> None:
    write_adult(tmp_path / "adult", single=True)
    path = tmp_path / "adult" / "adult.csv"
    path.write_text(path.read_text() + line + "\n")
    found = sentence(Adult(), tmp_path)
    assert found.startswith(f"The file {path} is damaged: ")
    assert expected in found


def test_adult_without_records(tmp_path: Path) -> None:
    write_adult(tmp_path / "adult", single=True)
    (tmp_path / "adult" / "adult.csv").write_text("age\n")
    assert sentence(Adult(), tmp_path) == (
        f"The records in {tmp_path / 'adult'} are too few to train and to test on: 0."
    )
