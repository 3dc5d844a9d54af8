"""Launcher, hosts and the run's folder under failures at any await: a hundred schedules of `fuzz.recovery`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import recovery

from covey.runtime.emulation.launcher.checkpoints import Checkpoints
from covey.runtime.emulation.launcher.recovery import Recovery
from covey.runtime.mail import Mail
from covey.runtime.runs import RunWriter

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in (25, 50, 75))])
def test_every_schedule_ends_as_it_must(first):
    for seed in range(first, first + 25):
        recovery.play(seed)


def test_a_schedule_is_the_same_in_every_process(capsys):
    command = [sys.executable, "-m", "fuzz.recovery", "--seed", "11"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    there = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    recovery.play(11, verbose=True)
    assert "the run begins" in there
    assert capsys.readouterr().out == there


def write_all(checkpoints):
    checkpoints._write({node: checkpoints.latest_of(node) for node in range(checkpoints._size)})


@pytest.mark.parametrize(
    ("owner", "name", "wrong", "seed"),
    [
        (Recovery, "on_broken", lambda recovery, host, other: None, 215),
        (Checkpoints, "write_last", write_all, 112),
        (RunWriter, "truncate", lambda writer, moment: None, 7),
        (Mail, "post", lambda mail, receivers, message: None, 16),
    ],
)
def test_what_is_broken_is_found(owner, name, wrong, seed, monkeypatch):
    for variant in recovery.VARIANTS:
        recovery.undisturbed(variant)
    monkeypatch.setattr(owner, name, wrong)
    monkeypatch.setattr(recovery, "_MOST_STEPS", 20_000)
    with pytest.raises(recovery.Failed, match=f"^seed {seed}, "):
        recovery.play(seed)
