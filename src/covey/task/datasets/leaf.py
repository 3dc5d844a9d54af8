"""Federated data sets in LEAF's JSON format, by owner: writers, celebrities, roles, users of a forum.

A split is a folder, `train` or `test`, of JSON files {"users": [...], "user_data": {user: {"x": [...], "y": [...]}}}.

Shapes: S samples, T positions.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from covey.errors import DataError
from covey.parameters import param
from covey.task.dataset import Data, Dataset, Split
from covey.task.datasets.source import damaged, found

Sample = tuple[str, Any, Any]
"""(owner, x, y)"""


def read_leaf(title: str, folder: Path, part: str) -> Iterator[Sample]:
    """The samples of one split, file by file and owner by owner.

    Raises:
        DataError: there are no files, or one is not in LEAF's format.
    """
    files = sorted((folder / part).glob("*.json"))
    if not files:
        raise DataError(
            f"Cannot find {title}: put LEAF's {part} JSON files into {folder / part} "
            f"(github.com/TalwalkarLab/leaf makes them), or name another data folder by --data."
        )
    for file in files:
        try:
            content = json.loads(file.read_text())
            for user in content["users"]:
                samples = content["user_data"][user]
                if len(samples["x"]) != len(samples["y"]):
                    raise damaged(
                        file, f"as many x as y of the user {user}", f"{len(samples['x'])}, {len(samples['y'])}"
                    )
                for x, y in zip(samples["x"], samples["y"], strict=True):
                    yield str(user), x, y
        except OSError as error:
            raise DataError(f"The file {file} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(file, "LEAF's JSON with users and user_data", f"{type(error).__name__}: {error}") from error


def _numbered(owners: Sequence[str]) -> tuple[Tensor, list[str]]:
    names = sorted(set(owners))
    place = {name: number for number, name in enumerate(names)}
    return torch.tensor([place[owner] for owner in owners], dtype=torch.int64), names


class _Leaf(Dataset):
    title_: ClassVar[str] = ""
    folder: ClassVar[str] = ""

    def samples(self, folder: Path, part: str) -> list[Sample]:
        return list(read_leaf(self.title_, folder / self.folder, part))


class FEMNIST(_Leaf):
    """Handwritten characters of 28 x 28 pixels in 62 classes, by writer."""

    kind = "femnist"
    title_ = "FEMNIST"
    folder = "femnist"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        train, test = self.samples(folder, "train"), self.samples(folder, "test")
        owners, names = _numbered([owner for owner, _, _ in train])
        return Data(self._split(folder, train), self._split(folder, test), "classes", 62, owners, names)

    def _split(self, folder: Path, samples: list[Sample]) -> Split:
        try:
            inputs = np.array([x for _, x, _ in samples], dtype=np.float32).reshape(-1, 1, 28, 28)
            targets = np.array([y for _, _, y in samples], dtype=np.int64)
        except (ValueError, TypeError) as error:
            raise damaged(folder / self.folder, "images of 784 numbers with a class each", error) from error
        if len(targets) and not 0 <= targets.min() <= targets.max() < 62:
            raise damaged(folder / self.folder, "classes from 0 to 61", f"{targets.min()} to {targets.max()}")
        return Split(torch.from_numpy(inputs), torch.from_numpy(targets))


class CelebA(_Leaf):
    """Faces of celebrities, smiling or not, by celebrity; the pictures lie in celeba/img_align_celeba."""

    kind = "celeba"
    title_ = "CelebA"
    folder = "celeba"
    side: int = param("Height and width to which the pictures are brought.", default=84, ge=8)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        train, test = self.samples(folder, "train"), self.samples(folder, "test")
        owners, names = _numbered([owner for owner, _, _ in train])
        splits = self._split(folder, train), self._split(folder, test)
        smiles = ["not smiling", "smiling"]
        return Data(*splits, "classes", 2, owners, names, smiles, scale=1.0 / 127.5, shift=-1.0)

    def _split(self, folder: Path, samples: list[Sample]) -> Split:
        try:
            from PIL import Image
        except ImportError as error:
            raise DataError("CelebA needs Pillow: pip install 'covey[images]'.") from error
        images = np.empty((len(samples), 3, self.side, self.side), dtype=np.uint8)
        for place, (_, name, _) in enumerate(samples):
            path = folder / self.folder / "img_align_celeba" / str(name)
            try:
                with Image.open(path) as image:
                    small = image.convert("RGB").resize((self.side, self.side))
            except OSError as error:
                raise damaged(path, "a picture", error) from error
            images[place] = np.asarray(small).transpose(2, 0, 1)
        return Split(torch.from_numpy(images), torch.tensor([int(y) for _, _, y in samples], dtype=torch.int64))


_CHARACTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}$"
"""What Shakespeare's works are written with; everything else is the last class."""


