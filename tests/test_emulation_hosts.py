"""The last reports of a host to its launcher, and its end."""

import asyncio
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from covey import cli
from covey.learning.learner import Learner
from covey.learning.node import LearningNode, LearningProgram
from covey.messages import wire
from covey.parts.errors import ModelError, ProgramError
from covey.runtime.emulation.host import host
from covey.runtime.emulation.host.run import _stand_still
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.handshake import LAUNCHER, Caller, greet, say
from tests.conftest import table
from tests.hosts import TOKEN, emulate
from tests.strangers import Control, orders, soon, tables

QUICK = {"latency": 0.0, "bandwidth": None, "compute": 1e6}


def test_no_frame_holds_the_models_of_several_nodes(tmp_path, monkeypatch):
    # A model of 650 numbers fits into one, and so does the sum of models; two snapshots do not.
    monkeypatch.setattr(wire, "DEFAULT", replace(wire.DEFAULT, frame=6000))
    changes = {"rounds": 4, "checkpoint": {"every": 1}, "evaluation": {"every": 1, "samples": 20}}
    outcome, written = emulate(table(network=QUICK, **changes), tmp_path)
    assert outcome.finished
    assert outcome.models.shape == (12, 650)
    rounds = [round for round, _ in written.checkpoints]
    assert rounds == sorted({*rounds} & {1, 2, 3})  # While one waits for its figures, the next is passed over.
    assert rounds


class Keeps(LearningProgram):
    """Has something in its state that is never sent."""

    async def run(self, node: LearningNode) -> None:
        async for _ in node.rounds():
            pass
        node.state["x"] = np.int64(3)


@pytest.mark.parametrize("evaluated", [1, 12])
def test_a_state_that_cannot_be_kept_ends_the_run_in_one_line(evaluated, tmp_path):
    changes = {"program": {"kind": f"{__name__}:Keeps"}, "evaluation": {"every": 1, "nodes": evaluated}}
    with pytest.raises(ProgramError, match=r"state of node \d+ .*x' is a int64"):
        emulate(table(network=QUICK, rounds=2, duration="3s", **changes), tmp_path)


def test_what_fails_behind_a_program_ends_the_run_in_one_line(tmp_path, monkeypatch):
    def fail(reporter, node):
        raise RuntimeError("no memory")

    monkeypatch.setattr("covey.runtime.emulation.host.reporter.Reporter.ended", fail)
    with pytest.raises(ProgramError, match=r"fails at node \d+ in round 6: RuntimeError: no memory"):
        emulate(table(network=QUICK, duration="3s"), tmp_path)


def test_the_last_evaluation_may_fail_too(tmp_path, monkeypatch):
    evaluate = Learner.evaluate

    def fail(learner, models, split):
        if threading.current_thread().name.startswith("covey-train"):
            time.sleep(0.2)  # All programs have returned by then.
            raise ModelError("The model cannot be evaluated.")
        return evaluate(learner, models, split)

    monkeypatch.setattr(Learner, "evaluate", fail)
    with pytest.raises(ModelError, match="cannot be evaluated"):
        emulate(table(network=QUICK, rounds=1, evaluation={"every": 1}), tmp_path)


def test_a_host_that_is_interrupted_ends_what_it_serves(tmp_path):
    async def main():
        listening = Address("127.0.0.1", 0).listen()
        listening.setblocking(False)
        address, served = Address.of(listening), host.Host(TOKEN)
        serving = asyncio.create_task(served.serve(listening))
        called = await host.open_connection(0, address, TOKEN, None, print)
        await greet(called, TOKEN, Caller("this run", LAUNCHER), 0)
        control = Control(called)
        say(called, "orders", {"orders": orders(address, tables())})
        await control.until("ready")
        say(called, "go", {"elapsed": 0.0, "returning": False})
        await soon(lambda: served._run.stage is not None and served._run.stage.nodes[0].main is not None)
        stranger = await host.open_connection(0, address, TOKEN, None, print)
        await soon(lambda: served._knocked)
        main = served._run.stage.nodes[0].main
        serving.cancel()
        await asyncio.wait([serving])
        assert served._run is None
        await asyncio.sleep(0)
        assert main.cancelled()
        await asyncio.wait_for(called.lost, 2)
        stranger.abort()

    asyncio.run(main())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_pause_ends_and_leaves_no_process(seconds, monkeypatch):
    def state(process: int) -> str:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]

    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())

    async def main():
        before = children()
        pausing = asyncio.create_task(_stand_still(seconds))
        if seconds:
            await soon(lambda: state(struck.pid) == "T")
        await pausing
        await soon(lambda: state(struck.pid) == "S")
        assert time.monotonic() - began >= seconds
        assert children() == before

    with subprocess.Popen(["sleep", "60"]) as struck:
        monkeypatch.setattr("os.getpid", lambda: struck.pid)
        began = time.monotonic()
        try:
            asyncio.run(main())
        finally:
            monkeypatch.undo()
            struck.kill()


def test_a_host_gives_up_a_launcher_that_says_nothing_and_serves_the_next():
    async def main():
        listening = Address("127.0.0.1", 0).listen()
        listening.setblocking(False)
        address, served = Address.of(listening), host.Host(TOKEN, silence=0.5)
        serving = asyncio.create_task(served.serve(listening))
        for _ in range(2):
            called = await host.open_connection(0, address, TOKEN, None, print)
            await greet(called, TOKEN, Caller("this run", LAUNCHER), 0)
            say(called, "orders", {"orders": orders(address, tables())})
            control = Control(called)
            await control.until("ready")
            say(called, "go", {"elapsed": 0.0, "returning": False})
            began = time.monotonic()
            while time.monotonic() < began + 1.0:
                say(called, "heartbeat", {})
                await asyncio.sleep(0.02)
            assert not called.lost.done()
            await asyncio.wait_for(called.lost, 10)
            await soon(lambda: served._run is None)
        serving.cancel()
        await asyncio.wait([serving])

    asyncio.run(main())


@pytest.mark.parametrize(("arguments", "silence"), [(["--listen", "127.0.0.1:0"], host.SILENCE), (["--socket"], None)])
def test_only_a_host_that_somebody_started_gives_up_a_silent_launcher(arguments, silence, tmp_path, monkeypatch):
    made = []

    class Made(host.Host):
        def __init__(self, *settings, **named):
            super().__init__(*settings, **named)
            made.append(self.silence)

        async def serve(self, listening, **settings):
            listening.close()

    monkeypatch.setattr("covey.cli.hosting.Host", Made)
    (tmp_path / "token").write_bytes(TOKEN)
    (tmp_path / "token").chmod(0o600)
    inherited = [] if len(arguments) == 2 else [str(Address("127.0.0.1", 0).listen().detach())]
    assert cli.main(["host", *arguments, *inherited, "--token-file", str(tmp_path / "token")]) == 0
    assert made == [silence]
