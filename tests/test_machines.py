"""Three machines, each a network namespace with a host in it, and certificates between them."""

import tomllib

import pytest
from bench.machines import EXPERIMENT, cluster, furthest, has_netem, has_tap, round_seconds, why_not

import covey

reason = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(reason is not None, reason=str(reason))]


def test_three_machines_agree_with_the_simulation_and_a_shaped_latency_is_as_long_as_a_real_one(tmp_path):
    netem, tap = has_netem(), has_tap()
    with cluster(tmp_path, by_switch=tap and not netem) as (machines, three):
        shaped, real = three.run("shaped", "network.latency=20ms"), None
        if netem or tap:
            machines.delay(0.02)
            real = three.run("real")
    tables = tomllib.loads(EXPERIMENT)
    tables["network"]["latency"] = "20ms"
    simulated = covey.run({**tables, "engine": "simulation"}, out=tmp_path / "simulated")
    assert furthest(shaped, simulated) < 1e-5
    for total in ("bytes_out", "messages_out", "steps", "samples"):
        assert shaped.summary()["totals"][total] == simulated.summary()["totals"][total]
    if real is not None:  # Else the kernel has neither netem nor TAP devices.
        assert round_seconds(real) >= 0.02
        # A packet more that a node waits for would make a round 40 ms.
        assert round_seconds(shaped) == pytest.approx(round_seconds(real), abs=0.015)
        assert furthest(shaped, real) < 1e-5
