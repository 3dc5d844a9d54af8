"""Faults in real time: their effects on nodes, links and bytes, and on the processes of hosts."""

import asyncio
import os
import signal
import sqlite3
import threading
from contextlib import closing
from itertools import islice
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
import torch

from covey import api
from covey.messages import wire
from covey.network.faults import strikes
from covey.parts.errors import ConfigurationError
from covey.runtime.emulation.launcher import recovery
from covey.runtime.emulation.transport.connection import Corrupted
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import check, prepare
from tests.conftest import simulate, table
from tests.examples import IMPATIENT
from tests.hosts import emulate, hosts, launch, processes_of
from tests.test_connection import stream_of

EPIDEMIC = {"kind": "gossip", "topology": {"kind": "epidemic-oracle", "degree": 3}, "patience": "60ms"}


def struck(*faults, rounds=40, **changes):
    """An experiment with faults whose rounds take some 25 ms."""
    changes.setdefault("program", EPIDEMIC)
    return table(rounds=rounds, faults=list(faults), **changes)


def dropped(written, reason):
    """The number of messages that all hosts dropped for a reason."""
    last = {host: value for _, host, name, value in written.of_hosts if name == f"dropped/{reason}"}
    return sum(last.values())


def happened(written, *kinds):
    return [(node, kind) for _, node, kind, _ in sorted(written.happened) if kind in kinds]


def last_rounds(written):
    rounds = dict.fromkeys(range(12), 0)
    for row in written.rows:
        rounds[row[0]] = max(rounds[row[0]], row[1])
    return list(rounds.values())


def test_both_engines_draw_the_same_schedule():
    faults = [
        {"kind": "kill", "fraction": 0.25, "rate": 3, "back": 1},
        {"kind": "cut", "nodes": [1], "rate": 1, "lasts": 1},
    ]
    drawn = []
    for engine in ("simulation", "emulation"):
        experiment = Experiment.from_table(struck(*faults, engine={"kind": engine}))
        prepared = prepare(experiment, workers=1)
        upcoming = islice(strikes(prepared.experiment.faults, prepared.setting), 50)
        drawn.append([(strike.fault.kind, strike.start, strike.end, strike.nodes) for strike in upcoming])
        prepared.task.close()
    assert drawn[0] == drawn[1]


def test_killed_nodes_come_back_as_they_do_in_the_simulation(tmp_path):
    kills = (
        {"kind": "kill", "nodes": [3, 8], "at": "200ms", "back": "300ms"},
        {"kind": "kill", "nodes": [5], "at": "400ms"},
    )
    outcome, written = emulate(struck(*kills), tmp_path)
    _, simulated = simulate(struck(*kills))
    kinds = ("left", "returned", "caught up")
    assert outcome.finished
    assert sorted(happened(written, *kinds)) == sorted(happened(simulated, *kinds))
    times = {(node, kind): time for time, node, kind, _ in written.happened}
    # A busy machine is late, and never early.
    assert 0.2 <= times[3, "left"] < 1.2
    assert 0.5 <= times[3, "returned"] < 1.5
    rounds = last_rounds(written)
    assert rounds.pop(5) < 40
    assert rounds == [40] * 11


def test_paused_nodes_do_nothing_and_lose_nothing(tmp_path):
    pause = {"kind": "pause", "nodes": [3, 8], "at": "200ms", "lasts": "400ms"}
    tables = struck(pause, rounds=20, program={"kind": "gossip", "topology": "ring"})
    outcome, written = emulate(tables, tmp_path)
    assert outcome.finished
    assert sorted(happened(written, "paused", "continued")) == sorted(
        (n, k) for n in (3, 8) for k in ("paused", "continued")
    )
    when = {(node, kind): time for time, node, kind, _ in written.happened}
    for node in (3, 8):
        assert when[node, "continued"] - when[node, "paused"] > 0.1
        paused = (when[node, "paused"], when[node, "continued"])
        assert not [row for row in written.rows if row[0] == node and paused[0] < row[2] < paused[1]]
    assert last_rounds(written) == [20] * 12
    ends = {row[0]: row[8:11] for row in written.rows if row[1] == 20}
    assert {sent for sent, _, _ in ends.values()} == {40}


