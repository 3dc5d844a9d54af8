"""Sweeps that make several runs at a time: the same results, interruption and continuation, and refusals."""

import io
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console

import covey as package
from covey.api.worker import Order, Report
from covey.parts import kinds, machine
from covey.parts.errors import ConfigurationError, DataError, ModelError
from covey.runtime.experiment import Progress
from covey.runtime.interpreter import command
from covey.runtime.runs import Run
from covey.view.progress import SweepDisplay
from tests import folders

WAITING = '''
import os, signal, time
from pathlib import Path
from covey import Node, Program, Setting, State


class Known(State):
    total: float = 0.0


class Waits(Program):
    """A sum that goes around a ring.

    While there is a file "slowly", node 0 waits in a round until as many processes as the file says are under way, and
    takes its time. It kills the process of seed 9 once.
    """

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._seed = setting.seed

    async def run(self, node: Node) -> None:
        known = node.keep(Known)
        async for t in node.rounds():
            if node.id == 0 and Path("slowly").exists():
                self.wait()
            node.send((node.id + 1) % node.nodes, {"total": known.total}, round=t)
            inbox = await node.receive(round=t, senders=[(node.id - 1) % node.nodes])
            known.total = (known.total + inbox[0]["total"]) / 2 + node.random("step", t).random()
            node.log(total=known.total)

    def wait(self) -> None:
        if self._seed == 9 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        Path(f"under-way-{os.getpid()}").touch()
        while len([*Path().glob("under-way-*")]) < int(Path("slowly").read_text()):
            time.sleep(0.02)
        time.sleep(0.1)
'''


@pytest.fixture
def slowly(in_folder):
    """A folder where the runs of `waiting` take their time."""
    (in_folder / "waiting_here.py").write_text(WAITING)
    (in_folder / "slowly").write_text("2")
    return in_folder


def waiting(**changes):
    """The tables of an experiment without learning, whose processes start without torch."""
    return {
        "rounds": 40,
        "program": "waiting_here:Waits",
        "network": {"nodes": 3, "latency": "5ms"},
        "checkpoint": {"every": 2, "keep": 2},
        **changes,
    }


def until(true, seconds=60.0):
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late
        time.sleep(0.02)


def same(run, other):
    """Whether two runs are the same in all that they computed."""
    facts = [{**one.facts["starts"][0], **one.facts} for one in (run, other)]
    assert (run.folder / "run.toml").read_bytes() == (other.folder / "run.toml").read_bytes()
    assert folders.rows(run.folder) == folders.rows(other.folder)
    assert run.states == other.states
    assert (run.models is None) is (other.models is None)
    assert run.models is None or torch.equal(run.models, other.models)
    return all(facts[0].get(name) == facts[1].get(name) for name in ("data", "seed", "kernel", "python"))


def test_runs_at_the_same_time_are_those_of_one_after_the_other_to_the_bit(in_folder):
    draw = np.random.default_rng(1)
    data = draw.normal(size=(60, 4)), np.arange(60) % 3
    base = folders.tiny()
    base["task"] |= {"dataset": data, "model": "mlp"}
    over = {"task.optimizer.lr": [0.1, 1e38], "seed": [1, 2]}
    one = package.sweep(base, over, out="one", quiet=True)
    two = package.sweep(base, over, out="two", quiet=True, jobs=2)
    assert [run.folder.name for run in two] == [run.folder.name for run in one] == ["lr=0.1-seed=1", "lr=0.1-seed=2"]
    assert all(same(*runs) for runs in zip(one, two, strict=True))
    assert {name: str(error) for name, error in one.failures.items()} == {
        name: str(error) for name, error in two.failures.items()
    }
    assert {type(error) for error in (*one.failures.values(), *two.failures.values())} == {ModelError}
    assert len(two.failures) == 2


