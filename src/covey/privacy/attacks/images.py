"""Figures of reconstructed pictures: PSNR, windowed SSIM, and the assignment of reconstructions to originals.

Shapes: R reconstructions and O originals, or S pairs, of C x H x W numbers in [0, 1].
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

_WINDOW, _SIGMA = 11, 1.5
_STABLE = (0.01**2, 0.03**2)
_LEAST = 1e-10


def assigned(found_RCHW: Tensor, originals_OCHW: Tensor) -> np.ndarray:
    """The original of each reconstruction, R indices: the assignment with the least squared error.

    An original is given to several only if there are fewer of them.
    """
    errors = torch.cdist(found_RCHW.flatten(1).double(), originals_OCHW.flatten(1).double()).square().numpy()
    repeats = -(-len(found_RCHW) // len(originals_OCHW))
    rows, columns = linear_sum_assignment(np.tile(errors, (1, repeats)))
    chosen: np.ndarray = columns[np.argsort(rows)] % len(originals_OCHW)
    return chosen


def mse(found_SCHW: Tensor, originals_SCHW: Tensor) -> Tensor:
    """The mean squared error of each pair."""
    return (found_SCHW.double() - originals_SCHW.double()).square().flatten(1).mean(1)


def psnr(found_SCHW: Tensor, originals_SCHW: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each pair, in dB, with the peak 1."""
    return -10.0 * mse(found_SCHW, originals_SCHW).clamp(min=_LEAST).log10()


def ssim(found_SCHW: Tensor, originals_SCHW: Tensor) -> Tensor:
    """The structural similarity of each pair (Wang et al., 2004): a Gaussian window of 11 and sigma 1.5.

    Windows lie within the pictures; those smaller than 11 pixels have a window of their own size.
    """
    side = min(_WINDOW, *found_SCHW.shape[-2:])
    side -= 1 - side % 2
    window = _gaussian(side)
    one, other = found_SCHW.double(), originals_SCHW.double()

    def mean(images: Tensor) -> Tensor:
        flat = images.flatten(0, 1).unsqueeze(1)
        return F.conv2d(F.conv2d(flat, window.view(1, 1, side, 1)), window.view(1, 1, 1, side)).view(
            *images.shape[:2], *(length - side + 1 for length in images.shape[-2:])
        )

    of_one, of_other = mean(one), mean(other)
    spread_one, spread_other = mean(one * one) - of_one**2, mean(other * other) - of_other**2
    together = mean(one * other) - of_one * of_other
    light, contrast = _STABLE
    found = (2 * of_one * of_other + light) * (2 * together + contrast)
    return (found / ((of_one**2 + of_other**2 + light) * (spread_one + spread_other + contrast))).flatten(1).mean(1)


def _gaussian(side: int) -> Tensor:
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    weights = torch.exp(-(at**2) / (2 * _SIGMA**2))
    return weights / weights.sum()