def test_faults_at_the_very_start_keep_nobody_from_beginning(tmp_path):
    pause = {"kind": "pause", "nodes": [3, 8], "at": 0, "lasts": "100ms"}
    kill = {"kind": "kill", "nodes": [8, 5], "at": 0, "back": "200ms"}
    outcome, written = emulate(struck(pause, kill, rounds=15), tmp_path)
    assert outcome.finished
    assert last_rounds(written) == [15] * 12
    assert not [row for row in written.rows if row[2] < {3: 0.1, 5: 0.2, 8: 0.2}.get(row[0], 0.0)]


def test_halves_that_are_cut_apart_continue_and_join_again(tmp_path):
    cut = {"kind": "cut", "host": 0, "of": 2, "at": "200ms", "lasts": "1s"}
    task = {"partition": {"kind": "shards", "per_node": 1}}
    outcome, written = emulate(struck(cut, rounds=100, task=task, evaluation={"every": 4}), tmp_path)
    assert outcome.finished
    assert last_rounds(written) == [100] * 12
    assert dropped(written, "cut") > 0
    came = {row[1]: row[2] for row in sorted(written.rows)}
    distance = {t: value for _, t, name, value in written.figures if name == "consensus_distance"}
    during = max(value for t, value in distance.items() if 0.6 < came[t] < 1.3)
    assert distance[100] < 0.8 * during
    (event,) = [event for event in written.happened if event[2] == "cut"]
    assert event[1] == -1
    assert event[3] == "the nodes of host 0 of 2 cut off from the others for 1 s"


def test_slow_nodes_and_links_are_slow_while_it_lasts(tmp_path):
    ring = {"kind": "gossip", "topology": "ring"}
    plain, _ = simulate(struck(program=ring, rounds=10))
    for fault in ({"nodes": [3], "compute": 8}, {"links": [[3, 4], [0, 11]], "uplink": 100}):
        slowed, written = emulate(struck({"kind": "slow", **fault, "at": 0}, program=ring, rounds=10), tmp_path)
        assert slowed.time > 2 * plain.now
        assert last_rounds(written) == [10] * 12


def test_corrupt_bytes_are_found_by_whoever_receives_them(tmp_path):
    corrupt = {"kind": "corrupt", "fraction": 1, "at": 0, "probability": 0.2}
    outcome, written = emulate(struck(corrupt, rounds=20), tmp_path, 3)
    assert outcome.finished
    assert last_rounds(written) == [20] * 12
    sent = sum(row[8] for row in written.rows if row[1] == 20)
    assert 0.1 < dropped(written, "corrupt") / sent < 0.3
    assert [event for event in written.happened if event[2] == "rejected"] == []


def test_a_changed_byte_is_never_that_of_the_prefix():
    frame = wire.encode_parts({"model": torch.arange(5.0)}, tag="t", sender=1, round=2)

    async def test():
        whole, behind = np.frombuffer(stream_of([frame]), np.uint8), 4 + wire.PREFIX_BYTES
        indices = set()
        for number in range(3 * len(whole)):
            (index,) = np.flatnonzero(whole != np.frombuffer(stream_of([Corrupted(frame, number)]), np.uint8))
            indices.add(int(index))
        assert indices == set(range(behind, len(whole)))

    asyncio.run(test())


def test_a_fault_that_counts_other_hosts_than_the_engine_is_refused():
    tables = struck({"kind": "kill", "host": 0, "of": 2, "at": 1}, engine={"kind": "emulation", "nodes_per_process": 4})
    with pytest.raises(
        ConfigurationError, match="The 'of' of the fault kill must be the number of hosts, 3; set 'nodes_per_process'"
    ):
        check(Experiment.from_table({**tables, "engine": {"kind": "emulation", "nodes_per_process": 4}}))


def test_a_host_whose_connection_to_the_launcher_breaks_continues_from_its_last_snapshots(tmp_path):
    with hosts(2) as running:
        host = running[1][0]

        def cut():
            late = monotonic() + 20
            while monotonic() < late:
                sleep(0.01)
                run = host._run
                if run is not None and run.stage is not None and run.stage.nodes[11].round > 10:
                    run.task.get_loop().call_soon_threadsafe(run.control.abort)
                    return

        cutter = threading.Thread(target=cut)
        cutter.start()
        tables = struck(rounds=60, checkpoint={"every": 4}, evaluation={"every": 4})
        outcome, written = launch(tables, tmp_path, [address for _, address in running])
        cutter.join()
    assert outcome.finished
    assert sorted(happened(written, "left", "returned")) == [
        (n, kind) for n in range(6, 12) for kind in ("left", "returned")
    ]
    assert last_rounds(written) == [60] * 12
    assert len({row[:2] for row in written.rows}) == len(written.rows)
    assert len({figure[:3] for figure in written.figures}) == len(written.figures)
    in_time = sorted(written.rows, key=lambda row: row[2])
    sent = [[row[6] for row in in_time if row[0] == node] for node in range(12)]
    assert all(each == sorted(each) for each in sent)


