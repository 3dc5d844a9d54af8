"""Run all benchmarks, or those named on the command line."""

import platform
import sys
from importlib import import_module
from pathlib import Path

import torch

NAMES = ("loops", "engine", "process", "mixing", "peers")
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
    """Print the table as it grows, and write it down when all of it is there."""
    chosen = sys.argv[1:] or list(NAMES)
    here = machine()
    lines = ["| what | figure | target | detail |", "| --- | --- | --- | --- |"]
    print(here, *lines, sep="\n", flush=True)
    for name in chosen:
        for row in import_module(f"bench.{name}").rows():
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    if chosen == list(NAMES):
        head = "# Benchmarks\n\nWritten by `make bench`. Ratios are taken within one run; the machine is shared, so\n"
        RESULTS.write_text(f"{head}absolute figures are for scale only.\n\n{here}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
