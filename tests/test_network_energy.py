"""The energy of nodes, from the parameters to the figure."""

import csv
import io
import json

import pytest
import tomli_w

from covey.network.energy import ConstantEnergy, Energy, NoEnergy
from covey.network.network import Network
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, build
from covey.runtime.runs.schema import COMMIT_COLUMNS
from tests.conftest import simulate, table
from tests.examples import Recorded, pieces_of, run_program

ENERGY = {"kind": "constant", "power": "5W", "per_byte_out": "20nJ", "per_byte_in": "10nJ"}


def test_amounts_have_units_and_a_power_alone_is_enough():
    made = build(Network, {"nodes": 2, "energy": {**ENERGY, "power": "0.3 kW", "per_byte_in": "2 µJ"}}).energy
    assert (made.power, made.per_byte_out, made.per_byte_in) == pytest.approx((300.0, 2e-8, 2e-6))
    assert build(Network, {"nodes": 2, "energy": "300mW"}).energy == ConstantEnergy(power=0.3)
    assert build(Network, {"nodes": 2}).energy == NoEnergy()
    sentence = "The 'power' of the energy constant must be a power such as \"5W\" in .0, inf.. Got '5V' instead."
    with pytest.raises(ConfigurationError, match=sentence):
        build(Network, {"nodes": 2, "energy": {"power": "5V"}})
    with pytest.raises(ConfigurationError, match="must be an energy such as"):
        build(Network, {"nodes": 2, "energy": {"per_byte_in": "5V"}})


def spent(written):
    return {(node, round): value for node, round, name, value in written.figures if name == "energy"}


@pytest.mark.parametrize("takes_time", [False, True])
def test_every_round_says_what_each_node_has_spent(takes_time):
    compute = {"kind": "stragglers", "samples_per_second": 500, "fraction": 0.25, "slowdown": 4}
    tables = table(network={"energy": ENERGY, "compute": compute}, evaluation={"takes_time": takes_time})
    world, written = simulate(tables)
    speeds = world.network.compute_speeds()
    named = [dict(zip(COMMIT_COLUMNS, row, strict=True)) for row in written.rows]
    rows = {(row["node"], row["round"]): row for row in named}
    assert len(rows) == 6 * len(world.nodes)
    for (node, round), row in rows.items():
        computed = row["samples"] + takes_time * 60 * ((round - 1) // 2)
        expected = 5.0 * computed / speeds[node] + 2e-8 * row["bytes_out"] + 1e-8 * row["bytes_in"]
        assert spent(written)[node, round] == pytest.approx(expected)
    assert spent(written).keys() == rows.keys()
    assert not spent(simulate(table())[1])


def test_what_a_program_evaluates_is_counted():
    class Evaluates(Recorded):
        async def run(self, node):
            async for _ in node.rounds():
                await node.evaluate(split="test")

    _, written, _ = run_program(Evaluates(), network={"nodes": 2, "energy": "5W", "compute": 100.0}, rounds=2)
    assert spent(written) == {(node, t): pytest.approx(5.0 * t * 60 / 100.0) for node in range(2) for t in (1, 2)}


def test_a_resumed_run_has_spent_as_much():
    tables = table(network={"energy": ENERGY}, evaluation={"takes_time": True}, checkpoint={"every": 2})
    _, written = simulate(tables)
    _, rewritten = simulate(tables, checkpoint=written.checkpoints[0][1])
    assert spent(rewritten) == {key: value for key, value in spent(written).items() if key[1] > 2}


def test_energy_is_shown_drawn_and_exported(in_folder, covey):
    (in_folder / "a.toml").write_text(tomli_w.dumps(table(network={"energy": ENERGY})))
    code, _, err = covey("run", "a.toml", "--out", "a")
    assert code == 0, err
    assert "\nenergy (J)" in covey("show", "a")[1]
    last = list(csv.DictReader(io.StringIO(covey("export", "a")[1])))[-12:]
    final = json.loads(covey("show", "a", "--json")[1])["final"]["energy"]
    assert final["max"] == max(float(row["energy"]) for row in last) > 0
    for metric in ("accuracy", "consensus_distance", "energy"):
        assert covey("plot", "a", "--metric", metric, "--against", "energy", "--out", "e.svg")[0] == 0
    assert "energy of a node, on average (J)" in (in_folder / "e.svg").read_text()
    assert "constant: " in covey("list", "energy")[1]


def test_devices_count_no_buffers_as_parameters():
    def joules(*shapes, roles=None):
        pieces = pieces_of(shapes, roles)
        energy = build(Energy, "devices")
        energy.ready(Setting(4, parameters=pieces[-1].stop, pieces=pieces))
        return [energy.per_sample(node, 100.0) for node in range(4)]

    trained = joules((50, 10), (50,))
    assert joules((50, 10), (50,), (300,), roles=["trained", "frozen", "buffer"]) == trained
    assert joules((50, 10), (350,)) == pytest.approx([850 / 550 * cost for cost in trained])
