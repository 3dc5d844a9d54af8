"""Attack every sharing: the table of docs/privacy.md.

python experiments/privacy/measure.py experiments/privacy/sharings.txt --out experiments/privacy/sharings.csv
"""

import argparse
import csv
import math
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import covey
from covey.parts.errors import CoveyError
from covey.privacy.attacks import Result, attack
from covey.runtime.experiment import Experiment, read_table

HERE = Path(__file__).parent
SKEWED = {"partition": {"kind": "dirichlet", "alpha": 0.3}}
ONE_PICTURE = {"batch_size": 1, "local_steps": 1}
COLUMNS = (
    "sharing",
    "accuracy",
    "chance",
    "linkability",
    "linkability, skewed",
    "AUC",
    "AUC, skewed",
    "AUC, skewed, raw",
    "PSNR",
    "PSNR, zero-filled",
)
FURTHER: dict[str, dict[str, Any]] = {
    "AUC, LiRA": {"kind": "membership-lira", "messages": 24},
    "AUC, series": {"kind": "membership-series"},
}
"""Attacks that take longer, by column."""


def run(table: dict[str, Any], folder: Path, task: dict[str, Any], **changes: Any) -> covey.Run:
    """Run the experiment with some changes."""
    changed = {**table, **changes, "task": {**table["task"], **task}}
    return covey.run(Experiment.from_table(changed), out=folder, quiet=True)


def measured(
    label: str, program: dict[str, Any], table: dict[str, Any], folder: Path, chosen: dict[str, Any], *, further: bool
) -> dict[str, Any]:
    """The figures of one program."""
    table = {**table, "program": program}
    if program["kind"] == "fedavg":
        table["observer"] = {"nodes": [0]}
    row: dict[str, Any] = {"sharing": label}
    iid = run(table, folder / "iid", {})
    row["accuracy"] = float(iid.metrics.query("round == round.max()")["accuracy"].mean())
    few = {"messages": 24}
    kinds = ["linkability", "membership-loss"]
    link, members = attack(iid, [{"kind": kind, **few} for kind in kinds])
    row["linkability"], row["AUC"] = link.headline["rate"], members.headline["matched"]
    row["chance"] = link.headline["chance"]
    for column, kind in FURTHER.items():
        found = tried(iid, kind) if further else None
        row[column] = found.headline["matched"] if found else math.nan
    skewed = run(table, folder / "skewed", SKEWED)
    link, members = attack(skewed, [{"kind": kind, **few} for kind in kinds])
    row["linkability, skewed"] = link.headline["rate"]
    row["AUC, skewed"], row["AUC, skewed, raw"] = members.headline["matched"], members.headline["auc"]
    one = run(table, folder / "one", ONE_PICTURE, rounds=1, evaluation={"every": 0})
    found = tried(one, {"kind": "inversion", **chosen})
    row["PSNR"] = found.headline["psnr"] if found else math.nan
    row["PSNR, zero-filled"] = found.headline["psnr_zero_filled"] if found else math.nan
    return row


def tried(attacked: covey.Run, kind: dict[str, Any]) -> Result | None:
    """The result of an attack; None where it is not possible."""
    try:
        return attack(attacked, [kind])[0]
    except CoveyError as error:
        print(f"  no {kind['kind']}: {error}", file=sys.stderr)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default="idlg,cosine", help="the methods of inversion")
    parser.add_argument("--pictures", type=int, default=4, help="the pictures that are inverted")
    parser.add_argument("--iterations", type=int, default=200, help="the iterations of inversion")
    parser.add_argument("--further", action="store_true", help="LiRA and series of losses, too, which take longer")
    arguments = parser.parse_args()
    chosen = {
        "methods": arguments.methods.split(","),
        "messages": arguments.pictures,
        "iterations": arguments.iterations,
    }
    table = read_table(HERE / "digits.toml")
    with arguments.out.open("w", newline="") as file:
        columns = [*COLUMNS, *(FURTHER if arguments.further else ())]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for line in arguments.list.read_text().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            label, _, program = (part.strip() for part in line.partition("|"))
            with tempfile.TemporaryDirectory() as folder:
                try:
                    of = tomllib.loads(f"program = {program}")["program"]
                    row = measured(label, of, table, Path(folder), chosen, further=arguments.further)
                except CoveyError as error:
                    print(f"{label}: {error}", file=sys.stderr)
                    row = {"sharing": label}
            shown = {key: f"{value:.3f}" if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow(shown)
            file.flush()
            print(shown, file=sys.stderr)


if __name__ == "__main__":
    main()
