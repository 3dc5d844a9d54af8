"""Rules, attacks and certificates of robust inference, against oracles written from the paper."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from covey.federated.robust_inference import order
from covey.federated.robust_inference.adversarial import draw_liars, gain, subset_sizes
from covey.federated.robust_inference.answers import (
    AnswersError,
    Outputs,
    QuorumError,
    are_probabilities,
    checked,
    projected,
)
from covey.federated.robust_inference.attacks import InferenceAttack
from covey.federated.robust_inference.certificates import bounded_margin, certify, greatest_dissimilarity, least_margin
from covey.federated.robust_inference.learned_rules import DeepSetDecision
from covey.federated.robust_inference.networks import DeepSet, initialised
from covey.federated.robust_inference.rule import Fitting, Rule
from covey.federated.robust_inference.scene import Scene, liars_of
from covey.federated.robust_inference.static_rules import Trim
from covey.federated.robust_inference.suite import evaluate
from covey.parts import kinds
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import build

ATTACKS = list(kinds.built_in()["inference-attack"])
STATIC = ["mean", "median", "geometric-median", "trimmed-mean"]
SMALL = {"steps": 30, "batch_size": 32}
LEARNED = [
    {"kind": "mlp", **SMALL},
    {"kind": "deepset", "hidden": 16, "inner_steps": 2, **SMALL},
    {"kind": "manifold", "hidden": 16, "code": 8, **SMALL},
    {"kind": "copur", "hidden": 16, "code": 8, "purify_steps": 3, **SMALL},
]


def refused(text, error):
    """An error with a text in its message."""
    return pytest.raises(error, match=re.escape(text))


def queries(samples, clients, classes, seed=0, strength=2.0):
    """Outputs of clients that are right on most queries, with a bias of their own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    logits = torch.randn(samples, clients, classes, generator=generator, dtype=torch.float64) * 1.5
    logits += strength * torch.nn.functional.one_hot(labels, classes).unsqueeze(1)
    return Outputs(logits.softmax(-1), labels)


def float32(outputs):
    return Outputs(outputs.answers.float(), outputs.labels)


PROXY = float32(queries(200, 7, 5, seed=9))
FITTED = Fitting(2, PROXY, 3)


def decision_of(table, faulty=2):
    return build(Rule, table).fitted(Fitting(faulty, PROXY, 3))


DECISIONS = {str(table): decision_of(table) for table in [*STATIC, *LEARNED]}
SIZED = ["{'kind': 'mlp'", "{'kind': 'manifold'", "{'kind': 'copur'"]
AGNOSTIC = {name: one for name, one in DECISIONS.items() if not name.startswith(tuple(SIZED))}
sizes = st.tuples(st.integers(1, 4), st.integers(3, 9), st.integers(2, 6), st.integers(0, 10**6))


# ---------------------------------------------------------------------- the simplex


