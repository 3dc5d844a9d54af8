"""Attacks on what observed nodes received: their figures against oracles, and what they find where it is known."""

import json
import sqlite3

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest, norm
from torch import nn

import covey
from covey.cli import main
from covey.learning.layout import Layout
from covey.pages import page
from covey.parts.errors import ConfigurationError, RunError
from covey.privacy.attacks import attack, read_knowledge
from covey.privacy.attacks.attacking import attacks_of
from covey.privacy.attacks.contract import Attack, Result, untracked
from covey.privacy.attacks.images import assigned, mse, psnr, ssim
from covey.privacy.attacks.lira import Fit
from covey.privacy.attacks.matching import Task, inferred_labels
from covey.privacy.attacks.rates import auc, interval, matching, roc, tpr_at, worst_if_not_finite
from covey.runtime.experiment import Experiment, assign
from tests.conftest import table

QUICK = {"latency": 0.0, "bandwidth": None, "compute": 1e6}
SCORES = arrays(np.float64, st.integers(1, 30), elements=st.integers(-4, 4).map(float))


@given(SCORES, SCORES, st.data())
@settings(max_examples=30)
def test_the_area_is_the_fraction_of_pairs_in_order(members, others, data):
    pairs = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    assert auc(members, others) == pytest.approx(pairs.mean(), abs=1e-12)
    weights = data.draw(arrays(np.float64, len(others), elements=st.floats(0.25, 3)))
    assert auc(members, others, weights) == pytest.approx((pairs * weights).sum() / (len(members) * weights.sum()))


@given(SCORES, SCORES)
@settings(max_examples=30)
def test_rates_are_those_of_a_threshold_that_few_others_exceed(members, others):
    for rate in (0.001, 0.1, 0.5):
        thresholds = [t for t in np.concatenate([others, members, [9.0]]) if (others > t).mean() <= rate]
        assert tpr_at(members, others, rate) == max((members > t).mean() for t in thresholds)
    rates, truly = roc(members, others)
    assert rates[-1] == truly[-1] == 1.0
    assert (np.diff(truly) >= -1e-12).all()


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=25)
def test_intervals_are_exact(case):
    hits, trials = case
    exact = binomtest(hits, trials).proportion_ci(method="exact")
    assert interval(hits, trials) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_class_matching_removes_what_the_classes_tell():
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 10, 4000)
    mine = rng.integers(0, 2, 4000)  # The node has two classes alone.
    easy = np.where(np.arange(10) < 2, 2.0, -2.0)
    inside, outside = easy[mine] + rng.normal(size=4000), easy[classes] + rng.normal(size=4000)
    kept, weights = matching(mine, classes)
    assert auc(inside, outside) > 0.85
    assert auc(inside[kept], outside, weights) == pytest.approx(0.5, abs=0.02)
    assert weights[classes >= 2].sum() == 0
    assert weights.sum() == pytest.approx(len(mine))


def test_losses_that_are_not_finite_are_the_worst():
    scores = worst_if_not_finite(np.array([1.0, np.nan, np.inf, -np.inf]))
    assert scores.tolist() == [1.0, *[-np.inf] * 3]
    assert auc(scores[1:], scores[:1]) == 0.0
    assert auc(scores[1:], scores[1:]) == 0.5


def slow_ssim(one, other):
    """Wang et al. (2004), window by window."""
    at = np.arange(11) - 5
    window = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(window, window) / np.outer(window, window).sum()
    values = []
    for channel in range(len(one)):
        for y in range(one.shape[1] - 10):
            for x in range(one.shape[2] - 10):
                a, b = one[channel, y : y + 11, x : x + 11], other[channel, y : y + 11, x : x + 11]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                cov = (window * (a - ma) * (b - mb)).sum()
                values.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(values)


def test_similarity_is_that_of_windows():
    draw = torch.Generator().manual_seed(1)
    one, other = torch.rand(3, 2, 15, 14, generator=draw), torch.rand(3, 2, 15, 14, generator=draw)
    other[2] = one[2]
    found = ssim(one, other)
    assert found.numpy() == pytest.approx(
        [slow_ssim(*pair) for pair in zip(one.numpy().astype(float), other.numpy().astype(float), strict=True)],
        abs=1e-9,
    )
    assert found[2] == pytest.approx(1.0)
    assert float(psnr(one, one + 0.1)[0]) == pytest.approx(20.0, abs=1e-4)
    assert torch.allclose(mse(one, other), (one.double() - other.double()).square().mean((1, 2, 3)))


def test_reconstructions_are_assigned_before_they_are_scored():
    originals = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([3, 0, 4, 1, 2])
    assert assigned(originals[order] + 0.01, originals).tolist() == order.tolist()
    assert sorted(assigned(originals[:1].repeat(10, 1, 1, 1), originals).tolist()) == sorted([*range(5)] * 2)