def _encoded(text: str) -> np.ndarray:
    table = np.full(256, len(_CHARACTERS), dtype=np.int64)
    table[[ord(letter) for letter in _CHARACTERS]] = np.arange(len(_CHARACTERS))
    return table[np.frombuffer(text.encode("latin-1", "replace"), dtype=np.uint8)]


class Shakespeare(_Leaf):
    """The next character in Shakespeare's plays, by role; from LEAF's files, or from a text with speaker lines."""

    kind = "shakespeare"
    title_ = "Shakespeare"
    folder = "shakespeare"
    length: int = param("How many characters a sample has; LEAF's have 80.", default=80, ge=2)
    test_fraction: float = param(
        "What share of each role's text, at its end, is the test set.", default=0.2, gt=0, lt=1
    )

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        text = found(folder / self.folder, ("tinyshakespeare.txt", "shakespeare.txt"))
        if (folder / self.folder / "train").is_dir() or text is None:
            train, test = self.samples(folder, "train"), self.samples(folder, "test")
            owners, names = _numbered([owner for owner, _, _ in train])
            splits = self._from_leaf(folder, train), self._from_leaf(folder, test)
        else:
            splits, owners, names = self._from_text(text)
        return Data(*splits, "sequence", len(_CHARACTERS) + 1, owners, names, [*_CHARACTERS, "other"])

    def _from_leaf(self, folder: Path, samples: list[Sample]) -> Split:
        rows = [_encoded(f"{x}{y}") for _, x, y in samples]
        lengths = {len(row) for row in rows}
        if len(lengths) > 1:
            raise damaged(folder / self.folder, "texts of one length", sorted(lengths))
        return _next_characters(rows)

    def _from_text(self, path: Path) -> tuple[tuple[Split, Split], Tensor, list[str]]:
        speeches: dict[str, list[str]] = {}
        for block in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            speaker, colon, speech = block.strip().partition(":\n")
            if colon and speech and "\n" not in speaker:
                speeches.setdefault(speaker.strip().upper(), []).append(speech)
        train: list[np.ndarray] = []
        test: list[np.ndarray] = []
        owners: list[int] = []
        names: list[str] = []
        for speaker in sorted(speeches):
            codes = _encoded("\n".join(speeches[speaker]) + "\n")
            windows = (len(codes) - 1) // self.length
            held = round(windows * self.test_fraction)
            if windows - held < 1:
                continue
            rows = [codes[at * self.length : (at + 1) * self.length + 1] for at in range(windows)]
            train += rows[: windows - held]
            test += rows[windows - held :]
            owners += [len(names)] * (windows - held)
            names.append(speaker)
        if not train or not test:
            raise damaged(path, f'speeches after lines "NAME:" long enough for samples of {self.length}', len(train))
        splits = _next_characters(train), _next_characters(test)
        return splits, torch.tensor(owners, dtype=torch.int64), names


def _next_characters(rows: list[np.ndarray]) -> Split:
    whole = torch.from_numpy(np.array(rows))
    return Split(whole[:, :-1].contiguous(), whole[:, 1:].contiguous())


_PAD, _UNKNOWN = 0, 1


class Reddit(_Leaf):
    """The next word in comments, by user; LEAF's tokenised format."""

    kind = "reddit"
    title_ = "Reddit"
    folder = "reddit"
    vocabulary: int = param("How many of the most frequent words are known.", default=10_000, ge=3)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        train, test = self._sequences(folder, "train"), self._sequences(folder, "test")
        counts = Counter(word for _, words in train for word in words)
        known = [
            word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: self.vocabulary - 2]
        ]
        place = {word: number for number, word in enumerate(known, 2)}
        width = max((len(words) for _, words in train), default=0)
        owners, names = _numbered([owner for owner, _ in train])
        splits = _words(train, place, width), _words(test, place, width)
        return Data(*splits, "sequence", len(known) + 2, owners, names, ["<pad>", "<unknown>", *known])

    def _sequences(self, folder: Path, part: str) -> list[tuple[str, list[str]]]:
        """(owner, words) of every sequence; LEAF nests a list of sequences in each x."""
        sequences = []
        for owner, x, _ in self.samples(folder, part):
            nested = x if x and isinstance(x[0], list) else [x]
            sequences += [(owner, [str(word) for word in words]) for words in nested if len(words) > 1]
        if not sequences:
            raise damaged(folder / self.folder / part, "lists of words", "none")
        return sequences


def _words(sequences: list[tuple[str, list[str]]], place: dict[str, int], width: int) -> Split:
    whole = np.full((len(sequences), width), _PAD, dtype=np.int64)
    for row, (_, words) in enumerate(sequences):
        codes = [place.get(word, _UNKNOWN) for word in words[:width]]
        whole[row, : len(codes)] = codes
    stored = torch.from_numpy(whole)
    return Split(stored[:, :-1].contiguous(), stored[:, 1:].contiguous())
