"""`covey watch`, and the page beside `covey run --watch`."""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from covey.cli.tables import say
from covey.runtime.interpreter import command
from covey.watch.serving import serve


def watch(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    serve(
        arguments.folder,
        arguments.listen,
        needs_token=arguments.token,
        certs=arguments.certs,
        opens=arguments.open,
        ends_with_input=arguments.ends_with_input,
        say=partial(say, file=sys.stderr),
    )
    return 0


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """The page of a run within the context, in a process of its own that does not delay the run."""
    words = [*command("covey.cli", "main"), "watch", str(folder), "--listen", "127.0.0.1:0", "--open"]
    # Its input ends when this process does, however that ends. Ctrl-C is for the run alone.
    page = subprocess.Popen([*words, "--ends-with-input"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        assert page.stdin is not None
        page.stdin.close()
        page.wait()
        say(f"The page has ended. See the run again with: covey watch {folder}", file=sys.stderr)
