"""Callbacks: their calls, their effects, and their state in a resumed run; in both engines."""

import math
import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import covey as package
from covey.parts.errors import ConfigurationError, ProgramError, RunError
from covey.runtime.callbacks import Callback, Callbacks, Evaluated
from covey.runtime.callbacks.plateau import Plateau
from covey.runtime.callbacks.stopping import EarlyStopping
from covey.runtime.runs import Run
from tests import folders
from tests.conftest import table
from tests.hosts import hosts, token_file

QUICK = {"latency": 0.0, "bandwidth": None, "compute": 1e6}
SMALL = table(rounds=12, network={"nodes": 6, **QUICK}, evaluation={"every": 2, "samples": 60})


@pytest.fixture(params=["simulation", "emulation"])
def execute(request, tmp_path):
    """Run an experiment on one of the engines."""
    if request.param == "simulation":
        yield lambda tables, **named: package.run(tables, out=tmp_path / "run", **named)
        return
    with hosts(2) as running:
        addresses = [str(address) for _, address in running]
        engine = {"kind": "emulation", "hosts": addresses, "token_file": str(token_file(tmp_path)), "workers": 1}
        yield lambda tables, **named: package.run({**tables, "engine": engine}, out=tmp_path / "run", **named)


def calls(**changes):
    """The arguments of a function in a run."""
    seen: list[Evaluated] = []
    return seen, {"callbacks": [seen.append], **changes}


def test_a_function_is_given_every_evaluated_round_once_as_it_is_recorded(execute):
    seen, named = calls()
    run = execute(SMALL, **named)
    assert [at.round for at in seen] == [2, 4, 6, 8, 10, 12]
    metrics, network = run.metrics, run.network.set_index("round")
    for at in seen:
        rows = metrics[metrics["round"] == at.round].sort_values("node")
        assert at.nodes["accuracy"].tolist() == rows["accuracy"].tolist()
        assert at.nodes["loss"].tolist() == rows["loss"].tolist()
        assert at.time == rows["time"].max()
        assert at.network["consensus_distance"] == network.loc[at.round, "consensus_distance"]
        assert at.figure("accuracy") == pytest.approx(rows["accuracy"].mean())
    assert np.allclose(seen[-1].average_model(), run.models.double().mean(0).float(), atol=1e-5)


def test_a_callback_that_only_watches_changes_no_bit(tmp_path):
    plain = package.run(SMALL, out=tmp_path / "plain")
    watched = package.run({**SMALL, "callback": [{"kind": "best-model"}]}, out=tmp_path / "watched")
    acting = package.run(SMALL, out=tmp_path / "acting", callbacks=[lambda at: None])
    for other in (watched, acting):
        assert other.models.equal(plain.models)
        assert other.metrics.equals(plain.metrics)
        assert other.network.equals(plain.network)


def test_early_stopping_ends_a_run_cleanly_and_evaluates_its_last_round(execute):
    run = execute({**SMALL, "rounds": 400, "callback": [{"kind": "early-stopping", "metric": "loss", "goal": 2.0}]})
    assert run.status == "finished"
    rounds = run.commits.groupby("node")["round"].max()
    last = int(rounds.max())
    assert set(rounds) == {last}
    assert last < 400
    events = run.events
    assert events[events["kind"] == "stopped early"]["detail"].str.match(r"loss is \d\.\d+ after round \d+").sum() == 1
    assert run.metrics["round"].max() == last
    assert len(run.metrics[run.metrics["round"] == last]) == 6
    assert run.models is not None
    with pytest.raises(RunError, match="has finished"):
        package.resume(run.folder)


def test_early_stopping_waits_for_as_many_evaluations_as_its_patience(tmp_path):
    seen, named = calls()
    stopping = {"kind": "early-stopping", "metric": "accuracy", "min_delta": 2.0, "patience": 3}
    run = package.run({**SMALL, "callback": [stopping]}, out=tmp_path / "run", **named)
    # The first is always an improvement, and none after it is.
    assert [at.round for at in seen] == [2, 4, 6, 8, 9]
    (detail,) = run.events["detail"]
    assert detail.startswith("accuracy has not improved since round 2, where it was 0.")


def test_an_asynchronous_run_is_stopped_as_well(tmp_path):
    program = {"kind": "gossip-learning", "topology": "ring", "period": "20ms"}

    def stop(at):
        at.stop("enough")

    run = package.run({**SMALL, "program": program, "rounds": 500}, out=tmp_path / "run", callbacks=[stop])
    assert run.status == "finished"
    assert run.commits["round"].max() < 500
    last = run.commits.groupby("node")["round"].max()
    assert run.metrics.groupby("node")["round"].max().equals(last)