def nearest_by_bisection(row):
    """The projection as the shift whose positive part sums to 1."""
    low, high = min(row) - 1.0, max(row)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(max(x - middle, 0.0) for x in row) > 1 else (low, middle)
    return [max(x - low, 0.0) for x in row]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_the_projection_is_the_nearest_point_and_is_idempotent(row):
    found = projected(torch.tensor([row], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx(nearest_by_bisection(row), abs=1e-9)
    assert torch.allclose(projected(found), found, atol=1e-12)
    assert bool(are_probabilities(found).all())


def test_rows_that_are_no_probabilities_are_rejected_or_projected():
    answers = queries(3, 7, 4).answers
    answers[0, 1] = torch.tensor([1.5, -0.5, 0.0, 0.0])
    answers[1, 2, 0] = torch.nan
    answers[2, 3] *= 3.0
    found = checked(answers, 2, "reject")
    assert (~found.valid).nonzero().tolist() == [[0, 1], [1, 2], [2, 3]]
    assert bool(are_probabilities(found.answers).all())
    found = checked(answers, 2, "project")
    assert found.valid is None
    assert bool(are_probabilities(found.answers).all())
    assert found.answers[0, 1].tolist() == [1.0, 0.0, 0.0, 0.0]
    here = torch.ones(3, 7, dtype=torch.bool)
    here[0, :3] = False
    with refused("needs valid answers of 5 of 7 clients, if 2 may lie. Got 4", QuorumError):
        checked(answers, 2, "project", here)
    answers[0, 4:6] = -1.0
    with refused("Got 4 instead", QuorumError):
        checked(answers, 2, "reject")
    assert issubclass(QuorumError, ValueError)


@pytest.mark.parametrize(("clients", "faulty"), [(4, 2), (7, 4), (3, -1)])
def test_half_of_the_clients_or_more_may_not_lie(clients, faulty):
    with pytest.raises(ValueError, match=f"fewer than half of the {clients} that answer. Got {faulty} instead"):
        checked(queries(2, clients, 3).answers, faulty)


def test_a_trim_of_half_of_the_rows_and_other_bad_input_is_refused():
    rows = queries(2, 6, 3).answers
    mask = torch.ones(2, 6, dtype=torch.bool)
    for valid in (None, mask):
        with refused("less than half of the 6 rows. Got 3 instead", ValueError):
            order.trimmed_mean(rows, 3, valid)
    mask[1, :2] = False
    with refused("less than half of the 4 rows. Got 2 instead", AnswersError):
        order.trimmed_mean(rows, 2, mask)
    with refused("Got int64 of 2 x 3 instead", AnswersError):
        checked(torch.ones(2, 3, dtype=torch.int64), 0)
    with refused("must be 'reject' or 'project'. Got 'ignore' instead", AnswersError):
        checked(rows, 0, "ignore")
    with refused("The 'ratio' of the inference-rule trimmed-mean replaces 'trim'", ConfigurationError):
        build(Rule, {"kind": "trimmed-mean", "trim": 1, "ratio": 0.1})
    with refused("takes those of 7 clients, for which it was trained. Got 6 instead", AnswersError):
        DECISIONS[str(LEARNED[0])](rows.float().expand(2, 6, 3)[:, :, :1].expand(2, 6, 5))
    with refused("is trained on stored outputs with their classes, and there are none", ConfigurationError):
        build(Rule, "deepset").fitted(Fitting(1))


# ---------------------------------------------------------------------- rules


@settings(max_examples=25)
@given(sizes)
def test_rules_of_sets_ignore_the_order_of_clients_and_take_any_number(size):
    samples, clients, _, seed = size
    answers = queries(samples, max(clients, 5), 5, seed).answers.float()
    shuffled = answers[:, torch.randperm(answers.shape[1], generator=torch.Generator().manual_seed(seed))]
    for name, decision in AGNOSTIC.items():
        assert torch.allclose(decision(answers), decision(shuffled), atol=1e-5), name


@settings(max_examples=25)
@given(sizes, st.integers(0, 3))
def test_a_mask_is_as_good_as_leaving_rows_out(size, missing):
    samples, clients, _, seed = size
    answers = queries(samples, clients + 5, 5, seed).answers.float()
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(answers.shape[:2], dtype=torch.bool)
    for query in range(samples):
        valid[query, torch.randperm(answers.shape[1], generator=generator)[:missing]] = False
    network = initialised(DeepSet(5, 8), generator)
    shares = DeepSetDecision(network, 2, Trim(ratio=0.3))
    for name, decision in {**AGNOSTIC, "untrimmed": DeepSetDecision(network, 2), "share": shares}.items():
        masked = decision(answers, valid)
        alone = torch.cat([decision(answers[query][valid[query]].unsqueeze(0)) for query in range(samples)])
        assert torch.allclose(masked, alone, atol=1e-5), name


@given(sizes)
def test_trimming_nothing_is_the_mean(size):
    rows = queries(*size[:3], size[3]).answers
    assert torch.equal(order.trimmed_mean(rows, 0), rows.mean(1))
    mask = torch.ones(rows.shape[:2], dtype=torch.bool)
    assert torch.allclose(order.trimmed_mean(rows, 0, mask), rows.mean(1), atol=1e-15)
    network = DeepSet(rows.shape[2], 8).double()
    assert torch.equal(network(rows), network(rows, trim=Trim(0)))


@given(sizes)
def test_means_of_sorted_values_are_those_of_an_oracle(size):
    rows = queries(*size[:3], size[3]).answers
    trim = (rows.shape[1] - 1) // 3
    for query, column in itertools.product(range(rows.shape[0]), range(rows.shape[2])):
        values = sorted(rows[query, :, column].tolist())
        kept = values[trim : len(values) - trim]
        assert float(order.trimmed_mean(rows, trim)[query, column]) == pytest.approx(sum(kept) / len(kept))
        low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
        assert float(order.median(rows)[query, column]) == pytest.approx((low + high) / 2)


@settings(max_examples=30)
@given(sizes)
def test_the_geometric_median_has_a_smaller_sum_of_distances_than_points_around_it(size):
    rows = queries(*size[:3], size[3]).answers
    point = order.geometric_median(rows)

    def total(at):
        return (rows - at.unsqueeze(1)).norm(dim=-1).sum(1)

    assert bool((total(point) <= total(rows.mean(1)) + 1e-9).all())
    for index in range(rows.shape[1]):
        towards = point + 0.1 * (rows[:, index] - point)
        assert bool((total(point) <= total(towards) + 1e-2).all())


def test_the_networks_have_the_published_numbers_of_parameters():
    assert sum(values.numel() for values in DeepSet(100, 224).parameters()) == 145_924
    assert sum(values.numel() for values in DeepSet(10, 128).parameters()) == 35_722


# ---------------------------------------------------------------------- robustness


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(0, 6), st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 30.0]))
def test_kappa_bounds_the_distance_to_the_honest_mean(faulty, more, seed, far):
    clients = 2 * faulty + 1 + more
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(20, clients, 3, generator=generator, dtype=torch.float64)
    rows[:, :faulty] = far * rows[:, :faulty] + far
    honest = rows[:, faulty:]
    spread = (honest - honest.mean(1, keepdim=True)).square().sum(-1).mean(1)
    of_exact = 4.0 * ((clients - faulty) / (clients - 2 * faulty)) ** 2
    for name in ("median", "geometric-median", "trimmed-mean"):
        decision = decision_of(name, faulty)
        distance = (decision(rows) - honest.mean(1)).square().sum(-1)
        kappa = of_exact if name == "geometric-median" else decision.kappa(clients)
        assert bool((distance <= kappa * spread + 1e-5).all()), name
    low, high = honest.amin(1), honest.amax(1)
    for name in ("median", "trimmed-mean"):
        found = decision_of(name, faulty)(rows)
        assert bool(((found >= low - 1e-9) & (found <= high + 1e-9)).all()), name


