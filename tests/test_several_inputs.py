"""Samples with several inputs, sequences of several lengths, and the arguments of modules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import covey
from covey.data import from_arrays, from_columns, from_torch, padded
from covey.learning.datasets.digests import digest
from covey.learning.datasets.stored import load, store
from covey.learning.fields import packed, unpack
from covey.learning.models import Module
from covey.parts.errors import ConfigurationError, CoveyError, DataError, ModelError
from tests.conftest import models_of, simulate, table

WORDS, LONGEST = 20, 9


class Bag(nn.Module):
    """The mean of the embeddings of the words that the mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 6)
        self.output = nn.Linear(6, 2)

    def forward(self, ids, mask):
        assert ids.dtype == torch.int64
        assert mask.dtype == torch.bool
        weights = mask.unsqueeze(-1).float()
        return self.output((self.embedding(ids) * weights).sum(-2) / weights.sum(-2))


class Plain(Bag):
    """The same of one tensor: ids, of which 0 stands where there is no word."""

    def forward(self, ids):
        return super().forward(ids, ids > 0)


def sentences(count: int = 80) -> tuple[list[np.ndarray], np.ndarray]:
    """Sentences of several lengths, whose class is whether their words are mostly large."""
    draw = np.random.default_rng(3)
    found = [draw.integers(1, WORDS, draw.integers(2, LONGEST + 1)) for _ in range(count)]
    return found, np.array([int(sentence.mean() > WORDS / 2) for sentence in found])


TEXTS, LABELS = sentences()


def tables(dataset, model):
    task = {
        "dataset": dataset,
        "model": Module(factory=model),
        "optimizer": {"kind": "sgd", "lr": 0.5},
        "batch_size": 7,
    }
    return table(rounds=3, network={"nodes": 4}, task=task, evaluation={"every": 3})


def collate(samples):
    """A collate function as a DataLoader takes it."""
    return padded([text for text, _ in samples]), torch.tensor([label for _, label in samples])


class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        return TEXTS[index], int(LABELS[index])


@pytest.mark.parametrize("kernel", ["module", "vmap"])
def test_a_module_gets_its_inputs_by_name_and_the_run_is_that_of_one_input(kernel):
    several, one = from_arrays(padded(TEXTS), LABELS), from_arrays(padded(TEXTS)["ids"], LABELS)
    engine = {"kernel": kernel}
    found = [simulate({**tables(*pair), "engine": engine})[0] for pair in ((several, Bag), (one, Plain))]
    assert found[0].task.learner.kernel_name == kernel
    assert torch.equal(models_of(found[0]), models_of(found[1]))


def test_collated_and_named_columns_give_the_same_data():
    arrays = padded(TEXTS)
    columns = {"words": arrays["ids"].tolist(), "there": arrays["mask"].numpy(), "label": LABELS}
    ways = [
        from_arrays(arrays, LABELS),
        from_torch(Sentences(), collate=collate),
        from_columns(columns, x={"ids": "words", "mask": "there"}, y="label"),
    ]
    assert len({way.digest for way in ways}) == 1


def test_test_samples_are_padded_as_training_samples_are():
    class Few(Sentences):
        def __len__(self):
            return 5

    data = from_torch(Sentences(), test=Few(), collate=collate).data
    assert data.test.inputs.shape == (5, 2 * LONGEST)
    assert torch.equal(data.test.inputs, data.train.inputs[:5])


