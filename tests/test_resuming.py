"""The checks of a resume before any change: if something is wrong, it fails with one line and changes nothing."""

import os
import shutil
import sqlite3
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from covey import api
from covey.messages.files import read_payload, write_payload
from covey.parts.errors import RunError
from covey.runtime.runs import Run, RunWriter, latest_checkpoint, lock
from tests import folders
from tests.folders import contents, rows

CHANGES = {
    "task": {**folders.tiny()["task"], "optimizer": {"kind": "sgd", "lr": 0.3, "momentum": 0.9, "state": "keep"}}
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, an interrupted and a killed one of the same experiment."""
    folder = tmp_path_factory.mktemp("runs")
    for made in (folders.finished, folders.interrupted, folders.killed):
        made(folder / made.__name__, **CHANGES)
    return folder


@pytest.fixture(params=["interrupted", "killed"])
def stopped(runs, tmp_path, request):
    """A copy to change of a run that can be resumed, and has two checkpoints."""
    return Path(shutil.copytree(runs / request.param, tmp_path / "run"))


def refused(folder, covey, why):
    """Resume, and see that nothing but one line comes of it."""
    before, kept = contents(folder), rows(folder)
    code, out, err = covey("run", "--resume", str(folder))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert why in err
    assert contents(folder) == before
    assert rows(folder) == kept


def ends_right(folder, runs):
    assert api.resume(folder).status == "finished"
    assert rows(folder) == rows(runs / "finished")
    assert (folder / "models.npy").read_bytes() == (runs / "finished" / "models.npy").read_bytes()


def rewritten(folder, change):
    """Change what is in the latest checkpoint, which stays whole, and leave no other."""
    *others, file = sorted((folder / "checkpoints").iterdir())
    for other in others:
        other.rename(folder / other.name)
    payload = read_payload(file)
    change(payload)
    write_payload(file, payload)
    return file


def test_what_was_stopped_ends_as_the_undisturbed_run(stopped, runs):
    ends_right(stopped, runs)
    assert not (stopped / "metrics.sqlite-wal").exists()


# ---------------------------------------------------------------------- checkpoints

COLUMNS = (
    "models",
    "completed",
    "clocks",
    "uplinks",
    "orders",
    "losses",
    "counters",
    "spent",
    "busy",
    "evaluated",
    "ended",
    "away",
)


@pytest.mark.parametrize("name", [*COLUMNS, "downlinks", "ghosts", "written"])
def test_a_checkpoint_without_one_of_its_keys_is_refused(stopped, covey, name):
    rewritten(stopped, lambda payload: payload.pop(name))
    refused(stopped, covey, "cannot be resumed: its checkpoints/round-")


@pytest.mark.parametrize("name", [*COLUMNS, "downlinks", "ghosts", "written"])
def test_a_checkpoint_with_something_else_under_a_key_is_refused(stopped, covey, name):
    rewritten(stopped, lambda payload: payload.update({name: [1, 2, 3]}))
    refused(stopped, covey, "cannot be resumed: its checkpoints/round-")


@pytest.mark.parametrize("name", [name for name in COLUMNS if name not in ("models", "losses", "ended", "away")])
def test_a_checkpoint_with_a_negative_number_is_refused(stopped, covey, name):
    rewritten(stopped, lambda payload: payload[name].reshape(-1)[:1].fill(-1))
    refused(stopped, covey, "cannot be resumed: its checkpoints/round-")


@pytest.mark.parametrize("name", COLUMNS)
def test_a_checkpoint_of_fewer_nodes_is_refused(stopped, covey, name):
    rewritten(stopped, lambda payload: payload.update({name: payload[name][:-1]}))
    refused(stopped, covey, "cannot be resumed: its ")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"models": torch.zeros(3, 4)}, "'models' has the shape 3 x 4, not 3 x 10"),
        ({"models": torch.zeros(3, 10, dtype=torch.int64)}, "'models' is missing, or not a tensor of floats"),
        ({"clocks": np.array([1.0, 2.0, np.inf])}, "does not have the progress of each node"),
        ({"ended": np.array([True])}, "does not have the progress of each node"),
        ({"ended": np.array([0, 1, 0])}, "does not have the progress of each node"),
        ({"completed": np.array([9, 9, 9])}, "'completed' has more than the 6 rounds of the run"),
        ({"counters": np.zeros((3, 2), np.int64)}, "'counters' has the shape 3 x 2, not 3 x 9"),
        ({"ghosts": msgspec.msgpack.encode([(0.0, 1, 0.0, 0, 3, 8.0)])}, "'ghosts' has a node beyond the 3 of the run"),
        ({"average/4/total": torch.zeros(3)}, "'average/4/total' is not a sum of models"),
        ({"average/4/more": 1.0}, "'average/4/more' is not a sum of models"),
        ({"state/7/sum": 1.0}, "'state/7/sum' does not belong to a node"),
        ({"slots/0/momentum": 1.0}, "'slots/0/momentum' is not a tensor"),
        ({"written": msgspec.msgpack.encode({"format": 1, "config": "", "counted": {}})}, "has the format 1, not"),
    ],
)
def test_a_checkpoint_that_is_none_of_the_run_is_refused(stopped, covey, change, why):
    rewritten(stopped, lambda payload: payload.update(change))
    refused(stopped, covey, why)


def test_a_checkpoint_of_another_experiment_is_refused(stopped, covey, tmp_path):
    other = folders.interrupted(tmp_path / "other", seed=4, **CHANGES)
    shutil.rmtree(stopped / "checkpoints")
    shutil.copytree(other / "checkpoints", stopped / "checkpoints")
    refused(stopped, covey, "is of another experiment")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(stopped, covey, runs):
    latest, before = sorted((stopped / "checkpoints").iterdir(), reverse=True)
    latest.write_bytes(latest.read_bytes()[:-1])
    whole = shutil.copytree(stopped, stopped.with_name("whole"))
    ends_right(stopped, runs)
    (whole / "checkpoints" / before.name).write_bytes(b"")
    refused(whole, covey, f"its checkpoints/{latest.name} is damaged; its checkpoints/{before.name} is damaged")


def test_a_run_without_checkpoints_is_refused(stopped, covey):
    shutil.rmtree(stopped / "checkpoints")
    refused(stopped, covey, f"has no checkpoint to resume from. Begin a new run: covey run {stopped / 'run.toml'}")


# ---------------------------------------------------------------------- rows


def altered(folder, statement):
    """Change rows; the file stays a right database."""
    database = sqlite3.connect(folder / "metrics.sqlite")
    database.execute("PRAGMA wal_autocheckpoint=0")
    database.execute(statement)
    database.commit()
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM commits WHERE round = 2 AND node = 1",
        "DELETE FROM commits WHERE rowid > 3",
        "UPDATE commits SET bytes_out = bytes_out + 1 WHERE round = 1 AND node = 0",
        "UPDATE commits SET time = time * 1.0000001 WHERE round = 2",
        "UPDATE commits SET train_loss = NULL WHERE round = 1",
        "DELETE FROM metrics WHERE round = 2 AND node = -1",
        "UPDATE metrics SET name = 'Accuracy' WHERE name = 'accuracy' AND round = 2",
    ],
)
def test_rows_that_a_checkpoint_counts_on_are_there_as_they_were(stopped, covey, statement):
    folders.as_if_killed(stopped)
    altered(stopped, statement)
    refused(stopped, covey, "its metrics.sqlite does not have the rows that checkpoints/round-")


def test_rows_that_are_done_again_may_be_whatever_they_are(runs, tmp_path):
    killed = Path(shutil.copytree(runs / "killed", tmp_path / "run"))
    altered(killed, f"INSERT INTO commits SELECT node, 5, {', '.join('1' * 15)} FROM commits WHERE round = 4")
    assert len(rows(killed)["commits"]) == 15
    ends_right(killed, runs)


@pytest.mark.parametrize("at", [0, 30, 5000, 12_345])
def test_a_damaged_database_is_refused(runs, tmp_path, covey, at):
    folder = Path(shutil.copytree(runs / "interrupted", tmp_path / "run"))
    file = folder / "metrics.sqlite"
    file.write_bytes(file.read_bytes()[:at])
    before = contents(folder)
    code, _, err = covey("run", "--resume", str(folder))
    assert (code, err.count("\n")) == (2, 1)
    assert contents(folder) == before


def test_a_database_of_another_format_is_refused(stopped, covey):
    altered(folders.as_if_killed(stopped), "PRAGMA user_version = 1")
    refused(stopped, covey, "its metrics.sqlite has the format 1, not ")


def test_nothing_is_deleted_before_something_takes_its_index(runs, tmp_path):
    killed = Path(shutil.copytree(runs / "killed", tmp_path / "run"))
    before = rows(killed)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        write = RunWriter._write_rows

        def watched(writer):
            seen.append(rows(killed))
            write(writer)
            seen.append(rows(killed))

        patch.setattr(RunWriter, "_write_rows", watched)
        api.resume(killed)
    assert seen[0] == before
    assert seen[1] != before


def test_a_run_that_is_killed_again_and_again_ends_as_the_undisturbed_one(runs, tmp_path):
    stopped = Path(shutil.copytree(runs / "killed", tmp_path / "killed-0"))
    for time in (1, 2, 3):
        again = folders.killed_again(stopped, tmp_path / f"killed-{time}", round=1)
        ends_right(Path(shutil.copytree(again, tmp_path / f"ended-{time}")), runs)
        stopped = again


def test_a_run_that_another_program_was_reading_when_it_stopped_is_resumed(runs, tmp_path, monkeypatch):
    connect, readers = sqlite3.connect, []
    # A writer waits for five seconds for its log to be free.
    monkeypatch.setattr(
        "covey.runtime.runs.writer.sqlite3.connect", lambda *given, **named: connect(*given, **named, timeout=0)
    )
    stop = os.kill

    def read_and_stop(*arguments):
        readers.append(connect(tmp_path / "run" / "metrics.sqlite", isolation_level=None))
        readers[0].execute("BEGIN")
        readers[0].execute("SELECT count(*) FROM commits").fetchone()
        stop(*arguments)

    monkeypatch.setattr("tests.folders.os.kill", read_and_stop)
    folders.interrupted(tmp_path / "run", **CHANGES)
    # Whoever closes it last puts the log into the file.
    readers[0].close()
    ends_right(tmp_path / "run", runs)


# ---------------------------------------------------------------------- the folder


@pytest.mark.parametrize(("format", "by"), [(1, "an earlier covey"), (10, "a later covey"), (None, "an earlier covey")])
def test_a_folder_of_another_format_is_refused(stopped, covey, format, by):
    facts = msgspec.json.decode((stopped / "facts.json").read_bytes())
    del facts["format"]
    (stopped / "facts.json").write_bytes(msgspec.json.encode(facts if format is None else {**facts, "format": format}))
    refused(stopped, covey, f"cannot be resumed: {by} wrote it (format {format or 1}, and this one resumes format 4)")


def test_a_changed_experiment_is_refused(stopped, covey):
    with open(stopped / "run.toml", "a") as file:
        file.write("\n# changed\n")
    refused(stopped, covey, "its run.toml has been changed since it began")


def test_a_second_resume_reads_what_the_first_left(stopped, covey, runs, monkeypatch):
    acquire = lock.acquire

    def later(folder):
        # Another process had the run to itself until this moment.
        monkeypatch.undo()
        api.resume(folder)
        return acquire(folder)

    monkeypatch.setattr(lock, "acquire", later)
    with pytest.raises(RunError, match="has finished: there is nothing to resume"):
        api.resume(stopped)
    assert rows(stopped) == rows(runs / "finished")


def test_what_is_refused_can_be_resumed_when_it_is_mended(stopped, covey, runs):
    latest = rewritten(stopped, lambda payload: payload.update(downlinks=torch.zeros(7)))
    refused(stopped, covey, "'downlinks' is missing, or is not of 3 nodes")
    os.remove(latest)
    for other in stopped.glob("round-*.covey"):
        other.rename(stopped / "checkpoints" / other.name)
    ends_right(stopped, runs)
    assert Run(stopped).facts["starts"][1]["after_round"] < latest_checkpoint(runs / "finished")[0] + 1
