"""The trainer of a host: a failure while it computes reaches the caller, and ends the run in one line."""

import pytest

from covey.learning.jobs import Training
from covey.messages import wire
from covey.parts.errors import ProgramError
from covey.runtime.emulation.host.trainer import Trainer
from covey.runtime.jobs import Call, Function
from tests.conftest import table
from tests.hosts import emulate
from tests.test_launcher import in_loop

TABLES = table(rounds=3, network={"nodes": 4, "compute": 1e6})


class Lost:
    """A job that nobody does."""

    done = False

    @property
    def worker(self):
        raise RuntimeError("nobody does it")


def broken(*_):
    raise RuntimeError("no memory")


@in_loop
async def test_who_asked_for_a_job_that_fails_outside_of_its_worker_is_reported():
    trainer = Trainer(lambda: None)
    with pytest.raises(RuntimeError, match="nobody does it"):
        await trainer.do(Lost())
    job = Call(Function(lambda: 5), (), None)
    await trainer.do(job)
    assert job.result == 5
    trainer.close()


def test_what_fails_before_a_training_ends_the_run_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "worker", property(broken))
    with pytest.raises(ProgramError, match=r"fails at node \d in round 0: RuntimeError: no memory"):
        emulate(TABLES, tmp_path)


def test_what_fails_while_a_message_leaves_ends_the_run_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "readdressed", broken)
    with pytest.raises(ProgramError, match=r"^RuntimeError: no memory"):
        emulate(TABLES, tmp_path)
