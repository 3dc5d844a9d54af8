import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.learning.dataset import Data, Split
from covey.learning.partition import IID, Dirichlet, FromFile, Natural, Partition, Quantity, Shards, label_counts
from covey.parts.errors import ConfigurationError, DataError
from covey.parts.parameters import build


def data_of(labels: np.ndarray, classes: int, owners: np.ndarray | None = None) -> Data:
    split = Split(torch.zeros(len(labels), 1), torch.from_numpy(labels.astype(np.int64)))
    known = None if owners is None else torch.from_numpy(owners.astype(np.int64))
    return Data(split, split, "classes", classes, owners=known)


def values_of(samples: int) -> Data:
    split = Split(torch.zeros(samples, 1), torch.zeros(samples))
    return Data(split, split, "values", 0)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Data, int, int]:
    """(data with owners, nodes, seed); there are as many samples and owners as nodes at least."""
    holders = draw(st.integers(1, 20))
    samples = draw(st.integers(holders, 200))
    classes = draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    owners = generator.integers(0, 30, samples)
    owners[:holders] = np.arange(holders)
    return data_of(generator.integers(0, classes, samples), classes, owners), holders, draw(st.integers(0, 2**63))


PARTITIONS = [
    IID(),
    Shards(per_node=1),
    Dirichlet(alpha=1e-5),
    Dirichlet(alpha=0.3, balanced=False),
    Dirichlet(alpha=1e6),
    Quantity(alpha=1e-5),
    Quantity(alpha=2.0),
    Natural(),
]


@pytest.mark.parametrize("partition", PARTITIONS, ids=repr)
@given(case=cases())
@settings(max_examples=30, deadline=None)
def test_deals_every_sample_once_and_to_every_node_the_same_way_each_time(partition: Partition, case) -> None:
    data, holders, seed = case
    parts = partition.assign(data, holders, seed)
    assert len(parts) == holders
    assert all(len(part) > 0 and part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(data.train)))
    again = partition.assign(data, holders, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("partition", PARTITIONS, ids=repr)
def test_depends_on_the_seed(partition: Partition) -> None:
    data = data_of(np.arange(300) % 5, 5, np.arange(300) % 50)
    first, second = (partition.assign(data, 10, seed) for seed in (1, 2))
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@given(case=cases())
@settings(deadline=None)
def test_iid_shares_are_equal(case) -> None:
    data, holders, seed = case
    sizes = [len(part) for part in IID().assign(data, holders, seed)]
    assert max(sizes) - min(sizes) <= 1


@given(per_node=st.integers(1, 4), case=cases())
@settings(deadline=None)
def test_a_node_has_at_most_per_node_runs_of_the_sorted_samples(per_node: int, case) -> None:
    data, holders, seed = case
    shards = holders * per_node
    if shards > len(data.train):
        return
    rank = np.empty(len(data.train), dtype=np.int64)
    rank[np.argsort(data.train.targets.numpy(), kind="stable")] = np.arange(len(data.train))
    for part in Shards(per_node=per_node).assign(data, holders, seed):
        runs = 1 + int((np.diff(np.sort(rank[part])) > 1).sum())
        assert runs <= per_node
        smallest, largest = len(data.train) // shards, -(-len(data.train) // shards)
        assert smallest * per_node <= len(part) <= largest * per_node


def test_two_shards_of_balanced_classes_hold_two_classes() -> None:
    data = data_of(np.arange(1000) % 10, 10)
    counts = label_counts(data, Shards(per_node=2).assign(data, 50, 3))
    assert counts is not None
    assert (counts > 0).sum(1).max() == 2
    assert (counts.sum(1) == 20).all()


@pytest.mark.parametrize("balanced", [True, False])
def test_dirichlet_is_less_skewed_the_larger_alpha(balanced: bool) -> None:
    data = data_of(np.arange(10_000) % 10, 10)
    distances = []
    for alpha in (0.01, 0.1, 1.0, 10.0, 1000.0):
        parts = Dirichlet(alpha=alpha, balanced=balanced).assign(data, 20, 0)
        counts = label_counts(data, parts)
        assert counts is not None
        distances.append(np.abs(counts / counts.sum(1, keepdims=True) - 0.1).sum(1).mean() / 2)
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.7
    assert distances[-1] < 0.05


def test_quantity_is_less_skewed_the_larger_alpha_and_keeps_the_classes_mixed() -> None:
    data = data_of(np.arange(10_000) % 10, 10)
    spreads = []
    for alpha in (0.05, 0.5, 5.0, 500.0):
        counts = label_counts(data, Quantity(alpha=alpha).assign(data, 20, 0))
        assert counts is not None
        spreads.append(counts.sum(1).std())
        large = counts[counts.sum(1) >= 300]
        assert np.abs(large / large.sum(1, keepdims=True) - 0.1).max() < 0.1
    assert spreads == sorted(spreads, reverse=True)


@pytest.mark.parametrize("kind", [Dirichlet, Quantity])
@given(least=st.integers(1, 10), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_nobody_has_fewer_than_min_samples(kind, least: int, seed: int) -> None:
    data = data_of(np.arange(100) % 3, 3)
    parts = kind(alpha=0.05, min_samples=least).assign(data, 10, seed)
    assert min(map(len, parts)) >= least
    assert sum(map(len, parts)) == 100


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("alpha", [1e-300, 1e-5, 1e-3])
def test_shares_that_nearly_vanish_do_no_harm(alpha: float, balanced: bool) -> None:
    data = data_of(np.arange(60) % 6, 6)
    for seed in range(100):
        parts = Dirichlet(alpha=alpha, balanced=balanced).assign(data, 9, seed)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(60))


def test_natural_keeps_an_owners_samples_together() -> None:
    owners = np.arange(120) % 24 + 7  # ids need not begin at 0
    data = data_of(np.zeros(120), 1, owners)
    parts = Natural().assign(data, 5, 0)
    seen = [set(owners[part]) for part in parts]
    assert sum(map(len, seen)) == 24
    assert {len(group) for group in seen} == {4, 5}


def test_ten_thousand_nodes_take_less_than_a_second() -> None:
    data = data_of(np.arange(60_000) % 10, 10, np.arange(60_000) % 12_000)
    for partition in (IID(), Shards(), Dirichlet(alpha=0.1), Quantity(alpha=1.0), Natural()):
        begun = time.process_time()
        label_counts(data, partition.assign(data, 10_000, 0))
        assert time.process_time() - begun < 1.0


def test_label_counts() -> None:
    data = data_of(np.array([0, 1, 1, 2, 2, 2]), 4)
    counts = label_counts(data, [np.array([0, 1]), np.array([2, 3, 4, 5])])
    assert counts is not None
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 3, 0]]
    assert label_counts(values_of(4), [np.arange(4)]) is None


