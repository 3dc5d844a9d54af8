"""`covey infer`."""

import argparse
from collections.abc import Sequence
from typing import Any

from covey.api.inferring import infer as infer_of
from covey.cli.attacking import tracked
from covey.cli.tables import print_json, print_table, say
from covey.parts import kinds
from covey.parts.errors import ConfigurationError
from covey.runtime.experiment import assign


def infer(arguments: argparse.Namespace) -> int:
    """Let the clients of a run answer queries, some with lies, and print the accuracy of rules."""
    rules, attacks = _tables(arguments.rule), _tables(arguments.attack or [*kinds.known("inference-attack")])
    for override in arguments.overrides:
        kind = override.partition(".")[0]
        if kind not in rules and kind not in attacks:
            raise ConfigurationError(
                f"--set of an inference must begin with one of its attacks, or a rule that --rule names: "
                f"{', '.join([*rules, *attacks])}. Got '{override}' instead."
            )
        assign(rules if kind in rules else attacks, override)
    found = infer_of(
        arguments.run,
        rules=[*rules.values()],
        attacks=[*attacks.values()],
        faulty=arguments.faulty,
        samples=arguments.samples,
        seed=arguments.seed,
        on_invalid=arguments.on_invalid,
        out=arguments.out,
        data=arguments.data,
        tracked=tracked(arguments.json),
    )
    if arguments.json:
        print_json(found.table())
        return 0
    rows = [[_cell(cell) for cell in row] for row in found.rows]
    print_table("", found.columns, rows, found.meaning)
    say(str(found.folder))
    return 0


def _tables(given: Sequence[str]) -> dict[str, Any]:
    return {kind.strip(): {"kind": kind.strip()} for text in given for kind in text.split(",") if kind.strip()}


def _cell(cell: str | float | None) -> str:
    return "–" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else cell
