"""How what is sent becomes few bytes. All of it works on whole arrays, and decoders refuse what is not well-formed."""

from covey.messages.codecs.bits import pack_bits, unpack_bits
from covey.messages.codecs.places import decode_places, encode_places
from covey.messages.codecs.values import decode_values, encode_values, has_pcodec

__all__ = ["decode_places", "decode_values", "encode_places", "encode_values", "has_pcodec", "pack_bits", "unpack_bits"]
