"""Run folders of strangers: no file outside is read or written, nothing hangs, and no escape reaches the terminal."""

import json
import os
import shutil
import sqlite3
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from covey.runtime.runs import RunWriter
from covey.view.terminal import shown
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
    """The results of each command that opens a run: (exit code, standard output, standard error)."""
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
    index, kept = folder / name, folder.parent / "kept"
    index.parent.mkdir(exist_ok=True)
    if index.exists():
        index.rename(kept)
    put(index, kept)


@pytest.mark.parametrize("name", NAMES)
def test_no_file_of_a_run_may_be_a_symbolic_link(handed, tmp_path, covey, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("precious")

    def link(index, kept):
        # Where it leads to what was there before, all would go well.
        index.symlink_to(kept if kept.exists() else outside / "victim")

    replaced(handed, name, link)
    kept = tmp_path / "kept"
    before = folders.contents(kept) if kept.is_dir() else kept.exists() and kept.read_bytes()
    for command, (code, out, err) in every_command(covey, handed, tmp_path):
        assert (code, out) == (2, ""), command
        assert (
            err
            == f"covey: The run {handed} is not opened: its {name} is a symbolic link, which covey does not follow.\n"
        )
    assert [file.read_text() for file in outside.iterdir()] == ["precious"]
    assert before == (folders.contents(kept) if kept.is_dir() else kept.exists() and kept.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_no_link_to_nowhere_makes_a_file_there(handed, tmp_path, covey, name):
    replaced(handed, name, lambda index, kept: index.symlink_to(tmp_path / "new"))
    for _, (code, _, err) in every_command(covey, handed, tmp_path):
        assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name])
def test_what_is_no_regular_file_is_not_waited_for(handed, tmp_path, covey, name):
    if name not in ("checkpoints", "logs"):
        replaced(handed, name, lambda index, kept: os.mkfifo(index))
    else:
        replaced(handed, name, lambda index, kept: index.write_text(""))
    for _, (code, _, err) in every_command(covey, handed, tmp_path):
        assert (code, err.count("\n")) == (2, 1)
        assert f"its {name} is not a " in err


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


# ---------------------------------------------------------------------- databases


def with_script(folder, script):
    """Let a database hold something else, and leave no log of the change."""
    database = sqlite3.connect(folder / "metrics.sqlite")
    database.executescript(script)
    database.execute("PRAGMA journal_mode=DELETE")
    database.close()


