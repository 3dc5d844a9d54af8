"""Damage: `covey check RUN` lists changed files, and no resume makes a wrong run of them."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from covey import api
from covey.parts.errors import RunError
from covey.runtime.runs import Run, RunWriter
from tests import folders
from tests.folders import contents, rows

FILES = (
    "run.toml",
    "facts.json",
    "layout.json",
    "metrics.sqlite",
    "graph.npz",
    "holdings.npy",
    "models.npy",
    "SHA256SUMS",
)
QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for made in (folders.finished, folders.interrupted, folders.killed):
        made(folder / made.__name__)
    return folder


@pytest.fixture
def finished(runs, tmp_path):
    return Path(shutil.copytree(runs / "finished", tmp_path / "run"))


def test_a_run_is_as_it_was_written(runs, covey):
    for status, said in (
        ("finished", "files       9, as in SHA256SUMS\nok\n"),
        ("interrupted", "files       8, as in SHA256SUMS\nresume      after round 5\nok\n"),
        ("killed", "files       4, as in SHA256SUMS\nresume      after round 4\nok\n"),
    ):
        before = contents(runs / status)
        shown = "interrupted" if status == "killed" else status
        assert covey("check", str(runs / status)) == (0, f"{runs / status}: {shown}\n{said}", "")
        assert contents(runs / status) == before
    assert '"resumes_after": 5' in covey("check", str(runs / "interrupted"), "--json")[1]


@pytest.mark.skipif(sys.platform != "linux", reason="sha256sum is one of the GNU core utilities")
def test_the_list_is_one_that_others_read(finished):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=finished, check=True)
    listed = {line.split()[1] for line in (finished / "SHA256SUMS").read_text().splitlines()}
    assert listed == contents(finished).keys() - {"SHA256SUMS"}


@pytest.mark.parametrize("name", [*FILES, "checkpoints/round-000000004.covey"])
def test_a_file_that_is_missing_is_named(finished, covey, name):
    (finished / name).unlink()
    code, out, err = covey("check", str(finished))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert name in err


def test_all_that_is_wrong_is_named_at_once(finished, covey):
    (finished / "models.npy").unlink()
    (finished / "graph.npz").write_bytes(b"")
    (finished / "logs").mkdir()
    (finished / "logs" / "host-0.log").write_text("new\n")
    (finished / "figure.png").write_bytes(b"mine")
    wrong = "graph.npz differs, logs/host-0.log is not listed, models.npy is missing"
    said = f"covey: The run {finished} differs from its SHA256SUMS: {wrong}.\n"
    assert covey("check", str(finished)) == (2, "", said)
    assert covey("run", "--resume", str(finished)) == (2, "", said)


def test_what_cannot_be_checked_says_so(tmp_path, covey):
    earlier = Path(shutil.copytree(Path(__file__).parent / "data" / "earlier" / "finished", tmp_path / "earlier"))
    no_sums = f"covey: The run {earlier} has no checksums: it is of the format 1, not 4.\n"
    assert covey("check", str(earlier)) == (2, "", no_sums)
    assert "takes no --set" in covey("check", str(earlier), "--set", "rounds=3")[2]
    writer = RunWriter.create(tmp_path / "run", {}, {})
    assert "is being written by another process" in covey("check", str(tmp_path / "run"))[2]
    writer.finish("failed", {})
    assert covey("check", str(tmp_path / "run"))[0] == 0


def test_a_run_that_another_program_reads_at_its_end_is_as_it_was_written(tmp_path, covey):
    import sqlite3

    writer = RunWriter.create(tmp_path / "run", {}, {"nodes": 1})
    writer.event(1.0, 0, "left", "")
    writer.flush()
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "metrics.sqlite")) as reader:
        assert reader.execute("SELECT COUNT(*) FROM events").fetchone() == (1,)
        writer.finish("finished", {})
        assert covey("check", str(tmp_path / "run"))[0] == 0
    assert covey("check", str(tmp_path / "run"))[0] == 0
    assert len(Run(tmp_path / "run").events) == 1


# ---------------------------------------------------------------------- any damage


@st.composite
def damages(draw):
    """(which of the files, from where, how many bytes, what becomes of them)."""
    index = draw(st.floats(0, 1, exclude_max=True))
    length = draw(st.one_of(st.just(1), st.integers(1, 64), st.integers(1, 30_000)))
    how = draw(st.sampled_from(["cut", "zeros", "flipped", "noise", "removed"]))
    return draw(st.integers(0, 100)), index, length, how, draw(st.integers(0, 2**32))


def damaged(folder, damage):
    """Damage a file of a run; returns it, or None where nothing changed."""
    which, index, length, how, seed = damage
    files = sorted(contents(folder))
    file = folder / files[which % len(files)]
    before = file.read_bytes()
    at = int(index * len(before))
    end = min(at + length, len(before))
    noise = (seed.to_bytes(8, "big") * (length // 8 + 1))[: end - at]
    flipped = bytes(byte ^ (1 << seed % 8) for byte in before[at:end])
    between = {"zeros": bytes(end - at), "flipped": flipped, "noise": noise, "removed": b""}
    file.write_bytes(before[:at] if how == "cut" else before[:at] + between[how] + before[end:])
    return file if file.read_bytes() != before else None


@settings(max_examples=150, **QUIET)
@given(damages())
def test_any_damage_of_a_finished_run_is_found(runs, covey, tmp_path_factory, damage):
    folder = Path(shutil.copytree(runs / "finished", tmp_path_factory.mktemp("damaged") / "run"))
    file = damaged(folder, damage)
    for command in (["check", str(folder)], ["run", "--resume", str(folder)]) if file is not None else ():
        code, out, err = covey(*command)
        assert (code, out, err.count("\n")) == (2, "", 1)
    shutil.rmtree(folder.parent)


def resumes_rightly_or_not_at_all(runs, stopped, damage, folder):
    shutil.copytree(runs / stopped, folder)
    damaged(folder, damage)
    before = contents(folder)
    said = None
    try:
        api.resume(folder)
    except RunError as error:
        said = str(error)
    if said is not None:
        assert "\n" not in said
        assert contents(folder) == before
    else:
        whole = runs / "finished"
        assert rows(folder) == rows(whole)
        for name in ("run.toml", "models.npy", "graph.npz", "holdings.npy"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
        assert Run(folder).status == "finished"
    shutil.rmtree(folder.parent)


@settings(max_examples=40, **QUIET)
@given(st.sampled_from(["interrupted", "killed"]), damages())
@example("interrupted", (7, 0.15625, 10, "removed", 0))  # SQLite says it on several lines.
def test_a_damaged_run_is_resumed_rightly_or_not_at_all(runs, tmp_path_factory, stopped, damage):
    resumes_rightly_or_not_at_all(runs, stopped, damage, tmp_path_factory.mktemp("damaged") / "run")


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("COVEY_EXAMPLES", "600")), **QUIET)
@given(st.sampled_from(["interrupted", "killed"]), damages())
def test_many_damaged_runs_are_resumed_rightly_or_not_at_all(runs, tmp_path_factory, stopped, damage):
    resumes_rightly_or_not_at_all(runs, stopped, damage, tmp_path_factory.mktemp("damaged") / "run")