def test_the_kappa_of_the_trimmed_mean_is_attained():
    # f honest rows at 1 among q zeros, and f rows below all: the trimmed mean drops the ones, and is 0.
    for clients, faulty in ((5, 1), (17, 4), (25, 7)):
        rows = torch.zeros(1, clients, 1, dtype=torch.float64)
        rows[0, :faulty], rows[0, faulty : 2 * faulty] = -9.0, 1.0
        honest = rows[:, faulty:]
        spread = float(honest.var(1, correction=0))
        found = float((order.trimmed_mean(rows, faulty) - honest.mean(1)).square())
        assert found == pytest.approx(decision_of("trimmed-mean", faulty).kappa(clients) * spread)


def test_margin_and_dissimilarity_are_the_worst_over_all_subsets():
    answers, faulty = queries(20, 6, 4).answers, 2
    first = answers.mean(1).argmax(-1)
    margins, spreads = [], []
    for kept in itertools.combinations(range(6), 4):
        rows = answers[:, kept]
        mean = rows.mean(1)
        own = mean.gather(1, first.unsqueeze(1))
        margins.append((own - mean.scatter(1, first.unsqueeze(1), -9.0)).amin(1))
        spreads.append((rows - mean.unsqueeze(1)).square().sum(-1).mean(1).sqrt())
    assert torch.allclose(least_margin(answers, faulty), torch.stack(margins).amin(0))
    assert bool((greatest_dissimilarity(answers, faulty) >= torch.stack(spreads).amax(0) - 1e-12).all())


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([(7, 1), (7, 2), (9, 1)]))
def test_no_lie_changes_a_certified_decision(seed, size):
    clients, faulty = size
    answers, _ = float32(queries(60, clients, 5, seed, strength=6.0))
    generator = torch.Generator().manual_seed(seed)
    liars = torch.randperm(clients, generator=generator)[:faulty]
    lies = [torch.eye(5)[wrong].expand(60, faulty, 5) for wrong in range(5)]
    lies.append(torch.rand(60, faulty, 5, generator=generator).softmax(-1))
    some = 0
    network = initialised(DeepSet(5, 4), generator)
    decisions = [decision_of(name, faulty) for name in STATIC] + [DeepSetDecision(network, faulty, Trim(faulty))]
    for decision in decisions:
        before, margin = decision(answers).argmax(-1), bounded_margin(answers, decision, faulty)
        by_margin = certify(answers, decision, faulty).holds
        assert not bool((by_margin & (before != answers.mean(1).argmax(-1))).any())
        certified = by_margin if margin is None else by_margin | (margin > 0)
        some += int(certified.sum())
        for rows in lies:
            after = decision(answers.index_copy(1, liars, rows)).argmax(-1)
            assert bool((after == before)[certified].all())
    assert some > 0


