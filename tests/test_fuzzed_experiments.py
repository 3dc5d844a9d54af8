"""Arbitrary experiment files: `covey check` soon prints ok or one line, and takes little memory."""

import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from covey.cli import main
from covey.learning.task import LearningTask
from covey.network import Network
from covey.parts import kinds
from covey.parts.parameters import fields_of
from covey.runtime.experiment import Checkpoint, Evaluation, Experiment, Output
from tests.conftest import table
from tests.examples import BLOBS, FILES, IN_FEDAVG, IN_FLEET, IN_NETWORK, IN_PROGRAM, NODES, RUNS, run_table

LONGEST = 2100
"""Characters of the one line."""
SECONDS = 10.0
"""Of the processor, which a busy machine does not change."""
BYTES = 2.5e9
SMALL = """rounds = 3
program = {kind = "gossip", topology = "ring"}
task = {dataset = "digits", model = "logistic"}
[network]
nodes = 4
"""
TEXTS = {
    "lists of any depth": ("x = " + "[" * 100_000 + "]" * 100_000, "more than 32 tables and lists"),
    "tables of any depth": ("x = " + "{a=" * 20_000 + "1" + "}" * 20_000, "more than 32 tables and lists"),
    "more depth than is needed": (f"x = {'[' * 33}{']' * 33}\n{SMALL}", "more than 32 tables and lists"),
    "a key of many parts": (".".join("a" * 50_000) + " = 1", "a key has more than 32 parts"),
    "a table of many parts": ("[" + '"a" . b .' * 20_000 + " c]", "a key has more than 32 parts"),
    "5,000 digits": (SMALL.replace("3", "9" * 5000, 1), "a number has more than 4,300 digits"),
    "4,000 digits": (SMALL.replace("3", "9" * 4000, 1), "the whole number of 'rounds' takes more than 64 bits"),
    "hexadecimal digits": (SMALL.replace("3", "0x" + "f" * 99_999, 1), "'rounds' takes more than 64 bits"),
    "a seed of 100 digits": (f"seed = {'9' * 100}\n{SMALL}", "the whole number of 'seed' takes more than 64 bits"),
    "10^12 nodes": (SMALL.replace("4", "1000000000000"), "The 'nodes' of the network must be an int in [1, 10000000]."),
    "a complete graph": (SMALL.replace('"ring"', '"complete"').replace("4", "1000000"), "would take 63,999.9 GB"),
    "a long name": (f'name = "{"a" * 5000}"\n{SMALL}', "The 'name' of the experiment must be at most 64 letters, digits, '.', '_' and '-'"),
    "a long key": (f"{'a' * 5000} = 1\n{SMALL}", "Unknown key 'aaaa"),
    "a long kind": (SMALL.replace("ring", "r" * 5000), "The 'kind' of the topology must be a name. Got 'rrr"),
    "a kind that cannot be printed": (SMALL.replace("ring", "r\\u0000\\u001B[31m"), r"Got 'r\x00\x1b[31m' instead."),
    "a long list": (SMALL.replace("3", str([1] * 100_000), 1), "must be an int in [1, inf). Got [1, 1, 1,"),
    "a duration of many digits": (f'duration = "{"9" * 50_000}x"\n{SMALL}', "must be a duration such as"),
    "a wide layer": (SMALL.replace('"logistic"', '{kind = "mlp", hidden = [1000000000]}'), "The model mlp of 75,000,000,010"),
    "many layers": (SMALL.replace('"logistic"', f'{{kind = "mlp", hidden = {[9] * 999}}}'), "must be at most 256 widths"),
    "many steps": (SMALL.replace("model", "local_steps = 1000000000000, model"), "A training of 1,000,000,000,000 steps"),
    "many epochs": (SMALL.replace("model", "local_epochs = 1000000000000, model"), "A training of 12,000,000,000,000"),
    "many samples": (
        SMALL.replace('"digits"', '{kind = "synthetic-images", samples = 1000000000000}'),
        "The data of the dataset synthetic-images would take 3,136,000.0 GB",
    ),
    "more bytes than are read": ("#" * (1 << 24) + "\n" + SMALL, "it has more than 16,777,216 bytes"),
    "no characters": (b"\xff\xfe", "it is not UTF-8"),
}  # fmt: skip