def test_an_interrupted_sweep_continues_where_it_was_and_a_killed_process_takes_no_other_run_with_it(slowly):
    over = {"seed": [9, 1, 2]}

    def interrupt():
        until(lambda: len([*slowly.glob("under-way-*")]) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    swept = package.sweep(waiting(), over, out="swept", quiet=True, jobs=2)
    assert swept.is_interrupted
    assert {name: str(error) for name, error in swept.failures.items()} == {
        "seed=9": "The process of the run swept/seed=9 was killed by SIGKILL, as where memory is short: extend the "
        "sweep to continue it."
    }
    assert [run.status for run in swept] == ["interrupted"] * 2
    (slowly / "slowly").unlink()
    going_on = package.sweep(waiting(), over, out="swept", quiet=True, extend=True)
    assert not going_on.is_interrupted
    assert [len(run.facts["starts"]) for run in going_on] == [1, 2, 2]
    whole = package.sweep(waiting(), over, out="whole", quiet=True)
    assert all(same(*runs) for runs in zip(whole, going_on, strict=True))


def test_a_process_whose_sweep_was_killed_stops_where_its_run_can_be_resumed(slowly):
    (slowly / "slowly").write_text("1")
    order = Order(
        experiment=package.Experiment.from_table(waiting()).to_table(), folder="run", continued=False, data=None,
        modules=kinds.searched(), given=str(slowly), share=1, command=["covey", "sweep"],
    )  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(command("covey.api.worker", "serve"), stdin=pipe, stdout=pipe) as process:
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        process.stdin.flush()
        until(lambda: [*slowly.glob("under-way-*")])
        process.stdin.close()  # As the system does when the sweep's process is killed.
        reports = [msgspec.json.decode(line, type=Report) for line in process.stdout]
    assert process.returncode == 0
    assert reports[-1] == Report(status="interrupted")
    assert Run("run").facts["starts"][0]["command"] == ["covey", "sweep"]
    (slowly / "slowly").unlink()
    assert same(package.resume("run", quiet=True), package.run(waiting(), out="whole", quiet=True))


@pytest.mark.slow
def test_a_killed_sweep_of_the_command_line_continues(slowly):
    import tomli_w

    (slowly / "e.toml").write_text(tomli_w.dumps(waiting()))
    arguments = ["sweep", "e.toml", "--set", "seed=1,2", "--out", "swept", "--jobs", "2"]
    process = subprocess.Popen([*command("covey.cli", "main"), *arguments])
    until(lambda: len([*slowly.glob("under-way-*")]) == 2)
    process.kill()
    process.wait()
    until(lambda: all(Run(path).status == "interrupted" for path in (slowly / "swept").iterdir()))
    (slowly / "slowly").unlink()
    going_on = package.sweep(waiting(), {"seed": [1, 2]}, out="swept", quiet=True, jobs=2, extend=True)
    whole = package.sweep(waiting(), {"seed": [1, 2]}, out="whole", quiet=True)
    assert all(same(*runs) for runs in zip(whole, going_on, strict=True))


def test_a_sweep_says_before_its_first_run_which_configuration_cannot_work_with_its_data(in_folder):
    over = {"network.nodes": [3, 4, 90], "seed": [1, 2]}
    for jobs in (1, 2):
        with pytest.raises(DataError, match=r"^nodes=90-seed=1: .*60"):
            package.sweep(folders.tiny(), over, out="swept", quiet=True, jobs=jobs)
        assert not Path("swept").exists()


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True, "2", None])
def test_a_number_of_runs_at_a_time_that_is_none_is_refused(jobs, in_folder):
    with pytest.raises(ConfigurationError, match=r"The 'jobs' of a sweep must be an int of at least 1\. Got "):
        package.sweep(folders.tiny(), {"seed": [1, 2]}, quiet=True, jobs=jobs)
    assert not Path("runs").exists()


def test_runs_that_other_processes_cannot_make_are_refused(in_folder):
    class Ours(torch.nn.Linear):
        def __init__(self, inputs: int = 4) -> None:
            super().__init__(inputs, 2)

    own = folders.tiny()
    own["task"] |= {"model": {"kind": Ours}}
    real = folders.tiny(engine={"kind": "emulation"})
    for base, why in (
        (own, "The model Ours is defined inside a function: with jobs = 2, the processes of runs cannot import it. "),
        (real, "The engine emulation runs in real time, and runs at the same time would slow each other down: 'jobs' "),
    ):
        with pytest.raises(ConfigurationError, match="^" + why):
            package.sweep(base, {"seed": [1, 2]}, quiet=True, jobs=2)
    assert not Path("runs").exists()


def at(rounds, of, **changes):
    return Progress(rounds, of, time=1.0, commits=int(2 * rounds), loss=0.5, accuracy=None, **changes)


def test_one_bar_shows_the_rounds_of_all_runs(capsys):
    display = SweepDisplay("mine", {"a": 10, "b": 30}, nodes=2, kept=1, silent=False, lines=True)
    display.of("a", at(5, 10))
    display.of("b", at(3, 30, notice="a link is slow"))
    console = Console(width=120, file=io.StringIO())
    console.print(display)
    shown = " ".join(console.file.getvalue().split())
    assert "20 %" in shown
    assert "1 of 3 runs, a, b" in shown  # No speed before it is known.
    display.over("a", "failed")
    display.of("b", at(15, 30, stopping=True))
    console.print(display)
    shown = " ".join(console.file.getvalue().split())
    assert "62 %" in shown
    assert "stopping after this round" in shown
    display.over("b", "interrupted")
    assert capsys.readouterr().err.splitlines() == [
        "mine: b: a link is slow",
        "mine: a failed, 2 of 3 runs",
        "mine: b interrupted, 3 of 3 runs",
    ]


def test_processes_of_one_sweep_share_the_processors(monkeypatch):
    monkeypatch.setattr(machine, "_processes", 1)
    all_of_them = machine.default_workers()
    for processes in (2, 3, 1000):
        machine.share(processes)
        assert machine.default_workers() == max(1, all_of_them // processes)
