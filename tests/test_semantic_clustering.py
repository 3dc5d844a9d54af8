"""Semantic clustering: its protocol, its protection, both engines, profiles and levels."""

import csv
import functools
import math
from collections import Counter

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

import covey
from covey.messages import wire
from covey.parts.errors import BudgetExceeded, ConfigurationError, CoveyError, DataError
from covey.parts.parameters import Setting, build
from covey.privacy.clustering.levels import Groups, Levels, PerItem
from covey.privacy.clustering.products import dealt, mask_of, share_of, wrapped
from covey.privacy.clustering.profiles import Communities, MovieLens, Profiles
from covey.privacy.clustering.semantic import SemanticClustering
from covey.privacy.clustering.similarity import (
    BITS,
    nearest,
    neighbours,
    noise_of,
    recalls,
    scale_of,
    shrunk,
    similarities,
)
from covey.privacy.randomness import Source, discrete_log_density
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World
from tests.conftest import begun, simulate

SMALL = {"kind": "communities", "items": 40, "communities": 3, "likes": 8, "hidden": 0.25}
USERS = 12
UNIT = 4.0**-BITS


def tables(rounds=6, nodes=USERS + 1, **program):
    return {
        "seed": 3,
        "rounds": rounds,
        "program": {"kind": "semantic-clustering", "epsilon": 1.0, "profiles": SMALL, "view": 4, **program},
        "network": {"nodes": nodes, "latency": "5ms"},
    }


def values_of(state):
    """The noisy similarities in a node's state, by peer."""
    return {int(name.split(".")[1]): value for name, value in state.items() if name.startswith("values.")}


def prepared_program(made):
    return prepare(Experiment.from_table(made)).program


# ---------------------------------------------------------------------- the oracle


def exact_of(program, users=USERS):
    """Users x users, the sums of (v_k d_k) (v'_k d'_k) in floats, from the definition."""
    stretched = np.stack([program.profiles.of(u) * program.levels.of(u, program.profiles.width) for u in range(users)])
    return np.einsum("ai,bi->ab", stretched, stretched)


@pytest.mark.parametrize("noise", ["local", "trusted"])
@pytest.mark.parametrize("levels", [{"kind": "groups"}, {"kind": "homogeneous"}])
def test_without_noise_the_gossip_finds_the_nearest(noise, levels):
    made = tables(rounds=14, epsilon=math.inf, noise=noise, levels=levels)
    world, _ = simulate(made)
    exact = exact_of(world.program)
    views = neighbours(exact_of_integers(world.program) * UNIT, 4)
    for node in world.nodes[:USERS]:
        found = values_of(node.state)
        assert sorted(found) == [peer for peer in range(USERS) if peer != node.id]
        for peer, value in found.items():
            assert value * UNIT == pytest.approx(exact[node.id, peer], abs=2 * 40 * 2.0**-BITS)
        assert node.state["view"] == views[node.id].tolist()


def exact_of_integers(program, users=USERS):
    stretched = np.stack([program.shrunk(user) for user in range(users)])
    return stretched @ stretched.T


def test_the_program_and_the_matrix_have_the_same_noisy_values():
    world, _ = simulate(tables(rounds=14, levels={"kind": "per-item"}))
    secrets = [node.state["secret"] for node in world.nodes]
    expected = exact_of_integers(world.program)
    for low in range(USERS):
        for high in range(low + 1, USERS):
            noise = sum(noise_of(secrets[node], low, high, 1.0) for node in (low, high))
            expected[low, high] += noise
            expected[high, low] += noise
    views = neighbours(expected * UNIT, 4)
    for node in world.nodes[:USERS]:
        found = values_of(node.state)
        assert found == {peer: expected[node.id, peer] for peer in found}
        assert len(found) == USERS - 1
        assert node.state["view"] == views[node.id].tolist() == nearest(found, 4)


