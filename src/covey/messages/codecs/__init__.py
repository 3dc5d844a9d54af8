"""Lossless codecs for indices, bits and values. They work on whole arrays. Decoders refuse malformed bytes."""

from covey.messages.codecs.bits import pack_bits, unpack_bits
from covey.messages.codecs.indices import decode_indices, encode_indices
from covey.messages.codecs.values import decode_values, encode_values, has_pcodec

__all__ = [
    "decode_indices",
    "decode_values",
    "encode_indices",
    "encode_values",
    "has_pcodec",
    "pack_bits",
    "unpack_bits",
]
