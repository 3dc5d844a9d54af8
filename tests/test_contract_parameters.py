"""One test for every registered kind: its declaration, its description, and the checks of its parameters."""

import copy
import dataclasses
import math
import re
import types
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.api.listing import described
from covey.learning.task import LearningTask
from covey.network import Network
from covey.parts import kinds
from covey.parts.conversion import expectation
from covey.parts.errors import ConfigurationError
from covey.parts.limits import Limits
from covey.parts.parameters import MISSING, Part, Setting, build, default_of, fields_of, param, to_table
from covey.parts.quantities import Quantity
from covey.runtime.experiment import Checkpoint, Evaluation, Experiment, Output
from tests.examples import NODES, family_class

ALL = [(family, kind) for family, known in kinds.built_in().items() for kind in known]
REQUIRED = {
    "degree": 2,
    "every": 2,
    "probability": 0.5,
    "topology": "ring",
    "file": "some.csv",
    "per_node": 2,
    "rate": "1Mbit/s",
    "median": 1.0,
    "sigma": 0.5,
    "low": 0.001,
    "high": 0.002,
    "seconds": 0.1,
    "samples_per_second": 100.0,
    "fraction": 0.1,
    "slowdown": 10.0,
    "mean_up": "10s",
    "mean_down": "1s",
    "rounds": 10,
    "base": 0.001,
    "span": 0.01,
    "lasts": "1s",
    "compressor": "fp16",
    "up": "fp16",
    "subset": {"kind": "random", "budget": 0.5},
    "dataset": "digits",
    "path": "some.csv",
    "target": "label",
    "shape": [8],
    "digest": "sha256:0",
    "model": "logistic",
    "profiles": "communities",
    "of": {"kind": "sgd", "momentum": 0.9},
}


def example(family: str, kind: str, **changes: object) -> Part:
    """A part of a kind with its required parameters filled in."""
    cls = kinds.load(family, kind)
    table: dict[str, object] = {
        name: REQUIRED.get(name, 1) for name in fields_of(cls) if default_of(cls, name) is MISSING
    }
    return build(family_class(cls), {"kind": kind, **table, **changes})


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_every_kind_says_its_name_what_it_is_and_what_its_parameters_are(family, kind):
    cls = kinds.load(family, kind)
    assert cls.family == family
    assert cls.kind == kind
    entry = described(family, kind)
    assert len(entry["summary"]) > 10
    assert entry["summary"].endswith(".")
    for parameter in entry["parameters"]:
        assert parameter["doc"].endswith("."), parameter["name"]
        assert parameter["is"] != "a value" or parameter["name"] == "graph"


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_every_kind_survives_the_way_to_a_file_and_back(family, kind):
    part = example(family, kind)
    assert build(family_class(type(part)), to_table(part)) == part


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_every_kind_refuses_what_it_does_not_know(family, kind):
    named = re.escape(kinds.load(family, kind).named())
    with pytest.raises(ConfigurationError, match=rf"Unknown key 'nonsense' of {named}"):
        example(family, kind, nonsense=1)


def wrong_values(hint: typing.Any, limits: Limits) -> list[object]:
    """Values that a parameter must refuse."""
    origin = typing.get_origin(hint)
    if limits.choices or origin is typing.Literal:
        return ["nonsense"]
    bare = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    if type(None) in typing.get_args(hint) and len(bare) == 1:
        return wrong_values(bare[0], limits)
    if origin in (typing.Union, types.UnionType):
        first, *others = [wrong_values(option, limits) for option in bare]
        return [value for value in first if all(value in other for other in others)]
    quantity = origin is typing.Annotated and isinstance(hint.__metadata__[0], Quantity)
    if hint in (int, float) or quantity:
        wrong: list[object] = [True, [], "12 bananas"]
        if hint is not int:
            wrong.append(math.nan)
        low = limits.ge if limits.ge is not None else limits.gt
        if isinstance(low, int | float):
            wrong.append(low - 1 if hint is int else low - 0.5)
        if isinstance(limits.gt, int | float):
            wrong.append(limits.gt)
        high = limits.le if limits.le is not None else limits.lt
        if isinstance(high, int | float) and high != float("inf"):
            wrong.append(high + 1 if hint is int else high + 0.5)
        return wrong
    if origin in (list, dict) or hint is dict:
        return [3, "nonsense"]
    if isinstance(hint, type) and issubclass(hint, Part):
        return [[]]
    return {bool: [1, "yes"], str: [3], Path: [3]}.get(hint, [])


