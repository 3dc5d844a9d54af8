"""The accounting of noise: closed forms, a library's figures, and views of observers against dense matrices."""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import comb
from scipy.stats import norm

import covey
from covey.cli import main
from covey.network.graph import Graph
from covey.parts.mechanisms import Averaging, Mechanism
from covey.privacy.accounting import account, gaussian, sampled_gaussian, spent
from covey.privacy.pairwise import Views, matrix, renyi, sum_over_steps
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.view.epsilons import epsilon_in_words
from tests.conftest import table


def ring(n, reach=1):
    ids = np.arange(n)
    left, right = np.tile(ids, reach), np.concatenate([(ids + step) % n for step in range(1, reach + 1)])
    return Graph.undirected(n, left, right).mixing()


def noised(mixing, steps=1, sigma=1.0, sensitivity=1.0, factor=1.0):
    n = mixing.shape[0]
    return Averaging(sp.csr_array(mixing), np.full(n, sigma), sensitivity, steps, factor)


def cancelling(mixing, steps=1, sigma=1.0):
    """Zip-DL over a regular graph with equal weights, of which `sigma` is the deviation of a message."""
    degree = len(mixing[[0]].indices)
    n = mixing.shape[0]
    return Averaging(
        sp.csr_array(mixing), np.full(n, sigma * math.sqrt(degree / (degree - 1))), 1.0, steps, cancels=True
    )


# ------------------------------------------------------------------ one node's releases


@given(st.floats(0.01, 50.0), st.sampled_from([1e-3, 1e-5, 1e-8]))
@settings(max_examples=30)
def test_the_epsilon_of_a_gaussian_has_its_delta(information, delta):
    epsilon, apart = gaussian(information, delta), math.sqrt(information)
    found = norm.cdf(apart / 2 - epsilon / apart) - math.exp(epsilon) * norm.cdf(-apart / 2 - epsilon / apart)
    assert found == pytest.approx(delta, rel=1e-4) or (epsilon == 0.0 and found <= delta)


def test_epsilon_grows_with_information_and_less_noise():
    ladder = [gaussian(information, 1e-5) for information in (0.0, 0.01, 0.1, 1.0, 10.0, 100.0, math.inf)]
    assert ladder == sorted(ladder)
    assert (ladder[0], ladder[-1]) == (0.0, math.inf)
    assert gaussian(1.0, 1e-5) == pytest.approx(4.3771, abs=1e-3)  # Balle and Wang's calibration of sigma = 1.


def test_sampled_noise_has_the_figures_that_were_measured():
    pytest.importorskip("dp_accounting")
    found = sampled_gaussian(0.01, 1.1, 1000, 1e-5)
    assert found["rdp"] == pytest.approx(1.7118, abs=1e-4)
    assert found["pld"] == pytest.approx(1.5154, abs=1e-4)


def test_sampled_noise_is_the_closed_form_of_renyi_divergence():
    """Mironov, Talwar and Zhang (2019): for integer orders, a binomial sum."""
    pytest.importorskip("dp_accounting")
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, rdp

    sampling, multiplier = 0.05, 1.3
    for order in (2, 5, 16):
        terms = [
            comb(order, k) * (1 - sampling) ** (order - k) * sampling**k * math.exp((k * k - k) / (2 * multiplier**2))
            for k in range(order + 1)
        ]
        expected = math.log(sum(terms)) / (order - 1)
        accountant = rdp.RdpAccountant([order])
        accountant.compose(PoissonSampledDpEvent(sampling, GaussianDpEvent(multiplier)))
        assert accountant._rdp[0] == pytest.approx(expected, rel=1e-9)


def test_sampling_all_is_the_closed_form_and_more_releases_cost_more():
    pytest.importorskip("dp_accounting")
    whole = Mechanism("the task", "a sample", "all", 1e-5, releases=20, multiplier=4.0)
    (exact,) = spent(whole)
    assert exact.epsilon == pytest.approx(gaussian(20 / 16, 1e-5))
    assert sampled_gaussian(1.0, 4.0, 20, 1e-5)["pld"] == pytest.approx(exact.epsilon, rel=1e-3)
    ladder = [sampled_gaussian(0.1, 2.0, releases, 1e-5)["pld"] for releases in (1, 40)]
    assert ladder == sorted(ladder)
    assert ladder[-1] < gaussian(40 / 4, 1e-5)


