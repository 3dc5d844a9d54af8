"""Lossy compressors of vectors, for sharings and for client-server programs."""

from covey.messages.compression.compressor import Compressor, Decompressed, Draw, Guarantee
from covey.messages.compression.marks import FIRST_MARK, MARK_BYTES, next_mark
from covey.messages.compression.quantized import BF16, FP16, QSGD, Int8, Sign
from covey.messages.compression.sparse import Random, Ternary, TopK, largest

__all__ = [
    "BF16",
    "FIRST_MARK",
    "FP16",
    "MARK_BYTES",
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
    "next_mark",
]
