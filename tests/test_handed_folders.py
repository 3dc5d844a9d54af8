"""Run folders from somebody else: nothing outside is read or written, nothing hangs, nothing reaches the terminal raw."""

import os
import shutil
from pathlib import Path

import pytest

from tests import folders

NAMES = (
    ".lock",
    "run.toml",
    "run.toml.part",
    "facts.json",
    "facts.json.part",
    "metrics.sqlite",
    "metrics.sqlite-wal",
    "metrics.sqlite-shm",
    "metrics.sqlite-journal",
    "graph.npz",
    "holdings.npy",
    "models.npy",
    "models.npy.part",
    "checkpoints",
    "checkpoints/round-000000005.covey",
    "checkpoints/round-000000006.covey.part",
    "logs",
    "logs/host-0.log",
)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    return folders.interrupted(tmp_path_factory.mktemp("handed") / "run")


@pytest.fixture
def handed(interrupted, tmp_path):
    """A copy to change."""
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


def every_command(covey, folder, out):
    """What each command that opens a run says of one: (exit code, standard output, standard error)."""
    for command in (
        ["show", str(folder)],
        ["show", str(folder), "--json"],
        ["compare", str(folder)],
        ["plot", str(folder), "--out", str(out / "figure.png")],
        ["report", str(folder), "--out", str(out / "report.html")],
        ["export", str(folder)],
        ["run", "--resume", str(folder)],
    ):
        yield command, covey(*command)


def replaced(folder, name, put):
    """Put something else in the place of a file, and move what was there aside."""
    place, kept = folder / name, folder.parent / "kept"
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(kept)
    put(place, kept)


@pytest.mark.parametrize("name", NAMES)
def test_no_file_of_a_run_may_be_a_symbolic_link(handed, tmp_path, covey, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("precious")

    def link(place, kept):
        # Where it leads to what was there before, all would go well.
        place.symlink_to(kept if kept.exists() else outside / "victim")

    replaced(handed, name, link)
    kept = tmp_path / "kept"
    before = folders.contents(kept) if kept.is_dir() else kept.exists() and kept.read_bytes()
    for command, (code, out, err) in every_command(covey, handed, tmp_path):
        assert (code, out) == (2, ""), command
        assert err == f"covey: The run {handed} is not opened: its {name} is a symbolic link, and covey follows none.\n"
    assert [file.read_text() for file in outside.iterdir()] == ["precious"]
    assert before == (folders.contents(kept) if kept.is_dir() else kept.exists() and kept.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_no_link_to_nowhere_makes_a_file_there(handed, tmp_path, covey, name):
    replaced(handed, name, lambda place, kept: place.symlink_to(tmp_path / "new"))
    for _, (code, _, err) in every_command(covey, handed, tmp_path):
        assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name])
def test_what_is_no_regular_file_is_not_waited_for(handed, tmp_path, covey, name):
    if name not in ("checkpoints", "logs"):
        replaced(handed, name, lambda place, kept: os.mkfifo(place))
    else:
        replaced(handed, name, lambda place, kept: place.write_text(""))
    for _, (code, _, err) in every_command(covey, handed, tmp_path):
        assert (code, err.count("\n")) == (2, 1)
        assert f"its {name} is no " in err


@pytest.mark.parametrize("name", ["metrics.sqlite", "logs/host-0.log"])
def test_a_file_that_is_changed_in_place_has_no_other_name(handed, tmp_path, covey, name):
    (handed / "logs").mkdir()
    (handed / "logs" / "host-0.log").write_text("listening\n")
    os.link(handed / name, tmp_path / "elsewhere")
    before = folders.contents(handed)
    code, _, err = covey("run", "--resume", str(handed))
    assert (code, err.count("\n")) == (2, 1)
    assert f"its {name} is also a file elsewhere (a hard link)" in err
    assert folders.contents(handed) == before
    assert covey("show", str(handed))[0] == 0


def test_files_that_are_replaced_leave_their_other_names_alone(handed, tmp_path, covey):
    for name in ("facts.json", ".lock", "run.toml", "checkpoints/round-000000005.covey"):
        os.link(handed / name, tmp_path / Path(name).name)
    (tmp_path / ".lock").write_text("precious")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert covey("run", "--resume", str(handed))[0] == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
