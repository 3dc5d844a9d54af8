"""Key agreement (X25519, HKDF), masks (ChaCha20), seals (Poly1305) and boxes (both together).

A mask is a stream of uniform integers that only the two nodes of a pair can make. One adds it, the other subtracts it.
`derive` makes a separate key for every purpose, so that no stream and no seal's key is used twice.
"""

import struct
from abc import ABC, abstractmethod

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.poly1305 import Poly1305
from numpy.typing import NDArray

from covey.messages.crypto.fixed_point import Integers

KEY_BYTES = 32
"""The length of public and derived keys."""
SEAL_BYTES = 16
BOX_BYTES = 16
"""The bytes by which a box is longer than its content."""
_NONCE_BYTES = 12

_AT_ONCE = 1 << 16
"""The chunk of a stream that is made and added at a time: it stays in the processor's cache."""
_ZEROS = memoryview(bytes(_AT_ONCE))


class Keys(ABC):
    """The public key of a node, and the secrets that it shares with the owners of other public keys."""

    public: bytes
    own: bytes
    """A secret that this node alone knows, to derive further secrets from."""

    @abstractmethod
    def secret(self, public: bytes) -> bytes | None:
        """The secret that this node shares with the owner of a public key; None if the key is not valid."""


class KeyPair(Keys):
    """A private and a public key.

    Args:
        private: 32 secret bytes; by default, random bytes of the operating system.
    """

    def __init__(self, private: bytes | None = None) -> None:
        self._private = X25519PrivateKey.generate() if private is None else X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()
        self.own = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"covey own").derive(self._private.private_bytes_raw())
        self._secrets: dict[bytes, bytes | None] = {}

    def secret(self, public: bytes) -> bytes | None:
        if public not in self._secrets:
            self._secrets[public] = self._agree(public)
        return self._secrets[public]

    def _agree(self, public: bytes) -> bytes | None:
        if len(public) != KEY_BYTES:
            return None
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            return None  # A point of low order, which gives every node the same secret.
        low, high = sorted((self.public, public))
        return HKDF(SHA256(), KEY_BYTES, salt=low + high, info=b"covey pair").derive(shared)


class PretendedKeys(Keys):
    """Keys of the right size without secrecy, for runs that need none."""

    def __init__(self, public: bytes) -> None:
        self.public = public
        self.own = bytes(KEY_BYTES)

    def secret(self, public: bytes) -> bytes | None:
        return bytes(KEY_BYTES) if len(public) == KEY_BYTES else None


def derive(secret: bytes, purpose: str, *numbers: int, context: bytes) -> bytes:
    """The key of one purpose.

    Args:
        secret: the secret of the pair.
        purpose, numbers, context: the purpose. Different ones give unrelated keys.
    """
    info = b"\x00".join([f"covey {purpose}".encode(), struct.pack(f"<{len(numbers)}q", *numbers), context])
    return HKDFExpand(SHA256(), KEY_BYTES, info=info).derive(secret)


def add_mask(
    values_K: Integers, key: bytes, *, negative: bool = False, where_K: NDArray[np.bool_] | None = None
) -> None:
    """Add the stream of a key to integers in place, or subtract it.

    Args:
        values_K: the integers.
        key: the key of the stream, used for nothing else.
        negative: subtract instead of adding.
        where_K: the integers to change; by default, all. Each takes the next number of the stream, so that no unused
            part of the stream is made.
    """
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    step = _AT_ONCE // values_K.itemsize
    change = np.subtract if negative else np.add
    indices = None if where_K is None else np.flatnonzero(where_K)
    count = len(values_K) if indices is None else len(indices)
    buffer = bytearray(min(count, step) * values_K.itemsize)
    for start in range(0, count, step):
        chunk = slice(start, min(start + step, count)) if indices is None else indices[start : start + step]
        part = values_K[chunk]
        stream.update_into(_ZEROS[: part.nbytes], buffer)
        change(part, np.frombuffer(buffer, values_K.dtype, len(part)), out=part)
        if indices is not None:
            values_K[chunk] = part


def seal(key: bytes, values_K: Integers) -> bytes:
    """The authentication tag of some integers. A key seals one message only."""
    return Poly1305.generate_tag(key, values_K.view(np.uint8).data)


def is_sealed(key: bytes, values_K: Integers, tag: bytes) -> bool:
    """True if `tag` is the seal of these integers under this key."""
    try:
        Poly1305.verify_tag(key, values_K.view(np.uint8).data, tag)
    except InvalidSignature:
        return False
    return True


def lock(key: bytes, content: bytes) -> bytes:
    """Encrypt and authenticate some bytes. A key locks one box only."""
    return ChaCha20Poly1305(key).encrypt(bytes(_NONCE_BYTES), content, None)


def unlock(key: bytes, box: bytes) -> bytes | None:
    """The content of a box, or None if `lock` did not make it with this key."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(_NONCE_BYTES), box, None)
    except InvalidTag:
        return None