CASES = [
    (family, kind, name, value)
    for family, kind in ALL
    for name, (hint, limits) in fields_of(kinds.load(family, kind)).items()
    for value in wrong_values(hint, limits)
]


@pytest.mark.parametrize(("family", "kind", "name", "value"), CASES)
def test_every_parameter_refuses_a_wrong_value_in_the_house_sentence(family, kind, name, value):
    hint, limits = fields_of(kinds.load(family, kind))[name]
    with pytest.raises(ConfigurationError) as caught:
        example(family, kind, **{name: value})
    expected = f"The '{name}' of {kinds.load(family, kind).named()} must be {expectation(hint, limits)}. Got {value!r} instead."
    assert str(caught.value).startswith(expected)


SECTIONS: dict[type[Part], dict[str, typing.Any]] = {
    Experiment: {"program": "fedavg", "task": {"dataset": "digits", "model": "logistic"}, "network": {"nodes": 3}},
    LearningTask: {"dataset": "digits", "model": "logistic"},
    Network: {"nodes": 3},
    Evaluation: {},
    Checkpoint: {},
    Output: {},
}
"""The parts of an experiment file of which there is one kind, with what they require."""


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (section, name, value)
        for section in SECTIONS
        for name, (hint, limits) in fields_of(section).items()
        for value in wrong_values(hint, limits)
    ],
)
def test_every_key_of_a_section_refuses_a_wrong_value_in_the_house_sentence(section, name, value):
    hint, limits = fields_of(section)[name]
    with pytest.raises(ConfigurationError) as caught:
        build(section, {**SECTIONS[section], name: value})
    expected = f"The '{name}' of {section.named()} must be {expectation(hint, limits)}. Got {value!r} instead."
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("family", "kind", "name"),
    [
        (family, kind, name)
        for family, kind in ALL
        for name, (_, limits) in fields_of(kinds.load(family, kind)).items()
        if limits.depends_on_nodes
    ],
)
def test_a_bound_that_is_the_number_of_nodes_is_checked_against_it(family, kind, name):
    hint, limits = fields_of(kinds.load(family, kind))[name]
    value = NODES + 1 if limits.le == "nodes" else NODES
    with pytest.raises(ConfigurationError) as caught:
        example(family, kind, **{name: value}).ready(Setting(NODES))
    expected = f"must be {expectation(hint, limits)}. Got {value} instead (nodes is {NODES})."
    assert str(caught.value) == f"The '{name}' of {kinds.load(family, kind).named()} {expected}"


def test_a_part_of_the_users_own_needs_no_registering(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(
        "import torch\n"
        "from covey.decentralized.topology import Ring\n"
        "from covey.parts.parameters import param\n"
        "class Mine(Ring):\n"
        "    '''A ring of mine.'''\n"
        "    colour: str = param('Its colour.', default='red')\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(2, 3)\n"
        "class Stranger: pass\n"
    )
    (tmp_path / "broken_parts.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from covey.decentralized.topology import Topology
    from covey.learning.models import Model

    mine = build(Topology, {"kind": "my_parts:Mine", "colour": "blue"})
    assert to_table(mine) == {"kind": "my_parts:Mine", "colour": "blue"}
    assert build(Model, "my_parts:Net").title() == "my_parts:Net"
    for name, message in {
        "my_parts:Yours": "The topology 'my_parts:Yours' does not exist: my_parts has no Yours",
        "my_parts:Stranger": "is no topology: Stranger does not derive from covey.decentralized.topology",
        "broken_parts:Any": "The topology 'broken_parts:Any' cannot be imported: broken_parts fails with ModuleNotFound",
        "rng": "Unknown topology 'rng'; did you mean 'ring'",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            build(Topology, name)


def test_every_part_is_a_dataclass_with_keywords_only():
    for family, kind in ALL:
        cls = kinds.load(family, kind)
        assert all(field.kw_only for field in dataclasses.fields(cls) if field.init), cls


# ---------------------------------------------------------------------- assignment


def assignable() -> list[tuple[Part, str]]:
    """Every parameter of every kind and section."""
    made = [example(family, kind) for family, kind in ALL]
    made += [build(section, table) for section, table in SECTIONS.items()]
    return [(part, name) for part in made for name in fields_of(type(part))]


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 100),
    st.floats(-2, 40, width=16),
    st.sampled_from(["nonsense", "20ms", "1Mbit/s", "5W", "ring", "mean", "samples", "trained", "adam", "iid", ""]),
    st.lists(st.integers(0, 40), max_size=3),
    st.just({"kind": "nonsense"}),
)


def outcome(act: typing.Callable[[], Part]) -> object:
    """The tables of the part that comes of it, or what is said instead."""
    try:
        return to_table(act())
    except ConfigurationError as error:
        return str(error)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(assignable()), st.data())
