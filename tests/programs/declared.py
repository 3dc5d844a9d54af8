"""Messages with one entry of every type, and wrong ones."""

from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from covey import Content, Node, NodeId, Program
from covey.runtime.entries import Among, Bytes, Exactly, Numbers, Within


class Note(Content):
    """One entry of every type."""

    whole: int
    real: float
    right: bool
    word: str
    raw: bytes
    tensor: Tensor
    array: np.ndarray
    wholes: list[int]
    either: int | str
    small: Annotated[int, range(5)]
    share: Annotated[float, Within(gt=0, lt="nodes")]
    row: Annotated[Tensor, Numbers(3)]
    mark: Annotated[bytes, Bytes(4)]
    peers: Annotated[list[int], Among([1, 3, 5])]
    known: Annotated[str, Exactly("yes", "the word yes")]
    perhaps: Tensor | None = None
    urgent: bool = False
    count: int = 7

    def check(self, node: Any) -> str | None:
        return None if len(self.wholes) <= len(self.peers) else "it has more wholes than peers"


def right() -> dict[str, Any]:
    """The required entries of a note."""
    return {
        "whole": 1,
        "real": 0.5,
        "right": True,
        "word": "x",
        "raw": b"x",
        "tensor": torch.ones(2),
        "array": np.zeros(2),
        "wholes": [4],
        "either": "either",
        "small": 4,
        "share": 1,
        "row": torch.zeros(3),
        "mark": b"mark",
        "peers": [1, 5],
        "known": "yes",
    }


WRONG: list[tuple[str, Any, str]] = [
    ("whole", True, "its 'whole' is not an int"),
    ("real", "1", "its 'real' is not a float"),
    ("right", 1, "its 'right' is not a bool"),
    ("tensor", None, "its 'tensor' is not a Tensor"),
    ("array", [0.0], "its 'array' is not a ndarray"),
    ("wholes", [1.0], "its 'wholes' is not a list of ints"),
    ("either", 1.0, "its 'either' is not an int or a str"),
    ("small", 5, "its 'small' is not an int in [0, 5)"),
    ("share", 0.0, "its 'share' is not a float in (0, nodes)"),
    ("share", 4, "its 'share' is not a float in (0, nodes)"),
    ("share", True, "its 'share' is not a float in (0, nodes)"),
    ("row", torch.zeros(2), "its 'row' is not 3 float32 numbers"),
    ("mark", b"marks", "its 'mark' is not 4 bytes"),
    ("peers", [5, 1], "its 'peers' is not a list of some of the ids 1, 3, 5, in this order"),
    ("peers", [1, 1], "its 'peers' is not a list of some of the ids 1, 3, 5, in this order"),
    ("peers", [1.0], "its 'peers' is not a list of some of the ids 1, 3, 5, in this order"),
    ("known", "no", "its 'known' is not the word yes"),
    ("perhaps", 1, "its 'perhaps' is not a Tensor or None"),
    ("urgent", None, "its 'urgent' is not a bool"),
    ("wholes", [1, 2, 3], "it has more wholes than peers"),
]


class Notes(Program):
    """Node 1 sends node 0 notes, one of them right."""

    async def run(self, node: Node) -> None:
        if node.id == 1:
            for name, value, _ in WRONG:
                node.send(NodeId(0), {**right(), name: value})
            node.send(NodeId(0), {name: value for name, value in right().items() if name != "word"})
            node.send(NodeId(0), Note(**right(), perhaps=torch.full((2,), 2.0), count=7))
        elif node.id == 0:
            (note,) = node.usable(await node.receive(count=len(WRONG) + 2), Note)
            assert note.perhaps is not None
            node.state["perhaps"] = note.perhaps + note.row[0]
            node.state["came"] = [note.word, note.mark.decode(), *map(str, note.peers), str(note.sender)]
            node.state["defaults"] = [int(note.urgent), note.count, len(note.message.shared)]
