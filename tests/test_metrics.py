"""The metrics of a task: each is its definition, for any batches, and a figure of every evaluation."""

import json
import math
import re

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import covey
from covey.learning.dataset import Data, Split
from covey.learning.metrics import Metric
from covey.learning.objectives import OwnLoss
from covey.learning.scoring import Further, Scoring
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import build
from covey.runtime.experiment import Experiment
from tests.conftest import simulate, table
from tests.hosts import emulate
from tests.programs.asking import DOES
from tests.test_samples_and_outputs import TASK, once

VALUES = {"dataset": "linear-regression", "model": "linear", "optimizer": {"kind": "sgd", "lr": 0.05}}

# ---------------------------------------------------------------------- definitions, pair by pair and class by class


def f1(scores, targets):
    found = []
    for label in range(scores.shape[1]):
        said, true = scores.argmax(1) == label, targets == label
        if said.any() or true.any():
            found.append(2 * (said & true).sum().item() / (said.sum() + true.sum()).item())
    return sum(found) / len(found)


def auroc(scores, targets):
    areas, shares = [], scores.softmax(1)
    for label in range(scores.shape[1]):
        pairs = [
            1.0 if p > n else 0.5 if p == n else 0.0
            for p in shares[targets == label, label]
            for n in shares[targets != label, label]
        ]
        areas += [sum(pairs) / len(pairs)] if pairs else []
    return sum(areas) / len(areas) if areas else math.nan


def r2(outputs, targets):
    left, spread = (outputs - targets).square().sum(0), (targets - targets.mean(0)).square().sum(0)
    shares = [1 - a / b if b > 0 else float(a == 0) for a, b in zip(left.reshape(-1), spread.reshape(-1), strict=True)]
    return float(sum(shares) / len(shares))


OF_CLASSES = {
    "accuracy": lambda scores, targets: (scores.argmax(1) == targets).double().mean().item(),
    "macro-f1": f1,
    "auroc": auroc,
    "perplexity": lambda scores, targets: math.exp(F.cross_entropy(scores.double(), targets).item()),
}
OF_VALUES = {
    "mse": lambda outputs, targets: (outputs - targets).square().mean().item(),
    "mae": lambda outputs, targets: (outputs - targets).abs().mean().item(),
    "r2": r2,
}


def in_batches(kind, outputs, targets, sizes):
    """A metric of batches of some sizes, in turn."""
    form = "values" if targets.is_floating_point() else "sequence" if targets.dim() > 1 else "classes"
    split = Split(outputs, targets)
    metric = build(Metric, kind)
    further = Further(Scoring(Data(split, split, form, outputs.shape[-1]), OwnLoss(), [metric]))
    at = 0
    while at < len(targets):
        size = sizes[at % len(sizes)]
        further.add(outputs[at : at + size], targets[at : at + size])
        at += size
    return further.figures()[metric.called]


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(OF_CLASSES)),
    count=st.integers(1, 25),
    classes=st.integers(2, 5),
    steps=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    sizes=SIZES,
)
def test_a_metric_of_classes_is_its_definition(kind, count, classes, steps, seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    # Few different scores: many are equal.
    scores = torch.randint(-steps, steps + 1, (count, classes), generator=generator).float()
    targets = torch.randint(classes, (count,), generator=generator)
    expected = OF_CLASSES[kind](scores, targets)
    assert in_batches(kind, scores, targets, sizes) == pytest.approx(expected, rel=1e-6, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(OF_VALUES)),
    count=st.integers(1, 25),
    outputs=st.integers(0, 3),
    offset=st.sampled_from([0.0, 1e4]),
    seed=st.integers(0, 10_000),
    sizes=SIZES,
)
def test_a_metric_of_values_is_its_definition(kind, count, outputs, offset, seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, outputs) if outputs else (count,)
    targets = torch.randn(shape, generator=generator, dtype=torch.float64).float() + offset
    said = targets + torch.randn(shape, generator=generator) / 4
    expected = OF_VALUES[kind](said.double(), targets.double())
    assert in_batches(kind, said, targets, sizes) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("macro-f1", {"kind": "torchmetrics:F1Score", "task": "multiclass", "average": "macro"}),
        ("auroc", {"kind": "torchmetrics:AUROC", "task": "multiclass"}),
        ("accuracy", {"kind": "torchmetrics.classification:MulticlassAccuracy", "average": "micro"}),
        ("mse", "torchmetrics:MeanSquaredError"),
        ("mae", "torchmetrics:MeanAbsoluteError"),
        ("r2", "torchmetrics:R2Score"),
    ],
)
def test_a_metric_is_that_of_torchmetrics(kind, other):
    pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(4)
    outputs, targets = torch.randn(50, 4, generator=generator), torch.randint(4, (50,), generator=generator)
    if kind in OF_VALUES:
        outputs, targets = outputs[:, 0], outputs[:, 1]
    assert in_batches(kind, outputs, targets, [7]) == pytest.approx(in_batches(other, outputs, targets, [9]), rel=1e-5)


