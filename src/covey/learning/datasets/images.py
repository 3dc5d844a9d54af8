"""MNIST, Fashion-MNIST and CIFAR-10 in their publishers' files. Pixels stay bytes until they are used."""

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from covey.learning.dataset import Data, Dataset, Split
from covey.learning.datasets.source import LISTED, Bounded, Remote, damaged, obtain, obtain_from_archive

Bytes = NDArray[np.uint8]


class MNIST(Dataset):
    """70,000 handwritten digits of 28 x 28 pixels."""

    kind = "mnist"
    names: ClassVar[tuple[str, ...]] = tuple(str(digit) for digit in range(10))
    mirrors: ClassVar[tuple[str, ...]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    )
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    }
    contents: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }
    """The checksums of unpacked files, where known."""
    most: ClassVar[int] = 27_000_000
    """The greatest number of bytes to download. The largest published file has 26,421,880 bytes."""
    most_unpacked: ClassVar[int] = 47_040_016

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        train, test = (self._split(folder / self.kind, prefix, quiet) for prefix in ("train", "t10k"))
        return Data(train, test, "classes", len(self.names), label_names=self.names, scale=1 / 255)

    def sources(self, folder: Path) -> Sequence[Path] | None:
        names = [f"{prefix}-{what}-ubyte" for prefix in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
        places = [(folder / self.kind / f"{name}.gz", folder / self.kind / name) for name in names]
        found = [next((path for path in each if path.is_file()), None) for each in places]
        listed = folder / self.kind / LISTED
        known = [path for path in found if path is not None]
        return [*known, *([listed] if listed.is_file() else [])] if len(known) == len(found) else None

    def _split(self, folder: Path, prefix: str, quiet: bool) -> Split:
        images_at, labels_at = (
            obtain(folder / f"{name}.gz", self._remotes(name), quiet=quiet, also=[folder / name])
            for name in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        )
        images, labels = read_idx(images_at, 3, self.most_unpacked), read_idx(labels_at, 1, self.most_unpacked)
        if len(labels) != len(images):
            raise damaged(labels_at, f"{len(images)} labels, one for each image", len(labels))
        if labels.max(initial=0) >= len(self.names):
            raise damaged(labels_at, f"labels in [0, {len(self.names)})", labels.max())
        return Split(torch.from_numpy(images[:, None]), torch.from_numpy(labels.astype(np.int64)))

    def _remotes(self, name: str) -> list[Remote]:
        packed, contents = f"{name}.gz", self.contents.get(name, "")
        return [
            Remote(mirror + packed, self.checksums[packed], self.most, self.most_unpacked, contents)
            for mirror in self.mirrors
        ]


class FashionMNIST(MNIST):
    """70,000 pictures of articles of clothing, of 28 x 28 pixels."""

    kind = "fashion-mnist"
    names: ClassVar[tuple[str, ...]] = (
        "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip
    mirrors: ClassVar[tuple[str, ...]] = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        # The publisher's other server, which has no https.
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    )
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    }
    contents: ClassVar[dict[str, str]] = {}


class CIFAR10(Dataset):
    """60,000 coloured pictures of animals and vehicles, of 32 x 32 pixels. Pixels become numbers in [-1, 1]."""

    kind = "cifar10"
    names: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    files: ClassVar[tuple[str, ...]] = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
    archive: ClassVar[Remote] = Remote(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "md5:c32a1d4ab5d03f1284b67883e8d87530",
        most=171_000_000,
        most_unpacked=186_000_000,
    )

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        """See `Dataset.load`. The files or their archive are in cifar-10-batches-bin/ or in cifar10/."""
        found, folders = self._found(folder)
        own = folder / "cifar10"
        if found is None and (own / self.archive.url.rpartition("/")[2]).is_file():
            found = own
        paths = obtain_from_archive(found or folders[0], self.files, self.archive, quiet=quiet)
        train, test = self._split(paths[:-1]), self._split(paths[-1:])
        return Data(train, test, "classes", len(self.names), label_names=self.names, scale=2 / 255, shift=-1.0)

    def sources(self, folder: Path) -> Sequence[Path] | None:
        found, _ = self._found(folder)
        return None if found is None else [found / name for name in self.files]

    def _found(self, folder: Path) -> tuple[Path | None, list[Path]]:
        """The first folder with all files, and all that may have them."""
        unpacked, own = "cifar-10-batches-bin", folder / "cifar10"
        folders = [folder / unpacked, own, own / unpacked]
        found = (place for place in folders if all((place / name).is_file() for name in self.files))
        return next(found, None), folders

    def _split(self, paths: list[Path]) -> Split:
        """Read batches. A record is its label, then its red, green and blue values, row by row."""
        side, channels = 32, 3
        record = 1 + channels * side * side
        batches = []
        for path in paths:
            content = np.fromfile(path, dtype=np.uint8)
            if len(content) == 0 or len(content) % record:
                raise damaged(path, f"records of {record} bytes", f"{len(content)} bytes")
            batches.append(content.reshape(-1, record))
            if batches[-1][:, 0].max() >= len(self.names):
                raise damaged(path, f"labels in [0, {len(self.names)})", batches[-1][:, 0].max())
        images = np.concatenate([batch[:, 1:] for batch in batches]).reshape(-1, channels, side, side)
        labels = np.concatenate([batch[:, 0] for batch in batches]).astype(np.int64)
        return Split(torch.from_numpy(images), torch.from_numpy(labels))


def read_idx(path: Path, dimensions: int, most: int) -> Bytes:
    """Read an array of bytes in the IDX format, gzipped or plain: a magic number, the sizes, then the bytes.

    Args:
        path: the file.
        dimensions: the number of dimensions of the array.
        most: the greatest number of unpacked bytes.

    Raises:
        DataError: the file is not in this format, not complete, or has more bytes.
    """
    try:
        with path.open("rb") as opened:
            is_packed = opened.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_packed else path.open("rb") as stream:
            content = Bounded(stream, most).read()
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, "a readable file", error) from error
    magic, head = 0x0800 + dimensions, 4 + 4 * dimensions
    if content[:4] != struct.pack(">I", magic):
        raise damaged(path, f"an IDX file that begins with {magic:08x}", content[:4].hex() or "nothing")
    if len(content) < head:
        raise damaged(path, f"a head of {head} bytes", len(content))
    sizes = struct.unpack(f">{dimensions}I", content[4:head])
    body = np.frombuffer(bytearray(content), dtype=np.uint8, offset=head)
    count = int(np.prod(sizes, dtype=object))
    if len(body) != count or count == 0:
        raise damaged(path, f"{' x '.join(map(str, sizes))} bytes after its head", len(body))
    return body.reshape(sizes)
