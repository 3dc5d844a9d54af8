"""LEAF's data sets, from small files in its format."""

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covey.learning.dataset import Data, Dataset
from covey.learning.datasets.leaf import FEMNIST, CelebA, Reddit, Shakespeare, windows
from tests.published import sentence

Users = dict[str, tuple[list[Any], list[Any]]]


pytestmark = pytest.mark.usefixtures("no_network")


def write(path: Path, users: Users) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "hierarchies": [],
        "user_data": {name: {"x": x, "y": y} for name, (x, y) in users.items()},
    }
    path.write_text(json.dumps(content))


def owner_names(data: Data) -> list[str]:
    assert data.owners is not None
    assert len(data.owners) == len(data.train)
    return [data.owner_names[owner] for owner in data.owners]


# FEMNIST


def pixels(count: int, first: int = 0) -> list[list[float]]:
    return [[(first + at + index) % 256 / 255 for index in range(784)] for at in range(count)]


def write_femnist(folder: Path) -> None:
    write(folder / "femnist/train/all_data_0.json", {"f1": (pixels(2), [0, 61]), "f2": (pixels(1, 9), [10])})
    write(folder / "femnist/train/all_data_1.json", {"f3": ([], []), "f1": (pixels(1, 7), [36])})
    write(folder / "femnist/test/all_data_0.json", {"f9": (pixels(2), [1, 2])})


def test_femnist(tmp_path: Path) -> None:
    write_femnist(tmp_path)
    data = FEMNIST().load(tmp_path)
    assert data.train.inputs.shape == (4, 1, 28, 28)
    assert data.train.inputs.dtype == torch.uint8
    assert torch.equal(data.train.inputs[2].flatten(), ((torch.arange(784) + 9) % 256).to(torch.uint8))
    assert data.train.targets.tolist() == [0, 61, 10, 36]
    assert "".join(data.label_names[label] for label in data.train.targets) == "0zAa"
    assert owner_names(data) == ["f1", "f1", "f2", "f1"]
    assert (len(data.test), data.classes, data.objective) == (2, 62, "classes")


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ((pixels(2), [1]), "expected samples of user f5 that can be used, found 2 inputs and 1 labels"),
        ((pixels(1), [62]), "of user f5 that can be used, found a label outside [0, 62)"),
        (([[2.0] * 784], [1]), "of user f5 that can be used, found a pixel outside [0, 1]"),
        (([[0.0] * 783], [1]), "of user f5 that can be used, found cannot reshape array"),
        (([[0.0] * 783 + ["x"]], [1]), "of user f5 that can be used, found Expected `float`, got `str`"),
    ],
)
def test_damaged_femnist(tmp_path: Path, user: tuple[list[Any], list[Any]], expected: str) -> None:
    write_femnist(tmp_path)
    path = tmp_path / "femnist/test/more.json"
    write(path, {"f5": user})
    found = sentence(FEMNIST(), tmp_path)
    assert found.startswith(f"The file {path} is damaged: ")
    assert expected in found


def test_femnist_without_samples(tmp_path: Path) -> None:
    write_femnist(tmp_path)
    for path in (tmp_path / "femnist/test").iterdir():
        path.unlink()
    write(tmp_path / "femnist/test/all.json", {})
    assert sentence(FEMNIST(), tmp_path) == f"The files in {tmp_path / 'femnist/test'} hold no samples."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"users"', "expected LEAF's users and user_data in JSON, found Input data was truncated"),
        ("{}", "expected LEAF's users and user_data in JSON, found Object missing required field `users`"),
        ('{"users": ["a"], "user_data": {}}', "expected samples of every user, found none of a"),
    ],
)
def test_what_is_no_file_of_leaf(tmp_path: Path, text: str, expected: str) -> None:
    write_femnist(tmp_path)
    (tmp_path / "femnist/train/bad.json").write_text(text)
    assert expected in sentence(FEMNIST(), tmp_path)


@pytest.mark.parametrize(("dataset", "name"), [(FEMNIST(), "femnist"), (Reddit(), "reddit")])
def test_a_missing_set_says_what_to_put_where(tmp_path: Path, dataset: Dataset, name: str) -> None:
    own = tmp_path / name
    assert sentence(dataset, tmp_path) == (
        f"The folder {own / 'train'} has no .json files: put the folders train and test that LEAF's preprocess.sh "
        f"makes into {own}."
    )


# CelebA