@pytest.mark.parametrize("kind", ["gossip", "gossip-learning"])
@pytest.mark.parametrize(("first", "status"), [("callback", "finished"), ("Ctrl-C", "interrupted")])
def test_a_run_that_was_ended_counts_as_what_ended_it_first(kind, first, status, tmp_path):
    def stop(at):
        if at.round > 2:
            return
        if first == "callback":
            at.stop("enough")
        if "sent" not in at.state:
            at.state["sent"] = True
            os.kill(os.getpid(), signal.SIGINT)
        at.stop("enough")

    period = {"period": "20ms"} if kind == "gossip-learning" else {}
    program = {"kind": kind, "topology": "ring", **period}
    run = package.run({**SMALL, "program": program, "rounds": 500}, out=tmp_path / "run", callbacks=[stop])
    assert run.status == status
    assert run.commits["round"].max() < 500
    assert ("stopped early" in set(run.events["kind"])) is (status == "finished")
    assert (run.models is None) is (status == "interrupted")


def test_a_plateau_lowers_the_learning_rate_from_a_round_on_that_no_node_has_begun(execute, monkeypatch):
    rates: dict[int, set[float]] = {}
    from covey.learning.learner import Learner

    rate = Learner.rate

    def noted(learner, training):
        found = rate(learner, training)
        rates.setdefault(training.round, set()).add(found)
        return found

    monkeypatch.setattr(Learner, "rate", noted)
    # Nodes of an emulation hear of it a moment later.
    slow = {**SMALL["network"], "compute": 400.0}
    plateau = {"kind": "plateau", "min_delta": 2.0, "patience": 2, "factor": 0.5, "least": 0.25}
    execute({**SMALL, "rounds": 40, "network": slow, "callback": [plateau]})
    courses = [rates[t] for t in sorted(rates)]
    assert courses[0] == {0.3}
    assert courses[-1] <= {0.3 * 0.5, 0.3 * 0.25}
    assert any(0.3 * 0.5 in course for course in courses)
    smallest = [min(course) for course in courses]
    assert smallest == sorted(smallest, reverse=True)
    # It was lowered after the evaluation of round 6 at the earliest.
    assert all(course == {0.3} for course in courses[:6])


def test_a_resumed_run_continues_the_states_of_callbacks_to_the_bit(tmp_path):
    stopping = {"kind": "early-stopping", "metric": "accuracy", "min_delta": 2.0, "patience": 4}
    plateau = {"kind": "plateau", "min_delta": 2.0, "patience": 2}
    changes = {"callback": [stopping, plateau, {"kind": "best-model"}], "rounds": 30}
    evaluation = {"evaluation": {"every": 2}, "checkpoint": {"every": 1, "keep": 40}}
    whole = package.run(folders.tiny(**changes, **evaluation), out=tmp_path / "whole")
    last = int(whole.commits["round"].max())
    assert 10 <= last < 30
    for round in (3, 6, 9):
        killed = folders.killed(tmp_path / f"killed-{round}", round=round, **changes, **evaluation)
        resumed = package.resume(killed)
        assert resumed.models.equal(whole.models)
        assert resumed.metrics.equals(whole.metrics)
        assert resumed.events.equals(whole.events)
        assert (resumed.kept_model == whole.kept_model).all()


def test_a_function_is_given_each_round_once_also_over_a_resume(tmp_path):
    first, named = calls()
    killed = folders.interrupted(tmp_path / "run", round=5, evaluation={"every": 1})
    package.resume(killed, **named)
    assert [at.round for at in first] == sorted({at.round for at in first})
    assert first[-1].round == Run(killed).commits["round"].max()


class Counts(Callback):
    """Counts its calls in its state."""

    def evaluated(self, at):
        at.state["calls"] = int(at.state.get("calls") or 0) + 1
        self.last = at.state["calls"]


def test_the_state_of_a_users_own_callback_is_kept(tmp_path):
    tables = folders.tiny(evaluation={"every": 1}, callback=["tests.test_callbacks:Counts"], checkpoint={"every": 1})
    killed = folders.killed(
        tmp_path / "run", round=4, **{key: tables[key] for key in ("evaluation", "callback", "checkpoint")}
    )
    counts = []

    class Watch(Counts):
        def evaluated(self, at):
            counts.append(at.round)

    run = package.resume(killed, callbacks=[Watch()])
    assert counts == list(range(counts[0], int(run.commits["round"].max()) + 1))


def raises(at):
    raise ValueError("no tracker")


