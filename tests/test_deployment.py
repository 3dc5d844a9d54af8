"""The page on deployment, step by step: with machines that are network namespaces, and with processes on loopback."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.machines import Machines, why_not

from covey.parts.errors import RunError
from covey.runtime.runs import Run
from tests.test_docs import blocks

PAGE = "docs/deployment.md"
ADDRESSES = [f"10.0.0.{number}" for number in (1, 2, 3, 4)]
WHO = {"the first machine": 0, "the second machine": 1, "the third machine": 2, "the fourth machine": 3}
PLANTED = "Agatha Planted"
SCP = """#!{python}
import shutil, sys
source, target = sys.argv[-2:]
shutil.copytree(source, {folders!r}[target.rstrip(":")] + "/" + source.rpartition("/")[2])
"""
"""A copy into the folder of a machine in place of scp; it keeps modes as `-p` does."""


@dataclass
class Places:
    """The folders of four machines, and how to run commands on each.

    Attributes:
        root: the folder in which each machine has its own.
        replaced: the addresses of the page, and those that replace them here.
        entered: the words before a command that is run on a machine.
    """

    root: Path
    replaced: dict[str, str] = field(default_factory=dict)
    entered: Callable[[int], list[str]] = lambda machine: []
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        tools = self.root / "tools"
        tools.mkdir()
        folders = {}
        for machine, address in enumerate(ADDRESSES):
            self.folder(machine).mkdir()
            folders[address] = str(self.folder(machine))
        (tools / "scp").write_text(SCP.format(python=sys.executable, folders=folders))
        (tools / "scp").chmod(0o755)
        self.path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])

    def folder(self, machine: int) -> Path:
        return self.root / f"machine-{machine}"

    def said(self, text: str) -> str:
        """A text of the page as it is here."""
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return text

    def start(self, machine: int, text: str) -> subprocess.Popen[bytes]:
        """Start what a block says, on a machine."""
        environment = {**os.environ, "PATH": self.path, "OMP_NUM_THREADS": "1"}
        with open(self.folder(machine) / "log", "ab") as log:
            process = subprocess.Popen(
                [*self.entered(machine), "sh", "-ec", self.said(text)],
                cwd=self.folder(machine),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def run(self, machine: int, text: str) -> None:
        """Do what a block says, on a machine."""
        process = self.start(machine, text)
        assert process.wait(240) == 0, self.log(machine)

    def log(self, machine: int) -> str:
        return (self.folder(machine) / "log").read_text(errors="replace")

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def page() -> list[tuple[str, int, str]]:
    """(language, machine, text) of each block that says on which machine it is; all three have the first of these."""
    found = []
    for language in ("sh", "toml", "python"):
        for text in blocks(PAGE, language):
            first = text.splitlines()[0]
            found += [(language, machine, text) for named, machine in WHO.items() if named in first]
    return found


def on(language: str, machine: int) -> list[str]:
    return [text for known, where, text in page() if (known, where) == (language, machine)]


def records(folder: Path, count: int, seed: int) -> None:
    """The file that the page speaks of."""
    draw = np.random.default_rng(seed)
    age, dose = draw.normal(50, 12, count), draw.normal(2, 0.5, count)
    sick = (age / 12 + dose / 0.5 > 50 / 12 + 4).astype(int)
    sick[:4] = 0, 1, 0, 1
    rows = [
        f"{a:.2f},{d:.3f},{PLANTED} {index},{label}"
        for index, (a, d, label) in enumerate(zip(age, dose, sick, strict=True))
    ]
    (folder / "patients.csv").write_text("\n".join(["age,dose,name,diagnosis", *rows]) + "\n")


def done_as_written(places: Places, *, crash: bool) -> None:
    """Follow the page from empty folders to a model in plain torch."""
    certify, run, export = on("sh", 3)
    (experiment,), (local,) = on("toml", 3), [text for text in blocks(PAGE, "toml") if "local.toml" in text]
    places.run(3, certify)
    hosts = []
    for machine, count in enumerate((60, 90, 150)):
        records(places.folder(machine), count, machine)
        (places.folder(machine) / "local.toml").write_text(local)
        (serve,) = on("sh", machine)
        hosts.append(places.start(machine, serve))
    (places.folder(3) / "experiment.toml").write_text(places.said(experiment))
    running, folder = places.start(3, run), places.folder(3) / "run"
    if crash:
        begun(folder, running)
        os.killpg(hosts[1].pid, signal.SIGKILL)
        hosts[1].wait()
        places.start(1, on("sh", 1)[0])
    assert running.wait(240) == 0, [places.log(machine) for machine in range(4)]
    found = Run(folder)
    last = found.metrics.groupby("node").last()
    assert last["own_accuracy"].min() > 0.75
    assert ("rolled back" in set(found.events["kind"])) is crash
    places.run(3, export)
    (script,) = on("python", 3)
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=places.folder(3), capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("tensor([")
    tensors = found.state_dict("average")
    assert torch.equal(tensors["layers.0.weight"], found.module("average").state_dict()["layers.0.weight"])
    assert nothing_planted(places.folder(3))


def begun(folder: Path, running: subprocess.Popen[bytes]) -> None:
    """Wait until nodes have completed some rounds."""
    late = time.monotonic() + 120
    while time.monotonic() < late:
        assert running.poll() is None, "the run was over before a machine could fail"
        with suppress(RunError):  # It may be about to begin.
            if len(Run(folder).commits) > 6:
                return
        time.sleep(0.05)
    raise AssertionError("no round was completed")


def nothing_planted(folder: Path) -> bool:
    """Whether no file of the fourth machine has a record of the others."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    return not [path for path in files if PLANTED.encode() in path.read_bytes()]


@pytest.fixture
def loopback(tmp_path):
    """Four machines that are folders of this one."""
    with_ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as free:
            with_ports.append(f"127.0.0.1:{free.getsockname()[1]}")
    replaced = {f"{address}:7000": here for address, here in zip(ADDRESSES, with_ports, strict=False)}
    places = Places(tmp_path, replaced)
    yield places
    places.close()


def test_the_page_names_what_there_is():
    assert [len(on("sh", machine)) for machine in range(4)] == [1, 1, 1, 3]
    rest = [text for text in blocks(PAGE, "sh") if not re.match(r"# on the", text)]
    assert rest == ["covey run --resume run\n"]


@pytest.mark.slow
def test_the_page_works_as_written_on_loopback(loopback):
    done_as_written(loopback, crash=False)


REASON = why_not()


@pytest.mark.slow
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.parametrize("crash", [False, True])
def test_the_page_works_as_written_on_machines_of_their_own(crash, tmp_path):
    with Machines(4, network="10.0.0") as machines:
        places = Places(tmp_path, entered=lambda machine: ["ip", "netns", "exec", machines.names[machine]])
        try:
            done_as_written(places, crash=crash)
        finally:
            places.close()
