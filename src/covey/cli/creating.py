"""`covey new`."""

import argparse
import shlex
from importlib.resources import files
from pathlib import Path

from covey.cli.tables import say
from covey.parts.errors import RunError


def new(arguments: argparse.Namespace) -> int:
    """Make a working folder, and print the commands that use it."""
    folder: Path = arguments.folder
    fill(folder)
    enter = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    print("An experiment with an algorithm, data and a test of your own. Run it:")
    say(f"  {enter}covey run experiment.toml")
    print("Test it (pip install pytest):")
    say(f"  {enter}python -m pytest")
    return 0


def fill(folder: Path) -> None:
    """Copy the files of the template to a new or empty folder.

    Raises:
        RunError: the folder is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RunError(f"The folder {folder} is not empty. Give a new one.")
        for file in files("covey.cli").joinpath("template").iterdir():
            if file.is_file():  # Python may have left a __pycache__.
                (folder / file.name).write_bytes(file.read_bytes())
    except OSError as error:
        raise RunError(f"The folder {folder} cannot be made: {error.strerror}.") from error
