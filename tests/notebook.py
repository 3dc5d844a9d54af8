"""Run the cells of a notebook as IPython does, and print the forms in which each result can be shown.

    python tests/notebook.py NOTEBOOK

It ends with status 1 at the first cell that fails. It needs nothing of the tests, so that it also runs where only covey is.
"""

import json
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell


def cells(notebook: Path) -> list[str]:
    """The sources of the cells with code."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def main(notebook: Path) -> int:
    shell = InteractiveShell.instance()
    shown = []
    for cell in cells(notebook):
        result = shell.run_cell(cell, store_history=True)
        if not result.success:
            return 1
        if result.result is not None:
            shown.append(sorted(shell.display_formatter.format(result.result)[0]))
    print(json.dumps(shown), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