ENDLESS = "WITH RECURSIVE endless(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM endless)"
COMMIT = "1 AS node, n AS round, 1.0 AS time, 1.0 AS train_loss, 1 AS steps, 1 AS samples, 1 AS bytes_out, 1 AS bytes_in, 1 AS messages_out, 1 AS messages_in, 0 AS dropped"
STRANGE = {
    "an endless view": (
        f"DROP TABLE commits; CREATE VIEW commits AS {ENDLESS} SELECT {COMMIT} FROM endless",
        "its view 'commits' does not belong to a run",
    ),
    "a view beside": (
        f"CREATE VIEW more AS {ENDLESS} SELECT * FROM endless",
        "its view 'more' does not belong to a run",
    ),
    "a trigger": (
        f"CREATE TRIGGER t AFTER INSERT ON commits BEGIN INSERT INTO metrics {ENDLESS} SELECT 1, n, 'x', 1 FROM endless; END",
        "its trigger 't' does not belong to a run",
    ),
    "a virtual table": (
        "DROP TABLE commits; CREATE VIRTUAL TABLE commits USING fts5(node, round, time)",
        "its table 'commits' does not belong to a run",
    ),
    "a virtual table beside": ("CREATE VIRTUAL TABLE more USING fts5(x)", "its table 'more' does not belong to a run"),
    "a generated column": (
        "DROP TABLE metrics; CREATE TABLE metrics (node, round, name, value AS (length(zeroblob(1000000000))))",
        "its table 'metrics' does not belong to a run",
    ),
    "a terminal escape": ("CREATE VIEW '\x1b[2J' AS SELECT 1", r"its view '\x1b[2J' does not belong to a run"),
    "text for a number": (
        "UPDATE commits SET bytes_out = 'x' WHERE node = 1",
        "the table commits holds a value of a wrong type",
    ),
    "a fraction for a node": (
        "UPDATE metrics SET node = 0.5 WHERE node = 1",
        "the table metrics holds a value of a wrong type",
    ),
    "bytes for a name": (
        "UPDATE metrics SET name = x'1b5b' WHERE node = 1",
        "the table metrics holds a value of a wrong type",
    ),
    "numbers beyond all sums": ("UPDATE commits SET bytes_out = 9223372036854775807", "integer overflow"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_database_is_tables_alone(handed, tmp_path, covey, name):
    script, said = STRANGE[name]
    with_script(handed, script)
    commands = list(every_command(covey, handed, tmp_path))
    for command, (code, out, err) in commands:
        reads = name != "numbers beyond all sums" or command[0] in ("show", "compare")
        if reads and command[0] != "run":
            assert (code, out, err) == (2, "", f"covey: The metrics of {handed} cannot be read: {said}.\n")


def endless_tree(file):
    """Make a table's tree one of pages whose 400 branches are one and the same page: 3 thousand million rows in 40 kB."""
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=DELETE")
    (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'commits'").fetchone()
    (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    pages = [file.read_bytes()[at : at + size] for at in range(0, file.stat().st_size, size)]

    def branches(page):
        head = struct.pack(">BHHHBI", 5, 0, 400, size - 2000, 0, page)
        indices = b"".join(struct.pack(">H", size - 2000 + 5 * cell) for cell in range(400))
        return (head + indices).ljust(size - 2000, b"\0") + (struct.pack(">I", page) + b"\x01") * 400

    last = len(pages) + 1
    pages.append(pages[root - 1])
    for _ in range(2):
        pages.append(branches(len(pages)))
    pages[root - 1] = branches(len(pages))
    assert last < len(pages)
    header = bytearray(pages[0])
    header[28:32] = struct.pack(">I", len(pages))
    pages[0] = bytes(header)
    file.write_bytes(b"".join(pages))


def test_a_tree_without_end_is_given_up(handed, tmp_path, covey):
    endless_tree(handed / "metrics.sqlite")
    began = time.monotonic()
    for command, (code, out, err) in every_command(covey, handed, tmp_path):
        if command[0] != "run":
            assert (code, out) == (2, "")
            assert err == f"covey: The metrics of {handed} cannot be read: it has more rows than its size allows.\n"
    assert time.monotonic() - began < 60


def test_many_names_of_figures_make_no_table_beyond_memory(handed, tmp_path, covey):
    made = "SELECT n % 3, n, 'figure ' || n, 1.0 FROM endless LIMIT 2000"
    with_script(handed, f"INSERT INTO metrics {ENDLESS} {made}")
    for command, (code, _, err) in every_command(covey, handed, tmp_path):
        if command[0] != "run":
            assert (code, err.count("\n")) == (2, 1)
            assert " names of figures, which are too many for a table" in err


# ---------------------------------------------------------------------- names

NASTY = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\u202ename\n[bold]b[/bold] $\\frac{$ <script>alert(1)</script>&\"'"


@pytest.fixture
def nasty(tmp_path):
    """A run in which whatever can have a name has one that does something to terminals, pages or formulas."""
    experiment = {
        "name": NASTY,
        "seed": 1,
        "program": {"kind": NASTY, NASTY: NASTY},
        "task": {"dataset": NASTY, "model": {"kind": NASTY}},
        "network": {"nodes": 2, "latency": {"kind": NASTY}},
    }
    folder = tmp_path / "nasty"
    writer = RunWriter.create(folder, experiment, {"program": NASTY, "nodes": 2, "torch": NASTY, "command": [NASTY]})
    for round in (1, 2):
        writer.commits([(node, round, 0.5 * round, 1.0, *[round] * 9, *[0.0] * 4) for node in range(2)])
        for name in ("accuracy", "loss", NASTY):
            writer.metrics([(node, round, name, 0.5) for node in (-1, 0, 1)])
    writer.metrics([(0, 2, f"nan {NASTY}", float("nan"))])
    writer.event(0.5, 1, NASTY, NASTY)
    writer.host_figures([(1.0, 0, NASTY, 1.0)])
    writer.checkpoint(1, folders.reached([1, 1]))
    writer.finish("interrupted", {})
    with folders.resuming(folder) as opened:
        RunWriter.resume(opened, {"torch": NASTY + "2", "started": NASTY}).finish("interrupted", {})
    return folder


def harmless(text):
    return all(letter.isprintable() or letter == "\n" for letter in text)


def test_no_name_reaches_the_terminal_as_it_is(nasty, tmp_path, covey):
    for command, (code, out, err) in every_command(covey, nasty, tmp_path):
        if command[0] != "export":
            assert harmless(out + err), command
        assert code == (2 if command[0] == "run" else 0), err
        assert "[bold]b[/bold]" in out or command[0] not in ("show",)
    strange = tmp_path / "\x1b[31mfolder"
    nasty.rename(strange)
    for command, (_, out, err) in every_command(covey, strange, tmp_path):
        if command[0] != "export":
            assert harmless(out + err), command
    assert harmless(covey("show", str(tmp_path / NASTY[:20]))[2])


def test_no_name_is_a_part_of_the_page_or_a_formula(nasty, tmp_path, covey):
    assert covey("report", str(nasty), "--out", str(tmp_path / "report.html"))[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    for out in ("figure.png", "figure.svg", "figure.pdf"):
        assert covey("plot", str(nasty), "--metric", NASTY, "--out", str(tmp_path / out)) == (
            0,
            f"{tmp_path / out}\n",
            "",
        )


def test_what_a_launcher_says_of_a_run_is_harmless(capsys):
    from covey.runtime.experiment import Progress
    from covey.view.progress import ProgressDisplay

    with ProgressDisplay(NASTY, 3, 2) as display:
        display(Progress(3, 3, 1.0, 6, 0.5, None, notice=NASTY))
    assert harmless(capsys.readouterr().err)


def test_a_csv_on_a_terminal_is_harmless_and_a_file_has_the_names(nasty, capsys, monkeypatch, covey):
    assert NASTY.partition("\n")[0].encode() in Path(nasty / "metrics.sqlite").read_bytes()
    import pandas as pd

    from covey.runtime.runs import Run

    exported = Run(nasty).export()
    assert NASTY in pd.read_csv(__import__("io").StringIO(exported)).columns
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert harmless(covey("export", str(nasty))[1])


@given(st.text())
def test_whatever_a_name_is_it_is_harmless(name):
    assert harmless(shown(name))
    assert shown(name) == name or not name.isprintable()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("format", "seed", "nodes", "program", "status", "starts", "config_digest", "time", "parameters")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_whatever_the_facts_say_it_is_shown_or_refused_in_a_line(interrupted, tmp_path_factory, covey, key, value):
    folder = Path(shutil.copytree(interrupted, tmp_path_factory.mktemp("facts") / "run"))
    facts = json.loads((folder / "facts.json").read_text())
    (folder / "facts.json").write_text(json.dumps({**facts, key: value}))
    for command in (["show", str(folder)], ["compare", str(folder)], ["check", str(folder)]):
        code, out, err = covey(*command)
        assert (code, err) == (0, "") or (code, out, err.count("\n")) == (2, "", 1)
        assert harmless(out + err)
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\ufeff{}", "null", "NaN", ""])
def test_facts_of_any_depth_are_refused_in_a_line(handed, covey, text):
    (handed / "facts.json").write_text(text)
    code, out, err = covey("show", str(handed))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "has no readable facts.json" in err