def test_both_engines_give_modules_the_same_inputs(in_folder):
    changes = tables(from_arrays(padded(TEXTS), LABELS), Bag)
    changes["task"]["model"] = "tests.test_several_inputs:Bag"
    runs = [
        covey.run({**changes, "engine": {"kind": kind, **more}}, out=kind)
        for kind, more in (("simulation", {}), ("emulation", {"nodes_per_process": 2}))
    ]
    assert torch.allclose(runs[0].models, runs[1].models, atol=1e-6)
    inputs = padded(TEXTS)
    outputs = runs[0].module(0)(inputs["ids"], inputs["mask"])
    assert outputs.shape == (80, 2)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 3), max_size=2), min_size=1, max_size=3),
    kinds=st.lists(st.sampled_from([torch.int64, torch.float32, torch.bool]), min_size=3, max_size=3),
    numbers=st.integers(0, 1000),
)
def test_packed_inputs_come_out_as_they_went_in(shapes, kinds, numbers, tmp_path_factory):
    draw = torch.Generator().manual_seed(numbers)
    inputs = {
        f"input_{index}": torch.randint(0, 2 if kind == torch.bool else 1000, (6, *shape), generator=draw).to(kind)
        for index, (shape, kind) in enumerate(zip(shapes, kinds, strict=False))
    }
    rows, fields = packed(inputs, "The inputs")
    seen = {}

    class Sees(nn.Module):
        def forward(self, **named):
            seen.update(named)

    module = Sees()
    unpack(module, fields)
    module(rows)
    assert seen.keys() == inputs.keys()
    for name, x in inputs.items():
        assert seen[name].dtype == x.dtype
        assert torch.equal(seen[name], x)
    data = from_arrays(inputs, [0, 1] * 3, test=0.4).data
    folder = tmp_path_factory.mktemp("packed") / "data"
    store(data, folder)
    assert digest(load(folder)) == digest(data)
    assert load(folder).fields == data.fields


WRONG = {
    "lengths": (lambda: from_arrays({"a": [1.0, 2.0], "b": [1.0]}, [0, 1]), "The 'x' of the data must have as many entries under each name. Got {'a': 2, 'b': 1} instead."),
    "nothing": (lambda: from_arrays({}, [0, 1]), "The 'x' of the data must have an input or more. Got none."),
    "nan": (lambda: from_arrays({"a": [1.0, np.nan]}, [0, 1]), "The 'x' of the data['a'] must be finite numbers. Got nan in sample 1"),
    "test": (lambda: from_arrays({"a": np.ones((4, 2))}, [0, 1, 0, 1], test=({"a": np.ones((4, 3))}, [0, 1, 0, 1])), "The 'x' of the test data must have 'a' of 2 float32, as the training data. Got 'a' of 3 float32 instead."),
    "large ids": (lambda: from_arrays({"a": [1 << 24, 1], "b": [0.5, 0.5]}, [0, 1]), "The 'x' of the data must have ids below 16,777,216 beside numbers. Got 16,777,216 in 'a'."),
    "no collate": (lambda: from_torch(torch.utils.data.StackDataset([{"a": 1.0}], [0])), "The dataset has samples with several inputs: give a 'collate' that makes one batch of them."),
    "a broken collate": (lambda: from_torch(Sentences(), collate=lambda samples: 1 / 0), "The 'collate' of the data must return a pair (x, y). It fails: ZeroDivisionError"),
    "no sequences": (lambda: padded([]), "The sequences to be padded must be one or more. Got none."),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_what_cannot_be_used_is_refused_in_one_line(mistake):
    give, said = WRONG[mistake]
    with pytest.raises(DataError) as caught:
        give()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_models_that_take_other_inputs_are_refused_in_one_line():
    dataset = from_arrays(padded(TEXTS), LABELS)
    changes = tables(dataset, Plain)
    with pytest.raises(ModelError, match="unexpected keyword argument 'mask'"):
        simulate(changes)
    changes["task"]["model"] = "logistic"
    with pytest.raises(
        ConfigurationError, match="takes one input of numbers, and the data set has the inputs ids, mask"
    ):
        simulate(changes)
    changes["task"]["dataset"] = from_arrays(padded(TEXTS)["ids"], LABELS)
    with pytest.raises(CoveyError, match="takes one input of numbers, and the data set has ids, whole numbers"):
        simulate(changes)
