"""Programs that are no part of covey: the lines of code of each, and their use of public names only."""

import ast
import io
import tokenize
from pathlib import Path

import pytest
import torch

import covey
from tests.conftest import models_of, simulate, table
from tests.programs.guesses import attack

FOLDER, DOCS = Path(__file__).parent / "programs", Path(__file__).parents[1] / "docs" / "write-an-algorithm.md"
MOST = 60
"""Lines of code of a program."""
LINES = {
    "shatter": 56,
    "middle": 9,
    "guesses": 21,
    "router": 32,
    "tools": 28,
    "fens": 45,
    "condenses": 44,
}
"""Lines of code, as the docs state them."""
BESIDE_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}


def code_lines(text):
    """The number of lines with code on them, docstrings and comments not counted."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in BESIDE_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def private_names(text):
    """The names with an underscore in front that a module uses and does not make itself."""
    used, made = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            used |= {part for name in names for part in name.split(".")}
        elif isinstance(node, ast.Attribute):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
    return {name for name in used - made if name.startswith("_") and not name.endswith("__")}


def test_lines_and_private_names_are_found():
    text = '"""Said."""\nfrom covey._x import y\n\n# Why.\nz = y._a(\n    1,\n)\nself._own = 3\nself._own.__len__\n'
    assert code_lines(text) == 6
    assert private_names(text) == {"_x", "_a"}


@pytest.mark.parametrize("name", LINES)
def test_a_program_is_short_and_uses_public_names_alone(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert code_lines(text) == LINES[name] < MOST
    assert private_names(text) == set()


@pytest.mark.parametrize("name", LINES)
def test_the_docs_state_its_lines(name):
    assert any(
        row.startswith(f"| `{name}.py`") and row.endswith(f"| {LINES[name]} |") for row in DOCS.read_text().splitlines()
    )


@pytest.mark.parametrize("kind", ["gossip", "fedavg"])
def test_a_median_of_ones_own_serves_gossip_and_fedavg(kind):
    program = {"kind": kind, **({"topology": "complete"} if kind == "gossip" else {"clients": 4})}

    def models(**part):
        return models_of(simulate(table(program={**program, **part}, network={"nodes": 6}, rounds=4))[0])

    own = models(aggregation={"kind": "tests.programs.middle:Middle"})
    assert torch.allclose(own, models(aggregation="median"), atol=1e-5)
    assert not torch.allclose(own, models(aggregation="mean"), atol=1e-3)


def test_an_attack_reads_what_was_observed(tmp_path):
    task = {"partition": {"kind": "shards", "per_node": 2}, "batch_size": 64}
    run = covey.run(table(rounds=1, task=task, observer={"nodes": [*range(12)]}), out=tmp_path / "run")
    right, by_chance = attack(run.folder)
    assert by_chance < 0.35
    assert right > 2 * by_chance
