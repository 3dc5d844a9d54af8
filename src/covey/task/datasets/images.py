"""Images in the formats of their publishers: IDX files, and CIFAR-10's binary version."""

import gzip
import struct
import tarfile
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from covey.errors import DataError
from covey.task.dataset import Data, Dataset, Split
from covey.task.datasets.source import Remote, damaged, obtain

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class _IDX(Dataset):
    """Four IDX files, gzipped or not."""

    title_: ClassVar[str] = ""
    folder: ClassVar[str] = ""
    address: ClassVar[str] = ""
    md5s: ClassVar[dict[str, str]] = {}
    names: ClassVar[list[str]] = []

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        splits = {}
        for part, (images, labels) in _FILES.items():
            inputs = self._read(folder, images, 3, quiet)
            targets = self._read(folder, labels, 1, quiet)
            if len(inputs) != len(targets) or tuple(inputs.shape[1:]) != (28, 28):
                raise damaged(folder / self.folder / images, f"{len(targets)} images of 28 x 28", tuple(inputs.shape))
            if len(targets) and int(targets.max()) > 9:
                raise damaged(folder / self.folder / labels, "labels from 0 to 9", int(targets.max()))
            splits[part] = Split(inputs.unsqueeze(1), targets.long())
        return Data(splits["train"], splits["test"], "classes", 10, label_names=self.names, scale=1.0 / 255.0)

    def _read(self, folder: Path, name: str, dims: int, quiet: bool) -> Tensor:
        remote = Remote(f"{self.address}{name}.gz", self.md5s[name])
        path = obtain(self.title_, folder / self.folder, (f"{name}.gz", name), remote, quiet=quiet)
        try:
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(path, "a whole gzip file", error) from error
        head = 4 + 4 * dims
        magic = bytes([0, 0, 8, dims])
        if len(raw) < head or raw[:4] != magic:
            raise damaged(path, f"an IDX file of bytes with {dims} dimensions", f"the first bytes {raw[:4].hex()}")
        shape = struct.unpack(f">{dims}I", raw[4:head])
        if len(raw) - head != int(np.prod(shape)):
            raise damaged(path, f"{int(np.prod(shape))} values", len(raw) - head)
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=head).reshape(shape).copy())


class MNIST(_IDX):
    """70,000 handwritten digits of 28 x 28 pixels, scaled to [0, 1]."""

    kind = "mnist"
    title_ = "MNIST"
    folder = "mnist"
    address = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    names = [str(digit) for digit in range(10)]
    md5s = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }


class FashionMNIST(_IDX):
    """70,000 pictures of clothes of 28 x 28 pixels, scaled to [0, 1]."""

    kind = "fashion-mnist"
    title_ = "Fashion-MNIST"
    folder = "fashion-mnist"
    address = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    names = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    md5s = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }


_CIFAR_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR_RECORD = 1 + 3 * 32 * 32
_CIFAR_PARTS = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}


class CIFAR10(Dataset):
    """60,000 colour pictures of 32 x 32 pixels in ten classes, scaled to [-1, 1]."""

    kind = "cifar10"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        place = folder / "cifar-10-batches-bin"
        if not all((place / name).is_file() for names in _CIFAR_PARTS.values() for name in names):
            remote = Remote(_CIFAR_ADDRESS, "c32a1d4ab5d03f1284b67883e8d87530")
            archive = obtain("CIFAR-10", place, ("cifar-10-binary.tar.gz",), remote, quiet=quiet)
            _extract(archive, place)
        splits = {}
        for part, names in _CIFAR_PARTS.items():
            records = np.concatenate([self._records(place / name) for name in names])
            inputs = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
            splits[part] = Split(inputs, torch.from_numpy(records[:, 0].astype(np.int64)))
        names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
        return Data(
            splits["train"], splits["test"], "classes", 10, label_names=names, scale=1.0 / 127.5, shift=-1.0
        )  # fmt: skip

    def _records(self, path: Path) -> np.ndarray:
        try:
            raw = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise DataError(f"The file {path} cannot be read: {error.strerror}.") from error
        if len(raw) == 0 or len(raw) % _CIFAR_RECORD:
            raise damaged(path, f"a multiple of {_CIFAR_RECORD} bytes", len(raw))
        records = raw.reshape(-1, _CIFAR_RECORD)
        if records[:, 0].max() > 9:
            raise damaged(path, "labels from 0 to 9", int(records[:, 0].max()))
        return records


def _extract(archive: Path, place: Path) -> None:
    """Take the known files, and nothing else, out of the publisher's archive."""
    wanted = {name for names in _CIFAR_PARTS.values() for name in names}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                content = tar.extractfile(member) if member.isfile() and name in wanted else None
                if content is not None:
                    part = place / (name + ".part")
                    part.write_bytes(content.read())
                    part.replace(place / name)
                    wanted.discard(name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise damaged(archive, "a whole tar.gz archive", error) from error
    if wanted:
        raise damaged(archive, f"the file {min(wanted)} in it", "none")
