"""Runs without write access: on a read-only mount, if this machine lets the tests make one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from covey.runtime.runs import Run
from tests import folders
from tests.folders import contents

EARLIER = Path(__file__).parent / "data" / "earlier" / "finished"
COMMANDS = (
    ("show",),
    ("show", "--json"),
    ("compare",),
    ("export",),
    ("plot", "--out", "figure.png"),
    ("report", "--out", "report.html"),
)


@pytest.fixture
def read_only(tmp_path):
    """Mounts a folder where nothing in it can be written; as root, permissions alone keep nobody from writing."""
    mounted = []

    def mount(folder: Path) -> Path:
        at = tmp_path / "mounted"
        at.mkdir()
        if sys.platform != "linux" or shutil.which("mount") is None:
            pytest.skip("no read-only mounts here")
        for options in (["--bind"], ["-o", "remount,bind,ro"]):
            made = subprocess.run(["mount", *options, str(folder), str(at)], capture_output=True, check=False)
            if made.returncode:
                pytest.skip("no right to mount anything here")
            mounted.append(at)
        with pytest.raises(OSError, match="Read-only"):
            (at / "file").touch()
        return at

    yield mount
    if mounted:
        subprocess.run(["umount", str(mounted[0])], check=True)


@pytest.mark.parametrize("made", ["interrupted", "earlier"])  # Another test has a finished one.
def test_a_run_on_a_read_only_mount_is_opened(tmp_path, in_folder, read_only, covey, made):
    folder = tmp_path / "run"
    if made == "earlier":
        shutil.copytree(EARLIER, folder)
    else:
        getattr(folders, made)(folder)
    at = read_only(folder)
    for command, *rest in COMMANDS:
        code, _, err = covey(command, str(at), *rest)
        assert (code, err) == (0, ""), command
    assert covey("check", str(at))[0] == (2 if made == "earlier" else 0)
    code, out, err = covey("run", "--resume", str(at))
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_killed_run_on_a_read_only_mount_is_read_or_says_what_to_do(tmp_path, read_only, covey):
    folder = folders.killed(tmp_path / "run")
    (folder / "metrics.sqlite-shm").unlink(missing_ok=True)
    at = read_only(folder)
    code, out, err = covey("show", str(at))
    assert (code, out) == (2, "")
    assert err == (
        f"covey: The metrics of {at} cannot be read: its last rows are in metrics.sqlite-wal, and SQLite needs to write "
        f"beside it. Copy the folder to where that is possible.\n"
    )


def test_nothing_is_written_to_read_a_run(tmp_path, in_folder, covey):
    """The behaviour on a read-only mount follows from this, on machines without one."""
    for made in (folders.finished, folders.interrupted):
        folder = made(tmp_path / made.__name__)
        names, before = sorted(file.name for file in folder.rglob("*")), contents(folder)
        for command, *rest in COMMANDS:
            assert covey(command, str(folder), *rest)[0] == 0
        assert sorted(file.name for file in folder.rglob("*")) == names
        assert contents(folder) == before
        assert not (folder / "metrics.sqlite-wal").exists()
        assert len(Run(folder).commits) >= 15
