"""Experiments that masked sharings refuse before a run begins."""

import pytest

from covey.aggregation.aggregation import Aggregation
from covey.decentralized.sharing.secure_aggregation import SecureAggregation
from covey.decentralized.topology import Ring
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from tests.masked import RANDOM, REGULAR, tables


@pytest.mark.parametrize(
    ("sharing", "changes", "said"),
    [
        ({"masks": 4}, {}, "The 'masks' of the sharing cesar must be below the number of neighbours of every node. Got 4 instead, and node 0 has 4 of them"),
        ({"masks": 0}, {}, "The 'masks' of the sharing cesar must be an int in [1, inf). Got 0 instead."),
        ({"kind": "secure-aggregation"}, {"topology": "random-matching"}, "Got 1 instead, and node 0 has 1 of them"),
        ({}, {"topology": "exponential"},
            "The sharing cesar needs an undirected graph, because neighbours pass on what they receive, but "
            "exponential is directed."
        ),
        ({}, {"topology": {"kind": "epidemic-local", "degree": 4}}, "needs an undirected graph"),
        ({"fraction": 31, "ring": 32}, {}, "The 'fraction' of the sharing cesar must be an int in [1, 30] where 'ring' is 32. Got 31 instead."),
        ({"ring": 16}, {}, "The 'ring' of the sharing cesar must be one of 64, 32. Got 16 instead."),
        ({"subset": "full"}, {}, "The sharing 'full' cannot be used here. Known: random, top-k."),
        ({"subset": {**RANDOM, "values": "pcodec"}}, {},
            "The 'values' of the subset of the sharing cesar must be 'raw': masked values are noise, which cannot be "
            "compressed. Got 'pcodec' instead."
        ),
        ({"masking": False}, {"engine": {"kind": "emulation"}}, "The 'masking' of the sharing cesar must be true where nodes send real messages. Got False instead."),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_beforehand(sharing, changes, said):
    changes = dict(changes)
    made = tables(sharing, changes.pop("topology", REGULAR))
    made.update(changes)
    with pytest.raises(ConfigurationError) as caught:
        prepare(Experiment.from_table(made))
    assert said in str(caught.value)


def test_an_aggregation_without_weights_is_refused():
    class Median(Aggregation):
        kind = "median"

    sharing = SecureAggregation()
    with pytest.raises(ConfigurationError, match=r"needs weights that are known beforehand.*instead of '.*Median'"):
        sharing.check_with(Ring().ready(Setting(4)), Median())
