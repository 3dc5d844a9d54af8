"""The network as a whole: given values, those of presets, and the errors of both."""

import math
from typing import Any

import numpy as np
import pytest

from covey.network import Network
from covey.network.bandwidth import ConstantBandwidth
from covey.network.latency import ConstantLatency
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, build, to_table


def network(**table: Any) -> Network:
    return build(Network, {"nodes": 4, **table})


def prepared(seed: int = 0, **table: Any) -> Network:
    made = network(**table)
    made.ready(Setting(nodes=made.nodes, seed=seed))
    return made


def test_without_a_preset_only_training_takes_time() -> None:
    bare = prepared()
    assert bare.latency.uniform_value() == 0.0
    assert bare.uplink_rates() is None
    assert bare.downlink_rates() is None
    assert bare.compute_speeds().tolist() == [1000.0] * 4
    assert bare.loss == 0.0
    assert not bare.churn.has_churn
    assert bare.queue == "fifo"


@pytest.mark.parametrize("preset", ["none", "lan", "wan", "mobile"])
def test_every_preset_survives_a_round_trip(preset: str) -> None:
    made = network(preset=preset)
    table = to_table(made)
    again = build(Network, table)
    assert again == made
    assert to_table(again) == table


def test_presets_order_networks_as_their_names_say() -> None:
    lan, wan, mobile = (prepared(nodes=200, preset=name) for name in ("lan", "wan", "mobile"))
    pairs = [(i, i + 100) for i in range(100)]
    delays = [np.median([made.latency.between(*pair) for pair in pairs]) for made in (lan, mobile, wan)]
    assert delays == sorted(delays)
    uplinks = [float(np.median(rates)) for made in (mobile, wan, lan) if (rates := made.uplink_rates()) is not None]
    assert len(uplinks) == 3
    assert uplinks == sorted(uplinks)
    down, up = mobile.downlink_rates(), mobile.uplink_rates()
    assert down is not None
    assert up is not None
    assert down / up == pytest.approx(41.54 / 10.42)  # who is fast one way is as fast the other


def test_what_is_given_goes_before_the_preset() -> None:
    made = prepared(preset="lan", latency="3ms", loss=0.1)
    assert made.latency == ConstantLatency(seconds=0.003)
    assert made.loss == 0.1
    assert made.uplink == ConstantBandwidth(rate=1e9)


def test_bandwidth_is_for_both_directions_and_replaces_both_of_a_preset() -> None:
    made = prepared(preset="wan", bandwidth="12.5MB/s")
    up, down = made.uplink_rates(), made.downlink_rates()
    assert up is not None
    assert down is not None
    assert up.tolist() == down.tolist() == [1e8] * 4
    assert build(Network, to_table(made)) == made


@pytest.mark.parametrize(("direction", "rates"), [("uplink", (1e6, 1e7)), ("downlink", (1e7, 1e6))])
def test_one_direction_goes_before_bandwidth(direction: str, rates: tuple[float, float]) -> None:
    made = prepared(bandwidth="10Mbit/s", **{direction: "1Mbit/s"})
    up, down = made.uplink_rates(), made.downlink_rates()
    assert up is not None
    assert down is not None
    assert (up[0], down[0]) == rates


def test_infinite_bandwidth_lifts_the_limits_of_a_preset() -> None:
    made = prepared(preset="lan", bandwidth=math.inf)
    assert made.uplink_rates() is None
    assert made.downlink_rates() is None


def test_one_direction_may_be_limited_alone() -> None:
    made = prepared(uplink="1Mbit/s")
    assert made.uplink_rates() is not None
    assert made.downlink_rates() is None


def test_the_seed_decides_what_is_drawn() -> None:
    first, again, other = (prepared(seed, nodes=50, preset="mobile") for seed in (1, 1, 2))
    assert first.uplink_rates().tolist() == again.uplink_rates().tolist()  # type: ignore[union-attr]
    assert first.compute_speeds().tolist() == again.compute_speeds().tolist()
    assert first.latency.between(3, 7) == again.latency.between(3, 7)
    assert first.uplink_rates().tolist() != other.uplink_rates().tolist()  # type: ignore[union-attr]
    assert first.compute_speeds().tolist() != other.compute_speeds().tolist()
    assert first.latency.between(3, 7) != other.latency.between(3, 7)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"nodes": 0}, "The 'nodes' of the network must be an int in [1, 10000000]. Got 0 instead."),
        (
            {"preset": "moon"},
            "The 'preset' of the network must be one of 'none', 'lan', 'wan', 'mobile'. Got 'moon' instead.",
        ),
        ({"preset": ["lan"]}, "The 'preset' of the network must be one of 'none', 'lan', 'wan', 'mobile'. Got ['lan']"),
        ({"loss": 1.0}, "The 'loss' of the network must be a number in [0, 1). Got 1.0 instead."),
        ({"loss": -0.1}, "The 'loss' of the network must be a number in [0, 1). Got -0.1 instead."),
        ({"queue": "lifo"}, "The 'queue' of the network must be one of 'fifo', 'fair'. Got 'lifo' instead."),
        (
            {"latency": True},
            "The 'latency' of the network must be a latency or a duration such as \"20ms\" in [0, inf). Got True",
        ),
        (
            {"latency": "20 parsec"},
            "Unknown latency '20 parsec', which is neither a kind nor a duration such as \"20ms\".",
        ),
        (
            {"latency": "plain"},
            "Unknown latency 'plain', which is neither a kind nor a duration such as \"20ms\"; did you mean 'plane'?",
        ),
        ({"bandwith": "1Mbit/s"}, "Unknown key 'bandwith' of the network; did you mean 'bandwidth'?"),
    ],
)
def test_a_wrong_value_gives_its_sentence(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        network(**table)
    assert str(caught.value).startswith(sentence)


def test_a_setting_of_another_number_of_nodes_is_refused() -> None:
    sentence = "The 'nodes' of the network must be those of the setting, 5. Got 4 instead."
    with pytest.raises(ConfigurationError, match=sentence):
        network().ready(Setting(nodes=5))


def test_the_number_of_nodes_has_no_default() -> None:
    with pytest.raises(ConfigurationError, match="The 'nodes' of the network is missing"):
        build(Network, {})
