"""Rules against attacks: the worst accuracy per attack, and per query.

Shapes: S queries, N clients, F lying clients, C classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from covey.federated.robust_inference.answers import AnswersError, OnInvalid, Outputs, checked
from covey.federated.robust_inference.attacks import InferenceAttack
from covey.federated.robust_inference.certificates import bounded_margin, certify
from covey.federated.robust_inference.rule import Decision, Fitting, Rule
from covey.federated.robust_inference.scene import Scene, liars_of
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import to_table

_AT_ONCE = 4_000_000
"""The probabilities of the queries that are attacked together."""
Tracked = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass
class Report:
    """The accuracy of one rule without lies and under each attack."""

    rule: str
    clean: float
    attacks: dict[str, float]
    """The accuracy under each attack, that of its worst variant."""
    worst: float
    """The worst accuracy per attack: that of the strongest attack."""
    worst_per_query: float
    """The share of queries that are right without lies and under every attack."""
    certified: float | None
    """The share that is right, and that no lie changes by the bounds of the decision; None without bounds."""
    certified_by_margin: float | None
    """The same by margin and dissimilarity; None if the rule is not (f, kappa)-robust."""
    right: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """True for each query that is right, S, by attack and variant."""
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """The tensors of the trained rule, for a file; empty if it has none."""

    def table(self) -> dict[str, Any]:
        """The figures as plain values."""
        shown = ("rule", "clean", "attacks", "worst", "worst_per_query", "certified", "certified_by_margin")
        return {name: getattr(self, name) for name in shown}


def evaluate(
    outputs: Outputs,
    rules: Sequence[Rule],
    attacks: Sequence[InferenceAttack],
    faulty: int,
    *,
    proxy: Outputs | None = None,
    seed: int = 0,
    on_invalid: OnInvalid = "reject",
    tracked: Tracked = lambda items, what, count: items,
) -> list[Report]:
    """Attack rules, and report their accuracy.

    Args:
        outputs: the stored answers to test queries, and their true classes.
        rules: the rules.
        attacks: the attacks.
        faulty: the number f of clients that lie.
        proxy: stored outputs on which learned rules are fitted.
        seed: the seed of the liars, of training and of attacks.
        on_invalid: the treatment of rows that are not probabilities.
        tracked: shows the progress of an iteration.

    Raises:
        AnswersError: the outputs are not usable, or half of the clients or more may lie.
        ConfigurationError: a learned rule lacks outputs to train on.
    """
    outputs = _usable(outputs, faulty, on_invalid)
    proxy = None if proxy is None else _usable(proxy, faulty, on_invalid)
    fitting = Fitting(faulty, proxy, seed)
    liars = liars_of(outputs.answers.shape[1], faulty, seed)
    return [
        _report(rule, rule.fitted(fitting), outputs, attacks, liars, proxy, seed)
        for rule in tracked(rules, "rules", len(rules))
    ]


def _report(
    rule: Rule,
    decision: Decision,
    outputs: Outputs,
    attacks: Sequence[InferenceAttack],
    liars: Tensor,
    proxy: Outputs | None,
    seed: int,
) -> Report:
    clean = None if proxy is None else proxy.answers
    size = max(1, _AT_ONCE // outputs.answers[0].numel())
    chunks = [Outputs(*chunk) for chunk in zip(*(torch.split(part, size) for part in outputs), strict=True)]
    found: dict[tuple[str, str], list[Tensor]] = {}
    for number, chunk in enumerate(chunks):
        scene = Scene(chunk, liars, decision, clean, seed + number)
        with torch.no_grad():
            found.setdefault(("none", ""), []).append(decision(chunk.answers).argmax(-1) == chunk.labels)
        for attack in attacks:
            for variant, right in outcomes(scene, attack).items():
                found.setdefault((attack.title(), variant), []).append(right)
    every = {name: torch.cat(rights) for name, rights in found.items()}
    shares = {name: float(one.double().mean()) for name, one in every.items()}
    each: dict[str, float] = {}
    for (title, _), share in shares.items():
        each[title] = min(share, each.get(title, 1.0))
    clean_share = each.pop("none")
    always = torch.stack([*every.values()]).all(0)
    parts = [certified(chunk, decision, len(liars)) for chunk in chunks]
    bounds, margins = (_joined([part[which] for part in parts]) for which in (0, 1))
    worst = min([clean_share, *each.values()])
    return Report(
        titled(rule),
        clean_share,
        each,
        worst,
        float(always.double().mean()),
        bounds,
        margins,
        {f"{title} {variant}".rstrip(): right for (title, variant), right in every.items()},
        decision.weights(),
    )


def outcomes(scene: Scene, attack: InferenceAttack) -> Mapping[str, Tensor]:
    """True for each query that is right under an attack, by variant."""
    found = {}
    for variant, rows in attack.lies(scene).items():
        with torch.no_grad():
            right = scene.decision(scene.attacked(rows)).argmax(-1) == scene.labels
        found[variant] = right
    return found


def certified(outputs: Outputs, decision: Decision, faulty: int) -> tuple[Tensor | None, Tensor | None]:
    """True for each query that is right and certified: by the bounds of the decision, and by margin."""
    answers, labels = outputs
    with torch.no_grad():
        right = decision(answers).argmax(-1) == labels
        mean_right = answers.mean(1).argmax(-1) == labels
        margin = bounded_margin(answers, decision, faulty)
        by_bounds = None if margin is None else right & (margin > 0)
        robust = decision.kappa(answers.shape[1]) < torch.inf
        by_margin = mean_right & certify(answers, decision, faulty).holds if robust else None
    return by_bounds, by_margin


def titled(rule: Rule) -> str:
    """The kind of a rule, with its parameters that are not the default."""
    table = to_table(rule)
    plain = to_table(type(rule)()) if table else {}
    changed = [f"{name}={_shown(value)}" for name, value in table.items() if plain.get(name) != value]
    return f"{rule.title()} ({', '.join(changed)})" if changed else rule.title()


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _joined(parts: Sequence[Tensor | None]) -> float | None:
    present = [part for part in parts if part is not None]
    return float(torch.cat(present).double().mean()) if present else None


def _usable(outputs: Outputs, faulty: int, on_invalid: OnInvalid) -> Outputs:
    """Stored outputs whose rows are all probabilities, with a true class for each query."""
    found = checked(outputs.answers, faulty, on_invalid)
    if found.valid is not None:
        bad = int((~found.valid).sum())
        raise AnswersError(
            f"{bad} of the stored answers are not probabilities. Project them with on_invalid = 'project', "
            "or leave these clients out."
        )
    queries, _, classes = found.answers.shape
    labels = outputs.labels
    if labels.shape != (queries,) or not queries:
        raise AnswersError(f"The outputs need a true class for each of {queries} queries. Got {len(labels)} instead.")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ConfigurationError(f"The true classes must be in [0, {classes}). Got {int(labels.max())} instead.")
    return Outputs(found.answers, labels.long())
