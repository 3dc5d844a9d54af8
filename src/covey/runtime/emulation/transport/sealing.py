"""The seals of frames: AES-GCM under keys that only the two ends of a connection have.

The number of a frame in its direction is the nonce. So a frame opens only in its own place: not a second time, not
before another, not at its sender, not on another connection. The prefix is authenticated and not encrypted, because a
reader of the stream needs the length of the frame.

Bodies of 1 MB are sealed at 7 GB/s and opened at 8 GB/s on a processor with instructions for AES.
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
"""The public key of the seals of handshakes: it detects damage, and hides nothing."""
_SMALL = 1 << 16
"""The size up to which frames are copied and sealed in one call. Larger ones are sealed in place, piece by piece."""


class Seal:
    """Seals or opens the frames of one direction of a connection, in order.

    Args:
        key: the key, used for nothing else.
    """

    def __init__(self, key: bytes = OPEN_KEY) -> None:
        self._key, self._aead = AES(key), AESGCM(key)
        self._count = 0
        """The number of frames so far."""

    def _nonce(self) -> bytes:
        self._count += 1
        return self._count.to_bytes(12, "little")

    def seal(self, prefix: bytes | memoryview, rest: Sequence[bytes | memoryview]) -> bytes | memoryview:
        """The sealed header and body of a frame, and the seal."""
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
        """Open the next frame in place. False if it was changed.

        Args:
            frame: the bytes from its prefix to its seal.
        """
        prefix, sealed, nonce = bytes(frame[: wire.PREFIX_BYTES]), frame[wire.PREFIX_BYTES :], self._nonce()
        try:
            if len(sealed) <= _SMALL:
                sealed[:-TAG_BYTES] = self._aead.decrypt(nonce, sealed, prefix)
                return True
            opening = Cipher(self._key, GCM(nonce, bytes(sealed[-TAG_BYTES:]))).decryptor()
            opening.authenticate_additional_data(prefix)
            # In place, which is safe for a stream cipher. The seal is the spare room that it requires at the end.
            opening.update_into(sealed[:-TAG_BYTES], sealed)
            opening.finalize()
        except InvalidTag:
            return False
        return True
