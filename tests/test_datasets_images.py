"""The data sets of images in their publishers' formats."""

import gzip
import hashlib
import io
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from covey.learning.datasets import source
from covey.learning.datasets.images import CIFAR10, MNIST, FashionMNIST
from tests.published import listed, same, sentence

pytestmark = pytest.mark.usefixtures("no_network")


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
