"""covey-native: every kernel equals its reference, on every instruction set that this processor has."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covey import __version__
from covey.learning.mixture import Mixture, Pull, draw_with_torch
from covey.messages.codecs import rice
from covey.parts import native
from covey.parts.errors import ConfigurationError, CoveyError

ROOT = Path(__file__).parent.parent
try:
    import covey_native
except ImportError:
    covey_native = None
ISAS = ["portable"] if covey_native is None else covey_native.isas()

needs_native = pytest.mark.skipif(covey_native is None, reason="covey-native is not installed: see docs/native.md")


@st.composite
def gaps(draw, most=300):
    """(gaps, k): short and long ones, in few blocks and many."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    count, bits = draw(st.integers(0, most)), draw(st.integers(0, 31))
    found = random.integers(0, 1 << bits, count, dtype=np.int64)
    # No longer in unary than a few hundred bits each.
    return found, draw(st.integers(max(0, bits - 8), 31))


@st.composite
def streams(draw):
    """(stream, size, count): a code, as it is or damaged, or any bytes."""
    if draw(st.integers(0, 4)) == 0:
        stream = np.array(list(draw(st.binary(max_size=40))), dtype=np.uint8)
        return stream, draw(st.integers(0, 2000)), draw(st.integers(0, 200))
    written, k = draw(gaps(200))
    stream, count = rice.encode_with_numpy(written, k), len(written)
    size = int(written.sum()) + count + draw(st.sampled_from([0, 0, 1, 300]))
    how = draw(st.sampled_from(["whole", "whole", "cut", "longer", "bit", "count", "size"]))
    if how == "cut":
        stream = stream[: draw(st.integers(0, len(stream)))]
    elif how == "longer":
        stream = np.concatenate([stream, np.array([draw(st.integers(0, 255))], dtype=np.uint8)])
    elif how == "bit":
        stream[draw(st.integers(0, len(stream) - 1))] ^= 1 << draw(st.integers(0, 7))
    elif how == "count":
        count = max(0, count + draw(st.integers(-70, 70)))
    elif how == "size":
        size = draw(st.integers(0, size))
    return stream, min(size, (1 << 31) - 1), count


@st.composite
def pulls(draw):
    """(total, own, indices, values, weight): indices increase, or come as they like, or lie outside."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    size, count = draw(st.integers(1, 300)), draw(st.integers(0, 300))
    how = draw(st.sampled_from(["increasing", "any", "outside"]))
    indices = random.integers(0, size, count)
    if how == "increasing":
        indices = np.unique(indices)
    elif how == "outside" and count:
        indices[random.integers(count)] = draw(st.sampled_from([-1, size, 1 << 40, -(1 << 63)]))
    total, own = random.normal(size=(2, size)).astype(np.float32)
    values = random.normal(size=len(indices)).astype(np.float32)
    return total, own, indices, values, draw(st.floats(-2, 2))


def pulled(total, own, indices, values, weight):
    """The sum after the reference; None where it refuses."""
    total = torch.from_numpy(total.copy())
    try:
        draw_with_torch(total, torch.from_numpy(own), Pull(torch.from_numpy(indices), torch.from_numpy(values), weight))
    except (RuntimeError, IndexError):
        return None
    return total.numpy()


def pulled_natively(total, *others):
    """The same by the kernel."""
    total = total.copy()
    return total if covey_native.pull(total, *others) else None


class Pair(NamedTuple):
    """A kernel's reference, and the arguments of both."""

    reference: Callable[..., Any]
    examples: st.SearchStrategy[tuple[Any, ...]]
    native: Callable[..., Any] | None = None
    """The call of a kernel, if it is not that of the reference."""


KERNELS = {
    "rice_encode": Pair(rice.encode_with_numpy, gaps()),
    "rice_decode": Pair(rice.decode_with_numpy, streams()),
    "pull": Pair(pulled, pulls(), pulled_natively),
}
"""Every kernel has a line here."""


@pytest.fixture(params=ISAS)
def isa(request):
    """One instruction set after the other."""
    before = covey_native.isa()
    assert covey_native.use(request.param)
    yield request.param
    covey_native.use(before)


@needs_native
def test_every_kernel_is_compared():
    assert set(KERNELS) == {name for name in covey_native.__all__ if name not in ("isa", "isas", "use")}


@needs_native
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.usefixtures("isa")
def test_native_equals_reference(kernel):
    reference, examples, called = KERNELS[kernel]
    computed = called or getattr(covey_native, kernel)

    @given(examples)
    def equal(example):
        found = computed(*example)
        try:
            expected = reference(*example)
        except CoveyError:
            expected = None
        if expected is None or found is None:
            assert found is expected, example
        else:
            assert found.dtype == expected.dtype
            assert found.tobytes() == expected.tobytes(), example

    equal()


@needs_native
@pytest.mark.usefixtures("isa")
def test_long_sets_come_back():
    at = np.sort(np.random.default_rng(0).choice(200_000, 40_000, replace=False))
    steps = np.diff(at, prepend=-1) - 1
    for k in (0, 1, 2, 3, 7, 8, 9, 17):
        stream = covey_native.rice_encode(steps, k)
        assert np.array_equal(stream, rice.encode_with_numpy(steps, k))
        assert np.array_equal(covey_native.rice_decode(stream, 200_000, len(at)), at)


