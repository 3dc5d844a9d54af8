"""Lossy compression: what sharings, and who else sends vectors, may send instead of the vectors."""

from covey.compression.compressor import Compressor, Decompressed, Draw, Guarantee
from covey.compression.quantized import BF16, FP16, QSGD, Int8, Sign
from covey.compression.sparse import Random, Ternary, TopK, largest

__all__ = [
    "BF16",
    "FP16",
    "QSGD",
    "Compressor",
    "Decompressed",
    "Draw",
    "Guarantee",
    "Int8",
    "Random",
    "Sign",
    "Ternary",
    "TopK",
    "largest",
]