def write_celeba(folder: Path, photographs: str) -> None:
    from PIL import Image

    index = folder / "celeba" / photographs
    index.mkdir(parents=True)
    for name, colour in (("1.png", (255, 0, 0)), ("2.png", (0, 255, 0)), ("3.png", (0, 0, 255))):
        Image.new("RGB", (178, 218), colour).save(index / name)
    write(folder / "celeba/train/data.json", {"17": (["1.png", "2.png"], [0, 1])})
    write(folder / "celeba/test/data.json", {"17": (["3.png"], [1])})


@pytest.mark.parametrize("photographs", ["img_align_celeba", "raw/img_align_celeba"])
def test_celeba(tmp_path: Path, photographs: str) -> None:
    pytest.importorskip("PIL")
    write_celeba(tmp_path, photographs)
    data = CelebA(side=16).load(tmp_path)
    assert data.train.inputs.shape == (2, 3, 16, 16)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.inputs.float().mean((2, 3)).tolist() == [[255, 0, 0], [0, 255, 0]]
    assert data.train.targets.tolist() == [0, 1]
    assert owner_names(data) == ["17", "17"]
    assert 255 * data.scale + data.shift == 1.0


def test_damaged_celeba(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    write_celeba(tmp_path, "img_align_celeba")
    index = tmp_path / "celeba" / "img_align_celeba"
    (index / "3.png").write_bytes(b"no picture")
    assert f"The file {index / '3.png'} is damaged: expected a photograph" in sentence(CelebA(), tmp_path)
    (index / "3.png").unlink()
    assert sentence(CelebA(), tmp_path).startswith(f"The file {index / '3.png'} is missing: put all the aligned")
    write(tmp_path / "celeba/test/data.json", {"17": (["../../secret.png"], [1])})
    assert "found '../../secret.png', which is not the name of a photograph" in sentence(CelebA(), tmp_path)
    index.rename(tmp_path / "elsewhere")
    assert sentence(CelebA(), tmp_path) == (
        f"The folder {index} is missing: put the aligned photographs of CelebA there."
    )


# Sequences


@given(size=st.integers(0, 60), length=st.integers(1, 12))
def test_windows_cover_a_stream_and_overlap_by_one(size: int, length: int) -> None:
    stream = np.arange(size)
    runs = windows(stream, length)
    assert runs.shape == (max(size - 1, 0) // length, length + 1)
    assert np.array_equal(runs[:, :-1].ravel(), stream[: runs[:, :-1].size])
    assert np.array_equal(runs[:, 1:].ravel(), stream[1 : 1 + runs[:, 1:].size])


def text_of(data: Data, tokens: torch.Tensor) -> str:
    return "".join(data.label_names[token] for token in tokens)


PLAY = """ROMEO:
abcdefghij

JULIET:
klmnopqrst
uvwxyz

ROMEO:
ABCDEFGHIJKLMNOPQRSTUVWXYZ

ALL:
no
"""


def test_shakespeare_from_a_plain_text(tmp_path: Path) -> None:
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "shakespeare" / "input.txt").write_text(PLAY)
    data = Shakespeare(length=5, test=0.3).load(tmp_path)
    assert data.train.inputs.dtype == torch.int64
    assert [text_of(data, run) for run in data.train.inputs] == [
        "abcde", "fghij", "\nABCD", "EFGHI", "JKLMN", "klmno", "pqrst",
    ]  # fmt: skip
    assert [text_of(data, run) for run in data.train.targets[:3]] == ["bcdef", "ghij\n", "ABCDE"]
    assert [text_of(data, run) for run in data.test.inputs] == ["OPQRS", "TUVWX", "\nuvwx"]
    assert owner_names(data) == ["ROMEO"] * 5 + ["JULIET"] * 2
    assert data.objective == "sequence"
    assert data.classes == len(data.label_names) == len(set(data.label_names)) == 80


def test_the_alphabet_of_shakespeare_is_the_same_for_every_text(tmp_path: Path) -> None:
    everything = "".join(chr(code) for code in range(32, 400))
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "shakespeare" / "input.txt").write_text(f"ALL:\n{everything}\n\nSOME:\n{everything}")
    data = Shakespeare(length=5, test=0.3).load(tmp_path)
    assert list(data.label_names) == sorted(Shakespeare.alphabet)
    known = [character if character in Shakespeare.alphabet else "}" for character in everything[:200]]
    assert "".join(text_of(data, run) for run in data.train.inputs[:40]) == "".join(known)