# ---------------------------------------------------------------------- attacks on runs


def run_of(folder, **changes):
    base = {"rounds": 2, "network": QUICK, "observer": {"nodes": [0, 1]}, "evaluation": {"every": 0}}
    return covey.run(table(**{**base, **changes}), out=folder, quiet=True)


MEMORISED = {
    "dataset": {"kind": "gaussian-blobs", "samples": 480, "test_samples": 400, "features": 40, "noise": 3.0},
    "model": {"kind": "mlp", "hidden": [64]},
    "batch_size": 20,
    "optimizer": {"kind": "sgd", "lr": 0.1},
}


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    """A run in which every node has samples of two classes."""
    return run_of(
        tmp_path_factory.mktemp("skewed") / "run",
        task={"partition": {"kind": "shards", "per_node": 2}, "local_steps": 20},
    )


def test_memorised_samples_are_recognised_and_those_of_a_fresh_model_are_not(tmp_path):
    learned = run_of(tmp_path / "learned", rounds=1, task={**MEMORISED, "local_epochs": 150})
    (found,) = attack(learned, ["membership-loss"])
    assert found.headline["matched"] > 0.9
    assert found.headline["tpr_1%"] > 0.02
    fresh = run_of(
        tmp_path / "fresh", rounds=1, task={**MEMORISED, "local_steps": 1, "optimizer": {"kind": "sgd", "lr": 1e-6}}
    )
    (found,) = attack(fresh, ["membership-loss"])
    assert found.headline["matched"] == pytest.approx(0.5, abs=0.12)
    assert "no better than guessing" in found.meaning or found.headline["matched"] > 0.53


def test_senders_are_recognised_by_their_classes_and_not_behind_masks(skewed, tmp_path):
    link, members = attack(skewed, ["linkability", "membership-loss"])
    assert link.headline["rate"] > 0.8
    assert link.headline["chance"] == pytest.approx(1 / 11)
    # The classes of its sender inflate the raw area.
    assert members.headline["auc"] > members.headline["matched"] + 0.15
    task = {"partition": {"kind": "shards", "per_node": 2}, "local_steps": 20}
    masked = run_of(
        tmp_path / "masked", task=task, program={"kind": "gossip", "topology": "ring", "sharing": "secure-aggregation"}
    )
    (found,) = attack(masked, ["linkability"])
    rates = {row[0]: (row[3], row[5]) for row in found.rows if row[1] == "own model"}
    assert rates["masked model"][0] <= 0.4
    assert rates["mean of 2 models"][1] == pytest.approx(2 / 11)


@pytest.mark.parametrize(
    ("sharing", "least", "most"), [("full", 30.0, 200.0), ({"kind": "random", "budget": 0.01}, 0.0, 12.0)]
)
def test_a_digit_is_found_from_its_gradient_unless_most_of_it_is_hidden(sharing, least, most, tmp_path):
    task = {"model": {"kind": "mlp", "hidden": [32]}, "batch_size": 1, "local_steps": 1}
    run = run_of(
        tmp_path / "run", rounds=1, task=task, program={"kind": "gossip", "topology": "ring", "sharing": sharing}
    )
    (found,) = attack(run, [{"kind": "inversion", "methods": ["idlg"], "messages": 1, "iterations": 100}])
    assert least < found.headline["psnr"] < most
    assert {row[2] for row in found.rows} == {"observed", "zero-filled"}
    assert found.meaning.startswith("1 of 1 training pictures" if least else "None of 1 training pictures")
    assert found.headline["psnr_zero_filled"] <= found.headline["psnr"] + 3.0


@pytest.mark.parametrize("seen", [1.0, 0.25, 0.0625])
def test_labels_are_inferred_from_the_part_of_the_last_layer_that_was_seen(seen):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    task = Task(module, Layout(module), (1, 8, 8), 10, 0.0, 1.0, 1, 0.1)
    start = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    classes = torch.arange(10)
    targets = torch.eye(10)[classes].unsqueeze(1)
    gradients = torch.stack([task.gradient(start, torch.rand(1, 1, 8, 8), y, simulate=False) for y in targets])
    biases = gradients[:, -10:].clone()
    gradients[torch.rand(gradients.shape) >= seen] = 0.0
    if seen < 1.0:
        gradients[:, -10:] = 0.0  # As in the chunks of Shatter: small tensors are wholly in the last one.
    found = inferred_labels(task, gradients, 1).argmax(-1).squeeze(1)
    assert (biases.argmin(1) == classes).all()
    assert (found == classes).float().mean() >= (1.0 if seen > 0.1 else 0.5)


