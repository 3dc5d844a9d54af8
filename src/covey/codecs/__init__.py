"""How what is sent becomes few bytes. All of it works on whole arrays, and decoders refuse what no encoder writes."""

from covey.codecs.bits import pack_bits, unpack_bits
from covey.codecs.places import decode_places, encode_places

__all__ = ["decode_places", "encode_places", "pack_bits", "unpack_bits"]
