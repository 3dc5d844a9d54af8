"""An attack on label privacy: the biases of a model that a node sent reveal its most frequent classes."""

from pathlib import Path

import numpy as np

from covey.runtime.runs import Run
from covey.runtime.runs.observed import Observed


def guess(observed: Observed, classes: int, count: int) -> dict[int, set[int]]:
    """The classes that each node is thought to hold, from the first message that an observer received of it.

    The last numbers of a model are the biases of its classes. Training raises those of classes that are there.
    """
    guesses: dict[int, set[int]] = {}
    for message in observed:
        if message.sender not in guesses:
            biases = np.asarray(message.payload["model"])[-classes:]
            guesses[message.sender] = set(np.argsort(-biases)[:count].tolist())
    return guesses


def score(folder: Path, guesses: dict[int, set[int]]) -> float:
    """The share of guessed classes that their nodes do hold. It alone opens what no observer knows."""
    held = np.load(folder / "holdings.npy")
    right = sum(int(held[node, label] > 0) for node, labels in guesses.items() for label in labels)
    return right / sum(map(len, guesses.values()))


def attack(folder: Path, count: int = 2) -> tuple[float, float]:
    """(how many of the guesses on a run are right, how many would be by chance)."""
    run = Run(folder)
    assert run.observed is not None
    holdings = np.load(folder / "holdings.npy")
    guesses = guess(run.observed, holdings.shape[1], count)
    return score(folder, guesses), float((holdings[list(guesses)] > 0).mean())