# ---------------------------------------------------------------------- in runs


def calibration(outputs, targets, *, bins: int = 10):
    """The expected calibration error."""
    sure, said = outputs.softmax(1).max(1)
    error = 0.0
    for at in range(bins):
        here = (sure > at / bins) & (sure <= (at + 1) / bins)
        if here.any():
            error += here.double().mean() * abs((said == targets)[here].double().mean() - sure[here].double().mean())
    return error


METRICS = ["accuracy", "macro-f1", "auroc", "perplexity", {"kind": "tests.test_metrics:calibration", "bins": 5}]
COLUMNS = ["accuracy", "macro_f1", "auroc", "perplexity", "calibration"]


def recomputed(run, which):
    """The metrics of a run's model in plain torch."""
    data = Experiment.from_table(run.experiment).task.dataset.load(None)
    with torch.no_grad():
        scores = run.module(which)(data.scaled(data.test.inputs))
    found = {kind.replace("-", "_"): oracle(scores, data.test.targets) for kind, oracle in OF_CLASSES.items()}
    return {**found, "calibration": float(calibration(scores, data.test.targets, bins=5))}


@pytest.mark.parametrize("model", ["logistic", {"kind": "mlp", "hidden": [8]}])
@pytest.mark.parametrize("kernel", ["stacked", "module", "vmap"])
def test_the_metrics_of_a_run_are_those_of_its_models(model, kernel, tmp_path):
    blobs = {"kind": "gaussian-blobs", "samples": 90, "test_samples": 40, "classes": 4}
    task = {"dataset": blobs, "model": model, "batch_size": 4, "metrics": METRICS}
    tables = table(task=task, network={"nodes": 3}, rounds=2, engine={"kernel": kernel})
    run = covey.run({**tables, "evaluation": {"every": 1}}, out=tmp_path / "run")
    assert run.facts["starts"][-1]["kernel"] == kernel
    assert run.facts["metrics"] == COLUMNS
    last = run.metrics[run.metrics["round"] == 2].set_index("node")
    for node in range(3):
        expected = recomputed(run, node)
        assert last.loc[node, COLUMNS].to_dict() == pytest.approx(expected, rel=1e-4)
    average = run.network.iloc[-1]
    expected = recomputed(run, "average")
    assert {name: average[f"average_model_{name}"] for name in COLUMNS} == pytest.approx(expected, rel=1e-4)


def test_both_engines_have_the_same_metrics(tmp_path):
    tables = table(task={"metrics": METRICS}, network={"nodes": 4}, rounds=4)
    figures = [written.figures for _, written in (simulate(tables), emulate(tables, tmp_path))]
    reported = [
        {row[:3]: row[3] for row in rows if row[2].removeprefix("average_model_") in COLUMNS} for rows in figures
    ]
    assert reported[0] == pytest.approx(reported[1], abs=2e-3)
    assert len(reported[0]) == 2 * len(COLUMNS) * (4 + 1)


def test_values_have_metrics_too(tmp_path):
    tables = table(task={**VALUES, "metrics": ["mse", "mae", "r2"]}, network={"nodes": 3}, rounds=3)
    run = covey.run(tables, out=tmp_path / "run")
    for row in run.metrics.itertuples():
        assert row.mse == pytest.approx(row.loss, rel=1e-5)
        assert row.mae <= row.rmse * (1 + 1e-6)
        assert row.r2 < 1
    assert run.metrics["r2"].iloc[-1] > run.metrics["r2"].iloc[0]


