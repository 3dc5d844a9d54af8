"""Key agreement between two nodes, masks that cancel, seals, boxes, and secret shares."""

from covey.messages.crypto.fixed_point import FixedPoint
from covey.messages.crypto.masks import (
    BOX_BYTES,
    KEY_BYTES,
    SEAL_BYTES,
    KeyPair,
    Keys,
    PretendedKeys,
    add_mask,
    derive,
    is_sealed,
    lock,
    seal,
    unlock,
)
from covey.messages.crypto.shamir import SECRET_BYTES, SHARE_BYTES, cut, join, secret_of

__all__ = [
    "BOX_BYTES",
    "KEY_BYTES",
    "SEAL_BYTES",
    "SECRET_BYTES",
    "SHARE_BYTES",
    "FixedPoint",
    "KeyPair",
    "Keys",
    "PretendedKeys",
    "add_mask",
    "cut",
    "derive",
    "is_sealed",
    "join",
    "lock",
    "seal",
    "secret_of",
    "unlock",
]