def test_without_noise_or_bound_the_reason_is_stated():
    (none,) = spent(Mechanism("the task", "a sample", "all", 1e-5, releases=1))
    assert none.epsilon == math.inf
    assert none.table["epsilon"] == "inf"
    assert "there is no noise" in epsilon_in_words(none.table)
    (unknown,) = spent(Mechanism("the task", "a sample", "all", 1e-5, releases=1, why_not="nothing is clipped"))
    assert epsilon_in_words(unknown.table) == "no epsilon for a sample, against all: nothing is clipped"


def test_anticorrelated_noise_costs_the_sum_of_the_inverse_covariance():
    rounds = 7
    covariance = np.eye(rounds) - 0.5 * (np.eye(rounds, k=1) + np.eye(rounds, k=-1))
    inverse = np.linalg.inv(covariance)
    assert (inverse > 0).all()  # So equal signs of the changes are the worst.
    assert inverse.sum() == pytest.approx(rounds * (rounds + 1) * (rounds + 2) / 6)


# ------------------------------------------------------------------ views of observers


def dense(averaging, observer):
    """m^2 by dense matrices, message by message, from the definition."""
    weights, n = averaging.mixing.toarray(), averaging.mixing.shape[0]
    near = [np.flatnonzero(weights[node]).tolist() for node in range(n)]
    pairs = [(node, peer) for node in range(n) for peer in near[node]]
    index = {pair: number for number, pair in enumerate(pairs)}
    z = np.zeros((len(pairs), len(pairs)))
    for (node, peer), row in index.items():
        if averaging.cancels:
            for other in near[node]:
                share = weights[node, other] / (len(near[node]) * weights[node, peer])
                z[row, index[node, other]] += averaging.deviations[node] * ((other == peer) - share)
        else:
            z[row, index[node, node]] = averaging.deviations[node]
    models = [np.eye(n), weights]
    noises = [None, sum_of(weights, z, index, near)]
    for _ in range(averaging.steps - 2):
        c = averaging.factor
        before = noises[-2] if noises[-2] is not None else np.array([z[index[node, node]] for node in range(n)])
        models.append(c * weights @ models[-1] + (1 - c) * models[-2])
        noises.append(c * weights @ noises[-1] + (1 - c) * before)
    rows, noise = [], []
    for step in range(averaging.steps):
        for peer in near[observer]:
            if peer != observer:
                rows.append(models[step][peer])
                noise.append(z[index[peer, observer]] if step == 0 else noises[step][peer])
    view, noise = np.array(rows), np.array(noise)
    noise[:, [number for (node, _), number in index.items() if node == observer]] = 0.0
    covariance = noise @ noise.T
    inverse = np.linalg.pinv(covariance, rcond=1e-12)
    found = averaging.sensitivity**2 * np.diag(view.T @ inverse @ view)
    found[np.abs(view - covariance @ inverse @ view).max(0) > 1e-6] = np.inf
    return np.where(np.arange(n) == observer, 0.0, found)


def sum_of(weights, z, index, near):
    return np.array([sum(weights[i, a] * z[index[a, i]] for a in near[i]) for i in range(len(near))])


@pytest.mark.parametrize("make", [noised, cancelling])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_views_are_those_of_dense_matrices(make, steps):
    averaging = make(ring(9, 2), steps, 0.7)
    for observer in (0, 4):
        assert Views(averaging).information([observer]) == pytest.approx(dense(averaging, observer), rel=1e-6, abs=1e-9)


def test_views_of_irregular_graphs_and_chebyshev_steps_are_those_of_dense_matrices():
    graph = Graph.undirected(6, np.array([0, 0, 0, 1, 3, 4]), np.array([1, 2, 3, 2, 4, 5]))
    deviations = np.array([0.5, 1.0, 1.5, 2.0, 0.7, 0.9])
    for cancels, factor, steps in ((True, 1.0, 2), (False, 1.3, 4), (False, 1.0, 2)):
        averaging = Averaging(graph.mixing(), deviations, 0.3, steps, factor, cancels)
        assert Views(averaging).information([2]) == pytest.approx(dense(averaging, 2), rel=1e-6, abs=1e-9)


@given(st.integers(4, 9), st.integers(1, 6), st.floats(0.1, 3.0), st.floats(0.1, 2.0))
@settings(max_examples=20, deadline=None)
def test_muffliato_is_monotone_symmetric_and_at_most_local(n, steps, sigma, sensitivity):
    averaging = noised(ring(n), steps, sigma, sensitivity)
    found = matrix(averaging)
    local = sensitivity**2 / sigma**2
    assert found == pytest.approx(found.T, rel=1e-5, abs=1e-7 * local)
    assert renyi(8.0, found.max()) <= 8.0 * local / 2 * (1 + 1e-9)
    assert found[0, 1] == pytest.approx(local)  # A neighbour has the noised model itself.
    assert matrix(noised(ring(n), steps, 2 * sigma, sensitivity)) == pytest.approx(found / 4, rel=1e-6, abs=1e-12)
    assert (matrix(noised(ring(n), steps + 1, sigma, sensitivity)) >= found - 1e-9 * local).all()
    if steps == 1 and n > 4:
        assert found[0, 2] == 0.0