def test_a_geometric_median_that_is_not_reached_is_not_certified():
    answers = torch.tensor([0.51, 0.49]).expand(1, 25, 2).clone()
    lies = answers.clone()
    lies[:, :12] = torch.tensor([0.0, 1.0])
    decision = decision_of("geometric-median", 12)
    assert decision(answers).argmax() != decision(lies).argmax()
    assert not certify(answers, decision, 12).holds
    assert bounded_margin(answers, decision, 12) is None


@settings(max_examples=40)
@example([1, 2, 4, 4], "mean")
@given(st.lists(st.integers(0, 10), min_size=3, max_size=7), st.sampled_from(["mean", "median", "trimmed-mean"]))
def test_ties_are_not_certified(tenths, name):
    share = torch.tensor(tenths).view(1, -1, 1) / 10
    answers, faulty = torch.cat([share, 1 - share], -1), (len(tenths) - 1) // 2
    for few in range(1, faulty + 1):
        decision = decision_of(name, few)
        before = decision(answers).argmax(-1)
        certain = torch.eye(2)[1 - before].expand(few, 2)
        after = [
            decision(answers.index_copy(1, torch.tensor(liars), certain.unsqueeze(0))).argmax(-1)
            for liars in itertools.combinations(range(len(tenths)), few)
        ]
        if bool(bounded_margin(answers, decision, few) > 0) or bool(certify(answers, decision, few).holds):
            assert torch.equal(torch.cat(after), before.expand(len(after)))


def test_the_certificate_of_the_mean_is_exact():
    answers, decision = queries(60, 6, 4, strength=3.0).answers, decision_of("mean")
    before, found = decision(answers).argmax(-1), bounded_margin(answers, decision, 1)
    changed = torch.zeros(60, dtype=torch.bool)
    for liar, wrong in itertools.product(range(6), range(4)):
        rows = torch.eye(4, dtype=torch.float64)[wrong].expand(60, 1, 4)
        changed |= decision(answers.index_copy(1, torch.tensor([liar]), rows)).argmax(-1) != before
    assert torch.equal(found > 0, ~changed)
    assert 0 < int(changed.sum()) < 60


