"""Checkpoints of runs whose nodes are not all in the same round: some come and go, end early, or are dropped."""

import json

import numpy as np
import pytest
import torch

from covey import api
from covey.cli.running import report
from covey.learning.node import LearningProgram
from covey.messages import wire
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.runs import Run, RunWriter
from covey.runtime.simulation.world import World
from tests.conftest import Written, models_of, simulate, table
from tests.folders import as_if_killed
from tests.hosts import hosts, token_file

PATIENT = {"kind": "gossip", "topology": "ring", "patience": "50ms"}


def stored(payload):
    return wire.decode(wire.encode(payload)).payload


def figures_of(*written):
    return {(node, round, name): value for part in written for node, round, name, value in part.figures}


@pytest.mark.parametrize("at", [0.02, 0.15, 0.3, 0.45])
def test_a_run_with_churn_continues_from_where_it_was_stopped(tmp_path, at):
    trace = tmp_path / "churn.csv"
    trace.write_text("node,event,time\n3,crash,0.05\n3,return,0.4\n5,join,0.2\n7,leave,0.1\n")
    tables = table(program=PATIENT, network={"churn": {"kind": "trace", "file": str(trace)}}, rounds=40)
    written = Written()
    world = World(prepare(Experiment.from_table(tables), workers=1), written)
    world.begin()
    world.at(at, world.nodes[0], lambda _: world.interrupt())
    world.run()
    assert world.stopped_early
    ((_, payload),) = written.checkpoints

    resumed, rewritten = simulate(tables, checkpoint=stored(payload))
    assert all(node.round == 40 for node in resumed.nodes if node.id != 7)
    whole, _ = simulate(tables)
    assert resumed.nodes[7].round == whole.nodes[7].round
    for node in resumed.nodes:
        completed = int(payload["completed"][node.id])
        rows = sorted(row[1] for row in rewritten.rows if row[0] == node.id)
        assert rows == sorted(set(rows))
        assert all(round > completed for round in rows)
    came_back = [(time, node) for time, node, kind, _ in rewritten.happened if kind == "returned"]
    clocks = payload["clocks"].tolist()
    assert came_back == [(time, node) for time, node in ((0.2, 5), (0.4, 3)) if clocks[node] < time]


def test_checkpoints_are_taken_although_nodes_come_and_go():
    network = {"churn": {"kind": "rate", "mean_up": "300ms", "mean_down": "100ms", "late": 0.2, "leave": 0.2}}
    tables = table(program=PATIENT, network=network, rounds=30, checkpoint={"every": 5})
    whole, written = simulate(tables)
    assert len(written.checkpoints) > 1
    assert any(node.mail.away for node in whole.nodes)
    for _, payload in written.checkpoints:
        resumed, _ = simulate(tables, checkpoint=stored(payload))
        # A node that has left for good stays away; others may end before they would leave.
        assert {node.id for node in resumed.nodes if node.mail.away} >= set(np.flatnonzero(payload["away"]).tolist())
        assert all(node.round == 30 for node in resumed.nodes if not node.mail.away)


def test_the_average_of_a_round_holds_the_models_of_those_that_completed_it_before_the_checkpoint():
    program = {"kind": "ad-psgd", "topology": "ring"}
    compute = {"kind": "log-normal", "median": 300, "sigma": 0.5}
    tables = table(
        program=program, rounds=12, checkpoint={"every": 3}, evaluation={"every": 1}, network={"compute": compute}
    )
    _, written = simulate(tables)
    _, payload = written.checkpoints[1]
    completed = payload["completed"].tolist()
    assert len(set(completed)) > 1
    sums = {int(name.split("/")[1]): count for name, count in payload.items() if name.endswith("/count")}
    assert sums == {t: sum(node >= t for node in completed) for t in range(min(completed) + 1, max(completed) + 1)}
    _, rewritten = simulate(tables, checkpoint=stored(payload))
    ours, theirs = figures_of(written), figures_of(rewritten)
    network = {key for key in ours if key[0] == -1 and key[1] > min(completed)}
    assert network == {key for key in theirs if key[0] == -1}


class EndsEarly(LearningProgram):
    """Half of the nodes stop after four rounds, in the midst of the fifth."""

    async def run(self, node):
        async for t in node.rounds():
            node.model = (await node.train()).model
            if node.id % 2 and t == 4:
                break


