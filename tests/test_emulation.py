"""The emulation against the simulation: the same graphs, the same bytes, the same models."""

import pytest
import torch

from tests.conftest import models_of, simulate, table
from tests.examples import PROGRAMS, SYNCHRONOUS
from tests.hosts import emulate

QUICK = {"latency": 0.0, "bandwidth": None, "compute": 1e6}


def assert_agree(tables, folder, count):
    world, simulated = simulate(tables)
    outcome, emulated = emulate(tables, folder, count)
    expected = models_of(world)
    assert outcome.finished
    assert torch.allclose(outcome.models, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))

    def counted(rows):
        # All but times, losses, and messages that came early, which real time may bring in another round.
        return sorted((row[0], row[1], row[4], row[5], row[6], row[8]) for row in rows)

    assert counted(emulated.rows) == counted(simulated.rows)
    totals = [{row[0]: (row[7], row[9]) for row in sorted(written.rows)} for written in (simulated, emulated)]
    assert totals[0] == totals[1]
    figures = [{(n, t, name): v for n, t, name, v in written.figures} for written in (simulated, emulated)]
    assert figures[0].keys() == figures[1].keys()
    for key, value in figures[0].items():
        assert figures[1][key] == pytest.approx(value, rel=1e-3, abs=1e-3), key


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_the_engines_agree(name, count, tmp_path):
    assert_agree(table(program=PROGRAMS[name], network=QUICK), tmp_path, count)