def petersen():
    outer, inner = np.arange(5), np.arange(5, 10)
    left = np.concatenate([outer, outer, inner])
    right = np.concatenate([(outer + 1) % 5, inner, 5 + (inner - 3) % 5])
    return Graph.undirected(10, left, right).mixing()


def test_far_nodes_learn_less_and_the_sum_of_the_paper_is_no_bound_on_all_messages_together():
    """A node knows its own model, and those of its neighbours by the first step. The second tells the sum of two more."""
    mixing = petersen()
    averaging, weights = noised(mixing, 2), mixing.toarray()
    near = weights[0] > 0
    assert near.sum() == 4
    found = matrix(averaging, [0])[0]
    assert found[near][1:] == pytest.approx(1.0)
    assert found[~near] == pytest.approx(0.5)
    summed = sum_over_steps(averaging)
    assert summed[0, ~near] == pytest.approx(0.25)
    assert (summed <= 1.0).all()


def test_zip_dl_tells_one_neighbour_what_its_message_tells_and_colluders_more():
    mixing = ring(12, 3)
    averaging, degree = cancelling(mixing, sigma=0.5), 7
    views = Views(averaging)
    assert views.information([1])[0] == pytest.approx(1 / 0.5**2)
    assert views.information([6])[0] == 0.0
    base = 0.5**2 * degree / (degree - 1)
    for count, colluders in enumerate(itertools.accumulate(([1], [2], [3], [11], [10], [9])), start=1):
        expected = count * degree / (base * (degree - count))
        assert views.information(colluders)[0] == pytest.approx(expected)


def test_colluding_neighbours_that_see_a_second_step_leave_no_noise():
    views = Views(cancelling(ring(8), steps=2))
    assert math.isinf(views.information([1, 7])[0])
    assert math.isfinite(views.information([1])[0])
    complete = Graph.undirected(4, *np.triu_indices(4, 1)).mixing()
    assert math.isinf(Views(cancelling(complete, steps=3)).information([0])[1])  # The exact mean is in the open.


def over_rounds(averaging, node, observers, rounds):
    """m^2 of a node whose training moves its model by 1 in every round, by one step each, for all rounds together."""
    weights, n = averaging.mixing.toarray(), averaging.mixing.shape[0]
    near = [np.flatnonzero(weights[node]).tolist() for node in range(n)]
    pairs = [(node, peer) for node in range(n) for peer in near[node]]
    models, noises, rows, noise = np.zeros(n), np.zeros((n, rounds * len(pairs))), [], []
    for t in range(rounds):
        models[node] += 1.0
        sent = {}
        for a, peer in pairs:
            drawn = np.zeros(len(pairs))
            for number, (sender, other) in enumerate(pairs):
                share = weights[a, other] / (len(near[a]) * weights[a, peer])
                drawn[number] = averaging.deviations[a] * ((other == peer) - share) * (sender == a)
            sent[a, peer] = (
                noises[a]
                + np.concatenate([np.zeros(t * len(pairs)), drawn, np.zeros_like(noises[a])])[: noises.shape[1]]
            )
            if peer in observers and a not in observers:
                rows.append(models[a])
                noise.append(sent[a, peer])
        noises = np.array([sum(weights[peer, a] * sent[a, peer] for a in near[peer]) for peer in range(n)])
        models = weights @ models
    hidden = ~np.isin(np.tile([sender for sender, _ in pairs], rounds), observers)
    found = np.array(noise)[:, hidden]
    return float(np.array(rows) @ np.linalg.pinv(found @ found.T, rcond=1e-11) @ np.array(rows))


@pytest.mark.parametrize(
    "mixing", [ring(6), ring(8, 2), Graph.undirected(5, [0, 0, 0, 1, 3], [1, 2, 3, 2, 4]).mixing()]
)
@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_the_rounds_of_zip_dl_tell_neighbours_that_collude_of_all_changes_so_far(mixing, rounds):
    averaging = cancelling(mixing)
    near = [int(one) for one in mixing[[0]].indices if one != 0]
    together = rounds * (rounds + 1) * (2 * rounds + 1) / 6  # The sum of t^2.
    for observers, exact in ((near, True), (near[:1], False)):
        alone = Views(averaging).information(observers)[0]
        found = over_rounds(averaging, 0, observers, rounds)
        assert found == pytest.approx(alone * together) if exact else found <= alone * together * (1 + 1e-9)


