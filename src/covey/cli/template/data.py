import numpy as np

from covey import data


def make(samples: int = 900, noise: float = 0.1):
    """Three spirals in the plane, a class each. The parameters are keys of `dataset` in the experiment.

    Return any samples `x`, one a row, and their targets `y`. A fifth of each class is kept for testing. Each process
    of an emulation calls the function, so it must return the same data each time.
    """
    draw = np.random.default_rng(1)
    label = np.arange(samples) % 3
    radius = draw.random(samples)
    angle = 4 * radius + 2.1 * label + noise * draw.normal(size=samples)
    return data.from_arrays(3 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), label)