# ---------------------------------------------------------------------- attacks


def scene_of(decision, faulty=2, seed=0, samples=150):
    outputs = float32(queries(samples, 7, 5, seed))
    return Scene(outputs, liars_of(7, faulty, seed), decision, PROXY.answers, seed)


def attack_of(kind):
    return build(InferenceAttack, {"kind": kind, **({"steps": 12} if kind == "pgd-cw" else {})})


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("rule", DECISIONS)
def test_attacks_change_the_rows_of_liars_alone_to_probabilities(kind, rule):
    scene = scene_of(DECISIONS[rule], samples=12)
    variants = attack_of(kind).lies(scene)
    assert variants
    for rows in variants.values():
        assert rows.shape == (12, 2, 5)
        assert bool(are_probabilities(rows).all())
        changed = (scene.attacked(rows) != scene.outputs.answers).any(-1)
        assert sorted({*changed.nonzero()[:, 1].tolist()}) == scene.liars.tolist()
        assert not bool(changed[:, [c for c in range(7) if c not in scene.liars]].any())


def accuracy(scene, rows):
    return float((scene.decision(scene.attacked(rows)).argmax(-1) == scene.labels).float().mean())


def test_each_attack_is_that_of_the_oracle():
    scene = scene_of(DECISIONS["mean"], samples=40)
    answers, labels = scene.outputs
    liars = scene.liars.tolist()
    found = {kind: attack_of(kind).lies(scene) for kind in ATTACKS if kind != "pgd-cw"}
    clean = PROXY.answers.double().mean(1)
    centred = clean - clean.mean(0)
    for query in range(40):
        honest = [answers[query, c] for c in range(7) if c not in liars]
        mean = sum(honest) / len(honest)
        ranked = mean.argsort(descending=True).tolist()
        wrong = next(c for c in ranked if c != labels[query])
        colluding = sum(answers[query, c] for c in liars).argsort(descending=True)[1]
        prior = min((float((centred[:, ranked[0]] * centred[:, j]).mean()), j) for j in range(5) if j != ranked[0])[1]
        distances = [sum(float((one - other).norm()) for other in honest) for one in honest]
        far = honest[distances.index(max(distances))]
        for position, liar in enumerate(liars):
            own = answers[query, liar]
            flipped = own.pow(-2.0) / own.pow(-2.0).sum()
            expected = {
                "logit-flipping": flipped,
                "sia": torch.eye(5)[own.argsort(descending=True)[1]],
                "sia-colluding": torch.eye(5)[colluding],
                "sia-white-box": torch.eye(5)[wrong],
                "lma": torch.eye(5)[ranked[-1]],
                "cpa": torch.eye(5)[prior],
                "impersonation": far,
            }
            for kind, row in expected.items():
                assert torch.allclose(found[kind][""][query, position], row, atol=1e-4), kind


@pytest.mark.parametrize("rule", [*STATIC, str(LEARNED[1])])
def test_gradients_raise_the_liars_gain_and_white_boxes_beat_black_boxes(rule):
    scene = scene_of(DECISIONS[rule])
    start = torch.rand(scene.own.shape, generator=scene.generator("pgd-cw")).softmax(-1)
    before = gain(scene.decision(scene.attacked(start)), scene.labels).mean()
    variants = attack_of("pgd-cw").lies(scene)
    sorts = rule in ("median", "trimmed-mean", str(LEARNED[1]))
    assert [*variants] == ["gradient", *(["straight-through"] if sorts else [])]
    for rows in variants.values():
        assert gain(scene.decision(scene.attacked(rows)), scene.labels).mean() >= before - 1e-6
    white = min(
        accuracy(scene, rows) for kind in ("sia-white-box", "pgd-cw") for rows in attack_of(kind).lies(scene).values()
    )
    for kind in ("logit-flipping", "sia", "sia-colluding"):
        (rows,) = attack_of(kind).lies(scene).values()
        assert white <= accuracy(scene, rows), kind


