"""Keys that two nodes agree on, and what they make of them: masks that cancel, and seals."""

from covey.crypto.fixed_point import FixedPoint
from covey.crypto.masks import KEY_BYTES, SEAL_BYTES, KeyPair, Keys, PretendedKeys, add_mask, derive, is_sealed, seal

__all__ = [
    "KEY_BYTES",
    "SEAL_BYTES",
    "FixedPoint",
    "KeyPair",
    "Keys",
    "PretendedKeys",
    "add_mask",
    "derive",
    "is_sealed",
    "seal",
]