@pytest.mark.parametrize(
    "text",
    ["sample,node\n0,1\n3,0\n2,1\n\n", "sample, node\r\n0,1\r\n3,0\r\n2,1\r\n", "[[3], [0, 2]]"],
)
def test_a_file_says_who_holds_what_in_its_order(tmp_path: Path, text: str) -> None:
    path = tmp_path / "partition"
    path.write_text(text)
    partition = build(Partition, {"kind": "file", "file": str(path)})
    parts = partition.assign(values_of(5), 2, 0)
    assert [part.tolist() for part in parts] == [[3], [0, 2]]


def test_a_file_may_list_the_samples_of_a_node_in_any_order(tmp_path: Path) -> None:
    for text in ("sample,node\n2,1\n3,0\n0,1\n", "[[3], [2, 0]]"):
        (tmp_path / "partition").write_text(text)
        partition = build(Partition, {"kind": "file", "file": str(tmp_path / "partition")})
        assert [part.tolist() for part in partition.assign(values_of(5), 2, 0)] == [[3], [2, 0]]


def test_any_partition_survives_being_written_to_a_file(tmp_path: Path) -> None:
    data = data_of(np.arange(90) % 3, 3)
    parts = Dirichlet(alpha=0.5).assign(data, 7, 1)
    path = tmp_path / "partition.json"
    path.write_text(json.dumps([part.tolist() for part in parts]))
    assert [part.tolist() for part in FromFile(file=path).assign(data, 7, 9)] == [part.tolist() for part in parts]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'Line 1 of FILE must be "sample,node". Got "" instead.'),
        ("0,1\n", 'Line 1 of FILE must be "sample,node". Got "0,1" instead.'),
        (
            "sample,node\n0,0\n1,x\n",
            'Line 3 of FILE must be two integers, a sample and its node. Got "1,x" instead.',
        ),
        ("sample,node\n0\n", 'Line 2 of FILE must be two integers, a sample and its node. Got "0" instead.'),
        ("sample,node\n5,0\n", "Every sample in FILE must be an int in [0, 5). Got 5 instead (sample 5 of node 0)."),
        ("sample,node\n-1,0\n", "Every sample in FILE must be an int in [0, 5). Got -1 instead (sample -1 of node 0)."),
        ("sample,node\n0,2\n", "Every node in FILE must be an int in [0, 2). Got 2 instead (sample 0 of node 2)."),
        (
            "sample,node\n1,0\n0,1\n1,1\n",
            "Every sample may occur once in FILE. Sample 1 is given to node 0 and to node 1.",
        ),
        (
            "sample,node\n0,0\n",
            "The partition file leaves 1 of 2 nodes without a sample, node 1 the first: give every node at least one.",
        ),
        (
            "[]",
            "The partition file leaves 2 of 2 nodes without a sample, node 0 the first: give every node at least one.",
        ),
        ("[[0], [1, true]]", "Entry 1 of FILE must be a list of integers, the samples of node 1."),
        ("[0, 1]", "Entry 0 of FILE must be a list of integers, the samples of node 0."),
        ("[[0], [1]", "FILE is not valid JSON: Expecting ',' delimiter: line 1 column 10 (char 9)."),
        (
            f"[[0], [{10**30}]]",
            "FILE has an integer that needs more than 64 bits.",
        ),
    ],
)
def test_a_wrong_file_gets_its_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "partition"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        FromFile(file=path).assign(values_of(5), 2, 0)
    assert str(caught.value) == sentence.replace("FILE", str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The 'file' of the partition file, '.*absent\.csv', cannot be read: No such"):
        FromFile(file=tmp_path / "absent.csv").assign(values_of(5), 2, 0)


@pytest.mark.parametrize(
    ("partition", "data", "holders", "sentence"),
    [
        (
            IID(),
            values_of(5),
            6,
            "The partition iid must give each node a sample: nodes must be in [1, 5], "
            "the training samples there are. Got 6 instead.",
        ),
        (
            Shards(per_node=3),
            data_of(np.zeros(5), 1),
            2,
            "The 'per_node' of the partition shards must be an int in [1, 2] for 5 samples on 2 nodes. Got 3 instead.",
        ),
        (
            Dirichlet(alpha=1.0, min_samples=3),
            data_of(np.zeros(5), 1),
            2,
            "The 'min_samples' of the partition dirichlet must be an int in [1, 2] for 5 samples on 2 nodes. Got 3 instead.",
        ),
        (
            Quantity(alpha=1.0, min_samples=3),
            values_of(5),
            2,
            "The 'min_samples' of the partition quantity must be an int in [1, 2] for 5 samples on 2 nodes. Got 3 instead.",
        ),
        (
            Shards(),
            values_of(5),
            2,
            "The partition shards needs data with one class per sample; these have values.",
        ),
        (
            Natural(),
            values_of(5),
            2,
            "The partition natural needs a data set with the owner of each sample, which this one does not have.",
        ),
        (
            Natural(),
            data_of(np.zeros(5), 1, np.array([4, 4, 4, 4, 9])),
            3,
            "The partition natural must give each node an owner of samples: nodes must be in [1, 2], "
            "the owners there are. Got 3 instead.",
        ),
    ],
)
def test_what_cannot_be_dealt_gets_its_sentence(partition: Partition, data: Data, holders: int, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        partition.assign(data, holders, 0)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "shards", "per_node": 0},
        {"kind": "dirichlet", "alpha": 0},
        {"kind": "dirichlet", "alpha": float("inf")},
        {"kind": "quantity", "alpha": 1.0, "min_samples": 0},
        {"kind": "file", "file": 3},
        {"kind": "dirichlet"},
    ],
)
def test_wrong_parameters_are_refused(table) -> None:
    with pytest.raises(ConfigurationError, match=f"of the partition {table['kind']}"):
        build(Partition, table)