@needs_native
@pytest.mark.usefixtures("isa")
def test_what_no_stranger_may_say_is_left_to_the_reference():
    stream = np.array([3, 255, 255, 255], dtype=np.uint8)
    for size, count in [(-1, 1), (1, -1), (1 << 62, 1), (100, 1 << 31), (100, 1 << 62), (1 << 31, 1 << 31)]:
        assert covey_native.rice_decode(stream, size, count) is None
    for steps, k in [([-1], 2), ([1 << 31], 2), ([-(1 << 63)], 31), ([0], -1), ([0], 32), ([0], 64)]:
        assert covey_native.rice_encode(np.array(steps), k) is None
    # Nothing is converted on the way, and no array is read in another order than it lies in.
    for wrong in (stream.astype(np.int32), stream[::2], stream.reshape(2, 2)):
        with pytest.raises(TypeError):
            covey_native.rice_decode(wrong, 100, 1)
    numbers, indices = np.zeros(4, dtype=np.float32), np.zeros(2, dtype=np.int64)
    assert not covey_native.pull(numbers, numbers[:3].copy(), indices, numbers[:2].copy(), 1.0)
    assert not covey_native.pull(numbers, numbers.copy(), indices, numbers[:3].copy(), 1.0)
    numbers.flags.writeable = False
    with pytest.raises(TypeError):
        covey_native.pull(numbers, numbers.copy(), indices, numbers[:2].copy(), 1.0)


@pytest.mark.parametrize("change", ["none", "double", "strided", "twice"])
def test_a_partial_average_is_the_same_whatever_its_tensors_are(change):
    random = torch.Generator().manual_seed(1)
    own, values = torch.randn(50, generator=random), torch.randn(20, generator=random)
    indices = torch.randperm(50, generator=random)[:20].sort().values
    if change == "double":
        own, values = own.double(), values.double()
    elif change == "strided":
        own, values, indices = own.repeat_interleave(2)[::2], values.repeat_interleave(2)[::2], indices.flip(0)
    elif change == "twice":
        indices[1] = indices[0]
    expected = 0.5 * own
    draw_with_torch(expected, own, Pull(indices, values, 0.25))
    assert torch.equal(Mixture([own], [0.5], [Pull(indices, values, 0.25)]).tensor(), expected)


def test_a_pull_outside_of_a_model_is_refused():
    with pytest.raises((RuntimeError, IndexError), match="out of"):
        Mixture([torch.zeros(5)], [1.0], [Pull(torch.tensor([0, 5]), torch.ones(2), 0.5)]).tensor()


@pytest.fixture
def afresh(monkeypatch):
    """Looks for covey-native anew, during a test and after it."""
    monkeypatch.delitem(sys.modules, "covey_native", raising=False)
    monkeypatch.delenv("COVEY_ISA", raising=False)
    native.kernels.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    native.kernels.cache_clear()
    if covey_native is not None:
        covey_native.use(covey_native.isas()[-1])


EXPERIMENT = """
rounds = 1
program = { kind = "gossip", topology = "ring" }
[task]
dataset = "digits"
model = "logistic"
[network]
nodes = 8
"""


def test_covey_works_without_it_and_says_so(afresh, in_folder, covey):
    afresh.setitem(sys.modules, "covey_native", None)
    stream = rice.encode(np.array([0, 5, 9]), 1)
    assert rice.decode(stream, 17, 3).tolist() == [0, 6, 16]
    (in_folder / "experiment.toml").write_text(EXPERIMENT)
    code, out, err = covey("check", "experiment.toml")
    assert (code, err) == (0, "")
    assert len(re.findall(r"^native .*covey-native is not installed: .* more slowly$", out, flags=re.M)) == 1


def test_an_instruction_set_is_refused_where_nobody_would_heed_it(afresh, in_folder, covey):
    afresh.setitem(sys.modules, "covey_native", None)
    afresh.setenv("COVEY_ISA", "avx2")
    (in_folder / "experiment.toml").write_text(EXPERIMENT)
    code, out, err = covey("check", "experiment.toml")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "covey: COVEY_ISA chooses among the kernels of covey-native, which is not installed. Got 'avx2': install it, or "
        "unset the variable."
    ]


@needs_native
@pytest.mark.parametrize("wanted", ["fast", "AVX2", "avx2 ", "neon" if "neon" not in ISAS else "avx512"])
def test_an_instruction_set_that_is_not_there_is_refused_in_one_line(afresh, in_folder, covey, wanted):
    afresh.setenv("COVEY_ISA", wanted)
    (in_folder / "experiment.toml").write_text(EXPERIMENT)
    code, out, err = covey("check", "experiment.toml")
    assert (code, out) == (2, "")
    expected = f"COVEY_ISA must be one of {', '.join(ISAS)} on this processor. Got {wanted!r} instead."
    assert err.splitlines() == [f"covey: {expected}"]


@needs_native
@pytest.mark.parametrize("wanted", [*ISAS, ""])
def test_the_environment_chooses_the_instruction_set(wanted):
    code = "from covey.parts import native; print(native.kernels().isa(), native.in_words(), sep='\\n')"
    environment = {**os.environ, "COVEY_ISA": wanted}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    chosen = wanted or ISAS[-1]
    assert said.stdout.splitlines() == [chosen, f"kernels of covey-native for {chosen}"]


def test_another_version_is_refused(afresh):
    other = ModuleType("covey_native")
    other.__version__ = "0.0.1"
    afresh.setitem(sys.modules, "covey_native", other)
    with pytest.raises(ConfigurationError, match=r"must be of covey's version, .* Got 0\.0\.1 instead"):
        native.kernels()


def test_both_distributions_have_one_version():
    table = tomllib.loads((ROOT / "native/pyproject.toml").read_text())
    assert table["project"]["version"] == __version__
    assert f'__version__ = "{__version__}"' in (ROOT / "native/covey_native/__init__.py").read_text()
