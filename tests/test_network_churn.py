"""Absences: disjoint, ordered, of the stated length, and as in a trace."""

import math
import statistics
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covey.learning.node import LearningNode, LearningProgram
from covey.network import Churn
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, build, to_table
from tests.conftest import simulate, table

SETTING = Setting(nodes=500, seed=2)


def rate(**options: Any) -> Churn:
    return build(Churn, {"kind": "rate", "mean_up": "60s", "mean_down": "20s", **options})


def test_nobody_is_away_without_churn() -> None:
    none = build(Churn, "none")
    assert not none.has_churn
    assert list(none.absences(0, SETTING)) == []


@pytest.mark.parametrize("table", [{"kind": "none"}, {"kind": "trace", "file": "events.csv"}, to_table(rate(late=0.3))])
def test_every_kind_survives_a_round_trip(table: dict[str, Any]) -> None:
    made = build(Churn, table)
    assert to_table(made) == table
    assert build(Churn, to_table(made)) == made


@given(
    seed=st.integers(0, 2**40),
    node=st.integers(0, 10_000),
    up=st.floats(1, 1e6),
    down=st.floats(1, 1e6),
    leave=st.floats(0, 1),
    late=st.floats(0, 1),
)
def test_absences_are_apart_and_in_order(
    seed: int, node: int, up: float, down: float, leave: float, late: float
) -> None:
    churn = build(Churn, {"kind": "rate", "mean_up": up, "mean_down": down, "leave": leave, "late": late})
    setting = Setting(nodes=10_001, seed=seed)
    drawn = list(islice(churn.absences(node, setting), 50))
    assert drawn == list(islice(churn.absences(node, setting), 50))
    assert all(0 <= start < end for start, end in drawn)
    assert all(end < start for (_, end), (start, _) in pairwise(drawn))
    assert all(end < math.inf for _, end in drawn[:-1])


def test_stays_and_absences_have_their_means() -> None:
    drawn = list(islice(rate().absences(0, SETTING), 5000))
    stays = [start - end for (_, end), (start, _) in pairwise(drawn)]
    lengths = [end - start for start, end in drawn]
    assert statistics.mean(stays) == pytest.approx(60, rel=0.05)
    assert statistics.mean(lengths) == pytest.approx(20, rel=0.05)
    assert statistics.stdev(lengths) == pytest.approx(20, rel=0.07)  # as its mean: exponential


def test_some_join_late_and_some_leave_for_good() -> None:
    churn = rate(late=0.4, leave=0.25)
    drawn = [list(churn.absences(node, SETTING)) for node in range(500)]
    late = [absences for absences in drawn if absences[0][0] == 0.0]
    assert len(late) / 500 == pytest.approx(0.4, abs=0.06)
    assert all(absences[-1][1] == math.inf for absences in drawn)
    # The number of absences that are drawn to be for good or not is geometric, of mean 1 / leave.
    counted = [len(absences) - (absences[0][0] == 0.0) for absences in drawn]
    assert statistics.mean(counted) == pytest.approx(4, rel=0.12)


def test_nodes_come_and_go_each_by_itself() -> None:
    firsts = {next(rate().absences(node, SETTING)) for node in range(100)}
    assert len(firsts) == 100


def traced(folder: Path, rows: str, nodes: int = 4) -> Churn:
    file = folder / "events.csv"
    file.write_text("node,event,time\n" + rows)
    churn = build(Churn, {"kind": "trace", "file": str(file)})
    churn.ready(Setting(nodes=nodes))
    return churn


