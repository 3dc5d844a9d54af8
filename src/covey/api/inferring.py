"""Robust inference with the models of a run, with a table and a figure in its folder: `covey infer`."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.messages.files import replacing
from covey.parts import kinds
from covey.parts.errors import ConfigurationError, RunError
from covey.parts.parameters import build
from covey.runtime.runs import Run

if TYPE_CHECKING:
    from covey.federated.robust_inference.answers import OnInvalid
    from covey.federated.robust_inference.attacks import InferenceAttack
    from covey.federated.robust_inference.rule import Rule
    from covey.federated.robust_inference.suite import Report, Tracked

INFERENCE = "inference"
"""The folder of the results in that of their run."""
STATIC = ("mean", "median", "geometric-median", "trimmed-mean")


@dataclass
class Inference:
    """The accuracy of rules under attacks.

    Attributes:
        reports: a report for each rule.
        clients: the number of clients.
        faulty: the number of those that lie.
        queries: the number of test queries.
        folder: the folder of the table and the figure.
    """

    reports: "list[Report]"
    clients: int
    faulty: int
    queries: int
    folder: Path

    @property
    def columns(self) -> list[str]:
        """The columns of the table."""
        return ["rule", "none", *self.reports[0].attacks, "worst", "worst per query", "certified"]

    @property
    def rows(self) -> list[list[str | float | None]]:
        """The rows of the table: accuracies in percent."""
        found: list[list[str | float | None]] = []
        for one in self.reports:
            figures = [one.clean, *one.attacks.values(), one.worst, one.worst_per_query, one.certified]
            found.append([one.rule, *(None if figure is None else 100.0 * figure for figure in figures)])
        return found

    @property
    def meaning(self) -> str:
        """One line about the table."""
        return (
            f"Accuracy in % of {self.queries} queries to {self.clients} clients; {self.faulty} of them may lie. The "
            "worst is that of the strongest attack; per query, that of the strongest attack on each. Certified: no lie "
            "can change it."
        )

    def table(self) -> dict[str, Any]:
        """All figures as plain values."""
        facts = {"clients": self.clients, "faulty": self.faulty, "queries": self.queries}
        return {**facts, "rules": [report.table() for report in self.reports]}


def infer(
    run: Run | Path | str,
    *,
    rules: "Sequence[Rule | str | Mapping[str, Any]]" = (),
    attacks: "Sequence[InferenceAttack | str | Mapping[str, Any]]" = (),
    faulty: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    on_invalid: "OnInvalid" = "reject",
    out: Path | str | None = None,
    data: Path | None = None,
    tracked: "Tracked | None" = None,
) -> Inference:
    """Let the clients of a run answer its test samples, some with lies, and write the accuracy of rules.

    Args:
        run: the run, or its folder. Its clients are the nodes that hold data.
        rules: the rules; by default, those without training and, with validation samples, deepset.
        attacks: the attacks; by default, all.
        faulty: the number of clients that lie; by default, a quarter.
        samples: the greatest number of test samples; by default, all.
        seed: the seed of the liars, of training and of attacks.
        on_invalid: the treatment of rows that are not probabilities.
        out: the folder of `table.csv`, `result.json`, the figure and trained networks; by default, `inference` in
            that of the run.
        data: the data folder; by default, that of the environment.
        tracked: shows the progress of an iteration.

    Raises:
        RunError: the run has no models of clients, or the folder cannot be written.
        ConfigurationError: a rule or an attack is unknown, or a learned rule lacks validation samples.
        AnswersError: half of the clients or more lie.
    """
    from covey.federated.robust_inference.attacks import InferenceAttack
    from covey.federated.robust_inference.rule import Rule
    from covey.federated.robust_inference.stored import stored_outputs
    from covey.federated.robust_inference.suite import evaluate

    lies = [_part(InferenceAttack, one) for one in attacks or kinds.built_in()["inference-attack"]]
    chosen = [_part(Rule, one) for one in rules]
    run = run if isinstance(run, Run) else Run(run)
    stored = stored_outputs(run, samples=samples, data=data)
    if stored.proxy is None and (learned := [rule for rule in chosen if rule.needs_outputs]):
        raise ConfigurationError(
            f"{learned[0].named().capitalize()} is trained on validation samples of clients, and the run {run.folder} "
            "has none: set 'validation' of its task, as to 0.1."
        )
    if not chosen:
        chosen = [build(Rule, kind) for kind in (*STATIC, *(["deepset"] if stored.proxy is not None else []))]
    clients = len(stored.clients)
    lying = max(1, clients // 4) if faulty is None else faulty
    shown = {} if tracked is None else {"tracked": tracked}
    reports = evaluate(stored.test, chosen, lies, lying, proxy=stored.proxy, seed=seed, on_invalid=on_invalid, **shown)
    folder = run.folder / INFERENCE if out is None else Path(out)
    found = Inference(reports, clients, lying, len(stored.test.labels), folder)
    write(found)
    return found


def write(inference: Inference) -> None:
    """Write the table and the figure of an inference.

    Raises:
        RunError: the folder cannot be written.
    """
    from covey.view.figures import save
    from covey.view.inference import accuracies

    folder = inference.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(inference.columns)
            writer.writerows(inference.rows)
        with replacing(folder / "result.json") as out:
            out.write(json.dumps(inference.table(), indent=1).encode())
        write_weights(inference.reports, folder)
    except OSError as error:
        raise RunError(f"The results of inference cannot be written to {folder}: {error.strerror}.") from error
    figure = accuracies(inference.reports, f"{inference.faulty} of {inference.clients} clients may lie")
    save(figure, folder / "accuracy.png")


def write_weights(reports: "Sequence[Report]", folder: Path) -> None:
    """Write the networks of trained rules, each to a safetensors file that the `weights` of such a rule reads.

    Raises:
        OSError: the folder cannot be written.
    """
    for report in reports:
        if report.weights:
            from safetensors.torch import save

            name = re.sub("[^a-z0-9.]+", "-", report.rule.lower()).strip("-")
            with replacing(folder / f"{name}.safetensors") as out:
                out.write(save({name: values.contiguous() for name, values in report.weights.items()}))


def _part(family: Any, given: Any) -> Any:
    """A rule or an attack from its kind or table."""
    return given if isinstance(given, family) else build(family, given)
