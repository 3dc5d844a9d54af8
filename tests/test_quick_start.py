"""Commands that show runs start quickly: they import neither torch nor pandas, scipy or matplotlib."""

import subprocess
import sys

import numpy as np
import pytest

from covey.runtime.runs import Run
from tests import folders

SLOW = ("torch", "pandas", "scipy", "matplotlib", "pyarrow")
CODE = """
import sys
from covey.cli import main
code = main(sys.argv[1:])
print("imported:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return folders.finished(tmp_path_factory.mktemp("start") / "run")


@pytest.mark.parametrize("command", ["show", "show --json", "compare", "compare --table latex", "list", "--version"])
def test_commands_that_look_at_runs_import_nothing_heavy(command, run):
    first, *flags = command.split()
    folder = [str(run)] if first in ("show", "compare") else []
    done = subprocess.run([sys.executable, "-c", CODE, first, *folder, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if first != "--version":  # It ends the process itself.
        _, _, imported = done.stderr.rpartition("imported:")
        assert "covey" in imported.split()
        assert not set(imported.split()) & set(SLOW)


def test_the_summary_is_what_the_tables_say(run):
    found = Run(run)
    summary, last = found.summary(), found.commits.groupby("node").last()
    assert summary["totals"]["bytes_out"] == last["bytes_out"].sum() > 0
    assert summary["time"] == last["time"].max()
    assert summary["drops"] == {}
    accuracy = found.metrics.groupby("node")["accuracy"].last().to_numpy()
    expected = {"mean": accuracy.mean(), "min": accuracy.min(), "max": accuracy.max(), "std": accuracy.std()}
    assert summary["final"]["accuracy"] == pytest.approx(expected, rel=1e-12)
    assert summary["network"]["consensus_distance"] == found.network["consensus_distance"].iloc[-1]
    assert np.isfinite(summary["seconds"]["training"])


def test_drops_are_the_last_counts_of_each_host_by_reason(run, tmp_path):
    import shutil
    import sqlite3

    copy = shutil.copytree(run, tmp_path / "run")
    with sqlite3.connect(copy / "metrics.sqlite") as database:
        rows = [(1.0, 0, "dropped/late", 3.0), (2.0, 0, "dropped/late", 5.0), (1.0, 1, "dropped/late", 2.0)]
        rows += [(1.0, 0, "dropped/away", 9.0), (1.0, 0, "dropped/unread", 0.0), (1.0, 0, "Dropped/late", 7.0)]
        database.executemany("INSERT INTO hosts (time, host, name, value) VALUES (?, ?, ?, ?)", rows)
    assert list(Run(copy).drops.items()) == [("away", 9), ("late", 7)]