def test_programs_that_end_early_keep_nobody_from_a_checkpoint():
    tables = table(program=EndsEarly(), rounds=9, checkpoint={"every": 3}, network={"compute": 300.0})
    whole, written = simulate(tables)
    assert [round for round, _ in written.checkpoints] == [3, 6]
    for round, payload in written.checkpoints:
        resumed, rewritten = simulate(tables, checkpoint=stored(payload))
        assert torch.equal(models_of(resumed), models_of(whole))
        assert [node.round for node in resumed.nodes] == [9, 4] * 6
        before = {key: value for key, value in figures_of(written).items() if key[0] < 0 and key[1] > round}
        assert before == {key: value for key, value in figures_of(rewritten).items() if key[0] < 0 and key[1] > round}


class OneExplodes(LearningProgram):
    """A node whose learning rate is far too high in its second round."""

    async def run(self, node):
        async for t in node.rounds():
            node.model = (await node.train(lr=1e38 if node.id == 5 and t else 0.1)).model


def test_dropped_nodes_stay_dropped_after_a_resume():
    task = {"model": "mlp", "non_finite": "drop"}
    tables = table(program=OneExplodes(), task=task, rounds=6, checkpoint={"every": 2})
    whole, written = simulate(tables)
    dropped = [event for event in written.happened if event[2] == "dropped"]
    assert [event[1] for event in dropped] == [5]
    assert [round for round, _ in written.checkpoints] == [2, 4]
    resumed, rewritten = simulate(tables, checkpoint=stored(written.checkpoints[-1][1]))
    assert torch.equal(models_of(resumed), models_of(whole))
    assert not rewritten.happened
    assert resumed.nodes[5].mail.ended


def test_a_run_that_continues_still_says_who_was_dropped(tmp_path):
    tables = table(
        program="tests.test_checkpoints_without_step:OneExplodes",
        task={"model": "mlp", "non_finite": "drop"},
        checkpoint={"every": 2},
    )
    run = api.run(tables, out=tmp_path / "run")
    events = run.events
    assert api.resume(as_if_killed(run.folder)).events.equals(events)
    assert events["kind"].tolist() == ["dropped", "left"]


def test_a_run_says_which_nodes_were_dropped_and_when(tmp_path, covey):
    folder = str(tmp_path / "run")
    writer = RunWriter.create(tmp_path / "run", {"program": {"kind": "x"}}, {"nodes": 20})
    sentence = "Dropped, because their models were not finite: {} of 20 nodes, {}."
    writer.event(0.5, 5, "dropped", "")
    writer.event(0.6, 7, "dropped", "")
    writer.commits([(2, round, 0.3 * round, 1.0, *[round] * 9, *[0.0] * 4) for round in (1, 2, 3)])
    writer.event(1.0, 2, "dropped", "")
    writer.finish("finished", {})
    reported = sentence.format(3, "5, 7 after round 0; 2 after round 3")
    assert covey("show", folder)[1].endswith(f"\n{reported}\n")
    dropped = json.loads(covey("show", folder, "--json")[1])["dropped_nodes"]
    assert dropped[1:] == [{"node": 7, "round": 0, "time": 0.6}, {"node": 2, "round": 3, "time": 1.0}]
    report(Run(folder), as_json=False)
    _, out, _ = covey("report", folder, "--out", f"{folder}.html")
    assert reported in out
    assert reported in (tmp_path / "run.html").read_text()

    writer = RunWriter.create(tmp_path / "more", {"program": {"kind": "x"}}, {"nodes": 20})
    writer.commits([(2, round, 0.3 * round, 1.0, *[round] * 9, *[0.0] * 4) for round in (1, 2, 3)])
    for node in (*range(8, 20), 2):
        writer.event(0.7, node, "dropped", "")
    writer.finish("finished", {})
    several = sentence.format(13, "the first after round 0, the last after round 3; `covey show --json` names all")
    assert covey("show", str(tmp_path / "more"))[1].endswith(f"\n{several}\n")


def test_hosts_of_nodes_that_end_early_lose_no_figure_of_the_network(tmp_path):
    with hosts(2) as running:
        engine = {"kind": "emulation", "hosts": [str(address) for _, address in running], "wait": "20s"}
        engine["token_file"] = str(token_file(tmp_path))
        program = "tests.test_checkpoints_without_step:EndsEarly"
        tables = {**table(program=program, rounds=9, checkpoint={"every": 3}), "engine": engine}
        run = api.run(tables, out=tmp_path / "run")
        whole = run.network
        assert whole["round"].tolist() == [2, 4, 6, 8, 9]
        resumed = api.resume(as_if_killed(run.folder))
    assert resumed.facts["starts"][-1]["after_round"] == 6
    assert resumed.network["round"].tolist() == whole["round"].tolist()
    for name in whole.columns.drop("time"):
        assert resumed.network[name].to_numpy() == pytest.approx(whole[name].to_numpy(), rel=1e-4)
