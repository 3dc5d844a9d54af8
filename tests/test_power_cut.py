"""A power cut at every moment: the rows of a checkpoint survive, although another process reads the run meanwhile."""

import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from covey import api
from covey.messages.files import sync_folder
from covey.parts.errors import RunError
from covey.runtime.runs import Run, RunWriter, resuming
from covey.runtime.runs.sums import check_sums
from tests import folders
from tests.folders import rows
from tests.power import Disk, rebuilt, recording

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are known by /proc")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(the folder of a run, what happened to its files, after how many events each checkpoint was there)."""
    folder = tmp_path_factory.mktemp("power") / "run"
    readers: list[sqlite3.Connection] = []
    done: list[tuple[int, int]] = []
    checkpoint, finish = RunWriter.checkpoint, RunWriter.finish
    with recording(folder) as disk, pytest.MonkeyPatch.context() as patch:

        def checkpointed(writer, round, payload, keep=2):
            checkpoint(writer, round, payload, keep)
            done.append((len(disk.events), round))
            if not readers:
                readers.append(sqlite3.connect(folder / "metrics.sqlite", isolation_level=None))
                readers[0].execute("BEGIN")
                readers[0].execute("SELECT COUNT(*) FROM commits").fetchall()

        def finished(writer, status, facts):
            readers[0].close()
            finish(writer, status, facts)

        patch.setattr(RunWriter, "checkpoint", checkpointed)
        patch.setattr(RunWriter, "finish", finished)
        # Rows are written long before the checkpoint that counts them, too.
        patch.setattr("covey.runtime.runs.writer._ROWS_AT_ONCE", 4)
        folders.finished(folder, rounds=12)
    assert len(done) == 5
    return folder, disk, done


@pytest.mark.parametrize("seed", [None, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_what_a_checkpoint_counts_on_outlives_a_power_cut(recorded, tmp_path, seed):
    folder, disk, done = recorded
    disk = fresh(disk)
    ended, before, looked_at = 0, None, 0
    for number, (_, left) in enumerate(disk.cuts(seed), 1):
        if left == before:
            continue
        before, looked_at = left, looked_at + 1
        cut = rebuilt(left, tmp_path / "cut")
        least = max((round for events, round in done if events <= number), default=0)
        if least and Run(cut).status != "finished":
            with resuming(cut) as opened:
                assert opened.round >= least
                opened.held.close()
            if looked_at % 12 == 0:
                assert api.resume(cut).status == "finished"
                assert rows(cut) == rows(folder)
                ended += 1
        elif least:
            with pytest.raises(RunError, match="has finished"):
                api.resume(cut)
        shutil.rmtree(cut, ignore_errors=True)
    assert ended > 1


def test_a_run_that_has_finished_outlives_a_power_cut(recorded, tmp_path):
    *_, (_, left) = fresh(recorded[1]).cuts()
    cut = rebuilt(left, tmp_path / "cut")
    assert check_sums(cut) == 9
    assert Run(cut).status == "finished"
    assert rows(cut) == rows(recorded[0])


def fresh(disk: Disk) -> Disk:
    again = Disk(disk.folder)
    again.events = disk.events
    return again


def test_the_disk_forgets_what_was_not_synced(tmp_path):
    folder = Path(tmp_path / "run")
    folder.mkdir()
    with recording(folder) as disk:
        databases = [sqlite3.connect(folder / f"{name}.sqlite", isolation_level=None) for name in ("OFF", "FULL")]
        for database in databases:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE rows (x)")
        sync_folder(folder)
        for name, database in zip(("OFF", "FULL"), databases, strict=True):
            database.execute(f"PRAGMA synchronous={name}")
            database.execute("INSERT INTO rows VALUES (1)")
        *_, (_, left) = disk.cuts()
        for database in databases:
            database.close()
    cut = rebuilt(left, tmp_path / "cut")
    for name, found in (("OFF", []), ("FULL", [(1,)])):
        assert sqlite3.connect(cut / f"{name}.sqlite").execute("SELECT * FROM rows").fetchall() == found


def test_a_run_that_is_killed_before_it_records_anything_says_so_and_can_be_begun_again(recorded, tmp_path, covey):
    seen = []
    states = [*fresh(recorded[1]).kills(), *(left for _, left in fresh(recorded[1]).cuts(1))]
    for left in states:
        if "facts.json" in left or left in seen:
            continue
        seen.append(left)
        killed = tmp_path / "run"
        killed.mkdir()
        rebuilt(left, killed)
        (killed / ".lock").touch()
        said = f"covey: {killed} is not a run folder: it has no metrics.sqlite and run.toml.\n"
        if "run.toml" in left:
            said = (
                f"covey: The run {killed} was killed before anything was recorded. Begin it again: "
                f"covey run {killed}/run.toml --out {killed}\n"
            )
        for command in (["show"], ["compare"], ["export"], ["check"], ["run", "--resume"]):
            assert covey(*command, str(killed)) == (2, "", said)
        assert api.run(folders.tiny(rounds=2), out=killed).status == "finished"
        assert check_sums(killed) > 5
        shutil.rmtree(killed)
    assert len(seen) > 5


def test_a_folder_with_more_than_a_beginning_is_not_begun_again(tmp_path, covey):
    folder = folders.finished(tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    for name in ("facts.json", "SHA256SUMS", "models.npy", "graph.npz", "holdings.npy"):
        (folder / name).unlink()
    before = folders.contents(folder)
    assert "has no readable facts.json" in covey("show", str(folder))[2]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.toml").write_text("mine")
    for occupied in (folder, tmp_path / "mine"):
        with pytest.raises(RunError, match="is not empty"):
            api.run(folders.tiny(), out=occupied)
    assert folders.contents(folder) == before
    assert (tmp_path / "mine" / "run.toml").read_text() == "mine"
