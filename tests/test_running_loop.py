"""Runs that begin while an event loop runs already, as in a notebook."""

import asyncio
import signal
import threading

import covey
from tests.conftest import table
from tests.hosts import hosts, token_file

QUICK = {"latency": 0.0, "bandwidth": None, "compute": 1e6}


def in_cell(call):
    """The result of a call while this thread runs an event loop."""

    async def cell():
        return call()

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(cell())
    finally:
        loop.close()


def on(running, folder, **changes):
    """An experiment on hosts that wait."""
    addresses = [str(address) for _, address in running]
    engine = {"kind": "emulation", "hosts": addresses, "token_file": str(token_file(folder)), "workers": 1}
    return {**table(network=QUICK, **changes), "engine": engine}


def test_an_emulation_records_its_run_where_a_loop_runs(tmp_path):
    with hosts(2) as running:
        tables = on(running, tmp_path, checkpoint={"every": 2}, evaluation={"every": 2})
        there = in_cell(lambda: covey.run(tables, out=tmp_path / "there"))
        plain = covey.run(tables, out=tmp_path / "plain")
    assert there.status == plain.status == "finished"
    assert sorted(there.metrics["round"].unique()) == [2, 4, 6]
    assert list((there.folder / "checkpoints").iterdir())
    assert there.models is not None
    assert there.models.allclose(plain.models, atol=1e-5)


def test_ctrl_c_where_a_loop_runs_leaves_a_run_that_can_be_resumed_there(tmp_path):
    slow = {"latency": 0.0, "bandwidth": None, "compute": 400.0}
    main = threading.main_thread().ident
    with hosts(2) as running:
        tables = {**on(running, tmp_path, rounds=60), "network": {**slow, "nodes": 12}}

        def interrupt(progress):
            if progress.rounds >= 2 and not progress.stopping:
                signal.pthread_kill(main, signal.SIGINT)

        stopped = in_cell(lambda: covey.run(tables, out=tmp_path / "run", progress=interrupt))
        assert stopped.status == "interrupted"
        before = int(stopped.commits["round"].max())
        assert 2 <= before < 60
        done = in_cell(lambda: covey.resume(tmp_path / "run"))
    assert done.status == "finished"
    assert int(done.commits["round"].min()) == 1
    assert int(done.commits["round"].max()) == 60
