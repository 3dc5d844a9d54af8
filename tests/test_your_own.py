"""The code blocks of the page on the user's own data and models work as shown."""

import re
import shlex
import sys
import tomllib

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from covey import data
from covey.parts.errors import DataError
from covey.runtime.experiment import Experiment
from tests.conftest import simulate
from tests.test_docs import blocks

PAGE = "docs/your-own.md"
EXPERIMENT = """
rounds = 4
[program]
kind = "gossip"
topology = "ring"
[task]
dataset = "digits"
model = "logistic"
[network]
nodes = 4
"""


MINE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, hidden: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

def calibration(outputs, targets, bins: int = 10):
    sure, chosen = outputs.softmax(1).max(1)
    return float((sure - (chosen == targets).float()).abs().mean()) / bins
"""


class Net(nn.Sequential):
    """A module of the user's own that fits the experiment's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 10)])


@pytest.fixture
def folder(in_folder, monkeypatch):
    """The current folder, with the files that the page speaks of."""
    (in_folder / "experiment.toml").write_text(EXPERIMENT)
    draw = np.random.default_rng(1)
    label = np.arange(200) % 2
    patients = pd.DataFrame({"age": draw.normal(50, 10, 200), "dose": label + draw.normal(size=200)})
    patients.assign(hospital=label + draw.integers(0, 6, 200), diagnosis=label).to_csv("patients.csv", index=False)
    (in_folder / "clients").mkdir()
    for client in range(3):
        patients.assign(label=label)[client::3].to_csv(in_folder / f"clients/{client}.csv", index=False)
    functions = [text for text in blocks(PAGE, "python") if "def focal" in text or "def jitter" in text]
    (in_folder / "mine.py").write_text(
        "\n".join(["import torch\nfrom torch.nn import functional as F", *functions, MINE])
    )
    weights = {"layers.0.weight": torch.zeros(10, 64), "layers.0.bias": torch.zeros(10)}
    save_file(weights, in_folder / "weights.safetensors")
    sys.modules.pop("mine", None)
    for text in blocks(PAGE, "python"):
        name = re.match(r"# (\w+\.py)\n", text)
        if name:
            (in_folder / name[1]).write_text(text)
            sys.modules.pop(name[1].removesuffix(".py"), None)
    monkeypatch.syspath_prepend(str(in_folder))
    return in_folder


def test_the_python_of_the_page_runs_from_top_to_bottom(folder):
    names: dict = {"Net": Net, "F": nn.functional}
    for text in blocks(PAGE, "python"):
        exec(compile(text, PAGE, "exec"), names)
    assert names["dataset"].data.columns["user"].shape == (450,)
    owners = names["clients"].data
    assert sorted(set(owners.columns["client"])) == ["0", "1", "2"]
    sets = [torch.utils.data.TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])) for _ in range(3)]
    joined = data.from_torch(torch.utils.data.ConcatDataset(sets), columns={"client": np.repeat(np.arange(3), 4)})
    assert set(joined.data.columns["client"].tolist()) <= {0, 1, 2}
    with pytest.raises(DataError, match="'columns' or 'into', not both"):
        data.from_torch(sets[0], into="folder", columns={"client": [0] * 4})
    tables = {**tomllib.loads(EXPERIMENT), "task": names["task"]}
    assert simulate(tables)[0].task.learner.data.fields
    assert isinstance(names["tensors"], dict)
    assert all(isinstance(tensor, torch.Tensor) for tensor in names["tensors"].values())


@pytest.mark.parametrize("text", blocks(PAGE, "toml"))
def test_the_tables_of_the_page_run(text, folder):
    whole = tomllib.loads(EXPERIMENT)
    for name, table in tomllib.loads(text).items():
        whole[name] = {**whole.get(name, {}), **table}
    _, written = simulate(Experiment.from_table(whole).to_table())
    last = [value for _, t, name, value in written.figures if (t, name) == (4, "accuracy")]
    assert len(last) == 4
    assert all(np.isfinite(last))


def test_the_commands_of_the_page_are_those_of_covey(folder, covey):
    from covey.cli.parser import make_parser

    for text in blocks(PAGE, "sh"):
        for line in filter(None, text.splitlines()):
            words = shlex.split(line, comments=True)
            assert words[0] == "covey"
            make_parser().parse_args(words[1:])
