"""Kinds that other distributions bring by an entry point."""

from importlib.metadata import EntryPoint

import pytest

from covey.decentralized.topology import Topology
from covey.parts import kinds
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import build
from tests.conftest import simulate, table
from tests.programs import own

OTHERS = [
    EntryPoint("topology/mirror", "tests.programs.own:Mirror", kinds.ENTRY_POINTS),
    EntryPoint("topology/ring", "tests.programs.own:Mirror", kinds.ENTRY_POINTS),
    EntryPoint("topology/broken", "no.such.module:Thing", kinds.ENTRY_POINTS),
    EntryPoint("nonsense/kind", "tests.programs.own:Mirror", kinds.ENTRY_POINTS),
    EntryPoint("topology/", "tests.programs.own:Mirror", kinds.ENTRY_POINTS),
]


@pytest.fixture(autouse=True)
def others(monkeypatch):
    monkeypatch.setattr(kinds, "entry_points", lambda group: [entry for entry in OTHERS if entry.group == group])
    kinds._of_others.cache_clear()
    yield
    kinds._of_others.cache_clear()


def test_a_kind_of_another_distribution_stands_where_one_of_coveys_would():
    made = build(Topology, "mirror")
    assert type(made) is own.Mirror
    world, _ = simulate(table(rounds=1, program={"kind": "gossip", "topology": "mirror"}))
    assert type(world.program.topology) is own.Mirror


def test_nobody_takes_the_name_of_one_of_coveys_own():
    assert type(build(Topology, "ring")).__module__.startswith("covey.")
    assert "nonsense" not in kinds.built_in()
    assert set(kinds.known("topology")) - set(kinds.built_in()["topology"]) == {"mirror", "broken"}


def test_they_are_listed(covey):
    code, _, err = covey("list", "topology")
    assert (code, err.count("\n")) == (2, 1)
    assert "The topology 'broken' cannot be imported: ModuleNotFoundError" in err
    code, out, _ = covey("list", "topology", "mirror")
    assert (code, "mirror" in out) == (0, True)


def test_one_that_cannot_be_imported_is_named():
    with pytest.raises(ConfigurationError, match="The topology 'broken' cannot be imported"):
        build(Topology, "broken")
