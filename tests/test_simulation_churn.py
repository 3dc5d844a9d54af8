"""Nodes that leave and return."""

import pytest
import torch

from covey.aggregation.linear import MetropolisHastings
from covey.parts.errors import ProgramError
from tests.conftest import models_of, simulate, table
from tests.examples import IMPATIENT, PROGRAMS


def test_nodes_leave_come_back_and_catch_up(tmp_path):
    trace = tmp_path / "churn.csv"
    trace.write_text("node,event,time\n3,crash,0.05\n3,return,0.5\n5,join,0.2\n")
    program = {**PROGRAMS["ring"], "patience": "50ms"}
    network = {"churn": {"kind": "trace", "file": str(trace)}}
    world, written = simulate(table(program=program, network=network, rounds=40))
    assert [node.round for node in world.nodes] == [40] * 12
    kinds = {(node, kind) for _, node, kind, _ in written.happened}
    assert {(3, "left"), (3, "returned"), (3, "caught up"), (5, "left"), (5, "returned")} <= kinds
    rounds_of_3 = sorted(row[1] for row in written.rows if row[0] == 3)
    assert len(rounds_of_3) < 40
    assert rounds_of_3[-1] == 40


def test_a_dead_neighbour_does_not_keep_the_living_from_hearing_each_other(tmp_path, monkeypatch):
    trace = tmp_path / "churn.csv"
    trace.write_text("node,event,time\n5,crash,0.15\n")
    missed = []
    merge = MetropolisHastings.merge

    def watched(self, node, graph, own, contributions):
        missed.extend(set(graph.senders(node.id)) - {arrived.sender for arrived in contributions} - {5})
        return merge(self, node, graph, own, contributions)

    monkeypatch.setattr(MetropolisHastings, "merge", watched)
    network = {"churn": {"kind": "trace", "file": str(trace)}}
    world, _ = simulate(table(program={**PROGRAMS["ring"], "patience": "50ms"}, network=network, rounds=40))
    assert all(node.round == 40 for node in world.nodes if node.id != 5)
    assert len(missed) <= 12
    assert world.now < 40 * 0.05


def test_churn_by_rate_continues_with_whoever_is_there():
    program = {"kind": "gossip", "topology": {"kind": "epidemic-oracle", "degree": 3}, "patience": "50ms"}
    network = {"churn": {"kind": "rate", "mean_up": "300ms", "mean_down": "100ms"}}
    first, written = simulate(table(program=program, network=network, rounds=30))
    again, _ = simulate(table(program=program, network=network, rounds=30))
    assert torch.equal(models_of(first), models_of(again))
    assert any(kind == "left" for _, _, kind, _ in written.happened)
    assert all(node.round == 30 for node in first.nodes if not node.mail.away)


def test_nodes_that_wait_for_ever_while_others_come_and_go_are_reported():
    network = {"nodes": 4, "churn": {"kind": "rate", "mean_up": "300ms", "mean_down": "300ms"}}
    with pytest.raises(ProgramError, match=r"wait for messages that cannot arrive.* give the program some 'patience'"):
        simulate(table(network=network, program=IMPATIENT, rounds=20))


def test_the_last_news_of_a_run_is_that_of_its_last_round_though_nodes_were_away():
    churn = {"kind": "rate", "mean_up": 0.3, "mean_down": 0.1}
    program = {"kind": "gossip", "topology": "ring", "patience": 0.05}
    news = []
    tables = table(program=program, rounds=20, network={"churn": churn})
    _, written = simulate(tables, progress=news.append)
    found = {
        t: [value for _, r, name, value in written.figures if (r, name) == (t, "accuracy")] for t in range(2, 21, 2)
    }
    assert min(map(len, found.values())) < 12, "no node was away when a round was evaluated"
    assert news[-1].accuracy == pytest.approx(sum(found[20]) / len(found[20]))
    assert news[-1].time == max(row[2] for row in written.rows)
