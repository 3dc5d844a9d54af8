"""Open files and connections: the need of a run is counted before it begins, and is enough."""

import re
import resource
import subprocess
import sys

import pytest
import tomli_w

from covey.parts.errors import ConfigurationError
from covey.runtime.emulation.transport import descriptors
from covey.runtime.emulation.transport.descriptors import make_room

HOSTS = 12
TABLES = {
    "rounds": 2,
    "program": "everybody:Everybody",
    "network": {"nodes": HOSTS},
    "engine": {"kind": "emulation", "nodes_per_process": 1},
}
EVERYBODY = """
import covey


class Everybody(covey.Program):
    async def run(self, node: covey.Node) -> None:
        others = [other for other in range(node.nodes) if other != node.id]
        async for t in node.rounds():
            node.send(others, {"x": 1.0}, round=t)
            await node.receive(round=t, senders=others)
"""
"""A program in which every host is connected to every other, and that does without torch."""


def run(folder, soft, hard):
    """`covey run` under these limits: its exit code, and what it says."""
    command = [sys.executable, "-m", "covey", "run", "experiment.toml", "--out", f"run-{soft}"]
    limits = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))  # noqa: E731
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, preexec_fn=limits, timeout=60)
    return ended.returncode, ended.stderr


def test_what_is_needed_is_reported_before_anything_begins_and_is_enough(tmp_path):
    (tmp_path / "experiment.toml").write_text(tomli_w.dumps(TABLES))
    (tmp_path / "everybody.py").write_text(EVERYBODY)
    code, said = run(tmp_path, 60, 60)
    stated = re.fullmatch(
        rf"covey: An emulation with {HOSTS} hosts needs (\d+) open files and connections in one process, and the "
        r"system allows 60: let the engine have fewer hosts \('nodes_per_process'\), or raise the limit "
        r"\(`ulimit -n`\)\.\n",
        said,
    )
    assert (code, bool(stated)) == (2, True), said
    assert not (tmp_path / "run-60").exists()
    needed = int(stated[1])
    code, said = run(tmp_path, 50, needed)  # A process may raise the first to the second by itself.
    assert code == 0, said


@pytest.mark.parametrize(
    ("limits", "needed", "asked"),
    [
        ((1024, 4096), 100, None),
        ((1024, 4096), 2000, 2000 + descriptors._COMFORT),
        ((1024, 4096), 4000, 4096),
        ((1024, resource.RLIM_INFINITY), 9000, 9000 + descriptors._COMFORT),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 10**6, None),
    ],
)
def test_no_more_is_asked_for_than_the_system_allows(limits, needed, asked, monkeypatch):
    now, calls = [limits], []

    def set_limits(which, wanted):
        calls.append(wanted)
        now[0] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda which: now[0])
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    make_room(needed, 3)
    assert calls == ([] if asked is None else [(asked, limits[1])])


def test_a_system_that_allows_less_than_it_says_is_reported(monkeypatch):
    def refuse(which, wanted):
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    make_room(200, 3)
    with pytest.raises(ConfigurationError, match=r"needs 300 open files .* allows 256: "):
        make_room(300, 3)
