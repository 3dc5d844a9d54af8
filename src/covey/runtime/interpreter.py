"""Other processes of this Python, which have its libraries and run covey without the user's script."""

import os
import sys
from pathlib import Path

import covey
from covey.parts import kinds

_BEGIN = """
import os, sys
sys.path += [path for path in sys.argv.pop(1).split(os.pathsep) if path not in sys.path]
from {module} import {function}
sys.exit({function}())
"""
"""Code that calls a function of covey with the libraries of this process, after Python's own search path."""


def command(module: str, function: str) -> list[str]:
    """The words that call a function of covey in another process; arguments for it follow them."""
    return [sys.executable, "-P", "-c", _BEGIN.format(module=module, function=function), os.pathsep.join(libraries())]


def libraries() -> list[str]:
    """The folders of this process's libraries, without those of the user's own modules."""
    script = getattr(sys.modules["__main__"], "__file__", None) or "."
    own = {*kinds.own_folders(), str(Path(script).absolute().parent)}
    found = [path for path in sys.path if path and str(Path(path).absolute()) not in own]
    return [*found, str(Path(covey.__file__).resolve().parents[1])]
