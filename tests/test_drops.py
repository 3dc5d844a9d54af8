"""A run in which most messages were dropped reports it, and the reason."""

import pytest

import covey
from covey.runtime.runs import Run
from tests.conftest import Written, simulate, table
from tests.hosts import emulate
from tests.programs.first import First

NODES, ROUNDS = 4, 10
SENT = NODES * (NODES - 1) * ROUNDS


def first(reads, network=None, **changes):
    return table(program=First(reads=reads), network={"nodes": NODES, **(network or {})}, rounds=ROUNDS, **changes)


def drops(written: Written):
    """The latest count of each reason, over all hosts."""
    latest = {(host, name): value for _, host, name, value in written.of_hosts if name.startswith("dropped/")}
    found = {}
    for (_, name), value in latest.items():
        reason = name.removeprefix("dropped/")
        found[reason] = found.get(reason, 0) + value
    return found


EXPECTED = {
    "right": {},
    "arrived": {"unread": SENT},
    "twice": {"duplicate": 2 * SENT},
    "wrong": {"unusable": SENT},
    "never": {"left-over": SENT},
}


@pytest.mark.parametrize("reads", EXPECTED)
def test_drops_are_counted_by_reason(reads):
    world, written = simulate(first(reads))
    assert drops(written) == EXPECTED[reads]
    if reads != "never":
        assert sum(node.mail.dropped for node in world.nodes) == sum(EXPECTED[reads].values())


def test_messages_that_nobody_waits_for_are_late_or_come_to_nodes_that_have_ended():
    world, written = simulate(first("hurried", network={"latency": "30ms", "compute": 1000}))
    found = drops(written)
    assert found.keys() == {"late", "ended"}
    assert sum(found.values()) == SENT == sum(node.messages_out for node in world.nodes)


@pytest.mark.parametrize("reads", EXPECTED)
def test_hosts_count_by_reason_too(reads, tmp_path):
    _, written = emulate(first(reads), tmp_path)
    found = drops(written)
    if reads in ("right", "wrong"):
        assert found == EXPECTED[reads]
    else:
        # These nodes wait for no message. In real time, one may arrive after its round, its receiver's end or its host's.
        assert found.keys() <= {*EXPECTED[reads], *({"ended"} if reads == "never" else {"late", "ended"})}
        assert SENT / 2 < sum(found.values()) <= sum(EXPECTED[reads].values())


def test_a_resumed_run_continues_counting():
    tables = first("arrived", checkpoint={"every": 4})
    _, written = simulate(tables)
    for _, checkpoint in written.checkpoints:
        assert drops(simulate(tables, checkpoint=checkpoint)[1]) == EXPECTED["arrived"]


def test_messages_that_wait_at_a_node_that_leaves_are_those_of_one_that_was_away():
    kill = {"kind": "kill", "nodes": [1], "at": "60ms"}
    tables = table(
        program={"kind": "gossip", "topology": "ring", "patience": "50ms"}, network={"nodes": 4}, faults=[kill]
    )
    world, written = simulate(tables)
    assert drops(written).get("away", 0) > 0
    assert sum(drops(written).values()) == sum(node.mail.dropped for node in world.nodes)


SAID = (
    f"Most messages were dropped: {SENT} of {SENT}, because their receiver did not take them in their round. "
    "Receive a message that was sent with a 'round' by its 'tag' and 'round'."
)


def test_run_and_show_say_so(tmp_path, covey):
    file = tmp_path / "experiment.toml"
    file.write_text(
        f'rounds = {ROUNDS}\n[program]\nkind = "tests.programs.first:First"\n[task]\ndataset = "digits"\n'
        f'model = "logistic"\n[network]\nnodes = {NODES}\nlatency = "5ms"\n'
    )
    code, out, _ = covey("run", str(file), "--out", str(tmp_path / "run"))
    assert code == 0
    assert SAID in out
    code, out, _ = covey("show", str(tmp_path / "run"))
    assert SAID in out
    assert f"dropped {SENT}: {SENT} unread;" in out
    assert "hosts" not in out
    covey("run", str(file), "--set", 'program.reads="right"', "--out", str(tmp_path / "right"))
    code, out, _ = covey("show", str(tmp_path / "right"))
    assert "dropped 0;" in out
    assert "Most messages" not in out
    assert Run(tmp_path / "right").drops == {}


def test_python_has_the_counts(tmp_path):
    run = covey.run(first("twice"), out=tmp_path / "run")
    assert run.drops == {"duplicate": 2 * SENT}
    assert run.summary()["drops"] == run.drops


@pytest.mark.parametrize(
    ("drops", "said"),
    [
        ({"unread": 60}, ""),
        ({"unread": 61}, "61 of 120, because their receiver did not take them in their round. Receive a"),
        ({"late": 50, "duplicate": 40}, "90 of 120. 50: they arrived after their receiver had ended their round"),
        ({"lost": 100, "cut": 20, "late": 1}, ""),
        ({"not heard of": 120}, "120 of 120 (not heard of)."),
    ],
)
def test_more_than_half_is_most(drops, said):
    from covey.view.summary import dropped_messages

    text = dropped_messages({"drops": drops, "totals": {"messages_out": 120}})
    assert said in text
    assert bool(said) == bool(text)