@pytest.mark.parametrize(
    ("callback", "error", "message"),
    [
        (
            raises,
            ProgramError,
            r"^The callback tests.test_callbacks:raises fails after round 2: ValueError: no tracker \(",
        ),
        (lambda at: at.figure("acuracy"), ConfigurationError, "Unknown figure 'acuracy'; did you mean 'accuracy'"),
        (lambda at: at.state.update(x={1}), ProgramError, "The state of a callback must hold plain values"),
    ],
)
def test_an_error_in_a_callback_ends_the_run_with_one_line(callback, error, message, execute, tmp_path):
    with pytest.raises(error, match=message) as raised:
        execute({**SMALL, "checkpoint": {"every": 3}}, callbacks=[callback])
    assert "\n" not in str(raised.value)
    assert Run(tmp_path / "run").status == "failed"


def test_callbacks_begin_and_end_with_the_run(execute, tmp_path):
    said = []

    class Says(Callback):
        def begin(self, run):
            said.append((run.folder, run.experiment["rounds"], run.round))

        def evaluated(self, at):
            pass

        def end(self, status):
            said.append(status)

    execute(SMALL, callbacks=[Says()])
    assert said == [(tmp_path / "run", 12, 0), "finished"]


def test_the_best_model_is_that_of_the_round_in_which_the_figure_was_best(execute):
    models = {}
    best = {"kind": "best-model", "metric": "consensus_distance", "mode": "max"}
    run = execute({**SMALL, "callback": [best]}, callbacks=[lambda at: models.update({at.round: at.average_model()})])
    distances = run.network.set_index("round")["consensus_distance"]
    assert (run.kept_model == models[int(distances.idxmax())].numpy()).all()
    names = run.state_dict("kept")
    assert {name: tensor.shape for name, tensor in names.items()} == {
        name: tensor.shape for name, tensor in run.state_dict("average").items()
    }


def test_a_run_without_a_best_model_says_so(tmp_path):
    run = package.run({**SMALL, "rounds": 1}, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"has no best-model\.npy: its experiment has no callback best-model"):
        run.state_dict("kept")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"callback": [{"kind": "early-stoping"}]}, "Unknown callback 'early-stoping'; did you mean 'early-stopping'"),
        ({"callback": [{"kind": "plateau", "factor": 2.0}]}, "The 'factor' of the callback plateau must be"),
        ({"callback": [{"kind": "tests.test_callbacks:SMALL"}]}, "is no callback"),
        (
            {"callback": ["best-model"], "evaluation": {"average": False}},
            "The callback best-model keeps average models: 'evaluation.average' must be true",
        ),
    ],
)
def test_a_callback_that_cannot_work_is_refused(changes, message, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        package.run({**SMALL, **changes}, out=tmp_path / "run")


def test_what_is_no_callback_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"A callback must be a Callback or a function\. Got 3 instead"):
        package.run(SMALL, out=tmp_path / "run", callbacks=[3])
    assert not (tmp_path / "run").exists()


def test_a_damaged_state_of_callbacks_is_refused():
    with pytest.raises(RunError, match="'callbacks' holds no states of callbacks"):
        Callbacks.check({"callbacks": b"x"})


VALUES = st.lists(st.floats(-5, 5) | st.just(math.nan), min_size=1, max_size=30)


def followed(callback, values):
    """(rounds at which a callback stopped the run, factors of the learning rate) over a course of a figure."""
    state, stops, factors = {}, [], []
    for round, value in enumerate(values, 1):
        at = Evaluated(
            round, 0.0, {"loss": np.array([value])}, {}, state, lambda _, r=round: stops.append(r), factors.append
        )
        callback.evaluated(at)
    return stops, factors


@given(VALUES, st.integers(1, 4))
def test_early_stopping_stops_first_after_so_many_values_that_are_no_better(values, patience):
    best, since, expected = math.nan, 0, None
    for round, value in enumerate(values, 1):
        if round == 1 or math.isnan(best) or value < best:
            best, since = value, 0
        else:
            since += 1
        if since == patience:
            expected = round
            break
    stops, _ = followed(EarlyStopping(metric="loss", patience=patience), values)
    assert (stops[0] if stops else None) == expected


@given(VALUES, st.integers(1, 3))
def test_the_product_of_all_factors_stays_above_the_least(values, patience):
    _, factors = followed(Plateau(metric="loss", patience=patience, factor=0.3, least=0.2), values)
    assert all(0 < factor < 1 for factor in factors)
    assert not factors or math.prod(factors) == pytest.approx(max(0.3 ** len(factors), 0.2))
