"""The weights that all nodes start with, from a file: by name, strict unless asked."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import covey
from covey.parts.errors import ConfigurationError, RunError
from covey.parts.parameters import to_table
from covey.runtime.experiment import Experiment
from tests.conftest import begun, models_of, simulate, table
from tests.hosts import emulate
from tests.test_own_data import Interrupts

MODEL = {"kind": "tests.test_start:Net", "hidden": 6}


class Net(nn.Module):
    """It has statistics, a frozen layer, a constant and a tensor with two names."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(64, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.fixed = nn.Linear(hidden, hidden).requires_grad_(False)
        self.again = self.fixed
        self.last = nn.Linear(hidden, 10)
        self.register_buffer("counts", torch.arange(hidden))

    def forward(self, x):
        return self.last(self.again(torch.relu(self.norm(self.first(x.flatten(1))))))


def tables(start, model=MODEL, **changes):
    task = {"model": model, **({} if start is None else {"start": start})}
    return table(task=task, network={"nodes": 3}, rounds=2, **changes)


def saved(module, file, **changes):
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    save_file({name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}, str(file))
    return str(file)


def test_nodes_start_with_the_tensors_of_the_file(tmp_path):
    torch.manual_seed(11)
    module = Net()
    module.norm.running_mean += 3.0
    module.counts *= 7
    world = begun(tables(saved(module, tmp_path / "w.safetensors")))
    learner = world.task.learner
    expected = learner.layout.flatten(module)
    assert all(torch.equal(node.model, expected) for node in world.nodes)
    assert torch.equal(learner.layout.constants["counts"], module.counts)


def test_a_run_continues_from_the_model_of_another(tmp_path):
    first = covey.run(tables(None), out=tmp_path / "first")
    first.export_model(tmp_path / "w.safetensors", "average")
    start = str(tmp_path / "w.safetensors")
    second = covey.run({**tables(start), "rounds": 1, "task": {**tables(start)["task"], "optimizer": {"lr": 0}}})
    wanted = first.state_dict("average")
    for name, tensor in second.state_dict(1).items():
        assert "norm" in name or torch.allclose(tensor, wanted[name], atol=1e-6)


def test_what_fits_is_taken_where_that_is_asked_for(tmp_path):
    module, drawn = Net(), begun(tables(None)).task.learner
    file = saved(module, tmp_path / "w.safetensors", **{"last.weight": torch.ones(3, 6), "more": torch.ones(1)})
    learner = begun(tables({"path": file, "strict": False})).task.learner
    views, fresh = learner.layout.views(learner.first_model), drawn.layout.views(drawn.first_model)
    assert torch.equal(views["first.weight"], module.first.weight)
    assert torch.equal(views["last.weight"], fresh["last.weight"])


def test_hosts_start_with_it(tmp_path):
    file = saved(Net(), tmp_path / "w.safetensors")
    outcome, _ = emulate(tables(file), tmp_path)
    assert torch.allclose(outcome.models, models_of(simulate(tables(file))[0]), atol=1e-5)


def test_a_start_of_other_numbers_is_another_at_hosts_and_after_a_resume(tmp_path):
    torch.manual_seed(5)
    file = tmp_path / "w.safetensors"
    signatures = [begun(tables(saved(Net(), file))).task.signature() for _ in range(2)]
    assert signatures[0]["start"] != signatures[1]["start"]
    assert {**signatures[0], "start": ""} == {**signatures[1], "start": ""}


def test_a_run_is_resumed_with_the_same_start_alone(in_folder):
    torch.manual_seed(5)
    saved(Net(), "w.safetensors")
    with pytest.raises(KeyboardInterrupt):
        covey.run(
            {**tables("w.safetensors"), "rounds": 40, "checkpoint": {"every": 1}}, out="run", progress=Interrupts(2)
        )
    saved(Net(), "w.safetensors")
    with pytest.raises(RunError, match="cannot be resumed: its start differs from that with which it began"):
        covey.resume("run")


def test_the_short_form_is_the_table():
    first, second = (Experiment.from_table(tables(start)) for start in ("w.safetensors", {"path": "w.safetensors"}))
    assert first == second
    assert to_table(first.task.start) == {"path": "w.safetensors", "strict": True}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"last.bias": None},
            "does not fit the model tests.test_start:Net: it lacks 'last.bias'. strict = false takes",
        ),
        ({"head.bias": torch.ones(2)}, "does not fit the model tests.test_start:Net: it also has 'head.bias'."),
        (
            {"last.bias": torch.ones(9)},
            "does not fit the model tests.test_start:Net: its 'last.bias' has the shape (9,), and that of the model (10,).",
        ),
        ({"last.bias": torch.full((10,), torch.nan)}, "its 'last.bias' has numbers that are not finite."),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(changes, said, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        begun(tables(saved(Net(), tmp_path / "w.safetensors", **changes)))
    assert str(caught.value).startswith(f"The 'start' {tmp_path / 'w.safetensors'} of the task ")
    assert said in str(caught.value)


def test_other_mistakes_are_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^The 'start' of the task must be a file\. There is no nowhere\.s"):
        begun(tables("nowhere.safetensors"))
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ConfigurationError, match=r"text of the task cannot be read as safetensors: ") as caught:
        begun(tables(str(tmp_path / "text")))
    assert "\n" not in str(caught.value)
    with pytest.raises(
        ConfigurationError, match=r"The task has 'same_start' = false and the 'start' w, with which all"
    ):
        Experiment.from_table(table(task={"start": "w", "same_start": False}))
    save_file({"x": torch.ones(1)}, str(tmp_path / "x"))
    with pytest.raises(ConfigurationError, match="has no tensor with a name and shape of the model"):
        begun(tables({"path": str(tmp_path / "x"), "strict": False}))
