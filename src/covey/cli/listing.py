"""`covey list`."""

import argparse
import json
import os
import shutil
import sys
import textwrap

from covey.api.listing import list as known_kinds
from covey.api.listing import parameters_in_words
from covey.cli.tables import print_json
from covey.parts import kinds
from covey.parts.conversion import expectation
from covey.parts.parameters import fields_of, is_required


def list_kinds(arguments: argparse.Namespace) -> int:
    """Print an overview, the kinds of one family with their parameters, or one kind."""
    found = known_kinds(arguments.family, arguments.kind)
    if arguments.json:
        print_json([*found])
        return 0
    if arguments.family is None:
        _print_overview()
        return 0
    family = ""
    for entry in found:
        if entry["family"] != family:
            print(f"{chr(10) if family else ''}{_strong(entry['family'])}")
            family = entry["family"]
        _print_wrapped(f"{_strong(entry['kind'])}: {entry['summary']}", 2, 6)
        for line in parameters_in_words(entry):
            _print_wrapped(line, 6, 10)
    if len(found) == 1 and family == "attack":
        print(f"\nof a run with an observer:\n  covey attack RUN --kind {found.chosen[0][1]}")
    elif len(found) == 1 and family in _INFERENCE:
        print(f"\nwith a run of clients that have models of their own:\n  {_INFERENCE[family]} {found.chosen[0][1]}")
    elif len(found) == 1:
        print(f"\nin an experiment:\n  {_example(*found.chosen[0])}")
    return 0


def _print_overview() -> None:
    width = 2 + max(map(len, kinds.built_in()))
    for family, known in kinds.built_in().items():
        _print_wrapped(f"{_strong(family)}{' ' * (width - len(family))}{', '.join(known)}", 0, width)
    print()
    print("covey list FAMILY       the kinds of a family with their parameters, as in `covey list topology`")
    print("covey list FAMILY KIND  one kind with an example, as in `covey list topology ring`")


_KEYS = {
    "learning-rate": "schedule",
    "client-selection": "clients",
    "client-work": "work",
    "server-optimizer": "server_optimizer",
    "objective": "loss",
}
"""The key of a part in an experiment file, if it differs from the family."""


_INFERENCE = {
    "inference-rule": "covey infer RUN --rule",
    "inference-attack": "covey infer RUN --attack",
}
"""The command that takes a part, if no experiment file does."""


_LISTS = {"fault": "faults", "callback": "callback", "metric": "metrics", "augmentation": "augmentation"}
"""The key of a list of parts."""


def _example(family: str, kind: str) -> str:
    """A line of an experiment file, with a placeholder for every required parameter."""
    cls = kinds.load(family, kind)
    values: dict[str, str] = {"kind": kind}
    key = _KEYS.get(family, family)
    for name, (hint, limits) in fields_of(cls).items():
        if is_required(cls, name):
            values[name] = "\0" + expectation(hint, limits)
    if family == "fault":
        values |= {"fraction": "\0a number in (0, 1]", "at": "\0" + expectation(*fields_of(cls)["at"])}
    inside = ", ".join(
        f"{name} = <{value[1:]}>" if value[0] == "\0" else f"{name} = {json.dumps(value)}"
        for name, value in values.items()
    )
    part = f'"{kind}"' if len(values) == 1 else f"{{ {inside} }}"
    return f"{_LISTS[family]} = [{part}]" if family in _LISTS else f"{key} = {part}"


def _print_wrapped(text: str, first: int, others: int) -> None:
    """Print an indented paragraph, folded on a terminal and as one line elsewhere."""
    if not sys.stdout.isatty():
        print(" " * first + text)
        return
    width = shutil.get_terminal_size().columns
    indents = {"initial_indent": " " * first, "subsequent_indent": " " * others}
    print(textwrap.fill(text, width, break_on_hyphens=False, **indents))  # type: ignore[arg-type]


def _strong(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
