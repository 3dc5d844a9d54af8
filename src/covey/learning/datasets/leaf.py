"""The data sets of LEAF (https://leaf.cmu.edu), whose samples have owners: writers, celebrities, roles or users.

LEAF's preprocess.sh makes the folders train/ and test/ of .json files, {"users": [...], "user_data": {user: {x, y}}}.
They go into the data set's folder unchanged. Shapes: S samples, T positions of a sequence.
"""

import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.dataset import Data, Dataset, Split
from covey.learning.datasets.source import Remote, damaged, obtain
from covey.parts.errors import DataError
from covey.parts.parameters import param

A = TypeVar("A")
Token = TypeVar("Token", np.int64, np.uint32)
Ids = NDArray[np.int64]
Images = NDArray[np.uint8]


class _User(msgspec.Struct):
    """The samples of one user, decoded user by user, so that a large file needs little memory."""

    x: msgspec.Raw
    y: msgspec.Raw


class _File(msgspec.Struct):
    users: list[str]
    user_data: dict[str, _User]


def _read(folder: Path, convert: Callable[[_User], A]) -> list[tuple[str, A]]:
    """The name and the converted samples of every user in the .json files of a folder."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(
            f"The folder {folder} has no .json files: put the folders train and test that LEAF's preprocess.sh makes "
            f"into {folder.parent}."
        )
    entries = []
    for file in files:
        try:
            content = msgspec.json.decode(file.read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise damaged(file, "LEAF's users and user_data in JSON", error) from error
        for name in content.users:
            try:
                entries.append((name, convert(content.user_data[name])))
            except KeyError as error:
                raise damaged(file, "samples of every user", f"none of {name}") from error
            except (msgspec.DecodeError, ValueError) as error:
                raise damaged(file, f"samples of user {name} that can be used", error) from error
    return entries


def _owners(names: Sequence[str], counts: Sequence[int]) -> tuple[Tensor, list[str]]:
    """The owner id of every sample, and the owners' names. names[k] owns the next counts[k] samples."""
    ids: dict[str, int] = {}
    each = np.array([ids.setdefault(name, len(ids)) for name in names], dtype=np.int64)
    return torch.from_numpy(np.repeat(each, counts)), list(ids)


def _image_data(
    folder: Path, convert: Callable[[_User], tuple[Images, Ids]], names: Sequence[str], scale: float, shift: float
) -> Data:
    def split(entries: Sequence[tuple[str, tuple[Images, Ids]]]) -> Split:
        images = np.concatenate([images for _, (images, _) in entries])
        labels = np.concatenate([labels for _, (_, labels) in entries])
        return Split(torch.from_numpy(images), torch.from_numpy(labels))

    train, test = _read(folder / "train", convert), _read(folder / "test", convert)
    for part, entries in (("train", train), ("test", test)):
        if not any(len(labels) for _, (_, labels) in entries):
            raise DataError(f"The files in {folder / part} hold no samples.")
    owners, owner_names = _owners([user for user, _ in train], [len(labels) for _, (_, labels) in train])
    return Data(split(train), split(test), "classes", len(names), owners, owner_names, names, scale=scale, shift=shift)


def _labels(user: _User, samples: int, classes: int) -> Ids:
    labels = np.array(msgspec.json.decode(user.y, type=list[int]), dtype=np.int64)
    if len(labels) != samples:
        raise ValueError(f"{samples} inputs and {len(labels)} labels")
    if samples and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"a label outside [0, {classes})")
    return labels


class FEMNIST(Dataset):
    """Handwritten digits and letters of 28 x 28 pixels in 62 classes, by writer."""

    kind = "femnist"
    names: ClassVar[str] = string.digits + string.ascii_uppercase + string.ascii_lowercase

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        return _image_data(folder / "femnist", self._convert, self.names, 1 / 255, 0.0)

    def _convert(self, user: _User) -> tuple[Images, Ids]:
        """Convert images. LEAF's pixels are multiples of 1/255, so bytes hold them without loss."""
        pixels = np.array(msgspec.json.decode(user.x, type=list[list[float]]), dtype=np.float32).reshape(-1, 784)
        if len(pixels) and not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("a pixel outside [0, 1]")
        images = np.rint(pixels * 255).astype(np.uint8).reshape(-1, 1, 28, 28)
        return images, _labels(user, len(images), len(self.names))


