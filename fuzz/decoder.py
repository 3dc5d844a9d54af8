"""Gives bytes to the decoder: it must make one whole message of them, or refuse them."""

import torch
from loop import fuzz, watched

with watched():
    from covey.messages import wire
    from covey.parts.errors import WireError

LIMITS = wire.Limits(frame=1 << 16, header=1 << 12, tensors=64)


def harness(data: bytes) -> None:
    """One input."""
    try:
        frame = wire.decode(data, LIMITS)
    except WireError:
        return
    numbers = {"sender": frame.sender, "receiver": frame.receiver, "round": frame.round, "sequence": frame.sequence}
    again = wire.encode(frame.payload, tag=frame.tag, **numbers)
    # A decoded message has one encoding; the header of `data` may be a longer form of the same.
    assert wire.size(frame.payload, frame.tag) == len(again)
    assert wire.encode(wire.decode(again).payload, tag=frame.tag, **numbers) == again


if __name__ == "__main__":
    fuzz(
        harness,
        [
            wire.encode({"model": torch.arange(9.0), "age": 3, "list": [1, 2.0, "x"]}, tag="model", round=4),
            wire.encode({"b": torch.tensor([True, False]), "empty": torch.zeros(0, 3), "raw": b"12"}),
        ],
    )