def test_assigning_does_what_making_with_the_value_does(index, data):
    part, name = index
    hint, limits = fields_of(type(part))[name]
    value = data.draw(
        st.one_of(ANYTHING, st.sampled_from([*wrong_values(hint, limits), *limits.choices, getattr(part, name)]))
    )
    made_with = {other: getattr(part, other) for other in fields_of(type(part))}
    before, assigned = to_table(part), dataclasses.replace(part)

    def assign() -> Part:
        setattr(assigned, name, value)
        return assigned

    found = outcome(assign)
    assert found == outcome(lambda: type(part)(**{**made_with, name: value}))
    if isinstance(found, str):
        assert to_table(assigned) == before


@pytest.mark.parametrize(("family", "kind", "name", "value"), CASES)
def test_no_parameter_can_be_assigned_a_wrong_value(family, kind, name, value):
    part = example(family, kind)
    hint, limits = fields_of(type(part))[name]
    with pytest.raises(ConfigurationError) as caught:
        setattr(part, name, value)
    assert str(caught.value).startswith(
        f"The '{name}' of {part.named()} must be {expectation(hint, limits)}. Got {value!r} instead."
    )


def test_an_unknown_name_is_refused_with_the_nearest():
    experiment = build(Experiment, SECTIONS[Experiment])
    with pytest.raises(ConfigurationError, match=r"^Unknown key 'round' of the experiment; did you mean 'rounds'"):
        experiment.round = 3
    with pytest.raises(ConfigurationError, match=r"^Unknown key 'learning_rate' of the optimizer sgd.* Known: .*lr"):
        experiment.task.optimizer.learning_rate = 3
    assert not hasattr(experiment, "round")


def test_what_a_part_derives_follows_what_is_assigned():
    gossip = example("program", "gossip")
    assert gossip.aggregation.kind == "metropolis-hastings"
    gossip.topology = {"kind": "epidemic-oracle", "degree": 2}
    assert gossip.aggregation.kind == "mean"
    gossip.aggregation = "given"
    gossip.topology = "ring"
    assert gossip.aggregation.kind == "given"
    experiment = build(Experiment, {**SECTIONS[Experiment], "program": gossip})
    experiment.program.schedule = {"kind": "periodic", "every": 7}
    experiment.program = experiment.program
    assert experiment.evaluation.every == 14
    # An assigned value replaces a derived one.
    experiment.evaluation.every = 3
    experiment.program = gossip
    assert experiment.evaluation.every == 3
    network = Network(nodes=3)
    network.preset = "wan"
    assert network == Network(nodes=3, preset="wan")


def test_a_part_of_ones_own_may_set_what_it_likes_in_its_methods():
    class Mine(Part):
        degree: int = param("A number.", default=2, ge=1)
        shared: typing.ClassVar[int] = 0

        def prepare(self, setting):
            self.weights = [1.0] * self.degree
            self._hidden = 1

    mine = Mine()
    mine.ready(Setting(3))
    mine.weights, mine.shared, mine._other = [2.0], 4, 5
    mine.degree = 3
    assert (mine.weights, mine.shared, mine._other, mine.degree, Mine.shared) == ([2.0], 4, 5, 3, 0)
    with pytest.raises(ConfigurationError, match=r"Unknown key 'degrees' of .*Mine; did you mean 'degree'"):
        mine.degrees = 4


def test_parts_keep_what_they_are_made_of_when_another_parameter_is_assigned():
    experiment = build(Experiment, SECTIONS[Experiment])
    task, optimizer = experiment.task, experiment.task.optimizer
    experiment.rounds, task.batch_size = 7, 3
    optimizer.lr = 0.25
    assert experiment.to_table()["task"]["optimizer"]["lr"] == 0.25
    assert (experiment.task is task, copy.deepcopy(experiment) == experiment) == (True, True)
