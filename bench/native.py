"""covey-native against its references: the Rice code, the codec of indices, and partial averages."""

from collections.abc import Callable, Iterator
from time import perf_counter
from unittest import mock

import numpy as np
import torch

from covey.learning import mixture
from covey.learning.mixture import Mixture, Pull
from covey.messages.codecs import decode_indices, encode_indices, rice
from covey.messages.codecs.indices import Code
from covey.parts.native import Kernels, kernels

CASES = ((89_834, 0.05), (89_834, 0.2), (1_690_046, 0.2))
ROUNDS = 25


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    native = kernels()
    if native is None:
        yield ["kernels: times faster than their references", "none", "> 1", "covey-native is not installed"]
        return
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    for size in (8192, 89_834):
        models = torch.randn(9, size).unbind()
        drawn = [torch.from_numpy(np.sort(random.choice(size, size // 5, replace=False))) for _ in models[1:]]
        pulls = [Pull(indices, model[indices], 1 / 9) for model, indices in zip(models[1:], drawn, strict=True)]
        average = {"partial average": lambda m=models[0], p=pulls: Mixture([m], [1.0], p).tensor()}
        yield from _compared(native, average, f"8 neighbours, 20% of {size:,}")
    for size, share in CASES:
        at = np.sort(random.choice(size, round(share * size), replace=False))
        encoded = encode_indices(torch.from_numpy(at), size)
        assert encoded[0] == Code.RICE
        yield from _compared(native, _coding(at, encoded, size), f"{share:.0%} of {size:,}")


def _coding(at: np.ndarray, encoded: torch.Tensor, size: int) -> dict[str, Callable[[], object]]:
    indices, stream, gaps = torch.from_numpy(at), encoded.numpy()[1:], np.diff(at, prepend=-1) - 1
    return {
        "Rice code, written": lambda: rice.encode(gaps, int(stream[0])),
        "Rice code, read": lambda: rice.decode(stream, size, len(at)),
        "indices, written": lambda: encode_indices(indices, size),
        "indices, read": lambda: decode_indices(encoded, size, len(at)),
    }


def _compared(native: Kernels, ways: dict[str, Callable[[], object]], which: str) -> Iterator[list[str]]:
    for what, work in ways.items():
        # In turns, so that a busy machine is busy for all of them.
        times: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            with (
                mock.patch.object(rice, "kernels", return_value=None),
                mock.patch.object(mixture, "kernels", return_value=None),
            ):
                times.setdefault("reference", []).append(_seconds(work))
            for isa in native.isas():
                native.use(isa)
                times.setdefault(isa, []).append(_seconds(work))
        took = {name: float(np.median(spent)) for name, spent in times.items()}
        detail = ", ".join(f"{name} {seconds * 1e6:.0f}" for name, seconds in took.items())
        ratio = took["reference"] / took[native.isa()]
        yield [
            f"{what}, {which}: {native.isa()} is faster than the reference by",
            f"{ratio:.1f}",
            "> 1",
            f"µs: {detail}",
        ]


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began
