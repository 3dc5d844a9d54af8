"""Bandwidth and training speed: their distributions, their traces, and their errors."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.network import Bandwidth, Compute, Network
from covey.network.bandwidth import ConstantBandwidth
from covey.network.compute import ConstantCompute
from covey.parts.conversion import coerce
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, build, fields_of, to_table

DEVICES = "device,bandwidth,up,ms_per_sample,samples_per_second\n" + "".join(
    f"d{i},{i * 1000},{i * 100},{i},{1000 / i}\n" for i in range(1, 9)
)


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    file = tmp_path / "devices.csv"
    file.write_text(DEVICES)
    return file


@pytest.mark.parametrize(
    ("short", "rate"), [("100Mbit/s", 1e8), ("12.5MB/s", 1e8), ("1Gbps", 1e9), (1e6, 1e6), (8, 8.0), ("56kbit/s", 56e3)]
)
def test_a_rate_alone_is_a_constant_bandwidth(short: object, rate: float) -> None:
    hint, limits = fields_of(Network)["bandwidth"]
    made = coerce(short, hint, limits, "bandwidth", "network")
    assert made == ConstantBandwidth(rate=rate)
    assert made.rates(Setting(nodes=3)).tolist() == [rate] * 3


def test_a_number_alone_is_a_constant_speed() -> None:
    hint, limits = fields_of(Network)["compute"]
    assert coerce(250, hint, limits, "compute", "network") == ConstantCompute(samples_per_second=250.0)


@pytest.mark.parametrize(
    ("family", "table"),
    [
        (Bandwidth, {"kind": "constant", "rate": "1Mbit/s"}),
        (Bandwidth, {"kind": "log-normal", "median": "1Mbit/s", "sigma": 0.7}),
        (Bandwidth, {"kind": "stragglers", "rate": "1Mbit/s", "fraction": 0.2, "slowdown": 5}),
        (Bandwidth, {"kind": "trace", "file": "devices.csv", "column": "up", "unit": "kbit/s"}),
        (Compute, {"kind": "constant", "samples_per_second": 10}),
        (Compute, {"kind": "log-normal", "median": 10, "sigma": 0.7}),
        (Compute, {"kind": "stragglers", "samples_per_second": 10, "fraction": 0.2, "slowdown": 5}),
        (Compute, {"kind": "trace", "file": "devices.csv", "column": "ms_per_sample"}),
    ],
)
def test_every_kind_survives_a_round_trip(family: type[Bandwidth] | type[Compute], table: dict[str, Any]) -> None:
    made = build(family, table)
    assert to_table(made).keys() == table.keys()
    assert build(family, to_table(made)) == made


@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_log_normal_draws_have_their_median_and_spread(sigma: float) -> None:
    setting = Setting(nodes=4000, seed=3)
    bandwidth = build(Bandwidth, {"kind": "log-normal", "median": 5e6, "sigma": sigma}).rates(setting)
    speed = build(Compute, {"kind": "log-normal", "median": 200, "sigma": sigma}).speeds(setting)
    assert np.median(bandwidth) == pytest.approx(5e6, rel=0.05)
    assert np.median(speed) == pytest.approx(200, rel=0.05)
    assert np.log(bandwidth).std() == pytest.approx(sigma, rel=0.05, abs=1e-9)
    assert np.log(speed).std() == pytest.approx(sigma, rel=0.05, abs=1e-9)
    if sigma:
        # Draws of their own: a node with a fast link is no faster in training.
        assert abs(np.corrcoef(np.log(bandwidth), np.log(speed))[0, 1]) < 0.06


def test_the_seed_decides_what_is_drawn() -> None:
    part = build(Bandwidth, {"kind": "log-normal", "median": 5e6})
    first, again, other = (part.rates(Setting(nodes=20, seed=seed)).tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(("fraction", "slow"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.5, 5), (1.0, 10)])
def test_exactly_the_stated_share_straggles(fraction: float, slow: int) -> None:
    part = build(Compute, {"kind": "stragglers", "samples_per_second": 100, "fraction": fraction, "slowdown": 4})
    assert sorted(part.speeds(Setting(nodes=10)).tolist()) == [25.0] * slow + [100.0] * (10 - slow)
    links = build(Bandwidth, {"kind": "stragglers", "rate": "100kbit/s", "fraction": fraction, "slowdown": 4})
    assert sorted(links.rates(Setting(nodes=10)).tolist()) == [25e3] * slow + [100e3] * (10 - slow)


def test_who_straggles_depends_on_the_seed() -> None:
    part = build(Compute, {"kind": "stragglers", "samples_per_second": 100, "fraction": 0.5, "slowdown": 4})
    first, again, other = (part.speeds(Setting(nodes=40, seed=seed)).tolist() for seed in (0, 0, 1))
    assert first == again != other
    links = build(Bandwidth, {"kind": "stragglers", "rate": 100, "fraction": 0.5, "slowdown": 4})
    # A draw of its own: who is slow in training has no slower link for that.
    assert links.rates(Setting(nodes=40)).tolist() != first


def test_a_trace_gives_every_node_a_device_of_its_own(devices: Path) -> None:
    table = {"kind": "trace", "file": str(devices), "unit": "kbit/s"}
    all_of_them = build(Bandwidth, table).rates(Setting(nodes=8))
    assert sorted(all_of_them.tolist()) == [i * 1e6 for i in range(1, 9)]
    some = build(Bandwidth, table).rates(Setting(nodes=5))
    assert len(set(some.tolist())) == 5
    assert some.tolist() == all_of_them[:5].tolist()
    other = build(Bandwidth, table).rates(Setting(nodes=8, seed=1))
    assert other.tolist() != all_of_them.tolist()


def test_a_node_is_the_same_device_in_all_that_it_reads(devices: Path) -> None:
    trace = {"kind": "trace", "file": str(devices)}
    setting = Setting(nodes=6, seed=5)
    down = build(Bandwidth, trace).rates(setting)
    up = build(Bandwidth, {**trace, "column": "up"}).rates(setting)
    speed = build(Compute, trace).speeds(setting)
    slowness = build(Compute, {**trace, "column": "ms_per_sample"}).speeds(setting)
    assert (down / up).tolist() == [10.0] * 6
    assert speed == pytest.approx(1e6 / down)
    assert speed == pytest.approx(slowness)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "bandwidth\n1\n2\n",
            "The trace '{file}' must have a row for each of the 3 nodes. Got 2 rows instead.",
        ),
        ("bandwith\n1\n", "Unknown column 'bandwidth' of '{file}'; did you mean 'bandwith'? Known: bandwith."),
        (
            "id,bandwidth\n\n0,1\n1,-4\n",
            "Line 4 of '{file}': the 'bandwidth' must be a number in (0, inf). Got '-4' instead.",
        ),
        ("bandwidth\n0\n", "Line 2 of '{file}': the 'bandwidth' must be a number in (0, inf). Got '0' instead."),
        ("bandwidth\ninf\n", "Line 2 of '{file}': the 'bandwidth' must be a number in (0, inf). Got 'inf' instead."),
        ("bandwidth\nfast\n", "Line 2 of '{file}': the 'bandwidth' must be a number in (0, inf). Got 'fast' instead."),
        ("id,bandwidth\n0\n", "Line 2 of '{file}' must have 2 cells, like its header. Got 1 instead."),
        (
            "bandwidth,bandwidth\n1,2\n",
            "The header of '{file}' must not repeat a column. Got ['bandwidth', 'bandwidth']",
        ),
        ("bandwidth\n", "The trace '{file}' has no rows after its header."),
        ("\n\n", "The trace '{file}' has no rows."),
    ],
)
def test_a_wrong_trace_gives_its_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(text)
    network = build(Network, {"nodes": 3, "bandwidth": {"kind": "trace", "file": str(file)}})
    with pytest.raises(ConfigurationError) as caught:
        network.ready(Setting(nodes=3))
    assert str(caught.value).startswith(sentence.format(file=file))


def test_a_trace_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    absent = build(Bandwidth, {"kind": "trace", "file": str(tmp_path / "absent.csv")})
    with pytest.raises(ConfigurationError, match=r"absent.csv' cannot be read: No such file or directory\."):
        absent.rates(Setting(nodes=1))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    binary = build(Bandwidth, {"kind": "trace", "file": str(tmp_path / "binary.csv")})
    with pytest.raises(ConfigurationError, match=r"binary.csv' cannot be read: .*decode"):
        binary.rates(Setting(nodes=1))


RATE = 'a rate such as "100Mbit/s" in (0, inf)'


@pytest.mark.parametrize(
    ("family", "table", "sentence"),
    [
        (
            Bandwidth,
            {"kind": "constant", "rate": 0},
            f"The 'rate' of the bandwidth constant must be {RATE}. Got 0 instead.",
        ),
        (
            Bandwidth,
            {"kind": "constant", "rate": "-1kB/s"},
            f"The 'rate' of the bandwidth constant must be {RATE}. Got '-1kB/s'",
        ),
        (
            Bandwidth,
            {"kind": "constant", "rate": "1km/h"},
            f"The 'rate' of the bandwidth constant must be {RATE}. Got '1km/h'",
        ),
        (
            Bandwidth,
            {"kind": "log-normal", "median": math.inf},
            f"The 'median' of the bandwidth log-normal must be {RATE.replace('inf)', '1e+15]')}. Got inf",
        ),
        (
            Bandwidth,
            {"kind": "trace", "file": "d.csv", "unit": "bauds"},
            "The 'unit' of the bandwidth trace must be one of 'bit/s', 'kbit/s'",
        ),
        (
            Compute,
            {"kind": "constant", "samples_per_second": 0},
            "The 'samples_per_second' of the compute constant must be a number in (0, inf). Got 0 instead.",
        ),
        (
            Compute,
            {"kind": "stragglers", "samples_per_second": 1, "fraction": 1.5, "slowdown": 2},
            "The 'fraction' of the compute stragglers must be a number in [0, 1]. Got 1.5 instead.",
        ),
        (
            Compute,
            {"kind": "stragglers", "samples_per_second": 1, "fraction": 0.5, "slowdown": 0.5},
            "The 'slowdown' of the compute stragglers must be a number in [1, inf). Got 0.5 instead.",
        ),
        (
            Compute,
            {"kind": "trace", "file": "d.csv", "column": "hours"},
            "The 'column' of the compute trace must be one of 'samples_per_second', 'ms_per_sample', 'computation'. Got 'hours' instead.",
        ),
        (
            Bandwidth,
            "20 parsec",
            "Unknown bandwidth '20 parsec', which is neither a kind nor a rate such as \"100Mbit/s\". Known: constant,",
        ),
        (Compute, "fast", "Unknown compute 'fast', which is neither a kind nor a number. Known: constant,"),
        (
            Compute,
            {"kind": "log-normal"},
            "The 'median' of the compute log-normal is missing: it must be a number in (0, 1e+15].",
        ),
    ],
)
def test_a_wrong_value_gives_its_sentence(
    family: type[Bandwidth] | type[Compute], table: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(family, table)
    assert str(caught.value).startswith(sentence)
