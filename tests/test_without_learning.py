"""Programs that learn nothing: no task, no rounds; their computing, serving, records and state."""

from typing import Any, ClassVar

import numpy as np
import pytest

import covey
from covey.parts.errors import ConfigurationError, ProgramError, RunError
from covey.runtime.jobs import calling_twice
from covey.runtime.runs import Run
from tests.programs.tools import Agent

NETWORK = {"nodes": 5, "latency": "1ms", "bandwidth": "10Mbit/s"}
ENGINES = ["simulation", {"kind": "emulation", "nodes_per_process": 2}]
engines = pytest.mark.parametrize("engine", ENGINES, ids=["simulation", "emulation"])


def tables(program, **changes):
    return {"program": program, "network": NETWORK, **changes}


@engines
def test_questions_are_answered_by_those_who_serve(engine, tmp_path):
    run = covey.run(tables({"kind": "tests.programs.router:Router"}, engine=engine), out=tmp_path / "run")
    assert run.status == "finished"
    assert run.states[0] == {"found": 10}
    assert run.states[1:] == [{}] * 4
    assert run.tables == ["answers", "log"]
    answers, log = run.table("answers"), run.table("log")
    assert sorted(answers["question"].tolist()) == sorted([0, 1, 2, 3, 4] * 2)
    assert list(log.columns) == ["time", "node", "best"]
    best = answers.groupby("question")["score"].max()
    assert best.tolist() == pytest.approx(log["best"].tolist())
    assert run.models is None
    # Five questions to two sources each, and their answers.
    assert run.commits["messages_out"].sum() == run.commits["messages_in"].sum() == 20


def test_both_engines_record_the_same(tmp_path):
    runs = [
        covey.run(tables({"kind": "tests.programs.router:Router"}, engine=engine), out=tmp_path / str(index))
        for index, engine in enumerate(ENGINES)
    ]
    rows = [
        run.table("answers").sort_values(["question", "node"])[["node", "question", "score"]].values.tolist()
        for run in runs
    ]
    # One call for many nodes rounds otherwise than one for each.
    assert np.allclose(rows[0], rows[1], atol=1e-12)


@engines
def test_an_agent_calls_tools(engine, tmp_path):
    run = covey.run(tables({"kind": "tests.programs.tools:Agent", "goal": 22}, engine=engine), out=tmp_path / "run")
    assert run.states[0] == {"number": 22}
    assert run.table("calls")["result"].tolist() == [2, 4, 5, 10, 11, 22]


def test_virtual_time_is_what_was_computed_and_sent(tmp_path):
    network = {"nodes": 4, "latency": "10ms"}
    run = covey.run(tables(Agent(goal=2), network=network), out=tmp_path / "run")
    # One call: the way there, the tool, the way back.
    assert run.table("calls")["time"].tolist() == pytest.approx([0.010 + 0.005 + 0.010])


class Computes(covey.Program):
    """Computes what a test wants."""

    asks: ClassVar[Any] = None
    results: ClassVar[Any] = None

    async def run(self, node):
        self.results[node.id] = await self.asks(node)


def computed(asks, nodes=3, **changes):
    program = Computes()
    program.asks, program.results = asks, {}
    experiment = covey.Experiment.from_table({**tables(program), "network": {"nodes": nodes}, **changes})
    from covey.runtime.prepared import prepare
    from covey.runtime.simulation.world import World

    world = World(prepare(experiment))
    world.program.results = program.results
    world.begin()
    world.run()
    return world.program.results, world


def noisy(x, random):
    return x + random.normal()


def test_a_function_gets_randomness_of_its_node_where_it_asks_for_it():
    results, _ = computed(lambda node: node.compute(noisy, 1.0, seconds=1))
    again, _ = computed(lambda node: node.compute(noisy, 1.0, seconds=1))
    assert results == again
    assert len(set(results.values())) == 3


def test_one_call_serves_all_who_ask_at_once():
    calls = []

    def square(x):
        return x * x

    def together(arguments):
        calls.append(len(arguments))
        return [x * x for (x,) in arguments]

    square.together = together
    results, world = computed(lambda node: node.compute(square, node.id, samples=500), nodes=6)
    assert results == {node: node * node for node in range(6)}
    assert calls == [6]
    assert world.now == pytest.approx(500 / world.speeds[0])


def test_arguments_are_taken_as_they_are():
    async def asks(node):
        x = np.ones(3)
        asked = node.compute(np.sum, x, seconds=1)
        node.spawn(later(x))
        return float(await asked)

    async def later(x):
        x[:] = 7.0

    results, _ = computed(asks)
    assert set(results.values()) == {3.0}


