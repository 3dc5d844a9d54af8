"""The data sets that need no files, and those that are read from images and tables in their publishers' formats."""

import gzip
import hashlib
import io
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from covey.learning.dataset import Data, Dataset
from covey.learning.datasets import source
from covey.learning.datasets.arrays import held_out
from covey.learning.datasets.digits import Digits
from covey.learning.datasets.images import CIFAR10, MNIST, FashionMNIST
from covey.learning.datasets.synthetic import GaussianBlobs, LinearRegression, SyntheticImages
from covey.learning.datasets.tables import Adult, MovieLens1M, MovieLens100K
from covey.parts import kinds
from covey.parts.errors import DataError
from covey.parts.parameters import build


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(source.urllib.request, "urlopen", refuse)


def same(left: Data, right: Data) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in (
            (left.train.inputs, right.train.inputs),
            (left.train.targets, right.train.targets),
            (left.test.inputs, right.test.inputs),
            (left.test.targets, right.test.targets),
        )
    )


def listed(folder: Path) -> None:
    """Let the files of a folder be meant to differ from the published ones."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            files = [file for file in path.iterdir() if file.is_file() and file.name != source.LISTED]
            sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
            (path / source.LISTED).write_text("".join(sums))


def sentence(dataset: Dataset, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        dataset.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Digits


def test_digits(tmp_path: Path) -> None:
    data = Digits().load(tmp_path / "never there")
    assert data.train.inputs.shape == (1437, 1, 8, 8)
    assert data.test.inputs.shape == (360, 1, 8, 8)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.targets.dtype == torch.int64
    assert int(data.train.inputs.max()) * data.scale == 1.0
    shares = torch.bincount(data.test.targets) / (
        torch.bincount(data.test.targets) + torch.bincount(data.train.targets)
    )
    assert (shares - 0.2).abs().max() < 0.01


def test_digits_can_be_told_apart() -> None:
    data = Digits().load(Path())
    inputs, tests = data.train.inputs.flatten(1).float(), data.test.inputs.flatten(1).float()
    nearest = torch.cdist(tests, inputs).argmin(1)
    assert (data.train.targets[nearest] == data.test.targets).float().mean() > 0.97


def test_digits_load_at_once_and_without_further_packages() -> None:
    code = (
        "import sys, numpy, torch; before = set(sys.modules); from covey.learning.datasets.digits import Digits;"
        "from pathlib import Path; Digits().load(Path());"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"sklearn", "scipy", "pandas", "matplotlib", "rich", "PIL", "msgspec"} & set(found.split())
    begun = time.process_time()
    Digits().load(Path())
    assert time.process_time() - begun < 0.05


# MNIST


def idx(values: np.ndarray) -> bytes:
    head = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def write_mnist(folder: Path, *, plain: bool = False) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True)
    images, labels = np.arange(9 * 28 * 28).reshape(9, 28, 28) % 251, np.arange(9) % 10
    for prefix, chosen in (("train", slice(0, 6)), ("t10k", slice(6, 9))):
        for name, values in (("images-idx3", images[chosen]), ("labels-idx1", labels[chosen])):
            path = folder / f"{prefix}-{name}-ubyte{'' if plain else '.gz'}"
            path.write_bytes(idx(values) if plain else gzip.compress(idx(values), mtime=0))
    listed(folder)
    return images, labels


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("dataset", "folder"), [(MNIST(), "mnist"), (FashionMNIST(), "fashion-mnist")])
def test_mnist(tmp_path: Path, dataset: MNIST, folder: str, plain: bool) -> None:
    images, labels = write_mnist(tmp_path / folder, plain=plain)
    data = dataset.load(tmp_path)
    assert data.train.inputs.shape == (6, 1, 28, 28)
    assert data.train.inputs.dtype == torch.uint8
    assert np.array_equal(data.train.inputs[:, 0].numpy(), images[:6])
    assert np.array_equal(data.test.inputs[:, 0].numpy(), images[6:])
    assert data.test.targets.tolist() == labels[6:].tolist()
    assert (data.objective, data.classes, len(data.label_names)) == ("classes", 10, 10)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train-labels-idx1-ubyte", idx(np.zeros(5)), "expected 6 labels, one for each image, found 5"),
        ("train-labels-idx1-ubyte", idx(np.full(6, 10)), "expected labels in [0, 10), found 10"),
        ("train-images-idx3-ubyte", idx(np.zeros(6)), "begins with 00000803, found 00000801"),
        ("train-images-idx3-ubyte", b"", "begins with 00000803, found nothing"),
        (
            "train-images-idx3-ubyte",
            idx(np.zeros((6, 28, 28)))[:-1],
            "expected 6 x 28 x 28 bytes after its head, found 4703",
        ),
        ("train-images-idx3-ubyte", idx(np.zeros((6, 28, 28)))[:16], "after its head, found 0"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 0x803, *[2**32 - 1] * 3), "after its head, found 0"),
        (
            "t10k-images-idx3-ubyte",
            gzip.compress(idx(np.zeros((3, 28, 28))), mtime=0)[:-9],
            "expected a readable file, found",
        ),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03short", "expected a head of 16 bytes, found 9"),
        ("t10k-images-idx3-ubyte", b"\x1f\x8b nonsense", "expected a readable file, found"),
    ],
)
def test_damaged_mnist(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    write_mnist(tmp_path / "mnist", plain=True)
    (tmp_path / "mnist" / name).write_bytes(content)
    listed(tmp_path)
    text = sentence(MNIST(), tmp_path)
    assert text.startswith(f"The file {tmp_path / 'mnist' / name} is damaged: expected ")
    assert expected in text


def test_a_gzip_that_unpacks_to_more_than_was_published(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 2**31, 28, 28) + bytes(2**26), mtime=0))
    assert path.stat().st_size < 70_000
    listed(tmp_path)
    found = f"The file {path} is damaged: expected a readable file, found more than 47,040,016 bytes in it."
    assert found in sentence(MNIST(), tmp_path)


def test_a_file_that_lies_there_is_the_published_one(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    path, sums = tmp_path / "mnist" / "train-images-idx3-ubyte.gz", tmp_path / "mnist" / source.LISTED
    path.write_bytes(path.read_bytes() + b"\0")
    assert sentence(MNIST(), tmp_path).startswith(f"The file {path} is damaged: expected sha256:")
    sums.unlink()
    found = hashlib.md5(path.read_bytes()).hexdigest()
    assert sentence(MNIST(), tmp_path) == (
        f"The file {path} is not the published one: expected md5:f68b3c2dcbeaaa9fbdd348bbdeb94873, found md5:{found}. "
        f"Remove it to have that one, or list it in {sums}, as sha256sum does, if it is meant to differ."
    )
    path.unlink()
    path.with_suffix("").write_bytes(idx(np.zeros((6, 28, 28))))
    assert sentence(MNIST(), tmp_path).startswith(f"The file {path.with_suffix('')} is not the published one")


def test_what_others_compressed_otherwise_is_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / source.LISTED).unlink()
    contents = {
        path.stem: f"sha256:{hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()}"
        for path in (tmp_path / "mnist").iterdir()
    }
    monkeypatch.setattr(MNIST, "contents", contents)
    assert len(MNIST().load(tmp_path).train) == 6
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.ones(3))))
    assert "t10k-labels-idx1-ubyte.gz is not the published one" in sentence(MNIST(), tmp_path)


def test_missing_mnist_says_what_to_put_where(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    assert sentence(MNIST(), tmp_path).startswith(f"The file {path} is missing: put it there. Downloading https://")


# CIFAR-10


def cifar_batches() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    batches = {name: generator.integers(0, 256, (4, 3073), dtype=np.uint8) for name in names}
    for batch in batches.values():
        batch[:, 0] %= 10
    return batches


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


INDICES = ["cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"]


@pytest.mark.parametrize(
    ("where", "index"),
    [
        *(("unpacked", index) for index in INDICES),
        # An archive is looked for in cifar10 itself.
        *((where, index) for where in ("archive inside", "archive beside") for index in INDICES[:2]),
    ],
)
def test_cifar10(tmp_path: Path, where: str, index: str) -> None:
    batches = cifar_batches()
    folder = tmp_path / index
    if where != "archive beside":
        folder.mkdir(parents=True)
    if where == "unpacked":
        for name, batch in batches.items():
            (folder / name).write_bytes(batch.tobytes())
    else:
        packed = tar_of({f"../{name}": batch.tobytes() for name, batch in batches.items()} | {"../evil": b"x"})
        ((folder if where == "archive inside" else tmp_path) / "cifar-10-binary.tar.gz").write_bytes(packed)
        listed(tmp_path)
    data = CIFAR10().load(tmp_path)
    assert data.train.inputs.shape == (20, 3, 32, 32)
    assert data.test.inputs.shape == (4, 3, 32, 32)
    assert np.array_equal(data.train.inputs[4].flatten().numpy(), batches["data_batch_2.bin"][0, 1:])
    assert data.test.targets.tolist() == batches["test_batch.bin"][:, 0].tolist()
    assert (0 * data.scale + data.shift, 255 * data.scale + data.shift) == (-1.0, 1.0)
    assert not list(tmp_path.rglob("evil"))
    assert not (folder / "data_batch_1.bin").is_symlink()
    assert same(CIFAR10().load(tmp_path), data)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected records of 3073 bytes, found 0 bytes"),
        (bytes(3072), "expected records of 3073 bytes, found 3072 bytes"),
        (bytes([10]) + bytes(3072), "expected labels in [0, 10), found 10"),
    ],
)
def test_damaged_cifar10(tmp_path: Path, content: bytes, expected: str) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, batch in cifar_batches().items():
        (folder / name).write_bytes(batch.tobytes())
    (folder / "data_batch_3.bin").write_bytes(content)
    assert f"The file {folder / 'data_batch_3.bin'} is damaged: {expected}." in sentence(CIFAR10(), tmp_path)


def test_an_archive_that_is_cut_or_lacks_a_file(tmp_path: Path) -> None:
    packed = tar_of({name: batch.tobytes() for name, batch in cifar_batches().items()})
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(packed[: len(packed) // 2])
    listed(tmp_path)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    assert "is damaged: expected a readable archive" in sentence(CIFAR10(), tmp_path)
    for whole in (tmp_path / "cifar-10-batches-bin").iterdir():
        whole.unlink()
    archive.write_bytes(tar_of({"data_batch_1.bin": bytes(3073)}))
    listed(tmp_path)
    assert "found none of the name data_batch_2.bin" in sentence(CIFAR10(), tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_missing_cifar10_says_what_to_put_where(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    text = sentence(CIFAR10(), tmp_path)
    assert text.startswith(f"Missing in {folder}: data_batch_1.bin, data_batch_2.bin")
    assert f"The file {folder / 'cifar-10-binary.tar.gz'} is missing: put it there." in text


def test_an_archive_that_unpacks_to_more_than_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "archive", replace(CIFAR10.archive, most_unpacked=100_000))
    archive, folder = tmp_path / "cifar-10-binary.tar.gz", tmp_path / "cifar-10-batches-bin"
    comment = tarfile.TarInfo("data_batch_1.bin")
    comment.pax_headers = {"comment": "0" * 10_000_000}
    commented = io.BytesIO()
    with tarfile.open(fileobj=commented, mode="w:gz", format=tarfile.PAX_FORMAT) as opened:
        opened.addfile(comment)
    for bomb in (
        tar_of({"data_batch_1.bin": bytes(10_000_000)}),
        tar_of({"else": bytes(10_000_000)}),
        commented.getvalue(),
    ):
        assert len(bomb) < 20_000
        archive.write_bytes(bomb)
        listed(tmp_path)
        text = sentence(CIFAR10(), tmp_path)
        assert f"{archive} is damaged: expected a readable archive, found more than 100,000 bytes in it." in text
        assert not list(folder.glob("data_batch*"))


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


# Made-up data


@pytest.mark.parametrize("cls", [GaussianBlobs, SyntheticImages, LinearRegression])
def test_made_up_data_follow_their_own_seed(cls: type[Dataset]) -> None:
    first, again, other = (cls(samples=50, test_samples=20, seed=seed).load(Path()) for seed in (3, 3, 4))
    assert same(first, again)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert (len(first.train), len(first.test)) == (50, 20)
    assert not torch.equal(first.train.inputs[:20], first.test.inputs)


def test_gaussian_blobs_are_separable_as_far_as_noise_allows() -> None:
    accuracies = []
    for noise in (0.0, 0.5, 5.0):
        data = GaussianBlobs(noise=noise, classes=3, features=8).load(Path())
        assert data.train.inputs.shape == (1000, 8)
        means = torch.stack([data.train.inputs[data.train.targets == label].mean(0) for label in range(3)])
        predicted = torch.cdist(data.test.inputs, means).argmin(1)
        accuracies.append(float((predicted == data.test.targets).float().mean()))
    assert accuracies[0] == 1.0
    assert accuracies[1] > 0.9
    assert 0.3 < accuracies[2] < 0.9


def test_synthetic_images_are_bytes_around_their_class() -> None:
    data = SyntheticImages(samples=300, channels=3, side=32, classes=5, noise=0.1).load(Path())
    assert data.train.inputs.shape == (300, 3, 32, 32)
    assert data.train.inputs.dtype == torch.uint8
    assert torch.bincount(data.train.targets).tolist() == [60] * 5
    nearest = torch.cdist(data.test.inputs.flatten(1).float(), data.train.inputs.flatten(1).float()).argmin(1)
    assert torch.equal(data.train.targets[nearest], data.test.targets)
    clean = SyntheticImages(samples=20, classes=2, noise=0.0).load(Path())
    assert len(torch.unique(clean.train.inputs, dim=0)) == 2


def test_linear_regression_is_linear() -> None:
    data = LinearRegression(samples=200, features=5, noise=0.0).load(Path())
    assert (data.objective, data.classes, data.train.targets.shape) == ("values", 0, (200,))
    weights = torch.linalg.lstsq(data.train.inputs, data.train.targets[:, None]).solution
    assert torch.allclose(data.test.inputs @ weights, data.test.targets[:, None], atol=1e-4)


def test_every_kind_is_there_under_its_name() -> None:
    needs = {"csv": {"path": "x", "target": "y"}, "npz": {"path": "x"}, "npy": {"path": "x"}, "given": {"digest": "0"}}
    needs["private"] = {"shape": [8]}
    for kind, target in kinds.built_in()["dataset"].items():
        dataset = build(Dataset, {"kind": kind, **needs.get({"parquet": "csv"}.get(kind, kind), {})})
        assert type(dataset).kind == kind
        assert type(dataset).__name__ == target.partition(":")[2]
