"""Run all benchmarks, or those named on the command line."""

import platform
import sys
from importlib import import_module
from pathlib import Path

import torch

NAMES = (
    "loops",
    "engine",
    "million",
    "process",
    "mixing",
    "topologies",
    "codecs",
    "native",
    "sharing",
    "fragments",
    "own",
    "masking",
    "shatter",
    "asynchronous",
    "federated",
    "noise",
    "guessing",
    "robust_inference",
    "emulation",
    "watch",
    "cluster",
    "peers",
)
HEAD = """# Benchmarks

Written by `make bench`; `python -m bench NAME...` measures some parts anew. Ratios are taken within one run; the
machine is shared, so absolute figures are for scale only.
"""
RESULTS = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """The processor, cores and versions."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = f"{names[0]}, {len(names)} cores" if names else model
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{model}; {versions}, {torch.get_num_threads()} threads by default"


def main() -> None:
    """Print the table as it grows, and write down the part of it that was measured."""
    here = machine()
    parts = _known()
    for name in sys.argv[1:] or NAMES:
        lines = ["| what | figure | target | detail |", "| --- | --- | --- | --- |"]
        print(f"## {name}", here, *lines, sep="\n", flush=True)
        for row in import_module(f"bench.{name}").rows():
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
        parts[name] = f"{here}\n\n" + "\n".join(lines)
        RESULTS.write_text(HEAD + "".join(f"\n## {name}\n\n{parts[name]}\n" for name in NAMES if name in parts))


def _known() -> dict[str, str]:
    """The earlier measurements, by part."""
    if not RESULTS.exists():
        return {}
    _, *parts = RESULTS.read_text().split("\n## ")
    return {name: text.strip() for name, _, text in (part.partition("\n") for part in parts)}


if __name__ == "__main__":
    main()
