"""`covey list`."""

import argparse
import json
from typing import Any

from covey import kinds
from covey.cli.tables import print_json
from covey.errors import ConfigurationError
from covey.parameters import Part, default_of, expectation, fields_of, is_required, to_table, unknown


def described(family: str, kind: str) -> dict[str, Any]:
    """A kind with its parameters, as `covey list --json` has it."""
    cls = kinds.load(family, kind)
    parameters = []
    for name, (hint, limits) in fields_of(cls).items():
        entry: dict[str, Any] = {"name": name, "is": expectation(hint, limits), "doc": limits.doc}
        entry["required"] = is_required(cls, name)
        if not entry["required"]:
            entry["default"] = _default(cls, name)
        parameters.append(entry)
    summary = (cls.__doc__ or "").strip().splitlines()[0]
    return {"family": family, "kind": kind, "summary": summary, "parameters": parameters}


def _default(cls: type[Part], name: str) -> Any:
    value = default_of(cls, name)
    return to_table(value) if isinstance(value, Part) else value


def list_kinds(arguments: argparse.Namespace) -> int:
    """Print all kinds, or those of one family."""
    if arguments.family is not None and arguments.family not in kinds.KINDS:
        raise ConfigurationError(unknown(f"family '{arguments.family}'", arguments.family, kinds.KINDS))
    families = [arguments.family] if arguments.family else list(kinds.KINDS)
    found = [described(family, kind) for family in families for kind in kinds.KINDS[family]]
    if arguments.json:
        print_json(found)
        return 0
    family = ""
    for entry in found:
        if entry["family"] != family:
            family = entry["family"]
            print(f"{'' if entry is found[0] else chr(10)}{family}")
        print(f"  {entry['kind']}: {entry['summary']}")
        for parameter in entry["parameters"]:
            default = (
                "required" if parameter["required"] else f"default {json.dumps(parameter['default'], default=str)}"
            )
            print(f"      {parameter['name']}: {parameter['is']} ({default}). {parameter['doc']}")
    return 0