def test_nodes_that_all_wait_for_ever_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "_QUIET", 0.8)
    monkeypatch.setattr(recovery, "_LOOK", 0.1)
    tables = table(program=IMPATIENT, network={"loss": 0.9}, duration="4s")
    _, written = emulate(tables, tmp_path)
    (said,) = [detail for _, node, kind, detail in written.happened if (node, kind) == (-1, "stuck")]
    assert "No node has completed a round for 0.8 seconds, and 12 nodes wait: node " in said
    assert "for messages of round 0 of [" in said


# ---------------------------------------------------------------------- processes


def rows_of(folder):
    """The committed rows; none where the file has been made and its tables have not."""
    with closing(sqlite3.connect(f"file:{folder / 'metrics.sqlite'}?mode=ro", uri=True)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'commits'").fetchone():
            return set()
        return set(database.execute("SELECT node, round FROM commits"))


def sound(folder):
    with closing(sqlite3.connect(folder / "metrics.sqlite")) as database:
        return database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


REAL = {"kind": "emulation", "nodes_per_process": 6}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_the_kill_of_a_host_in_the_midst_of_a_round_loses_no_committed_row(in_folder):
    seen = set()

    def kill():
        late = monotonic() + 30
        while monotonic() < late:
            sleep(0.05)
            if (in_folder / "out" / "metrics.sqlite").exists():
                seen.update(rows_of(in_folder / "out"))
                if len({node for node, round in seen if round > 2}) == 12:
                    os.kill(processes_of(os.getpid())[-1], signal.SIGKILL)
                    return

    killer = threading.Thread(target=kill)
    killer.start()
    ring = {"kind": "gossip", "topology": "ring", "patience": "60ms"}
    tables = struck(rounds=80, program=ring, checkpoint={"every": 2})
    run = api.run({**tables, "engine": REAL}, out=in_folder / "out")
    killer.join()
    assert seen
    assert run.status == "finished"
    assert sound(run.folder)
    rows = rows_of(run.folder)
    assert seen <= rows
    assert {node for node, round in rows if round == 80} == set(range(12))
    with closing(sqlite3.connect(run.folder / "metrics.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM commits").fetchone() == (len(rows),)
        kinds = database.execute("SELECT DISTINCT kind FROM events ORDER BY kind").fetchall()
    assert {"left", "returned"} <= {kind for (kind,) in kinds}


@pytest.mark.slow
def test_hosts_that_a_fault_kills_for_good_or_pauses_do_not_end_the_run(in_folder):
    faults = (
        {"kind": "kill", "host": 1, "of": 2, "at": "600ms"},
        {"kind": "pause", "host": 0, "of": 2, "at": "1s", "lasts": "500ms"},
    )
    run = api.run({**struck(*faults, rounds=40, network={"compute": 400.0}), "engine": REAL}, out=in_folder / "out")
    assert run.status == "finished"
    assert sound(run.folder)
    rows = rows_of(run.folder)
    assert {node for node, round in rows if round == 40} == set(range(6))
    times = run.commits["time"].sort_values()
    gaps = times.diff()
    assert gaps.max() > 0.25
    assert times[gaps.idxmax()] > 1.0
    assert run.models.shape[0] == 12


def test_faults_of_ones_own_do_what_they_do_in_the_simulation(tmp_path):
    own = "tests.programs.own"
    muted = {"kind": f"{own}:Muted", "nodes": [3], "at": 0}
    tired = {"kind": f"{own}:Tired", "nodes": [8], "at": "200ms", "naps": 0.2}
    outcome, written = emulate(struck(muted, tired), tmp_path)
    world, simulated = simulate(struck(muted, tired))
    assert outcome.finished
    assert dropped(written, "muted") > 0 < world.refused["muted"]
    assert dropped(written, "cut") == 0
    kinds = ("paused", "continued", f"{own}:Muted", f"{own}:Tired")
    assert sorted(happened(written, *kinds)) == sorted(happened(simulated, *kinds))