class CelebA(Dataset):
    """Photographs of celebrities, smiling or not, by celebrity. Pixels become numbers in [-1, 1]."""

    kind = "celeba"
    side: int = param("The width and height in pixels to which photographs are scaled.", default=84, ge=8)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        """See `Dataset.load`. The photographs are in img_align_celeba/ or raw/img_align_celeba/ beside train/."""
        try:
            import PIL.Image  # noqa: F401
        except ImportError as error:
            raise DataError('The data set celeba needs Pillow: pip install "covey[images]".') from error
        own = folder / "celeba"
        folders = [own / "img_align_celeba", own / "raw" / "img_align_celeba"]
        photographs = next((place for place in folders if place.is_dir()), None)
        if photographs is None:
            raise DataError(f"The folder {folders[0]} is missing: put the aligned photographs of CelebA there.")
        return _image_data(
            own, lambda user: self._convert(user, photographs), ("not smiling", "smiling"), 2 / 255, -1.0
        )

    def _convert(self, user: _User, photographs: Path) -> tuple[Images, Ids]:
        files = msgspec.json.decode(user.x, type=list[str])
        labels = _labels(user, len(files), 2)
        images = np.empty((len(files), 3, self.side, self.side), dtype=np.uint8)
        for image, name in zip(images, files, strict=True):
            if name != Path(name).name:
                raise ValueError(f"{name!r}, which is not the name of a photograph")
            image[:] = self._photograph(photographs / name)
        return images, labels

    def _photograph(self, path: Path) -> Images:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as photograph:
                pixels = np.asarray(photograph.convert("RGB").resize((self.side, self.side)), dtype=np.uint8)
        except FileNotFoundError as error:
            raise DataError(f"The file {path} is missing: put all the aligned photographs of CelebA there.") from error
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise damaged(path, "a photograph", error) from error
        return pixels.transpose(2, 0, 1)


def windows(stream: NDArray[Token], length: int) -> NDArray[Token]:
    """A stream cut into runs of `length` + 1 that overlap by one: inputs, and targets one position later."""
    if len(stream) <= length:
        return np.empty((0, length + 1), dtype=stream.dtype)
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]


def _sequence_split(tokens: Ids) -> Split:
    """The inputs and targets of S x (T + 1) tokens. They share memory."""
    shared = torch.from_numpy(tokens)
    return Split(shared[:, :-1], shared[:, 1:])


