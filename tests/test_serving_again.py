"""Nodes that answer others after their own programs have ended, resumed at any moment: they answer again, each once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from covey.messages import wire
from covey.runtime.emulation.launcher import launcher
from tests.conftest import simulate
from tests.hosts import emulate
from tests.programs.library import LIBRARY, READER, Library

NETWORKS = [{"latency": 0.003}, {"latency": {"kind": "uniform", "low": 0.001, "high": 0.02}}]
ROUNDS = 12


def tables(network=NETWORKS[0], seed=3, every=1, **changes):
    program = {"kind": "tests.programs.library:Library", **changes}
    checkpoint = {"every": every, "keep": 99}
    return {
        "seed": seed,
        "rounds": ROUNDS,
        "program": program,
        "network": {"nodes": 5, **network},
        "checkpoint": checkpoint,
    }


def states(world):
    return [dict(node.state) for node in world.nodes]


def stored(payload):
    return wire.decode(wire.encode(payload)).payload


def due(few=3):
    """The questions that each of the two libraries is to have answered: (times, sum)."""
    asking = {0: [*(1000 * node + t for node in (2, 3, 4) for t in range(ROUNDS)), *(1000 + t for t in range(few))]}
    asking[1] = [1000 * node + t for node in (2, 3, 4) for t in range(ROUNDS)]
    return [(len(asked), sum(asked)) for asked in asking.values()]


def had(states):
    return [(state["times"], state["sum"]) for state in states[:2]]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 9999),
    st.sampled_from(NETWORKS),
    st.sampled_from([0.0, 0.002, 0.03]),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_resumed_at_any_cut_they_answer_each_question_once(seed, network, takes, first, second):
    experiment = {**tables(network, seed), "program": Library(takes=takes)}
    whole, written = simulate(experiment)
    assert had(states(whole)) == due()
    for index in (first, second):
        _, payload = written.checkpoints[int(index * (len(written.checkpoints) - 1))]
        again, written = simulate(experiment, checkpoint=stored(payload))
        assert states(again) == states(whole)
        assert [node.messages_out for node in again.nodes] == [node.messages_out for node in whole.nodes]
        if not written.checkpoints:
            break


def test_a_library_commits_its_answers():
    _, written = simulate(tables())
    (_, payload) = written.checkpoints[-1]
    assert payload["state/0/times"] > 20
    assert not payload["ended"][0]


class Announces(Library):
    """The same, and node 0 says so first."""

    async def run(self, node):
        if node.id == LIBRARY:
            node.send(READER, {}, tag="hello")
        await super().run(node)


def test_a_program_that_would_send_again_is_over():
    _, written = simulate({**tables(), "program": Announces()})
    assert all(payload["ended"][0] for _, payload in written.checkpoints)


def test_in_an_emulation_too(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_ASK", 0.01)
    experiment = tables(every=2)
    outcome, written = emulate(experiment, tmp_path)
    assert had(outcome.states) == due()
    payloads = [stored(payload) for _, payload in written.checkpoints]
    assert len(payloads) > 1
    for payload in (payloads[0], payloads[-1]):
        again, _ = emulate(experiment, tmp_path, checkpoint=payload)
        assert had(again.states) == due()
        assert [state["answers"] for state in again.states] == [state["answers"] for state in outcome.states]