def test_without_liars_all_attacks_are_the_clean_case():
    rules = [build(Rule, table) for table in [*STATIC, *LEARNED]]
    attacks = [attack_of(kind) for kind in ATTACKS]
    for report in evaluate(PROXY, rules, attacks, 0, proxy=PROXY):
        assert report.worst == report.worst_per_query == report.clean
        assert {*report.attacks.values()} == {report.clean}


def test_a_report_has_the_worst_attack_and_the_worst_of_each_query():
    test = float32(queries(120, 7, 5, seed=4))
    (report,) = evaluate(test, [build(Rule, "trimmed-mean")], [attack_of(kind) for kind in ATTACKS], 2, proxy=PROXY)
    assert {*report.attacks} == {*ATTACKS}
    assert report.worst == min(report.clean, *report.attacks.values())
    assert report.certified <= report.worst_per_query <= report.worst <= report.clean
    assert report.certified_by_margin <= report.worst_per_query
    named = {name.split(" ")[0]: [] for name in report.right}
    for name, right in report.right.items():
        named[name.split(" ")[0]].append(float(right.double().mean()))
    assert report.attacks == {kind: min(named[kind]) for kind in ATTACKS}
    assert len(named["pgd-cw"]) == 2
    broken = test.answers.clone()
    broken[3, 2] = 1.0
    with refused("1 of the stored answers are not probabilities. Project them", AnswersError):
        evaluate(Outputs(broken, test.labels), [build(Rule, "mean")], [], 2)


# ---------------------------------------------------------------------- adversarial training


@given(st.integers(2, 30), st.data())
def test_the_number_of_liars_has_the_distribution_of_the_paper(clients, data):
    faulty = data.draw(st.integers(0, (clients - 1) // 2))
    weights = [math.comb(clients, clients - lying) for lying in range(faulty + 1)]
    expected = [0.7 * weight / sum(weights) + 0.3 / (faulty + 1) for weight in weights]
    assert subset_sizes(clients, faulty).tolist() == pytest.approx(expected)
    generator = torch.Generator().manual_seed(clients)
    chosen, lying = draw_liars(50, clients, subset_sizes(clients, faulty), generator)
    assert chosen.shape == lying.shape == (50, faulty)
    assert all(len({*row}) == faulty for row in chosen.tolist())


def test_liars_are_drawn_evenly():
    chosen, lying = draw_liars(20_000, 5, subset_sizes(5, 2), torch.Generator().manual_seed(1))
    counts = torch.bincount(lying.sum(1), minlength=3) / 20_000
    assert counts.tolist() == pytest.approx(subset_sizes(5, 2).tolist(), abs=0.02)
    clients = torch.bincount(chosen[lying], minlength=5).double()
    assert (clients / clients.sum()).tolist() == pytest.approx([0.2] * 5, abs=0.02)


def test_adversarial_training_makes_a_rule_more_robust():
    test, proxy = (float32(queries(200, 9, 4, seed=seed, strength=2.5)) for seed in (1, 2))
    table = {"kind": "deepset", "hidden": 16, "steps": 80, "lr": 0.005, "trimmed": False, "inner_steps": 5}
    rules = [build(Rule, {**table, "adversarial": adversarial}) for adversarial in (False, True)]
    plain, adversarial = evaluate(test, rules, [attack_of("pgd-cw")], 3, proxy=proxy)
    assert adversarial.worst > plain.worst + 0.02
    again, _ = evaluate(test, rules, [attack_of("pgd-cw")], 3, proxy=proxy)
    assert again.table() == plain.table()