class Shakespeare(Dataset):
    """The plays of Shakespeare by speaking role. The target of each character is the next one.

    The data are LEAF's folders train/ and test/, or a plain text in which a line with the speaker and a colon precedes
    every speech. Without either, the text of the char-rnn repository is downloaded.

    The alphabet is always LEAF's, so that models of different texts fit each other. A character that is not in it
    counts as its last, as in LEAF's code.
    """

    kind = "shakespeare"
    length: int = param("The characters of a sequence.", default=80, ge=1)
    test: float = param(
        "The fraction of every speaker's text, at its end, that is for testing, if the data are a plain text.",
        default=0.2,
        gt=0,
        lt=1,
    )
    alphabet: ClassVar[str] = (
        "\n !\"&'(),-.0123456789:;>?" + string.ascii_uppercase + "[]" + string.ascii_lowercase + "}"
    )
    text: ClassVar[Remote] = Remote(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        most=1_115_394,
    )

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        own = folder / "shakespeare"
        if (own / "train").is_dir():
            train, test = _read(own / "train", self._convert), [runs for _, runs in _read(own / "test", self._convert)]
        else:
            path = obtain(own / "tinyshakespeare.txt", [self.text], quiet=quiet, also=[own / "input.txt"])
            train, test = self._from_text(path)
        if not any(map(len, test)) or not any(len(runs) for _, runs in train):
            raise DataError(f"The texts in {own} are too short for sequences of {self.length} characters.")
        owners, names = _owners(*zip(*((name, len(runs)) for name, runs in train if len(runs)), strict=True))
        return Data(
            _sequence_split(self._indices(np.concatenate([runs for _, runs in train]))),
            _sequence_split(self._indices(np.concatenate(test))),
            "sequence", len(self.alphabet), owners, names, list(self.alphabet),
        )  # fmt: skip

    def _indices(self, codes: NDArray[np.uint32]) -> Ids:
        """The index of each character in the alphabet."""
        known = _codes(self.alphabet)
        indices = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        return np.where(known[indices] == codes, indices, len(known) - 1)

    def _convert(self, user: _User) -> NDArray[np.uint32]:
        """Convert texts. LEAF has the preceding characters in x, and the next one in y."""
        before, after = msgspec.json.decode(user.x, type=list[str]), msgspec.json.decode(user.y, type=list[str])
        runs = [(text + next_one)[-self.length - 1 :] for text, next_one in zip(before, after, strict=True)]
        short = [run for run in runs if len(run) <= self.length]
        if short:
            raise ValueError(f"a sequence of {len(short[0]) - 1} characters instead of {self.length}")
        return _codes("".join(runs)).reshape(-1, self.length + 1)

    def _from_text(self, path: Path) -> tuple[list[tuple[str, NDArray[np.uint32]]], list[NDArray[np.uint32]]]:
        try:
            blocks = path.read_text(encoding="utf-8").split("\n\n")
        except (OSError, UnicodeDecodeError) as error:
            raise damaged(path, "a text in UTF-8", error) from error
        speeches: dict[str, list[str]] = {}
        for block in blocks:
            speaker, colon, speech = block.strip("\n").partition(":\n")
            if colon and "\n" not in speaker:
                speeches.setdefault(speaker, []).append(speech)
        if not speeches:
            raise damaged(path, 'speeches that begin with a line such as "First Citizen:"', "none")
        train, test = [], []
        for speaker, spoken in speeches.items():
            runs = windows(_codes("\n".join(spoken)), self.length)
            kept = len(runs) - min(round(self.test * len(runs)), max(len(runs) - 1, 0))
            train.append((speaker, runs[:kept]))
            test.append(runs[kept:])
        return train, test


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.uint32)


class _Comment(msgspec.Struct):
    """The targets of a comment. Other fields of LEAF are ignored."""

    target_tokens: list[list[str]]


class Reddit(Dataset):
    """Comments on Reddit by user. The target of each word is the next one.

    The comments of a user are joined and cut into sequences of one length, so nothing is padded.
    """

    kind = "reddit"
    length: int = param("The words of a sequence.", default=10, ge=1)
    vocabulary: int = param(
        "The size of the vocabulary: the most frequent words, and one for all others.", default=10_000, ge=2
    )
    padding: ClassVar[str] = "<PAD>"
    unknown: ClassVar[str] = "<UNK>"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        own = folder / "reddit"
        train, test = _read(own / "train", self._words), _read(own / "test", self._words)
        frequency = Counter(word for _, words in train for word in words)
        frequency.pop(self.unknown, None)
        ranked = sorted(frequency, key=lambda word: (-frequency[word], word))
        known = [self.unknown, *ranked[: self.vocabulary - 1]]
        number = {word: index for index, word in enumerate(known)}

        def sequences(words: Sequence[str]) -> Ids:
            return windows(np.array([number.get(word, 0) for word in words], dtype=np.int64), self.length)

        train_runs = [(name, sequences(words)) for name, words in train]
        test_runs = [sequences(words) for _, words in test]
        if not any(map(len, test_runs)) or not any(len(runs) for _, runs in train_runs):
            raise DataError(f"The comments in {own} are too short for sequences of {self.length} words.")
        owners, names = _owners(*zip(*((name, len(runs)) for name, runs in train_runs if len(runs)), strict=True))
        return Data(
            _sequence_split(np.concatenate([runs for _, runs in train_runs])),
            _sequence_split(np.concatenate(test_runs)),
            "sequence", len(known), owners, names, known,
        )  # fmt: skip

    def _words(self, user: _User) -> list[str]:
        """All words of a user: LEAF's inputs and, of each comment, the last target."""
        inputs = msgspec.json.decode(user.x, type=list[list[list[str]]])
        targets = msgspec.json.decode(user.y, type=list[_Comment | list[list[str]]])
        words: list[str] = []
        for pieces, target in zip(inputs, targets, strict=True):
            words += [word for piece in pieces for word in piece if word != self.padding]
            predicted = target.target_tokens if isinstance(target, _Comment) else target
            words += [word for piece in predicted for word in piece if word != self.padding][-1:]
        return words
