"""Latencies: their distributions, their symmetry, and the errors of matrix files."""

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.network import Network
from covey.network.latency import ConstantLatency, Latency
from covey.parts.conversion import coerce
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, build, fields_of, to_table

DRAWN: list[dict[str, Any]] = [
    {"kind": "uniform", "low": "10ms", "high": "30ms"},
    {"kind": "log-normal", "median": "40ms", "sigma": 0.6},
    {"kind": "plane", "base": "1ms", "per_unit": "50ms"},
    {"kind": "per-node", "median": "20ms", "sigma": 0.4},
]


def prepared(table: Any, nodes: int = 100, seed: int = 0) -> Latency:
    made = build(Latency, table)
    made.ready(Setting(nodes=nodes, seed=seed))
    return made


@pytest.mark.parametrize(("short", "seconds"), [("20ms", 0.02), (0.02, 0.02), (1, 1.0), (" 3 s ", 3.0), (".5s", 0.5)])
def test_a_duration_alone_is_a_constant_latency(short: object, seconds: float) -> None:
    hint, limits = fields_of(Network)["latency"]
    made = coerce(short, hint, limits, "latency", "network")
    assert made == ConstantLatency(seconds=seconds)
    assert made.between(0, 1) == made.uniform_value() == seconds


@pytest.mark.parametrize("table", DRAWN, ids=lambda table: table["kind"])
def test_drawn_latencies_are_symmetric_and_depend_on_the_seed(table: dict[str, Any]) -> None:
    made, again, other = prepared(table), prepared(table), prepared(table, seed=1)
    pairs = [(i, j) for i in range(20) for j in range(i)]
    assert [made.between(i, j) for i, j in pairs] == [made.between(j, i) for i, j in pairs]
    assert [made.between(i, j) for i, j in pairs] == [again.between(i, j) for i, j in pairs]
    assert [made.between(i, j) for i, j in pairs] != [other.between(i, j) for i, j in pairs]
    assert len({made.between(i, j) for i, j in pairs}) == len(pairs)
    assert all(0 < made.between(i, j) < math.inf for i, j in pairs)
    assert made.uniform_value() is None


@pytest.mark.parametrize("table", [*DRAWN, {"kind": "constant", "seconds": 0.1}], ids=lambda table: table["kind"])
def test_every_kind_survives_a_round_trip(table: dict[str, Any]) -> None:
    made = build(Latency, table)
    assert build(Latency, to_table(made)) == made


def every_pair(latency: Latency, nodes: int = 100) -> list[float]:
    return [latency.between(i, j) for i in range(nodes) for j in range(i)]


def test_uniform_latencies_fill_their_bounds() -> None:
    drawn = every_pair(prepared(DRAWN[0]))
    assert 0.01 <= min(drawn) < 0.0101
    assert 0.0299 < max(drawn) <= 0.03
    assert statistics.mean(drawn) == pytest.approx(0.02, rel=0.02)


def test_log_normal_latencies_have_their_median_and_spread() -> None:
    drawn = every_pair(prepared(DRAWN[1]))
    assert statistics.median(drawn) == pytest.approx(0.04, rel=0.04)
    logs = [math.log(value) for value in drawn]
    assert statistics.stdev(logs) == pytest.approx(0.6, rel=0.04)
    # A normal distribution has 4.6 % of its mass beyond two standard deviations.
    far = sum(abs(value - math.log(0.04)) > 1.2 for value in logs) / len(logs)
    assert far == pytest.approx(0.0455, abs=0.01)


def test_plane_latencies_are_a_metric_with_the_mean_distance_of_a_unit_square() -> None:
    made = prepared(DRAWN[2], nodes=200)
    # The mean distance of two random points of a unit square is 0.5214.
    assert statistics.mean(every_pair(made, 200)) == pytest.approx(0.001 + 0.05 * 0.5214, rel=0.05)
    assert made.between(3, 3) == 0.001
    for i, j, k in [(0, 1, 2), (5, 9, 14), (30, 20, 10)]:
        assert made.between(i, k) - 0.001 <= made.between(i, j) + made.between(j, k) - 0.002 + 1e-12