# ------------------------------------------------------------------ experiments


def accounted(sharing, **task):
    tables = table(program={"kind": "gossip", "topology": "ring", "sharing": sharing}, task=task, rounds=10)
    return account(prepare(Experiment.from_table(tables)).mechanisms())


def test_an_experiment_states_the_epsilons_of_its_sharing():
    clipped = {"clip": 0.5, "local_steps": 2, "optimizer": {"kind": "sgd", "lr": 0.1}}
    sensitivity = 2 * 0.1 * 0.5 * 2  # Two steps of at most 0.05, in opposite directions.
    local, alone, together = accounted({"kind": "muffliato", "sigma": 1.0, "steps": 3}, **clipped)
    assert local.epsilon == pytest.approx(gaussian(10 * sensitivity**2, 1e-5))
    assert local.epsilon_of_one == pytest.approx(gaussian(sensitivity**2, 1e-5))
    assert alone.epsilon == pytest.approx(local.epsilon)
    assert together.epsilon <= local.epsilon * (1 + 1e-9)
    assert local.protects == "all samples of a node"
    alone, together = accounted({"kind": "zip-dl", "sigma": 1.0, "delta": 1e-6}, **clipped)
    assert alone.epsilon_of_one == pytest.approx(gaussian(sensitivity**2, 1e-6))
    assert together.epsilon_of_one == pytest.approx(gaussian(sensitivity**2 * 4, 1e-6))  # 2 * 3 / (1.5 * 1)
    assert alone.epsilon == pytest.approx(gaussian(sensitivity**2 * 385, 1e-6))  # 1 + 4 + 9 + ... + 100
    assert together.epsilon == pytest.approx(gaussian(sensitivity**2 * 4 * 385, 1e-6))
    assert any("keys of the noise are fresh" in said for said in alone.assumes)
    assert any("of that round only" in said for said in alone.assumes)
    assert not any("of that round only" in said for said in together.assumes)
    assert "all messages of a round arrive" in together.assumes
    (fresh, _) = accounted({"kind": "zip-dl", "sigma": 1.0, "seeds": "fresh"}, **clipped)
    assert "no round is computed again, as after a crash" in fresh.assumes
    (sampled,) = accounted("full", ldp={"clip": 1.0, "noise": 1.0, "seeds": "fresh"})
    assert {"no round is computed again, as after a crash"} < {*sampled.assumes}
    assert any("one sample more or less" in said for said in sampled.assumes)
    momentum = {**clipped, "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.5}}
    assert accounted({"kind": "muffliato", "sigma": 2.0}, **momentum)[0].epsilon == pytest.approx(local.epsilon)


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"clip": 1.0, "optimizer": {"kind": "adam"}},
        {"clip": 1.0, "optimizer": {"kind": "sgd", "lr": 0.1, "weight_decay": 0.1}},
    ],
)
def test_unbounded_updates_have_no_epsilon(task):
    (found,) = accounted({"kind": "zip-dl", "sigma": 1.0}, **task)
    assert found.epsilon is None
    assert "set the 'clip' of the task" in found.why_not


def test_an_experiment_without_noise_states_nothing():
    assert accounted("full") == []


def test_a_run_states_its_epsilon_in_its_facts_its_table_and_its_report(tmp_path, capsys):
    tables = table(
        program={"kind": "gossip", "topology": "ring", "sharing": {"kind": "zip-dl", "sigma": 1.0}},
        task={"clip": 1.0},
        rounds=1,
        evaluation={"every": 1},
    )
    run = covey.run(tables, out=tmp_path / "run", quiet=True)
    alone, together = run.facts["privacy"]
    assert alone["epsilon"] == pytest.approx(gaussian(0.6**2, 1e-5))
    assert together["against"] == "all neighbours of a node together"
    assert run.summary()["privacy"] == [alone, together]
    sentence = f"epsilon {alone['epsilon']:.4g} at delta 1e-05 for all samples of a node, against any one node"
    assert main(["show", str(run.folder)]) == 0
    assert sentence in " ".join(capsys.readouterr().out.split())
    page = covey.report(run, out=tmp_path / "page.html").read_text()
    assert sentence in page
    assert f"{alone['epsilon']:.4g}</td>" in page
    assert any(subject == "privacy" and sentence in words for subject, words in covey.check(tables).lines)