def test_nothing_of_the_truth_is_read_before_scoring(skewed, tmp_path, monkeypatch):
    (skewed.folder / "observed/truth.npz").rename(tmp_path / "truth.npz")
    try:
        known = read_knowledge(skewed)
        for one in attacks_of(["membership-loss", "linkability"]):
            evidence = one.ready(known.prepared.setting).observe(known)
            assert all(np.isfinite(scores.train_VS).all() for scores in evidence.scores)
        with pytest.raises(RunError, match=r"has no readable observed/truth\.npz"):
            attack(skewed, ["linkability"])
        np.savez(skewed.folder / "observed/truth.npz", other=np.arange(3))
        with pytest.raises(RunError, match="has no samples of nodes"):
            attack(skewed, ["linkability"])
        np.savez(skewed.folder / "observed/truth.npz", **{"samples_of/0": np.array([10**9])})
        with pytest.raises(RunError, match="samples_of/0 is wrong"):
            attack(skewed, ["linkability"])
    finally:
        (tmp_path / "truth.npz").rename(skewed.folder / "observed/truth.npz")


def test_the_command_writes_tables_and_figures(skewed, tmp_path, capsys):
    out = tmp_path / "attacks"
    assert main(["attack", str(skewed.folder), "--kind", "linkability,membership-loss", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Senders are recognised" in printed
    assert (out / "membership-loss" / "roc.png").stat().st_size > 1000
    found = json.loads((out / "membership-loss" / "result.json").read_text())
    assert found["rows"][0]["seen"] == "model"
    assert (out / "linkability" / "table.csv").read_text().startswith("seen,completed by,messages,right")
    assert (
        main(
            [
                "attack",
                str(skewed.folder),
                "--kind",
                "linkability",
                "--json",
                "--out",
                str(out),
                "--set",
                "linkability.messages=3",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)[0]["rows"][0]["messages"] == 3


def refused(capsys, *arguments):
    assert main(["attack", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mistakes_are_one_line(skewed, tmp_path, capsys):
    line = refused(capsys, skewed.folder, "--kind", "linkabilty")
    assert "Unknown attack 'linkabilty'" in line
    assert "did you mean" in line.lower()
    assert "must begin with one of its kinds" in refused(
        capsys, skewed.folder, "--kind", "linkability", "--set", "samples=3"
    )
    assert "'messages' of the attack linkability must be" in refused(
        capsys, skewed.folder, "--kind", "linkability", "--set", "linkability.messages=0"
    )
    plain = covey.run(table(rounds=1, network=QUICK), out=tmp_path / "plain", quiet=True)
    assert "has no observed/: nothing can be attacked" in refused(capsys, plain.folder, "--kind", "linkability")
    other = run_of(tmp_path / "tags", rounds=1, observer={"nodes": [0], "tags": ["gradient"]})
    assert "None of the 0 observed messages" in refused(capsys, other.folder, "--kind", "linkability")
    facts = other.folder / "facts.json"
    facts.write_text(facts.read_text().replace('"data": "sha256:', '"data": "sha256:0'))
    assert "its data set differs from that with which it began" in refused(
        capsys, other.folder, "--kind", "linkability"
    )
    blobs = run_of(tmp_path / "blobs", rounds=1, task=MEMORISED)
    assert "needs pictures of classes" in refused(capsys, blobs.folder, "--kind", "inversion")
    # Among several, one that is not possible costs the others nothing.
    assert main(["attack", str(blobs.folder), "--kind", "inversion,linkability"]) == 0
    printed = capsys.readouterr().out
    assert "Not possible here. The attack inversion needs pictures of classes" in printed
    assert "recognised: the guess is right for" in printed


HOSTILE = {
    "noise": ("UPDATE messages SET frame = X'00112233'", "has no readable observed/messages.sqlite"),
    "no node": ("UPDATE messages SET node = 99", "there is no node 99"),
    "a text": ("UPDATE messages SET frame = 'model'", "a row is not a message"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_record_is_refused(case, tmp_path, capsys):
    run = run_of(tmp_path / "run", rounds=1)
    change, why = HOSTILE[case]
    with sqlite3.connect(run.folder / "observed/messages.sqlite") as database:
        database.execute(change)
    database.close()
    assert why in refused(capsys, run.folder, "--kind", "linkability")


def test_messages_that_make_no_sense_are_not_used(tmp_path):
    from covey.messages import wire

    run = run_of(tmp_path / "run", rounds=1)
    size = read_knowledge(run).first.numel()
    wrong = [
        wire.encode({"model": torch.zeros(3)}, sender=2, receiver=0, round=0),
        wire.encode({"model": torch.full((size,), torch.nan)}, sender=2, receiver=0, round=0),
        wire.encode({"model": torch.zeros(size)}, sender=2, receiver=0, round=10**9),
        wire.encode({"other": 1}, sender=2, receiver=0, round=0),
    ]
    before = len(read_knowledge(run).views)
    with sqlite3.connect(run.folder / "observed/messages.sqlite") as database:
        database.executemany("INSERT INTO messages VALUES (1.0, 0, ?)", [(frame,) for frame in wrong])
    database.close()
    known = read_knowledge(run)
    assert len(known.views) == before
    assert sum(known.rejected.values()) == len(wrong)
    (found,) = attack(run, ["linkability"])
    assert len(found.remarks) == 3
    with pytest.raises(ConfigurationError, match="No attack was chosen"):
        attack(run, [])


# ---------------------------------------------------------------------- reference models and series


def test_scores_of_lira_are_ratios_of_normal_densities():
    margins = np.array([[1.0, 0.0], [3.0, 2.0], [-1.0, 5.0], [0.0, 7.0]])
    held = np.array([[True, False], [True, False], [False, True], [False, True]])
    fit = Fit(margins, held)
    # Below 64 models all samples share one variance, that within the groups.
    inside, outside = np.array([2.0, 6.0]), np.array([-0.5, 1.0])
    pooled_in, pooled_out = np.sqrt((2.0 + 2.0) / 2), np.sqrt((0.5 + 2.0) / 2)
    seen = np.array([[0.3, 2.0]])
    online = norm.logpdf(seen, inside, pooled_in) - norm.logpdf(seen, outside, pooled_out)
    assert fit.online(seen) == pytest.approx(online)
    assert fit.offline(seen) == pytest.approx(norm.logcdf(seen, outside, pooled_out))
    many = np.random.default_rng(1).normal(size=(64, 2)) * [1.0, 3.0]
    own = Fit(many, np.arange(64)[:, None] < [[32, 32]])
    assert own.inside[1] == pytest.approx(many[:32].std(axis=0, ddof=1))


@pytest.fixture(scope="module")
def memorised(tmp_path_factory):
    """A run whose nodes memorise their samples."""
    return run_of(tmp_path_factory.mktemp("memorised") / "run", rounds=3, task={**MEMORISED, "local_epochs": 50})


def test_reference_models_and_series_recognise_memorised_samples(memorised):
    few = {"samples": 480, "messages": 4}
    lira, series = attack(
        memorised,
        [
            {"kind": "membership-lira", "references": 6, "epochs": 25, **few},
            {"kind": "membership-series", "epochs": 30, "victims": 1, "samples": 480},
        ],
    )
    assert lira.headline["matched"] > 0.7
    assert {row[0] for row in lira.rows} == {"online", "offline"}
    assert series.headline["matched"] > 0.7
    assert {row[0] for row in series.rows} == {"MLP", "FCN"}
    # Known samples are not tested.
    assert series.headline["members"] < 0.5 * 80


class FirstGuess(Attack):
    """An attack of a user's own."""

    def observe(self, known, tracked=untracked):
        return len(known.views)

    def score(self, known, evidence, truth):
        return Result(self.kind or "mine", ("views",), [(evidence,)], "Nothing.", {})


def test_an_attack_of_a_users_own_is_run(memorised):
    (found,) = attack(memorised, [{"kind": "tests.test_attacks:FirstGuess"}])
    assert found.rows == [(12,)]


def test_a_report_has_the_attacks_on_its_run(skewed, tmp_path):
    from covey.api.attacking import attack as attack_and_write

    assert page._attacks(skewed) == ""
    results, folder = attack_and_write(skewed, ["linkability", "membership-loss"])
    shown = covey.report(skewed, out=tmp_path / "page.html").read_text()
    assert shown.count("<h3>Attack:") == 2
    assert all(result.meaning in shown for result in results)
    assert "Members recognised by membership-loss" in shown
    assert "mathdefault" not in shown
    (folder / "membership-loss" / "result.json").unlink()
    (folder / "linkability" / "result.json").write_text('{"kind": "<b>", "meaning": 3}')
    assert "cannot be read" in page._attacks(skewed)
    bad = {"kind": "<script>", "meaning": "<i>", "rows": [{"<u>": "<s>"}], "curves": {"x": [[1.0], []]}}
    (folder / "linkability" / "result.json").write_text(json.dumps(bad))
    assert not any(tag in page._attacks(skewed) for tag in ("<script>", "<i>", "<u>", "<s>"))


@pytest.mark.parametrize(("text", "nodes"), [("0,1", [0, 1]), ("3, 0", [3, 0]), ("[2]", [2])])
def test_observed_nodes_are_listed_on_the_command_line(text, nodes):
    tables = table()
    assign(tables, f"observer.nodes={text}")
    assert Experiment.from_table(tables).observer.nodes == nodes