def test_per_node_latencies_add_up() -> None:
    made = prepared(DRAWN[3], nodes=2000)
    access = [made.between(i, i) / 2 for i in range(2000)]
    assert made.between(4, 9) == access[4] + access[9]
    assert statistics.median(access) == pytest.approx(0.02, rel=0.05)
    assert statistics.stdev(math.log(value) for value in access) == pytest.approx(0.4, rel=0.05)


@given(st.integers(0, 2**31), st.integers(0, 9_999), st.integers(0, 9_999))
def test_any_pair_of_a_large_network_has_a_latency_without_a_table(seed: int, one: int, other: int) -> None:
    made = prepared(DRAWN[1], nodes=10_000, seed=seed)
    assert made.between(one, other) == made.between(other, one) > 0


def matrix(folder: Path, text: str, nodes: int = 2, **options: Any) -> Latency:
    file = folder / "delays.csv"
    file.write_text(text)
    return prepared({"kind": "matrix", "file": str(file), **options}, nodes)


@pytest.mark.parametrize("header", ["", "a,b,c\n", "# measured at night\na,b,c\n\n"])
def test_a_matrix_is_read_from_row_to_column_and_may_be_larger(tmp_path: Path, header: str) -> None:
    made = matrix(tmp_path, header + "0,10,20\n30,0,40\n50,60,0\n", unit="ms")
    assert (made.between(0, 1), made.between(1, 0)) == (pytest.approx(0.01), pytest.approx(0.03))
    assert build(Latency, to_table(made)) == made


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0,1\n", "The matrix '{file}' must be square. Got 1 rows and, in line 1, 2 cells instead."),
        ("0,1,2\n3,0\n4,5,0\n", "The matrix '{file}' must be square. Got 3 rows and, in line 2, 2 cells instead."),
        ("0\n", "The matrix '{file}' must have a row for each of the 2 nodes. Got 1 rows instead."),
        ("a,b\n", "The matrix '{file}' must have a row for each of the 2 nodes. Got 0 rows instead."),
        ("0,1\n-2,0\n", "Line 2 of '{file}': cell 1 must be a number in [0, inf). Got '-2' instead."),
        ("0,nan\n2,0\n", "Line 1 of '{file}': cell 2 must be a number in [0, inf). Got 'nan' instead."),
        ("0,1\nx,0\n", "Line 2 of '{file}': cell 1 must be a number in [0, inf). Got 'x' instead."),
        ("", "The trace '{file}' has no rows."),
    ],
)
def test_a_wrong_matrix_gives_its_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        matrix(tmp_path, text)
    assert str(caught.value) == sentence.format(file=tmp_path / "delays.csv")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            {"kind": "constant", "seconds": "-1ms"},
            "The 'seconds' of the latency constant must be a duration such as \"20ms\" in [0, inf). Got '-1ms' instead.",
        ),
        (
            {"kind": "constant", "seconds": "5 parsec"},
            "The 'seconds' of the latency constant must be a duration such as \"20ms\" in [0, inf). Got '5 parsec' instead.",
        ),
        (
            {"kind": "constant", "seconds": math.inf},
            "The 'seconds' of the latency constant must be a duration such as \"20ms\" in [0, inf). Got inf instead.",
        ),
        (
            {"kind": "uniform", "low": "20ms", "high": "10ms"},
            "The 'high' of the latency uniform must be at least its 'low', 0.02. Got 0.01 instead.",
        ),
        (
            {"kind": "log-normal", "median": 0},
            "The 'median' of the latency log-normal must be a duration such as \"20ms\" in (0, 1e+09]. Got 0 instead.",
        ),
        (
            {"kind": "per-node", "median": "1ms", "sigma": -1},
            "The 'sigma' of the latency per-node must be a number in [0, 10]. Got -1 instead.",
        ),
        (
            {"kind": "plane", "per_unit": -1},
            "The 'per_unit' of the latency plane must be a duration such as \"20ms\" in [0, inf). Got -1 instead.",
        ),
        (
            {"kind": "matrix", "file": "d.csv", "unit": "h"},
            "The 'unit' of the latency matrix must be one of 's', 'ms', 'us'. Got 'h' instead.",
        ),
    ],
)
def test_a_wrong_value_gives_its_sentence(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(Latency, table)
    assert str(caught.value) == sentence