def test_a_trace_tells_when_nodes_are_away(tmp_path: Path) -> None:
    churn = traced(tmp_path, "1,join,5\n0,crash,1\n1,leave,9\n0,return,2.5\n2,join,0\n0,leave,4\n0,join,6\n2,crash,7\n")
    setting = Setting(nodes=4)
    assert churn.has_churn
    assert list(churn.absences(0, setting)) == [(1.0, 2.5), (4.0, 6.0)]
    assert list(churn.absences(1, setting)) == [(0.0, 5.0), (9.0, math.inf)]
    assert list(churn.absences(2, setting)) == [(7.0, math.inf)]
    assert list(churn.absences(3, setting)) == []
    assert list(churn.absences(0, setting)) == [(1.0, 2.5), (4.0, 6.0)]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            "0,leave,3\n0,join,2\n",
            "Line 3 of '{file}': node 0 cannot join at 2: its leave is at 3, and the times of a node must increase.",
        ),
        (
            "0,leave,3\n0,join,3\n",
            "Line 3 of '{file}': node 0 cannot join at 3: its leave is at 3, and the times of a node must increase.",
        ),
        ("0,leave,1\n0,crash,2\n", "Line 3 of '{file}': node 0 cannot crash at 2: it is away since its leave at 1."),
        ("0,crash,1\n0,leave,2\n", "Line 3 of '{file}': node 0 cannot leave at 2: it is away since its crash at 1."),
        (
            "0,leave,1\n0,return,2\n",
            "Line 3 of '{file}': node 0 cannot return at 2: only a node whose last event is a crash can return.",
        ),
        (
            "0,join,1\n0,join,2\n",
            "Line 3 of '{file}': node 0 cannot join at 2: only a node whose last event is a leave can join.",
        ),
        (
            "0,return,1\n",
            "Line 2 of '{file}': node 0 cannot return at 1: only a node whose last event is a crash can return.",
        ),
        ("4,leave,1\n", "Line 2 of '{file}': the 'node' must be an int in [0, 4). Got '4' instead."),
        ("-1,leave,1\n", "Line 2 of '{file}': the 'node' must be an int in [0, 4). Got '-1' instead."),
        (
            "0,nap,1\n",
            "Line 2 of '{file}': the 'event' must be one of 'join', 'leave', 'crash', 'return'. Got 'nap' instead.",
        ),
        ("0,leave,-1\n", "Line 2 of '{file}': the 'time' must be a number in [0, inf). Got '-1' instead."),
        ("0,leave,soon\n", "Line 2 of '{file}': the 'time' must be a number in [0, inf). Got 'soon' instead."),
    ],
)
def test_a_wrong_trace_gives_its_sentence(tmp_path: Path, rows: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        traced(tmp_path, rows)
    assert str(caught.value) == sentence.format(file=tmp_path / "events.csv")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"mean_up": 0},
            "The 'mean_up' of the churn rate must be a duration such as \"20ms\" in (0, inf). Got 0 instead.",
        ),
        (
            {"mean_down": "-5s"},
            "The 'mean_down' of the churn rate must be a duration such as \"20ms\" in (0, inf). Got '-5s'",
        ),
        ({"leave": 1.1}, "The 'leave' of the churn rate must be a number in [0, 1]. Got 1.1 instead."),
        ({"late": -0.1}, "The 'late' of the churn rate must be a number in [0, 1]. Got -0.1 instead."),
    ],
)
def test_a_wrong_value_gives_its_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        rate(**options)
    assert str(caught.value).startswith(sentence)


class Talks(LearningProgram):
    """Node 0 sends a large message to node 1, which says what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[float] = []

    async def run(self, node: LearningNode) -> None:
        if node.id == 0:
            node.send(NodeId(1), {"x": torch.zeros(1000)}, tag="a")
            await node.sleep(60.0)
        else:
            inbox = await node.receive(tag="a", count=1, timeout=30.0)
            self.heard += [node.now for _ in inbox]


@pytest.mark.parametrize(("left", "heard"), [(5.0, 0), (20.0, 1)])
@pytest.mark.parametrize("ways", ["uplink", "downlink"])
def test_what_a_node_that_leaves_had_not_sent_to_the_end_is_lost_with_fair_sharing(
    tmp_path: Path, left: float, heard: int, ways: str
) -> None:
    file = tmp_path / "churn.csv"
    file.write_text(f"node,event,time\n0,leave,{left}\n")
    network = {"nodes": 2, "latency": 1.0, "bandwidth": None, ways: 3600.0, "queue": "fair"}
    tables = table(network={**network, "churn": {"kind": "trace", "file": str(file)}}, program=Talks())
    world, _ = simulate(tables)
    assert len(world.program.heard) == heard  # type: ignore[attr-defined]
    assert world.nodes[0].messages_out == heard
    assert (world.nodes[0].bytes_out > 4000) == bool(heard)
