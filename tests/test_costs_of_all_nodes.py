"""Costs of runs in which only some nodes are evaluated."""

import pytest

import covey
from covey.runtime.runs.spent import mean_spent
from covey.view.figures import curves
from tests.conftest import table


@pytest.mark.parametrize("program", [{"kind": "fedavg", "clients": 2}, {"kind": "gossip", "topology": "ring"}])
def test_bytes_are_those_of_all_nodes_whoever_is_evaluated(program, tmp_path):
    network = {"nodes": 6, "latency": "5ms"}
    run = covey.run(table(program=program, network=network, rounds=6, evaluation={"every": 2}), out=tmp_path / "run")
    spent, commits = mean_spent(run, run.metrics, "bytes_out"), run.commits
    assert list(spent.index) == [2, 4, 6]
    for t in spent.index:
        assert spent[t] == commits[commits["round"] == t]["bytes_out"].mean()
    assert spent[6] * 6 == run.summary()["totals"]["bytes_out"]
    line = curves([run], against="bytes").axes[0].lines[0]
    scale = spent[6] / line.get_xdata()[-1]
    assert list(line.get_xdata() * scale) == pytest.approx(list(spent))