@given(
    profiles=st.lists(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=5, max_size=5), min_size=2, max_size=5),
    v=st.lists(st.sampled_from([0.0, 0.1, 0.7, 1.0]), min_size=5, max_size=5),
    item=st.integers(0, 4),
)
@settings(max_examples=40, deadline=None)
def test_one_value_changes_a_similarity_by_at_most_v(profiles, v, item):
    exact = []
    for value in (0.0, 0.45, 1.0):
        mine = np.array(profiles[0])
        mine[item] = value
        rows = np.stack([shrunk(mine, v), *(shrunk(other, 1.0) for other in profiles[1:])])
        exact.append(similarities(rows, math.inf)[0, 1:])
    change = np.ptp(np.stack(exact), axis=0)
    assert (change <= v[item]).all()
    # The noise has the scale of a change by 1: the odds of any value change by exp(epsilon v) at most.
    units = np.arange(-(4**BITS), 4**BITS, 4**BITS // 7)
    odds = discrete_log_density(units, scale_of(2.0)) - discrete_log_density(
        units - round(change.max() * 4**BITS), scale_of(2.0)
    )
    assert np.abs(odds).max() <= 2.0 * v[item] + 1e-9


@pytest.mark.parametrize("draws", [1, 2])
def test_the_matrix_is_symmetric_and_its_noise_has_its_spread(draws):
    rows = np.zeros((60, 3), dtype=np.int64)
    found = similarities(rows, 0.5, draws=draws, random=4)
    assert (found == found.T).all()
    upper = found[np.triu_indices(60, k=1)]
    assert upper.var() == pytest.approx(draws * 2 * (1 / 0.5) ** 2, rel=0.2)
    assert (similarities(rows, 0.5, draws=draws, random=4) == found).all()


# ---------------------------------------------------------------------- products without showing vectors


@given(data=st.data(), size=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_shares_sum_to_the_product(data, size):
    values = st.lists(st.integers(0, 1 << BITS), min_size=size, max_size=size)
    x, y = (np.array(data.draw(values), dtype=np.int64) for _ in range(2))
    seeds = [bytes([n]) * 32 for n in data.draw(st.lists(st.integers(0, 255), min_size=2, max_size=2))]
    a, b = (mask_of(seed, size) for seed in seeds)
    first, second = dealt(*seeds, size, Source(data.draw(st.integers(0, 99))))
    shares = share_of(x, a, y + b, first, first=True), share_of(y, b, x + a, second, first=False)
    assert wrapped(sum(shares)) == int(x @ y)


def test_what_a_node_receives_of_another_is_uniform():
    """The masked vector and the share of one and the same profile, over many dealings."""
    x, y = np.full(3, 1 << BITS, dtype=np.int64), np.array([1, 0, 5], dtype=np.int64)
    seen = []
    for n in range(400):
        one, other = Source(n), Source(-1 - n)
        seeds = [source.words(4).tobytes() for source in (one, other)]
        a, b = (mask_of(seed, 3) for seed in seeds)
        first, _ = dealt(*seeds, 3, one)
        seen.append([*(x + a), share_of(x, a, y + b, first, first=True)])
    top = np.array(seen).view(np.uint64) >> np.uint64(62)
    for column in top.T:
        counts = np.bincount(column.astype(int), minlength=4)
        assert (abs(counts - 100) < 4 * math.sqrt(75)).all()


def sent_by(made, monkeypatch):
    """All messages of a run: sender, receivers, tag, entries."""
    found, post = [], World.post

    def listen(world, node, receivers, payload, tag, round):
        found.append((node.id, [int(to) for to in receivers], tag, dict(payload)))
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", listen)
    world, _ = simulate(made)
    return world, found


def test_with_local_noise_no_node_gets_a_profile_and_each_pair_is_compared_once(monkeypatch):
    world, sent = sent_by(tables(rounds=8), monkeypatch)
    profiles = [world.program.shrunk(user).tolist() for user in range(USERS)]
    vectors = [(sender, to[0], entries["vector"]) for sender, to, tag, entries in sent if tag == "masked"]
    assert vectors
    assert {tag for sender, to, tag, _ in sent if to == [USERS]} == {"wish"}
    for sender, _, vector in vectors:
        assert vector.tolist() != profiles[sender]
        # Masks are of 64 bits: a number as small as a profile's is one in 2**50.
        assert (np.abs(vector) > 1 << 20).all()
    pairs = Counter((sender, to) for sender, to, _ in vectors)
    assert set(pairs.values()) == {1}
    assert len({tuple(vector.tolist()) for _, _, vector in vectors}) == len(vectors)


def test_with_trusted_noise_profiles_go_to_the_broker_alone(monkeypatch):
    _, sent = sent_by(tables(rounds=4, noise="trusted"), monkeypatch)
    assert {(tag, tuple(to)) for _, to, tag, entries in sent if "vector" in entries} == {("profile", (USERS,))}
    assert {tag for _, _, tag, _ in sent} == {"profile", "wish", "order", "view"}


def test_an_order_beyond_the_budget_is_refused():
    made = tables(budget=2.0)
    program = prepared_program(made)
    node = begun(made).nodes[0]
    from covey.privacy.clustering.messages import Taste

    kept = node.keep(Taste)
    kept.values[3] = 17
    program.charge(node, kept, [4])
    with pytest.raises(BudgetExceeded) as again:
        program.charge(node, kept, [3])
    assert (again.value.pair, again.value.coordinate) == (3, 0)
    with pytest.raises(BudgetExceeded, match=r"coordinate 0 for the pair 5 does not suffice: 0 is left"):
        program.charge(node, kept, [4, 5])


@pytest.mark.parametrize("noise", ["local", "trusted"])
def test_a_budget_bounds_the_comparisons_of_every_node(noise):
    world, written = simulate(tables(rounds=10, budget=3.5, noise=noise))
    counts = [len(values_of(node.state)) for node in world.nodes[:USERS]]
    assert max(counts) == 3
    assert all(detail for detail in written.rows)


# ---------------------------------------------------------------------- runs


@pytest.mark.parametrize("noise", ["local", "trusted"])
def test_a_resumed_run_has_the_views_and_values_of_an_uninterrupted_one(noise):
    made = {**tables(noise=noise), "checkpoint": {"every": 2}}
    whole, written = simulate(made)
    assert [round for round, _ in written.checkpoints] == [2, 4]
    for _, checkpoint in written.checkpoints[:2]:
        resumed, _ = simulate(made, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
        assert [repr(node.state) for node in resumed.nodes] == [repr(node.state) for node in whole.nodes]


def test_both_engines_find_the_same(tmp_path):
    emulation = {"kind": "emulation", "nodes_per_process": 7}
    runs = [
        covey.run({**tables(rounds=3, seeds="seeded"), "engine": engine}, out=tmp_path / str(index))
        for index, engine in enumerate(("simulation", emulation))
    ]
    assert [run.status for run in runs] == ["finished"] * 2
    for one, other in zip(*(run.states for run in runs), strict=True):
        assert repr(one) == repr(other)
    assert values_of(runs[1].states[0])


def test_profiles_and_levels_may_be_of_ones_own_in_both_engines(tmp_path):
    own = "tests.programs.own_profiles"
    made = tables(
        nodes=6, rounds=4, epsilon=math.inf, seeds="seeded", profiles=f"{own}:Spans", levels=f"{own}:Alternating"
    )
    found = [
        covey.run({**made, "engine": engine}, out=tmp_path / engine).states for engine in ("simulation", "emulation")
    ]
    assert repr(found[0]) == repr(found[1])
    # Users 0 and 1 have items 1 to 4 in common, of which 2 and 4 are open.
    assert values_of(found[0][0])[1] * UNIT == 2.0
    with pytest.raises(ConfigurationError, match=r"The 'length' of the profiles .*Spans must be an int in"):
        covey.check({**made, "program": {**made["program"], "profiles": {"kind": f"{own}:Spans", "length": 0}}})


def test_a_broker_beside_users_protects_nothing_and_is_refused(tmp_path):
    (tmp_path / "token").write_text("a secret")
    (tmp_path / "token").chmod(0o600)

    def on(count, **program):
        named = [f"127.0.0.1:{7000 + host}" for host in range(count)]
        engine = {"kind": "emulation", "hosts": named, "token_file": str(tmp_path / "token")}
        return covey.check({**tables(nodes=6, **program), "engine": engine})

    with pytest.raises(ConfigurationError, match=r"must give node 5 one of its own.* Got 2 more on 127\.0\.0\.1:7001"):
        on(2)
    for right in (lambda: on(6), lambda: on(2, noise="trusted"), lambda: on(2, epsilon=math.inf)):
        right()


def test_keys_are_fresh_in_real_time_and_seeded_in_virtual_time():
    program = prepared_program(tables())
    assert not program._fresh
    program.prepare(Setting(USERS + 1, clock="real"))
    assert program._fresh
    assert "recomputed" not in " ".join(m.assumes[-1] for m in program.mechanisms(Setting(USERS + 1)))


def test_a_run_states_what_it_protects_and_against_whom(in_folder, request):
    call = request.getfixturevalue("covey")
    (in_folder / "e.toml").write_text(tomli_w.dumps(tables(budget=4.0, levels={"kind": "groups"})))
    code, out, err = call("check", "e.toml")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert (
        "epsilon 4 at delta 0 for one item of a user's profile, at privacy 1, against all other users together" in text
    )
    assert "epsilon 1 at delta 0 for one item of a user's profile, at privacy 1, against one other user" in text
    assert "an item of privacy v has v times this epsilon, and v itself is not protected" in text
    assert "the broker, which sees no profile" in text
    code, _, err = call("run", "e.toml", "--out", "run")
    assert code == 0, err
    stated = covey.runtime.runs.Run(in_folder / "run").facts["privacy"]
    assert [one["epsilon"] for one in stated] == [4.0, 1.0]
    code, out, _ = call("check", "e.toml", "--set", "program.noise=trusted")
    assert "the broker, which has all shrunk profiles, keeps them to itself" in " ".join(out.split())
    code, out, _ = call("check", "e.toml", "--set", "program.epsilon=inf", "--set", "program.budget=inf")
    assert "no protection of one item of a user's profile" in " ".join(out.split())


# ---------------------------------------------------------------------- recall


USERS_OF_STUDY, MIXED, WHOLE = 200, Groups(), build(Levels, "homogeneous")


@functools.cache
def users_of_study(seed):
    """The profiles of many users, and their items that are held out."""
    profiles = Communities(items=400, communities=20, likes=20, hidden=0.1).ready(Setting(USERS_OF_STUDY + 1, seed))
    shown = np.stack([profiles.of(user) for user in range(USERS_OF_STUDY)])
    return shown, [profiles.held_out(user) for user in range(USERS_OF_STUDY)]


def study(epsilon, levels, seeds=(1, 2)):
    """The recall of each user, by a search in the profiles of the ten nearest, seeds x users."""
    found = []
    for seed in seeds:
        levels.ready(Setting(USERS_OF_STUDY + 1, seed))
        shown, held_out = users_of_study(seed)
        rows = np.stack([shrunk(shown[user], levels.of(user, 400)) for user in range(USERS_OF_STUDY)])
        values = similarities(rows, epsilon, draws=2, random=seed)
        found.append(recalls(neighbours(values, 10).tolist(), shown, held_out))
    return np.stack(found)


def test_recall_falls_from_none_over_mixed_to_strict_to_random():
    found = [study(math.inf, WHOLE), study(3.0, MIXED), study(0.3, WHOLE), study(1e-4, WHOLE)]
    means = [recall.mean() for recall in found]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[3] + 0.1


def test_recall_rises_with_epsilon_and_for_users_of_lower_privacy():
    means = [study(epsilon, MIXED).mean() for epsilon in (0.1, 3.0, 100.0)]
    assert means == sorted(means)
    recall = study(3.0, MIXED, seeds=(2,))[0]
    groups = np.array([MIXED.group(user) for user in range(USERS_OF_STUDY)])
    assert recall[groups == 0].mean() >= recall[groups == 2].mean()


def test_the_recall_of_a_search_is_the_share_of_hidden_items_in_the_union_of_profiles():
    shown = np.array([[0, 0, 0, 0], [1, 0, 0, 0.5], [0, 1, 0, 0]])
    found = recalls([[1, 2], [], [0]], shown, [[0, 2, 3], [2], []])
    assert found[:2].tolist() == pytest.approx([2 / 3, 0.0])
    assert math.isnan(found[2])


# ---------------------------------------------------------------------- profiles and levels


@given(seed=st.integers(0, 2**20), hidden=st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=10, deadline=None)
def test_hidden_items_are_liked_and_not_shown(seed, hidden):
    profiles = Communities(items=50, likes=10, hidden=hidden).ready(Setting(9, seed))
    for user in (0, 7):
        whole, shown, held = profiles.whole(user), profiles.of(user), profiles.held_out(user)
        assert whole.sum() == 10
        assert len(held) == round(hidden * 10)
        assert (whole[held] == 1).all()
        assert (shown[held] == 0).all()
        assert shown.sum() == 10 - len(held)
        again = Communities(items=50, likes=10, hidden=hidden).ready(Setting(9, seed))
        assert (again.of(user) == shown).all()


def test_popularity_within_a_community_follows_zipf():
    profiles = Communities(items=30, communities=1, likes=1, strangers=0.0).ready(Setting(4001, 5))
    counts = np.sum([profiles.whole(user) for user in range(3000)], axis=0)
    expected = 3000 * np.sort(profiles._popularity[0])[::-1]
    assert expected[0] == pytest.approx(2 * expected[1])
    assert np.sort(counts)[::-1][:3] == pytest.approx(expected[:3], rel=0.15)


def test_groups_have_the_sizes_of_their_shares():
    levels = Groups(shares=[0.2, 0.5, 0.3], levels=[1.0, 0.5, 0.1]).ready(Setting(101))
    assert Counter(levels.group(user) for user in range(100)) == {0: 20, 1: 50, 2: 30}
    assert set(levels.of(0, 4)) == {[1.0, 0.5, 0.1][levels.group(0)]}


def test_levels_of_items_are_uniform_over_their_steps():
    levels = PerItem(low=0.2, high=1.0, levels=5).ready(Setting(3))
    drawn = levels.of(1, 5000)
    assert sorted({*drawn}) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(abs(count - 1000) < 120 for count in Counter(drawn).values())
    assert (levels.of(1, 5000) == drawn).all()
    assert (levels.of(0, 5000) != drawn).any()


def write(path, rows):
    with path.open("w", newline="") as opened:
        csv.writer(opened).writerows(rows)


def test_each_user_may_have_a_file_of_his_own(tmp_path):
    write(tmp_path / "p0.csv", [["item", "value"], [0, 1], [3, 0.5]])
    write(tmp_path / "p1.csv", [["item"], [0], [3]])
    write(tmp_path / "v0.csv", [["item", "privacy"], [0, 1], [3, 0.5]])
    write(tmp_path / "v1.csv", [["item", "privacy"], [0, 0.5], [3, 1]])
    made = tables(
        nodes=3,
        rounds=1,
        epsilon=math.inf,
        profiles={"kind": "files", "path": str(tmp_path / "p{user}.csv"), "items": 4},
        levels={"kind": "files", "path": str(tmp_path / "v{user}.csv")},
    )
    world, _ = simulate(made)
    assert values_of(world.nodes[0].state)[1] * UNIT == 0.5 + 0.25
    write(tmp_path / "p1.csv", [["item", "value"], [0, 3]])
    with pytest.raises(CoveyError, match=r"within their bounds, \[0, 1\] at coordinate 0\. Got 3 instead"):
        simulate(made)
    made["program"]["outside"] = "clip"
    assert values_of(simulate(made)[0].nodes[0].state)[1] * UNIT == 0.5


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([["item"], [9]], r"The 'item' in line 2 of .*0\.csv must be an int in \[0, 4\)\. Got '9' instead"),
        ([["item"], ["x"]], r"Got 'x' instead"),
        ([["thing"], [1]], r"Got None instead"),
        ([["item", "value"], [1, "much"]], r"The 'value' in line 2 of .*0\.csv must be a float\. Got 'much' instead"),
        ([["item", "value"], [1]], r"The 'value' in line 2 .* Got None instead"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, rows, line):
    write(tmp_path / "0.csv", rows)
    profiles = build(Profiles, {"kind": "files", "path": str(tmp_path / "{user}.csv"), "items": 4}).ready(Setting(3))
    with pytest.raises(DataError, match=line):
        profiles.of(0)
    with pytest.raises(DataError, match=r"The 'path' of the profiles files, '.*1\.csv', cannot be read: No such file"):
        profiles.of(1)


def test_the_likes_of_movielens_are_high_ratings(tmp_path, monkeypatch):
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    text = "".join(
        f"{user}\t{film}\t{rating}\t1\n" for user, film, rating in [(1, 5, 4), (1, 9, 3), (2, 5, 5), (2, 7, 1)]
    )
    (folder / "u.data").write_text(text)
    import hashlib

    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  u.data\n")
    monkeypatch.setenv("COVEY_DATA", str(tmp_path))
    profiles = MovieLens().ready(Setting(3))
    assert (profiles.width, profiles.most()) == (3, 2)
    assert [profiles.of(user).tolist() for user in (0, 1)] == [[1, 0, 0], [1, 0, 0]]
    made = tables(nodes=5, profiles="movielens-100k")
    with pytest.raises(ConfigurationError, match=r"are those of 2 users, .*must be at most 3\. Got 5 instead"):
        prepare(Experiment.from_table(made))


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"nodes": 2}, "must have two users and a broker. Got 2 nodes instead"),
        ({"budget": 0.5}, "The 'budget' of the program semantic-clustering must be at least its 'epsilon', 1"),
        ({"epsilon": 1e-9}, r"The 'epsilon' of the program semantic-clustering must be a float in \[.*, inf\]"),
        ({"levels": {"kind": "groups", "shares": [0.5, 0.6]}}, "must be floats in .0, 1. that sum to 1"),
        ({"levels": {"kind": "groups", "levels": [1.0]}}, "must be 3 floats in .0, 1., one for each group"),
        ({"levels": {"kind": "per-item", "low": 0.9, "high": 0.1}}, "must be at most its 'high'"),
        ({"profiles": {"kind": "communities", "items": 3, "likes": 4}}, r"must be an int in \[1, items\]. Got 4"),
    ],
)
def test_what_cannot_work_is_refused(changes, line):
    with pytest.raises(ConfigurationError, match=line):
        prepare(Experiment.from_table(tables(**changes)))


def test_lost_messages_are_refused():
    made = tables()
    made["network"]["loss"] = 0.1
    with pytest.raises(ConfigurationError, match="The program semantic-clustering needs every message"):
        prepare(Experiment.from_table(made))


def test_a_user_who_lies_ends_no_run(monkeypatch):
    wrong = {
        "wish": {"peers": ["x"]},
        "masked": {"vector": np.zeros(3)},
        "share": {"share": 0.5},
        "view": {"peers": [99, -1, 0]},
    }
    post = World.post

    def lying(world, node, receivers, payload, tag, round):
        return post(world, node, receivers, wrong[tag] if node.id == 2 and round % 2 else payload, tag, round)

    monkeypatch.setattr(World, "post", lying)
    world, written = simulate(tables(rounds=8, candidates=3))
    assert [node.round for node in world.nodes] == [8] * (USERS + 1)
    assert {detail.split(":")[0] for _, _, kind, detail in written.happened if kind == "rejected"} == {
        "message of node 2"
    }
    assert all(99 not in values_of(node.state) for node in world.nodes)


def test_the_class_is_the_kind():
    assert isinstance(prepared_program(tables()), SemanticClustering)
