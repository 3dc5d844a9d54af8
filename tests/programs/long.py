"""A program that sends entries of many kinds and sizes, and keeps the results."""

from itertools import product
from typing import Any

from covey import Node, Program, param

KINDS: dict[str, Any] = {
    "text": lambda size: "é" * size,
    "bytes": lambda size: bytes(range(256)) * (size // 256) + bytes(size % 256),
    "ints": lambda size: list(range(-(size // 2), size - size // 2)),
    "floats": lambda size: [number / 7 for number in range(size)],
    "mixed": lambda size: [number if number % 2 else f"{number}" for number in range(size)],
}


class Long(Program):
    """Node 0 sends to node 1."""

    kinds: list[str] = param("The kinds of entries.")
    sizes: list[int] = param("The sizes of entries.", ge=0)

    async def run(self, node: Node) -> None:
        for what, size in product(self.kinds, self.sizes):
            tag, entry = f"{what} {size}", KINDS[what](size)
            if node.id == 0:
                node.send(1, {"entry": entry, "number": size}, tag=tag)
            else:
                (message,) = await node.receive(tag=tag, count=1)
                same = message["entry"] == entry and message["number"] == size
                node.record("came", what=what, size=size, same=same, bytes=message.size)
