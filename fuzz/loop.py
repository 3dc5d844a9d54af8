"""Runs a harness with atheris if it is installed, and else with random bytes for a minute."""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None


def watched() -> AbstractContextManager[object]:
    """A block whose imports are followed by atheris."""
    return nullcontext() if atheris is None else atheris.instrument_imports(include=["covey"])


def fuzz(harness: Callable[[bytes], None], examples: list[bytes]) -> None:
    """Give a harness bytes until it fails.

    Args:
        harness: raises where something is wrong.
        examples: the inputs that are changed if bytes are drawn at random.
    """
    if atheris is None:
        print("atheris is not installed: random bytes for a minute", file=sys.stderr)
        _at_random(harness, examples)
        return
    with tempfile.TemporaryDirectory() as corpus:
        for number, example in enumerate(examples):
            (Path(corpus) / str(number)).write_bytes(example)
        atheris.Setup([*sys.argv, corpus], harness)
        atheris.Fuzz()


def _at_random(harness: Callable[[bytes], None], examples: list[bytes]) -> None:
    draw = random.Random(0)
    end, count = time.monotonic() + 60.0, 0
    while time.monotonic() < end:
        data = bytearray(draw.choice(examples))
        for _ in range(draw.randrange(8)):
            at = draw.randrange(len(data) + 1)
            data[at : at + draw.randrange(4)] = draw.randbytes(draw.randrange(4))
        harness(bytes(data))
        count += 1
    print(f"{count} inputs, none of which got through", file=sys.stderr)
