"""Run folders without records: a run can begin there again, and no other folder is ever overwritten."""

import json
import shutil
from pathlib import Path

import pytest

from covey import api
from covey.parts.errors import CoveyError, RunError
from covey.runtime.emulation.transport.address import Address
from covey.runtime.runs import Run, RunWriter, lock
from covey.runtime.runs.files import clear, is_beginning
from covey.runtime.runs.sums import check_sums
from tests import folders
from tests.hosts import hosts, token_file
from tests.test_runs import commit


def over(address: Address, token: Path, **changes: object) -> dict[str, object]:
    engine = {"kind": "emulation", "hosts": [str(address)], "token_file": str(token), "wait": "20s", **changes}
    return folders.tiny(engine=engine)


@pytest.mark.parametrize("wrong", ["mode", "secret", "address"])
def test_what_fails_as_it_starts_is_begun_again_in_its_folder(wrong, tmp_path):
    out, token = tmp_path / "run", token_file(tmp_path)
    other = tmp_path / "other"
    other.touch(mode=0o600)
    other.write_bytes(b"a secret of somebody else")
    with hosts(1) as [(_, address)]:
        if wrong == "mode":
            token.chmod(0o644)
        mistaken = {
            "mode": over(address, token),
            "secret": over(address, other),
            "address": over(Address("127.0.0.1", 1), token, wait=0.2),
        }
        with pytest.raises(CoveyError):
            api.run(mistaken[wrong], out=out)
        assert Run(out).status == "failed"
        token.chmod(0o600)
        run = api.run(over(address, token), out=out)
    assert run.status == "finished"
    assert len(run.commits) == 18
    assert len(run.facts["starts"]) == 1
    assert check_sums(out) > 5


@pytest.fixture
def failed(tmp_path, monkeypatch):
    """A run that failed before it recorded anything, and whose hosts had something to say."""
    monkeypatch.setattr("covey.runtime.simulation.simulation.Simulation.execute", fail)
    with pytest.raises(RunError):
        api.run(folders.tiny(), out=tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run" / "logs").mkdir()
    (tmp_path / "run" / "logs" / "host-0.log").write_text("no memory")
    return tmp_path / "run"


def fail(*_: object, **__: object) -> None:
    raise RunError("It fails.")


def test_nothing_of_the_run_before_is_left(failed):
    graph = (failed / "graph.npz").read_bytes()
    run = api.run(folders.tiny(network={"nodes": 4}, rounds=1), out=failed)
    assert run.status == "finished"
    assert not (failed / "logs").exists()
    assert (failed / "graph.npz").read_bytes() != graph
    assert len(run.commits) == 4


def says(folder, **changes):
    facts = json.loads((folder / "facts.json").read_text())
    (folder / "facts.json").write_text(json.dumps({**facts, **changes}))


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_so_is_what_was_interrupted_or_killed(status, failed):
    says(failed, status=status)
    assert api.run(folders.tiny(), out=failed).status == "finished"


def keep_a_row(folder):
    shutil.rmtree(folder)
    writer = RunWriter.create(folder, folders.tiny(), {})
    writer.commits([commit(0, 1)])
    writer.finish("failed", {})


def keep_an_event(folder):
    shutil.rmtree(folder)
    writer = RunWriter.create(folder, folders.tiny(), {})
    writer.event(0.0, 0, "rejected", "a message")
    writer.finish("failed", {})


OCCUPIED = {
    "a row": keep_a_row,
    "an event": keep_an_event,
    "a checkpoint": lambda folder: (folder / "checkpoints" / "round-000000000.covey").touch(),
    "a finished run": lambda folder: says(folder, status="finished"),
    "models": lambda folder: (folder / "models.npy").touch(),
    "a file": lambda folder: (folder / "notes.txt").write_text("mine"),
    "a file among the logs": lambda folder: (folder / "logs" / "notes.txt").write_text("mine"),
    "a folder among the checkpoints": lambda folder: (folder / "checkpoints" / "mine").mkdir(),
    "no lock": lambda folder: (folder / ".lock").unlink(),
    "no database": lambda folder: (folder / "metrics.sqlite").unlink(),
    "a damaged database": lambda folder: (folder / "metrics.sqlite").write_bytes(b"x" * 100),
    "an empty database": lambda folder: (folder / "metrics.sqlite").write_bytes(b""),
    "facts that are none": lambda folder: (folder / "facts.json").write_text("[]"),
}


@pytest.mark.parametrize("what", OCCUPIED)
def test_nothing_else_is_overwritten(what, failed):
    OCCUPIED[what](failed)
    before = folders.contents(failed)
    with pytest.raises(RunError, match=r"is not empty|checkpoints/mine is not a regular file"):
        api.run(folders.tiny(), out=failed)
    assert folders.contents(failed) == before


def test_a_run_that_continues_is_not_overwritten(failed, monkeypatch):
    says(failed, status="running")
    before = folders.contents(failed)
    with lock.acquire(failed), pytest.raises(RunError, match="is being written by another process"):
        api.run(folders.tiny(), out=failed)
    # Where there are no locks, nobody knows.
    monkeypatch.setattr(lock, "_HAS_LOCKS", False)
    with pytest.raises(RunError, match="is not empty"):
        api.run(folders.tiny(), out=failed)
    # A reader of a database that may be written makes a log, where there is none.
    assert before == {name: held for name, held in folders.contents(failed).items() if not name.endswith("-wal")}


def test_links_are_not_followed(failed, tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (failed / "facts.json").unlink()
    (failed / "facts.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"its facts\.json is a symbolic link"):
        api.run(folders.tiny(), out=failed)
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_what_is_half_deleted_can_still_be_begun_again(failed, monkeypatch):
    unlink, left = Path.unlink, 0

    class Killed(BaseException):
        pass

    def limited(path, missing_ok=False):
        nonlocal left
        if left == 0:
            raise Killed
        left -= path.exists()
        unlink(path, missing_ok=missing_ok)

    seen = 0
    while True:
        folder = failed.with_name(f"run-{seen}")
        shutil.copytree(failed, folder)
        left = seen
        try:
            with monkeypatch.context() as patched:
                patched.setattr(Path, "unlink", limited)
                clear(folder)
            break
        except Killed:
            assert is_beginning(folder)
        seen += 1
    assert seen >= 5
    assert {path.name for path in folder.iterdir()} == {".lock", "run.toml", "checkpoints"}
