"""How what is sent becomes few bytes. All of it works on whole arrays, and decoders refuse what is not well-formed."""

from covey.codecs.places import decode_places, encode_places

__all__ = ["decode_places", "encode_places"]