def said(file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The standard error of `covey check`; empty for a valid experiment."""
    capsys.readouterr()
    begun, most = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = main(["check", str(file)])
    taken, text = time.process_time() - begun, capsys.readouterr().err
    assert taken < SECONDS
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) < BYTES
    lines = text.splitlines()
    assert (code, len(lines)) == (2, 1) or (code == 0 and all(line.startswith("covey: warning:") for line in lines))
    assert all(len(line) < LONGEST and line.isprintable() for line in lines)
    # A mistake of the user's is no exception of ours that somebody wrapped.
    assert "Error:" not in text, text
    return text


@pytest.mark.parametrize("case", TEXTS)
def test_texts_of_any_size(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, expected = TEXTS[case]
    file = tmp_path / "any.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    assert expected in said(file, capsys)


OTHERS = [
    ("engine", "simulation"), ("engine", "emulation"), ("dataset", "gaussian-blobs"), ("dataset", "synthetic-images"),
    ("dataset", "linear-regression"), ("model", "char-lstm"), ("compressor", "qsgd"), ("compressor", "int8"),
    ("fault", "kill"), ("fault", "slow"),
]  # fmt: skip
WHOLE = {"": Experiment, "evaluation": Evaluation, "checkpoint": Checkpoint, "output": Output, "task": LearningTask,
         "network": Network}  # fmt: skip
INDICES = [
    *((family, kind, field) for family, kind in RUNS + OTHERS for field in fields_of(kinds.load(family, kind))),
    *((section, "", field) for section, cls in WHOLE.items() for field in fields_of(cls)),
]
"""Every parameter that an experiment can have in these files."""
VALUES: list[Any] = [
    10**12, 2**63 - 1, 2**31, -(2**63), -1, 0, 1, 1e308, -1e308, 1e-308, float("inf"), float("nan"), True, "", "a" * 5000,
    "\0\x1b[31m", "\u202e", "99999999s", "1e400s", "../x", "tests.programs.own:Nope", [], [1] * 200_000, [10**9], [-1],
    ["a"], [[1, 2]] * 3, {}, {"kind": "a" * 300}, {"kind": 1}, {"a": {"b": {}}},
]  # fmt: skip


def put(tables: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a key; what is a bare kind on the way becomes a table."""
    for name in path[:-1]:
        inner = tables.setdefault(name, {})
        if not isinstance(inner, dict):
            tables[name] = inner = {"kind": inner}
        tables = inner
    tables[path[-1]] = value


def changed(family: str, kind: str, field: str, value: Any, files: Path) -> dict[str, Any]:
    """A small experiment in which one parameter has a value that it may not like."""
    tables = table(task={**BLOBS, "batch_size": 8}, network={"nodes": NODES}, rounds=5)
    tables["program"] = {"kind": "gossip", "topology": "ring"}
    if not kind:
        put(tables, [*filter(None, [family]), field], value)
    elif family in ("engine", "dataset"):
        put(
            tables,
            ["engine" if family == "engine" else "task", *([] if family == "engine" else ["dataset"])],
            {"kind": kind, field: value},
        )
        if kind == "linear-regression":
            tables["task"]["model"] = "linear"
    elif family == "compressor":
        required = {"levels": 4} if kind == "qsgd" else {}
        put(
            tables,
            ["program", "sharing"],
            {"kind": "quantized", "compressor": {"kind": kind, **required, field: value}},
        )
    elif family == "fault":
        required = {"compute": 2.0} if kind == "slow" else {}
        tables["faults"] = [{"kind": kind, "nodes": [1], "at": 1, **required, field: value}]
    elif kind == "char-lstm":
        put(tables, ["task", "model"], {"kind": kind, field: value})
    else:
        tables = run_table(family, kind, files)
        index = (
            ["program"] if family == "program" else ["program", family] if family in IN_PROGRAM else ["task", family]
        )
        index = ["network", family] if family in IN_NETWORK else index
        index = ["program", IN_FEDAVG[family]] if family in IN_FEDAVG else index
        index = ["program", *IN_FLEET[family]] if family in IN_FLEET else index
        index = ["task", "optimizer", "schedule"] if family == "learning-rate" else index
        put(tables, [*index, field], value)
    return tables


def fuzz(index: tuple[str, str, str], value: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for (family, kind), text in FILES.items():
        (folder / f"{family}-{kind}").write_text(text)
    file = folder / "changed.toml"
    file.write_text(tomli_w.dumps(changed(*index, value, folder)))
    said(file, capsys)


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.sampled_from(INDICES), value=st.sampled_from(VALUES))
def test_any_parameter_of_any_value(
    index: tuple[str, str, str], value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz(index, value, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_parameter_of_many_values(part: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(1)
    cases = [(index, value) for index in INDICES for value in draw.sample(VALUES, 8)]
    for index, value in cases[part::4]:
        fuzz(index, value, tmp_path, capsys)


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_changed_characters(
    data: st.DataObject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SMALL
    for _ in range(data.draw(st.integers(1, 4))):
        at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
        piece = data.draw(
            st.sampled_from(["", "9", '"', "'", "[", "]", "{", "}", "=", ".", "\n", "-", "e", "\0", "é", "[[x]]\n"])
        )
        text = text[:at] + piece + text[at + length :]
    file = tmp_path / "changed.toml"
    file.write_text(text)
    said(file, capsys)
