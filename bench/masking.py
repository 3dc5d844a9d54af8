"""Masking: the cost of a masked message, against copying the bytes of its numbers in memory."""

from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

import numpy as np

from covey.decentralized.sharing.agreement import Agreement, IndexSet, Member
from covey.messages.crypto import FixedPoint, KeyPair, add_mask, derive, is_sealed, seal
from covey.messages.crypto.fixed_point import Integers
from covey.parts.nodes import NodeId

SIZE, DEGREE, KEY = 1_000_000, 4, bytes(32)


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    draw = np.random.default_rng(0)
    model = draw.normal(size=SIZE).astype(np.float32)
    pairs = [KeyPair() for _ in range(DEGREE)]
    for numbers in (FixedPoint(64, 32), FixedPoint(32, 24)):
        encoded = numbers.encode(model, 0.2)
        copy = _seconds(partial(np.copyto, np.empty_like(encoded), encoded))
        against = f"a million parameters; copying {encoded.nbytes / 1e6:.0f} MB: {copy * 1e3:.2f} ms"
        for name, run in _parts(numbers, encoded, model, pairs, draw):
            run()
            seconds = _seconds(run)
            what = f"masking, {numbers.bits} bits: {name}, times a copy"
            yield [what, f"{seconds / copy:.1f}", "", f"{seconds * 1e3:.2f} ms {against}"]
    pair, other = pairs[0], pairs[1].public
    agreeing, deriving = _seconds(partial(pair._agree, other)), _seconds(partial(derive, KEY, "mask", 1, context=b""))
    detail = f"{agreeing * 1e6:.0f} µs once a pair; {deriving * 1e6:.0f} µs for the key of a round"
    yield ["masking: agreeing on a pair's secret, times a round's key", f"{agreeing / deriving:.1f}", "", detail]


def _parts(
    numbers: FixedPoint, encoded: Integers, model: np.ndarray, pairs: list[KeyPair], draw: np.random.Generator
) -> Iterator[tuple[str, Callable[[], object]]]:
    """The measured calls, with their names."""
    yield "fixed point", partial(numbers.encode, model, 0.2)
    yield "one mask", partial(add_mask, encoded.copy(), KEY)
    yield "seal", partial(seal, KEY, encoded)
    yield "check of a seal", partial(is_sealed, KEY, encoded, seal(KEY, encoded))
    for budget in (1.0, 0.5):
        sets = [np.sort(draw.choice(SIZE, int(SIZE * budget), replace=False)) for _ in range(DEGREE)]
        members = {NodeId(id): Member(pairs[id].public, IndexSet(indices, SIZE)) for id, indices in enumerate(sets)}
        agreement = Agreement(NodeId(DEGREE), 0, members, 1)
        message = partial(agreement.masked, NodeId(0), encoded[sets[0]], pairs[0].secret)
        yield f"masks for one of {DEGREE} neighbours, budget {budget:g}", message


def _seconds(run: Callable[[], object]) -> float:
    """The median of nine."""
    times = []
    for _ in range(9):
        began = perf_counter()
        run()
        times.append(perf_counter() - began)
    return float(np.median(times))
