"""Traces in the forms of FedScale: the two speeds of devices, and the times at which clients are available."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.network.bandwidth import Bandwidth
from covey.network.churn import AvailabilityChurn, Churn
from covey.network.compute import Compute
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, build

DEVICES = {str(id): {"computation": 10.0 + id, "communication": 1000.0 * (10 + id)} for id in range(1, 9)}


def saved(folder, found, name="trace.json"):
    file = folder / name
    file.write_text(json.dumps(found))
    return file


@pytest.mark.parametrize("listed", [False, True])
def test_a_node_gets_both_speeds_of_one_device(tmp_path, listed):
    file = saved(tmp_path, list(DEVICES.values()) if listed else DEVICES)
    setting = Setting(6, seed=4)
    speeds = build(Compute, {"kind": "trace", "file": str(file), "column": "computation"}).speeds(setting)
    table = {"kind": "trace", "file": str(file), "column": "communication", "unit": "kbit/s"}
    rates = build(Bandwidth, table).rates(setting)
    assert len({*speeds}) == 6
    assert np.allclose(1000.0 / speeds, rates / 1e6)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("{", "The trace '.*' cannot be read: Expecting property name"),
        ("[]", "must be an object, or a list, of one or more objects"),
        ("3", "must be an object, or a list, of one or more objects"),
        ("[1, 2]", "must be an object, or a list, of one or more objects"),
        (
            '{"1": {"computation": 1}, "2": {"speed": 1}}',
            "entry '2' of '.*' must have the keys of the first one, computation",
        ),
        (
            '[{"computation": 1}, {"computation": -3}]',
            r"Entry 2 of '.*': the 'computation' must be a number in \(0, inf\)",
        ),
        ('[{"computation": 1}, {"computation": "fast"}]', "Entry 2 of '.*': the 'computation' must be .* Got 'fast'"),
        ('[{"speed": 1}]', "column 'computation'"),
    ],
)
def test_files_of_other_forms_are_refused(tmp_path, found, words):
    file = tmp_path / "trace.json"
    file.write_text(found)
    with pytest.raises(ConfigurationError, match=words):
        build(Compute, {"kind": "trace", "file": str(file), "column": "computation"}).speeds(Setting(2))


def churn_of(folder, entries, nodes=None, **changes):
    setting = Setting(nodes or len(entries), **changes)
    churn = build(Churn, {"kind": "availability", "file": str(saved(folder, entries))})
    churn.check(setting)
    return churn, setting


def is_active(entry, time):
    """FedScale's rule: the time in the period is within an interval of activity."""
    left = time % entry["finish_time"]
    return any(start <= left < end for start, end in zip(entry["active"], entry["inactive"], strict=True))


@given(st.lists(st.integers(0, 20), min_size=0, max_size=8).map(sorted), st.integers(1, 10))
@settings(max_examples=80, deadline=None)
def test_a_client_is_away_whenever_it_is_not_active(tmp_path_factory, times, rest):
    times = times[: len(times) // 2 * 2]
    entry = {"active": times[::2], "inactive": times[1::2], "finish_time": (times[-1] if times else 0) + rest - 1 or 1}
    churn, setting = churn_of(tmp_path_factory.mktemp("churn"), {"7": entry})
    end = 4 * entry["finish_time"]
    gaps = list(itertools.takewhile(lambda gap: gap[0] < end, itertools.islice(churn.absences(0, setting), 100)))
    assert all(start < stop for start, stop in gaps)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(gaps))
    for time in np.arange(0.5, end):
        assert is_active(entry, time) == (not any(start <= time < stop for start, stop in gaps)), time


def test_clients_that_are_always_or_never_active_end_no_loop(tmp_path):
    always = {"active": [0], "inactive": [9], "finish_time": 9}
    churn, setting = churn_of(tmp_path, [always])
    assert list(churn.absences(0, setting)) == []
    never = {"active": [3], "inactive": [3], "finish_time": 9}
    churn, setting = churn_of(tmp_path, [never])
    assert list(churn.absences(0, setting)) == [(0.0, math.inf)]


def test_nodes_without_data_are_always_present(tmp_path):
    never = {"active": [], "inactive": [], "finish_time": 9}
    churn, setting = churn_of(tmp_path, [never] * 2, nodes=3, holders=(1, 2))
    assert [list(churn.absences(node, setting)) for node in range(3)] == [[], *[[(0.0, math.inf)]] * 2]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"active": [5, 1], "inactive": [6, 7], "finish_time": 9},
            "must have increasing seconds 'active' and 'inactive'",
        ),
        ({"active": [1], "inactive": [], "finish_time": 9}, "must have increasing seconds"),
        ({"active": [1], "inactive": [10], "finish_time": 9}, "must have increasing seconds"),
        ({"active": [-1], "inactive": [1], "finish_time": 9}, "must have increasing seconds"),
        ({"active": ["1"], "inactive": [2], "finish_time": 9}, "must have increasing seconds"),
        ({"active": [0], "inactive": [0], "finish_time": 0}, "must have increasing seconds"),
        ({"duration": 3}, "The entry 'x' of .* must have increasing seconds"),
    ],
)
def test_an_entry_with_other_times_is_refused(tmp_path, entry, words):
    with pytest.raises(ConfigurationError, match=words):
        churn_of(tmp_path, {"x": entry})
    with pytest.raises(ConfigurationError, match="must have an entry for each of the 2 nodes"):
        AvailabilityChurn(file=tmp_path / "trace.json").check(Setting(2))
