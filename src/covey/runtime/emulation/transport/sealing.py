"""The seals of frames: AES-GCM under keys that only the two ends of a connection have.

A frame's number in its direction is the nonce, so a frame opens in its own place and nowhere else: not a second time,
not before another, not at the end that sent it, not on another connection. The prefix is sealed and stays legible, as
whoever reads a stream must know how long a frame is.

Bodies of 1 MB are sealed at 7 GB/s and opened at 8, on a processor with instructions for AES.
"""

from collections.abc import Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from covey.messages import wire

KEY_BYTES = 16
TAG_BYTES = 16
OPEN_KEY = b"covey, in public"
"""Everybody's key, of the frames in which two ends agree on their own: it tells what is damaged, and hides nothing."""
_SMALL = 1 << 16
"""Frames up to here are sealed and opened in one call, and copied; larger ones piece by piece, where they are."""


class Seal:
    """Seals the frames of one direction of a connection, or opens them, each in its turn.

    Args:
        key: which seals nothing else.
    """

    def __init__(self, key: bytes = OPEN_KEY) -> None:
        self._key, self._aead = AES(key), AESGCM(key)
        self._count = 0
        """Frames so far."""

    def _nonce(self) -> bytes:
        self._count += 1
        return self._count.to_bytes(12, "little")

    def seal(self, prefix: bytes | memoryview, rest: Sequence[bytes | memoryview]) -> bytes | memoryview:
        """What stands behind a frame's prefix: header and body, sealed, and the seal."""
        length, nonce = sum(map(len, rest)), self._nonce()
        if length <= _SMALL:
            return self._aead.encrypt(nonce, b"".join(rest), bytes(prefix))
        sealing = Cipher(self._key, GCM(nonce)).encryptor()
        sealing.authenticate_additional_data(bytes(prefix))
        sealed = np.empty(length + TAG_BYTES, np.uint8).data
        at = 0
        for part in rest:
            at += sealing.update_into(part, sealed[at:])
        sealing.finalize()
        sealed[at:] = sealing.tag
        return sealed

    def open(self, frame: memoryview) -> bool:
        """Open the frame that is next, where it is; False where it is not as it was sealed.

        Args:
            frame: from its prefix to its seal.
        """
        prefix, sealed, nonce = bytes(frame[: wire.PREFIX_BYTES]), frame[wire.PREFIX_BYTES :], self._nonce()
        try:
            if len(sealed) <= _SMALL:
                sealed[:-TAG_BYTES] = self._aead.decrypt(nonce, sealed, prefix)
                return True
            opening = Cipher(self._key, GCM(nonce, bytes(sealed[-TAG_BYTES:]))).decryptor()
            opening.authenticate_additional_data(prefix)
            # In place, which is safe for a stream cipher; the bytes of the seal are the room that it asks for behind.
            opening.update_into(sealed[:-TAG_BYTES], sealed)
            opening.finalize()
        except InvalidTag:
            return False
        return True
