"""`covey completion`: the completion of commands, options, kinds and run folders in a shell."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from covey.parts import kinds

_BASH = """_covey() {
  local IFS=$'\\n'
  COMPREPLY=($(covey completion bash --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -o filenames -F _covey covey
"""
_SCRIPTS = {
    "bash": _BASH,
    "zsh": f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{_BASH}",
    "fish": "complete -c covey -a '(covey completion fish --words (commandline -opc)[2..] (commandline -ct))'\n",
}


def completion(arguments: argparse.Namespace) -> int:
    """Print the script of a shell, or the words that may stand where one is being typed."""
    from covey.cli.parser import make_parser

    if arguments.words is None:
        print(_SCRIPTS[arguments.shell], end="")
    else:
        print(*candidates(make_parser(), arguments.words or [""]), sep="\n")
    return 0


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The words that may stand in place of the last one, sorted.

    Args:
        parser: the parser of `covey`.
        words: the command line after `covey`, up to the word that is being typed.
    """
    *before, begun = words
    commands = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    if not before:
        return _beginning(begun, commands)
    command = commands.get(before[0])
    if command is None:
        return []
    taking = next((action for action in command._actions if before[-1] in action.option_strings), None)
    if taking is not None and taking.nargs != 0:
        return _beginning(begun, taking.choices or ())
    if begun.startswith("-"):
        return _beginning(begun, (name for action in command._actions for name in action.option_strings))
    positionals = [action for action in command._actions if not action.option_strings]
    if before[0] == "list":
        return _beginning(begun, _kinds(before[1:]))
    choices = [str(choice) for action in positionals for choice in action.choices or ()]
    takes_runs = any("RUN" in str(action.metavar) for action in positionals)
    return _beginning(begun, choices) or (_run_folders(begun) if takes_runs else [])


def _beginning(begun: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(begun))


def _kinds(before: Sequence[str]) -> Sequence[str]:
    """The families, or the kinds of the family that was named."""
    return tuple(kinds.built_in().get(before[0], ())) if before else tuple(kinds.built_in())


def _run_folders(begun: str) -> list[str]:
    """The folders that begin so, if one of them is that of a run or leads to some; a shell completes others itself."""
    parent = begun[: begun.rfind("/") + 1]
    try:
        inside = [f"{parent}{path.name}" for path in Path(parent or ".").iterdir() if path.is_dir()]
    except OSError:
        return []
    found = [name for name in inside if name.startswith(begun) and not Path(name).name.startswith(".")]
    return sorted(name for name in found if (Path(name) / "run.toml").exists() or any(Path(name).glob("*/run.toml")))