@given(speeches=st.lists(st.tuples(st.sampled_from("ABC"), st.text("xyz ,", min_size=1, max_size=90)), min_size=1))
def test_shakespeare_predicts_the_next_character_and_tests_on_the_end(
    speeches: list[tuple[str, str]], tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("plays")
    (folder / "shakespeare").mkdir()
    path = folder / "shakespeare" / "input.txt"
    path.write_text("\n\n".join(f"{speaker}:\n{speech}" for speaker, speech in speeches))
    spoken = {name: "\n".join(text for speaker, text in speeches if speaker == name) for name in "ABC"}
    if max(map(len, spoken.values())) <= 8:  # nobody has two sequences, one to train on and one to test on
        assert "too short for sequences of 4 characters" in sentence(Shakespeare(length=4, test=0.4), folder)
        return
    data = Shakespeare(length=4, test=0.4).load(folder)
    assert torch.equal(data.train.inputs[:, 1:], data.train.targets[:, :-1])
    taken = dict.fromkeys("ABC", "")
    for run, owner in zip(data.train.inputs, owner_names(data), strict=True):
        taken[owner] += text_of(data, run)
    assert all(spoken[name].startswith(text) for name, text in taken.items())


def test_shakespeare_from_leaf(tmp_path: Path) -> None:
    letters = string.ascii_lowercase
    write(
        tmp_path / "shakespeare/train/data.json",
        {"HAMLET_1": ([letters[:6], letters[1:7]], ["g", "h"]), "HAMLET_2": ([letters[9:15]], ["p"])},
    )
    write(tmp_path / "shakespeare/test/data.json", {"HAMLET_1": (["xyzxyz"], ["w"])})
    data = Shakespeare(length=5).load(tmp_path)
    assert [text_of(data, run) for run in data.train.inputs] == ["bcdef", "cdefg", "klmno"]
    assert [text_of(data, run) for run in data.train.targets] == ["cdefg", "defgh", "lmnop"]
    assert [text_of(data, run) for run in data.test.targets] == ["zxyzw"]
    assert owner_names(data) == ["HAMLET_1", "HAMLET_1", "HAMLET_2"]
    assert "found a sequence of 6 characters instead of 80" in sentence(Shakespeare(), tmp_path)


def test_unusable_texts(tmp_path: Path) -> None:
    own = tmp_path / "shakespeare"
    path = own / "tinyshakespeare.txt"
    assert sentence(Shakespeare(), tmp_path).startswith(f"The file {path} is missing: put it there. Downloading https:")
    path = own / "input.txt"
    path.write_text("To be, or not to be")
    assert 'expected speeches that begin with a line such as "First Citizen:", found none' in sentence(
        Shakespeare(), tmp_path
    )
    path.write_text(PLAY)
    assert sentence(Shakespeare(), tmp_path) == f"The texts in {own} are too short for sequences of 80 characters."
    path.write_bytes(b"ALL:\n\xff\xfe")
    assert "expected a text in UTF-8" in sentence(Shakespeare(), tmp_path)


# Reddit


def comment(*words: str, length: int = 4) -> tuple[list[list[str]], dict[str, Any]]:
    """A comment as LEAF has it: pieces of `length` words, padded, and the same one word further on."""
    bounded = ["<BOS>", *words, "<EOS>"]
    pad = ["<PAD>"] * length
    starts = range(0, len(bounded) - 1, length)
    x = [(bounded[:-1][at : at + length] + pad)[:length] for at in starts]
    y = [(bounded[1:][at : at + length] + pad)[:length] for at in starts]
    return x, {"target_tokens": y, "subreddit": "birds", "score": 3}


def test_reddit(tmp_path: Path) -> None:
    first, second = comment("the", "owl", "and", "the", "tit"), comment("the", "owl", "sings")
    write(
        tmp_path / "reddit/train/data.json",
        {"u1": ([first[0], second[0]], [first[1], second[1]["target_tokens"]]), "u2": ([second[0]], [second[1]])},
    )
    write(tmp_path / "reddit/test/data.json", {"u1": ([second[0]], [second[1]])})
    data = Reddit(length=2, vocabulary=6).load(tmp_path)
    assert list(data.label_names) == ["<UNK>", "the", "<BOS>", "<EOS>", "owl", "sings"]
    said = " ".join(data.label_names[token] for token in data.train.inputs[:5].flatten())
    assert said == "<BOS> the owl <UNK> the <UNK> <EOS> <BOS> the owl"
    assert torch.equal(data.train.inputs[:, 1:], data.train.targets[:, :-1])
    assert owner_names(data) == ["u1"] * 5 + ["u2"] * 2
    assert (data.objective, data.classes, len(data.test)) == ("sequence", 6, 2)
    everything = Reddit(length=2).load(tmp_path)
    assert everything.classes == 8
    assert "too short for sequences of 10 words" in sentence(Reddit(), tmp_path)
