"""`covey attack`."""

import argparse
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from covey.api.attacking import attack as attack_run
from covey.cli.tables import print_json, print_table, say
from covey.parts.errors import ConfigurationError
from covey.privacy.attacks.attacking import attacks_of
from covey.runtime.experiment import assign

T = TypeVar("T")


def attack(arguments: argparse.Namespace) -> int:
    """Attack a run with what its observed nodes received, and print the figures."""
    kinds = [kind.strip() for given in arguments.kind for kind in given.split(",") if kind.strip()]
    tables: dict[str, Any] = {kind: {"kind": kind} for kind in kinds}
    attacks_of([*tables.values()])  # An unknown kind shows first.
    for override in arguments.overrides:
        if override.partition(".")[0] not in tables:
            raise ConfigurationError(
                f"--set of an attack must begin with one of its kinds, as in --set {kinds[0]}.messages=20. "
                f"Got '{override}' instead."
            )
        assign(tables, override)
    results, folder = attack_run(
        arguments.run, [*tables.values()], out=arguments.out, data=arguments.data, tracked=tracked(arguments.json)
    )
    if arguments.json:
        print_json([result.table() for result in results])
        return 0
    for result in results:
        rows = [["–" if cell is None else _cell(cell) for cell in row] for row in result.rows]
        print_table(result.kind, result.columns, rows, result.meaning, *result.remarks)
        say("")
    say(str(folder))
    return 0


def _cell(cell: str | float | int) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else f"{cell}"


def tracked(silent: bool) -> Any:
    """The display of an iteration's progress: a bar on a terminal, else nothing."""

    def shown(items: Iterable[T], what: str, count: int) -> Iterable[T]:
        if silent or not sys.stderr.isatty():
            return items
        from rich.console import Console
        from rich.progress import track

        return track(items, description=what, total=count, console=Console(stderr=True), transient=True)

    return shown
