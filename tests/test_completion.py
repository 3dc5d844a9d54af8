"""Completion in a shell: commands, options, kinds and run folders, by a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from covey.cli.completing import candidates
from covey.cli.parser import make_parser

BIN = str(Path(sys.executable).parent)


@pytest.fixture
def runs(in_folder):
    for name in ("runs/sweep-001/degree=2", "runs/sweep-001/degree=4", "runs/mine", "other"):
        (in_folder / name).mkdir(parents=True)
        if name != "other":
            (in_folder / name / "run.toml").touch()
    return in_folder


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sw", ["sweep"]),
        ("c", ["certs", "check", "cluster", "compare", "completion"]),
        ("compare --ta", ["--table"]),
        ("compare --table ", ["csv", "latex", "markdown"]),
        ("plot x --against b", ["bytes"]),
        ("list topol", ["topology"]),
        ("list topology rin", ["ring"]),
        ("show r", ["runs"]),
        ("show runs/", ["runs/mine", "runs/sweep-001"]),
        ("compare runs/mine runs/sweep-001/degree", ["runs/sweep-001/degree=2", "runs/sweep-001/degree=4"]),
        ("show o", []),
        ("run --out ", []),
        ("nonsense x", []),
    ],
)
def test_words_complete_what_is_begun(runs, line, words):
    assert candidates(make_parser(), line.split(" ")) == words


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_real_bash_completes(runs):
    script = """
    eval "$(covey completion bash)"
    COMP_WORDS=(covey show runs/sw); COMP_CWORD=2; _covey; echo "${COMPREPLY[@]}"
    COMP_WORDS=(covey swe); COMP_CWORD=1; _covey; echo "${COMPREPLY[@]}"
    complete -p covey
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, cwd=runs)
    assert done.stderr == ""
    assert done.stdout.splitlines()[:2] == ["runs/sweep-001", "sweep"]
    assert "_covey covey" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_valid_in_their_shells(shell, covey, runs):
    code, out, err = covey("completion", shell)
    assert (code, err) == (0, "")
    if shutil.which(shell) is not None:
        (runs / "script").write_text(out)
        done = subprocess.run([shell, "-n", "script"], capture_output=True, text=True, cwd=runs)
        assert (done.returncode, done.stderr) == (0, "")