def test_a_program_sees_the_metrics_of_its_evaluations():
    from tests.test_samples_and_outputs import doing  # noqa: F401

    async def what(node):
        said = node.judge(await node.predict(on=node.samples("validation")), "validation")
        return await node.evaluate(split="validation"), said

    DOES["what"] = what
    evaluated, judged = once("what", task=table(task={**TASK, "metrics": METRICS})["task"])[0]
    assert evaluated.keys() == judged.keys() == {"loss", *COLUMNS}
    assert evaluated == pytest.approx(judged, rel=1e-5)


def test_tables_figures_and_the_report_show_metrics(covey, in_folder):
    tables = table(task={"metrics": METRICS}, network={"nodes": 3}, rounds=2)
    (in_folder / "x.toml").write_text(tomli_w.dumps(tables))
    assert covey("check", "x.toml")[1].count("accuracy, macro_f1, auroc, perplexity, calibration") == 1
    _, out, _ = covey("sweep", "x.toml", "--set", "seed=1,2", "--out", "swept")
    assert {"macro f1", "auroc", "perplexity", "calibration"} <= {*re.split(r"[|│┃\n] *| {2,}", out)}
    records = json.loads(covey("sweep", "x.toml", "--set", "seed=3,4", "--out", "again", "--json")[1])
    assert records[0]["macro_f1"].keys() == {"mean", "std"}
    _, out, _ = covey("compare", "swept/seed=1", "swept/seed=2")
    assert "macro f1" in out
    assert "calibration" in covey("show", "swept/seed=1")[1]
    assert covey("plot", "swept/seed=1", "--metric", "macro_f1", "--out", "f1.png")[0] == 0
    assert covey("report", "swept/seed=1", "swept/seed=2", "--out", "report.html")[0] == 0
    page = (in_folder / "report.html").read_text()
    assert "Macro f1 by round" in page
    assert page.count('<th scope="col">macro f1</th>') == 2


# ---------------------------------------------------------------------- mistakes


def broken(outputs, targets):
    return outputs.nonsense


def wordy(outputs, targets):
    return "high"


def lonely(outputs):
    return 0.0


HERE = "tests.test_metrics"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (["macro_f1"], "Unknown metric 'macro_f1'; did you mean 'macro-f1'?"),
        ("auroc", "The 'metrics' of the task must be a list, each a metric. Got 'auroc' instead."),
        (["auroc", "auroc"], "The metric auroc has the column 'auroc', as the metric auroc has: set its 'column'"),
        ([{"kind": "auroc", "column": "loss"}], "The metric auroc has the column 'loss', as every run has"),
        ([{"kind": "auroc", "column": "A B"}], "The 'column' of the metric auroc must be at most 40 small letters"),
        (["mae"], "The metric mae is one of values, and the targets are classes."),
        ([f"{HERE}:broken"], f"The metric {HERE}:broken fails: AttributeError: "),
        ([f"{HERE}:wordy"], f"The metric {HERE}:wordy fails: ValueError: could not convert string to float: 'high'"),
        ([f"{HERE}:lonely"], f"The metric {HERE}:lonely must take 2 arguments. Got "),
        ([f"{HERE}:nowhere"], f"The metric '{HERE}:nowhere' does not exist"),
        ([{"kind": f"{HERE}:calibration", "bin": 3}], f"Unknown key 'bin' of the metric {HERE}:calibration; did you "),
        (
            [{"kind": f"{HERE}:calibration", "bins": "few"}],
            f"The 'bins' of the metric {HERE}:calibration must be an int. Got 'few' instead.",
        ),
    ],
)
def test_a_wrong_metric_is_one_line_before_the_run(metrics, said):
    with pytest.raises(ConfigurationError) as caught:
        simulate(table(task={"metrics": metrics}))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_split_with_one_class_alone_has_no_area(tmp_path):
    assert math.isnan(in_batches("auroc", torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), [2]))


def test_equal_tables_of_a_function_are_equal_parts():
    parts = [build(Metric, {"kind": f"{HERE}:calibration", "bins": 3}) for _ in range(2)]
    assert parts[0] == parts[1]
    assert parts[0] != build(Metric, f"{HERE}:calibration")
