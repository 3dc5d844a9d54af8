"""Three machines, each a network namespace with a host in it, and certificates between them."""

import pytest
from bench.machines import cluster, furthest, has_netem, has_tap, round_seconds, why_not

reason = why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


def test_three_machines_agree_with_the_simulation(tmp_path):
    with cluster(tmp_path) as (_, three):
        run = three.run("run", "network.latency=20ms", "rounds=10")
        simulated = three.simulate("simulated", "network.latency=20ms", "rounds=10")
    assert furthest(run, simulated) < 1e-5
    for total in ("bytes_out", "messages_out", "steps", "samples"):
        assert run.summary()["totals"][total] == simulated.summary()["totals"][total]


def test_a_latency_that_is_shaped_is_as_long_as_one_of_the_network(tmp_path):
    netem = has_netem()
    if not netem and not has_tap():
        pytest.skip("the kernel has neither netem nor TAP devices")
    with cluster(tmp_path, by_switch=not netem) as (machines, three):
        shaped = three.run("shaped", "network.latency=20ms")
        machines.delay(0.02)
        real = three.run("real")
    assert round_seconds(real) >= 0.02
    # A packet more that somebody waits for would make a round 40 ms.
    assert round_seconds(shaped) == pytest.approx(round_seconds(real), abs=0.015)
    assert furthest(shaped, real) < 1e-5