def test_what_a_function_raises_is_the_nodes():
    def fails(x):
        raise ValueError("no such thing")

    with pytest.raises(ProgramError, match=r"fails at node 0 .*no such thing"):
        computed(lambda node: node.compute(fails, 1, seconds=0))


counted = iter(range(1000))


def impure(x):
    return x + next(counted)


def test_a_function_that_is_not_pure_is_found_by_calling_it_twice():
    with calling_twice(), pytest.raises(ProgramError, match="impure is not pure"):
        computed(lambda node: node.compute(impure, 1, seconds=0))
    with calling_twice():
        computed(lambda node: node.compute(noisy, 1.0, seconds=0))


@pytest.mark.parametrize("cost", [{}, {"samples": 1, "seconds": 1}])
def test_a_computation_says_what_it_costs(cost):
    with pytest.raises(ProgramError, match="must have either 'samples' or 'seconds'"):
        computed(lambda node: node.compute(noisy, 1.0, **cost))


class Records(covey.Program):
    async def run(self, node):
        node.record("t", x=node.id, y="a" if node.id else None)
        node.record("t", x=np.int64(3), z=[1])


def test_a_row_holds_plain_values(tmp_path):
    with pytest.raises(ProgramError, match=r"column 'z' of a row of node 0 in the table 't' must be .* Got \[1\]"):
        covey.run(tables(Records()), out=tmp_path / "run")
    run = Run(tmp_path / "run")
    with pytest.raises(RunError, match=r"has no table 'other'. Known: "):
        run.table("other")


class Learns(covey.LearningProgram):
    async def run(self, node):
        await node.train()


class Forgets(covey.Program):
    async def run(self, node):
        await node.train()


def test_who_learns_needs_a_task_and_who_does_not_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"The 'task' of the experiment is missing: the nodes of the program"):
        covey.run(tables(Learns()), out=tmp_path / "run")
    with pytest.raises(
        ProgramError, match=r"Node 0 .* has no 'train'. A plain node does not learn: derive the program"
    ):
        covey.run(tables(Forgets()), out=tmp_path / "other")


def test_a_task_of_who_learns_nothing_is_superfluous(in_folder, covey):
    (in_folder / "ask.toml").write_text(
        'program = "tests.programs.router:Router"\n[task]\ndataset = "digits"\nmodel = "logistic"\n[network]\nnodes = 4\n'
    )
    code, out, err = covey("check", "ask.toml")
    assert code == 0, err
    assert "task        not used" in out
    code, out, err = covey("run", "ask.toml", "--out", "run")
    assert code == 0, err
    assert "accuracy" not in out
    for command in (["show", "run"], ["report", "run"], ["export", "run", "--out", "csv"], ["check", "run"]):
        code, out, err = covey(*command)
        assert (code, err) == (0, ""), command


class Mixes(covey.Program):
    async def run(self, node):
        node.record("t", x=1.5, y=None)
        node.record("t", x=2, y=True)
        node.record("t", x=None, y=None)
        node.record("t", x=3.0, y=1)


def test_a_column_has_one_type_in_all_rows(tmp_path):
    line = r"column 'y' of the table 't' must be of one type in all rows, bool\. Got 1 at node 0 instead"
    with pytest.raises(ProgramError, match=line):
        covey.run(tables(Mixes()), out=tmp_path / "run")
    rows = Run(tmp_path / "run").table("t")
    assert rows["x"].tolist()[:2] == [1.5, 2.0]


class Counts(covey.Program):
    async def run(self, node):
        async for t in node.rounds():
            node.log(t=float(t))


def test_figures_of_who_learns_nothing_have_no_empty_columns(tmp_path):
    run = covey.run(tables(Counts(), rounds=2), out=tmp_path / "run")
    assert not {"accuracy", "loss"} & set(run.figures.columns)
    assert run.figures["t"].tolist() == run.metrics["t"].tolist() == [0.0] * 5 + [1.0] * 5


def test_every_command_shows_a_run_that_learned_nothing(in_folder, request):
    covey.run(tables(Counts(), rounds=3), out="run")
    call = request.getfixturevalue("covey")
    for command in (
        ["show", "run"],
        ["show", "run", "--json"],
        ["compare", "run", "run"],
        ["report", "run"],
        ["plot", "run", "--metric", "t", "--out", "t.png"],
        ["export", "run"],
        ["check", "run"],
    ):
        code, out, err = call(*command)
        assert (code, err) == (0, ""), (command, err)
        assert "nan" not in out.lower()
    code, _, err = call("plot", "run", "--out", "a.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "Unknown metric 'accuracy'" in err
    page = (in_folder / "report.html").read_text()
    assert "accuracy" not in page.lower()
    assert "t by round" in page
