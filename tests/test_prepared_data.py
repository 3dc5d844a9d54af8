"""Prepared data: one file for all processes of a machine, which is rebuilt when it must not be used."""

import multiprocessing
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from covey.learning.dataset import Location
from covey.learning.datasets import prepared
from covey.learning.datasets.digests import digest
from covey.learning.datasets.images import CIFAR10
from covey.learning.datasets.prepared import files, load
from covey.learning.datasets.synthetic import SyntheticImages
from covey.parts.errors import ConfigurationWarning

IMAGES = SyntheticImages(samples=40, test_samples=10, side=8)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path / "prepared"))
    monkeypatch.setattr(prepared, "SMALLEST", 1)
    return tmp_path / "prepared"


def at(folder: Path, **local: object) -> Location:
    return Location(folder, range(3), local=local or None)


def same(one, other) -> bool:
    pairs = [(one.train.inputs, other.train.inputs), (one.train.targets, other.train.targets)]
    pairs += [(one.test.inputs, other.test.inputs), (one.test.targets, other.test.targets)]
    facts = [(d.objective, d.classes, list(d.label_names), d.scale, d.shift, digest(d)) for d in (one, other)]
    return all(map(torch.equal, *zip(*pairs, strict=True))) and facts[0] == facts[1]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows whenever the images are made."""
    made: list[int] = []
    usual = SyntheticImages.load
    monkeypatch.setattr(SyntheticImages, "load", lambda self, *a, **k: made.append(1) or usual(self, *a, **k))
    return made


def test_data_are_prepared_once_and_mapped(place, tmp_path, monkeypatch):
    made, expected = counted(monkeypatch), IMAGES.load(tmp_path)
    assert same(load(IMAGES, at(tmp_path)), expected)
    assert same(load(IMAGES, at(tmp_path)), expected)
    assert len(made) == 2
    assert load(IMAGES, at(tmp_path)).train.inputs.data_ptr() % 4096 == 0
    (file,) = files(place)
    if os.name != "nt":
        assert (place.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_other_parameters_and_sources_have_other_files(place, tmp_path):
    load(IMAGES, at(tmp_path))
    load(replace(IMAGES, seed=1), at(tmp_path))
    assert len(files(place)) == 2
    folder = tmp_path / "cifar10"
    folder.mkdir()
    for number, name in enumerate(CIFAR10.files):
        (folder / name).write_bytes(bytes([number]) + bytes(3072))
    assert load(CIFAR10(), at(tmp_path)).test.targets.tolist() == [5]
    (folder / "test_batch.bin").write_bytes(bytes([7]) + bytes(3072))
    assert load(CIFAR10(), at(tmp_path)).test.targets.tolist() == [7]
    assert len(files(place)) == 4


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", ["array", "head", "short", "empty", "writable", "link", "other"])
def test_a_file_that_must_not_be_used_is_made_anew(place, tmp_path, monkeypatch, damage):
    if os.name == "nt" and damage in ("writable", "link"):
        pytest.skip("Windows has no such permissions.")
    load(IMAGES, at(tmp_path))
    (file,) = files(place)
    if damage in ("array", "head"):
        flip(file, 1 << 16 if damage == "array" else 80)
    elif damage in ("short", "empty"):
        file.write_bytes(file.read_bytes()[: (1 << 16) + 10 if damage == "short" else 0])
    elif damage == "writable":
        file.chmod(0o666)
    elif damage == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        load(replace(IMAGES, seed=1), at(tmp_path))
        (other,) = set(files(place)) - {file}
        other.replace(file)
    made = counted(monkeypatch)
    assert same(load(IMAGES, at(tmp_path)), IMAGES.load(tmp_path))
    assert len(made) == 2
    if os.name != "nt":
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_crash_while_writing_leaves_no_file_under_the_name(place, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load(IMAGES, at(tmp_path))
    monkeypatch.undo()
    assert not list(place.iterdir())
    (place / "old.data.1234.part").write_bytes(b"of a process that was killed")
    os.utime(place / "old.data.1234.part", (1, 1))
    monkeypatch.setattr(prepared, "SMALLEST", 1)
    monkeypatch.setenv("COVEY_CACHE", str(place))
    assert same(load(IMAGES, at(tmp_path)), IMAGES.load(tmp_path))
    assert not list(place.glob("*.part"))


def _digest_in_process(folder: str, place: str) -> str:
    os.environ["COVEY_CACHE"] = place
    prepared.SMALLEST = 1
    return digest(load(IMAGES, at(Path(folder))))


def test_several_processes_at_once_have_the_same_data(place, tmp_path):
    with multiprocessing.get_context("fork" if os.name != "nt" else "spawn").Pool(3) as pool:
        found = pool.starmap(_digest_in_process, [(str(tmp_path), str(place))] * 3)
    assert set(found) == {digest(IMAGES.load(tmp_path))}
    assert len(files(place)) == 1
    assert not list(place.glob("*.part"))


def test_data_beside_those_of_a_host_are_not_prepared(place, tmp_path):
    load(IMAGES, at(tmp_path, nodes=[]))
    assert not place.exists()


def test_off_small_and_own_data_have_no_file(place, tmp_path, monkeypatch):
    class Mine(SyntheticImages):
        kind = "mine"

    load(Mine(samples=40, test_samples=10), at(tmp_path))
    monkeypatch.setattr(prepared, "SMALLEST", 1 << 20)
    load(IMAGES, at(tmp_path))
    monkeypatch.setattr(prepared, "SMALLEST", 1)
    monkeypatch.setenv("COVEY_CACHE", "off")
    load(IMAGES, at(tmp_path))
    assert not place.exists() or not files(place)


def test_a_folder_that_cannot_be_used_leaves_data_in_memory_with_one_line(place, tmp_path):
    place.write_text("a file in the way")
    with pytest.warns(ConfigurationWarning, match="are in the memory of each process") as said:
        assert same(load(IMAGES, at(tmp_path)), IMAGES.load(tmp_path))
    assert len(said) == 1
    assert "\n" not in str(said[0].message)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions.")
def test_a_folder_that_others_can_write_is_not_used(place, tmp_path):
    place.mkdir()
    place.chmod(0o777)
    with pytest.warns(ConfigurationWarning, match="others can write it"):
        load(IMAGES, at(tmp_path))
    assert not list(place.iterdir())


def test_the_files_used_longest_ago_make_room(place, tmp_path, monkeypatch):
    load(IMAGES, at(tmp_path))
    (first,) = files(place)
    os.utime(first.with_suffix(".checked"), (1, 1))
    monkeypatch.setattr(prepared, "LARGEST", int(first.stat().st_size * 1.5))
    load(replace(IMAGES, seed=1), at(tmp_path))
    assert first not in files(place)
    assert len(files(place)) == 1


def test_mapped_samples_train_as_those_in_memory(place, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(IMAGES, at(tmp_path))
    inputs = data.scaled(data.train.inputs[:4])
    assert torch.equal(inputs, IMAGES.load(tmp_path).scaled(IMAGES.load(tmp_path).train.inputs[:4]))
    assert np.shares_memory(data.train.inputs.numpy(), data.train.inputs[:4].numpy())
