"""The devices of nodes: features, speeds, durations, energy, in both engines."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.network import Network
from covey.network.devices import Phones
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, build
from covey.runtime.runs.schema import COMMIT_COLUMNS
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS, Recorded, run_program
from tests.hosts import emulate

ROWS = "device,samples_per_second,bandwidth,heat,power_w,battery_wh,maker\n" + "".join(
    f"m{i % 2},{100 * (i + 1)},{10**6 * (i + 1)},{i},{i + 1},10,x{i}\n" for i in range(6)
)


@pytest.fixture
def csv(tmp_path):
    file = tmp_path / "devices.csv"
    file.write_text(ROWS)
    return str(file)


def network(**tables):
    made = build(Network, {"nodes": 4, **tables})
    made.check(Setting(nodes=4, seed=7))
    return made


def test_a_row_of_a_file_is_one_device_for_features_speed_power_and_bandwidth(csv):
    trace = {"kind": "trace", "file": csv}
    made = network(devices=trace, bandwidth=trace, energy="device-power")
    apart = network(compute=trace)
    speeds = made.compute_speeds().tolist()
    assert speeds == apart.compute_speeds().tolist()
    assert sorted(speeds) != speeds or len(set(speeds)) == 4
    for node, speed in enumerate(speeds):
        row = speed / 100
        found = made.devices.features(node, 0.0)
        assert found == {
            "model": f"m{int(row - 1) % 2}",
            "samples_per_second": speed,
            "bandwidth": 1e6 * row,
            "heat": row - 1,
            "power_w": row,
            "battery_wh": 10.0,
        }
        assert made.uplink_rates()[node] == 1e6 * row
        assert made.energy.per_sample(node, speed) == pytest.approx(row / speed)
        with pytest.raises(TypeError):
            found["heat"] = 3.0
    assert made.energy.batteries(4).tolist() == [36000.0] * 4


def test_another_speed_or_preset_may_stand_beside_devices(csv):
    trace = {"kind": "trace", "file": csv}
    assert network(devices=trace, compute=50).compute_speeds().tolist() == [50.0] * 4
    assert network(devices=trace, preset="mobile").compute.kind == "devices"
    assert network(devices="phones").compute.kind == "devices"
    assert network().devices is None


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"compute": "devices"}, "The compute devices needs a network with 'devices'. Got none."),
        ({"energy": "device-power"}, "The energy device-power needs a network with 'devices'. Got none."),
        ({"devices": {"kind": "phones", "period": 0}}, "The 'period' of the devices phones must be a duration"),
        ({"devices": {"kind": "phones", "noise": -1}}, "The 'noise' of the devices phones must be a number in"),
        ({"devices": {"kind": "phones", "fixed": "-1s"}}, "The 'fixed' of the devices phones must be a duration"),
    ],
)
def test_wrong_devices_are_refused(tables, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        network(**tables)


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        ("device,heat\na,1\n" * 1, {}, "must have a row for each of the 4 nodes. Got 1 rows"),
        ("heat\n1\n2\n3\n4\n", {}, "has no column 'samples_per_second' or 'ms_per_sample': add one, or set 'compute'"),
        (
            "heat\n1\nwarm\n3\n4\n",
            {},
            "Line 3 of .*: the 'heat' must be a finite number, as in the first row. Got 'warm'",
        ),
        ("ms_per_sample\n1\n2\n0\n4\n", {}, r"the 'ms_per_sample' must be a number in \(0, inf\). Got '0'"),
        ("ms_per_sample\n1\n2\n3\n4\n", {"energy": "device-power"}, "needs a column 'power_w' of the devices trace"),
    ],
)
def test_a_wrong_file_is_refused(text, more, sentence, tmp_path):
    (tmp_path / "wrong.csv").write_text(text)
    with pytest.raises(ConfigurationError, match=sentence):
        network(devices={"kind": "trace", "file": str(tmp_path / "wrong.csv")}, **more)


@given(seed=st.integers(0, 1000), drift=st.floats(0, 1), noise=st.floats(0, 1), now=st.floats(0, 1e5))
@settings(max_examples=50, deadline=None)
def test_a_duration_is_a_function_of_node_time_and_training(seed, drift, noise, now):
    made, again = (
        Phones(fixed=0.5, drift=drift, period=10.0, noise=noise).ready(Setting(nodes=3, seed=seed)) for _ in range(2)
    )
    keys = [(node, training) for node in range(3) for training in ((0, 1), (0, 2), (1, 1), None)]
    found = {key: made.seconds(key[0], 2.0, now, key[1]) for key in keys}
    assert found == {key: again.seconds(key[0], 2.0, now, key[1]) for key in reversed(keys)}
    for node in range(3):
        slow = math.exp(drift * made.change(node, now))
        assert found[node, None] == pytest.approx(2.0 * slow)
        if not noise:
            assert found[node, (0, 1)] == pytest.approx(0.5 + 2.0 * slow)
    # No work takes the fixed time alone.
    assert made.seconds(0, 0.0, now, (0, 1)) == 0.5


def test_a_drift_is_standard_normal_continuous_and_soon_forgotten():
    made = Phones(drift=0.1, period=10.0).ready(Setting(nodes=400, seed=1))
    for now in (0.0, 3.0, 5.0, 1e4):
        values = [made.change(node, now) for node in range(400)]
        assert abs(statistics.fmean(values)) < 0.2
        assert 0.9 < statistics.stdev(values) < 1.1
    assert made.change(5, 9.999999) == pytest.approx(made.change(5, 10.000001), abs=1e-4)
    pairs = [(made.change(node, 5.0), made.change(node, 25.0)) for node in range(400)]
    assert abs(statistics.correlation(*zip(*pairs, strict=True))) < 0.2
    noises = [
        math.log(Phones(noise=0.3).ready(Setting(nodes=1, seed=s)).seconds(0, 1.0, 0.0, (4, 2))) for s in range(400)
    ]
    assert 0.26 < statistics.stdev(noises) < 0.34


def test_the_time_of_a_sample_is_linear_in_the_features_of_phones_of_a_model():
    made = Phones(count=2, spread=0.3).ready(Setting(nodes=40, seed=2))
    for model in set(made.models()):
        nodes = [node for node in range(40) if made.models()[node] == model]
        own = [made.features(node, 0.0) for node in nodes]
        assert len({(f["total_memory_gb"], f["max_frequency_ghz"], f["power_w"]) for f in own}) == 1
        taken = [1 - f["available_memory_gb"] / f["total_memory_gb"] for f in own]
        factors = [1 + 0.025 * (f["temperature_c"] - 25) + 0.5 * t for f, t in zip(own, taken, strict=True)]
        slopes = [1 / made.speeds()[node] / factor for node, factor in zip(nodes, factors, strict=True)]
        assert max(slopes) == pytest.approx(min(slopes))
    warm = Phones(drift=0.2, period=5.0).ready(Setting(nodes=1, seed=2))
    colder, warmer = sorted((0.0, 5.0, 10.0, 15.0), key=lambda now: warm.change(0, now))[::3]
    assert warm.features(0, colder)["temperature_c"] < warm.features(0, warmer)["temperature_c"]
    assert warm.seconds(0, 1.0, colder, None) < warm.seconds(0, 1.0, warmer, None)


class Metered(Recorded):
    """Nodes that train twice a round and note what they see of themselves."""

    async def run(self, node):
        async for t in node.rounds():
            for _ in range(2):
                began, before, device = node.now, node.spent, dict(node.device)
                update = await node.train()
                self.seen.append((node.id, t, update.samples, node.now - began, node.spent - before, device))


PHONES = {"kind": "phones", "fixed": "30ms", "drift": 0.3, "period": "200ms", "noise": 0.2}


def test_a_node_sees_its_own_device_and_its_joules_are_power_times_time():
    world, written, seen = run_program(
        Metered(), network={"nodes": 3, "devices": PHONES, "energy": "device-power"}, rounds=3, task=BLOBS
    )
    assert len(seen) == 18
    assert len({round(seconds, 9) for *_, seconds, _, _ in seen}) == 18
    for id, _, samples, seconds, joules, device in seen:
        assert device["model"] == world.network.devices.models()[id]
        assert joules == pytest.approx(device["power_w"] * seconds)
        usual = samples / world.network.compute_speeds()[id]
        assert 0.03 + 0.2 * usual < seconds < 0.03 + 5 * usual
    energies = {figure[0]: figure[3] for figure in written.figures if figure[1:3] == (3, "energy")}
    for id in range(3):
        assert energies[id] == pytest.approx(sum(row[4] for row in seen if row[0] == id))


def test_a_node_without_devices_or_energy_sees_nothing():
    _, _, seen = run_program(Metered(), network={"nodes": 2}, rounds=1, task=BLOBS)
    assert [row[4:] for row in seen] == [(0.0, {})] * 4


def test_a_resumed_run_continues_with_the_same_durations_and_joules():
    tables = table(task=BLOBS, network={"devices": PHONES, "energy": "device-power"}, rounds=4, checkpoint={"every": 2})
    world, written = simulate(tables)
    ((_, checkpoint),) = written.checkpoints
    resumed, again = simulate(tables, checkpoint=checkpoint)
    assert models_of(resumed).equal(models_of(world))
    assert [row for row in written.rows if row[1] > 2] == again.rows
    later = [figure for figure in written.figures if figure[1] > 2 and figure[2] == "energy"]
    assert later == [figure for figure in again.figures if figure[2] == "energy"] != []


def test_hosts_take_the_same_time_and_energy(tmp_path):
    devices = {**PHONES, "drift": 0.0, "samples_per_second": 2000}
    tables = table(task=BLOBS, network={"nodes": 4, "devices": devices, "energy": "device-power"}, rounds=2)
    outcome, written = emulate({**tables, "engine": {"kind": "emulation", "nodes_per_process": 2}}, tmp_path)
    assert outcome.finished
    _, simulated = simulate(tables)

    def last(of):
        column = COMMIT_COLUMNS.index("training_seconds")
        energy = {figure[0]: figure[3] for figure in of.figures if figure[1:3] == (2, "energy")}
        return energy, {row[0]: row[column] for row in of.rows if row[1] == 2}

    (real, times), (virtual, wanted) = last(written), last(simulated)
    assert real == pytest.approx(virtual)
    assert all(times[node] >= wanted[node] - 1e-6 for node in wanted)


def test_check_states_the_devices(covey, in_folder):
    import tomli_w

    tables = table(task=BLOBS, network={"devices": {**PHONES, "count": 1}, "energy": "device-power"})
    (in_folder / "phones.toml").write_text(tomli_w.dumps(tables))
    code, out, _ = covey("check", "phones.toml")
    assert code == 0
    assert "1 models with the features available_memory_gb, total_memory_gb, temperature_c, max_frequency_ghz" in out
    assert "a training takes 0.03 s beside its samples; drift 0.3, noise 0.2" in out
    assert "J per training of a node" in out
