"""Handshakes of two enclaves that attest each other, and the channel that results.

hello      version | nonce (32) | X25519 key (32) | SHA-256 of the configuration (32)
T          SHA-256 of both hellos, that of the lower id first
evidence   a quote whose report data is SHA-512(T | role | own key | peer's key)
keys       HKDF-SHA256(X25519 secret, salt = T), one for each direction
record     sequence (8) | AES-256-GCM, with the sequence as nonce; the version, both ids, the epoch and the
           sequence are authenticated
"""

import hashlib
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from covey.enclave.provider import Claims, EnclaveError, EnclaveProvider, Policy

VERSION = 1
HELLO = 1 + 32 + 32 + 32
OVERHEAD = 8 + 16
"""The bytes that a record is longer than its content."""
_PER_KEY = 1 << 32
_LAST = (1 << 64) - 1


class Handshake:
    """A handshake of one node with a peer.

    Args:
        provider: the provider of the own enclave.
        policy: the claims that the peer must have.
        own, peer: the ids of both.
        configuration: bytes that must be the same at both.
        random: the source of the nonce and the key.
    """

    def __init__(
        self,
        provider: EnclaveProvider,
        policy: Policy,
        own: int,
        peer: int,
        configuration: bytes = b"",
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if own == peer:
            raise EnclaveError(f"Node {own} cannot attest itself.")
        self.provider, self.policy, self.own, self.peer = provider, policy, own, peer
        nonce, self._key = random(32), X25519PrivateKey.from_private_bytes(random(32))
        self._public = self._key.public_key().public_bytes_raw()
        self.hello = bytes([VERSION]) + nonce + self._public + hashlib.sha256(configuration).digest()

    def evidence(self, hello: bytes) -> bytes:
        """The own quote, in answer to the peer's hello."""
        return self.provider.quote(self._bound(self._transcript(hello), self._role(self.own), self._public, hello))

    def finish(self, hello: bytes, evidence: bytes, now: int) -> tuple["Channel", Claims]:
        """The channel to the peer and its claims, if its evidence is accepted."""
        transcript, public = self._transcript(hello), hello[33:65]
        claims = self.provider.verify(evidence, now)
        wanted = self._bound(transcript, self._role(self.peer), public, self.hello)
        self.policy.check(claims, wanted)
        try:
            secret = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise EnclaveError("The peer's key is of low order.") from None
        keys = HKDF(SHA256(), 64, transcript, b"covey enclave channel").derive(secret)
        first, second = (keys[:32], keys[32:]) if self.own < self.peer else (keys[32:], keys[:32])
        return Channel(self.own, self.peer, Direction(first), Direction(second)), claims

    def _role(self, of: int) -> bytes:
        return b"first" if of == min(self.own, self.peer) else b"second"

    def _transcript(self, hello: bytes) -> bytes:
        if len(hello) != HELLO or hello[0] != VERSION:
            raise EnclaveError(f"A hello must have {HELLO} bytes of version {VERSION}. Got {len(hello)} bytes instead.")
        if hello[65:] != self.hello[65:]:
            raise EnclaveError("The peer's configuration is another one.")
        if hello[1:65] == self.hello[1:65]:
            raise EnclaveError("The peer's hello is the own one.")
        both = (self.hello, hello) if self.own < self.peer else (hello, self.hello)
        return hashlib.sha256(b"".join(both)).digest()

    @staticmethod
    def _bound(transcript: bytes, role: bytes, public: bytes, hello: bytes) -> bytes:
        return hashlib.sha512(transcript + role + public + hello[33:65]).digest()


class Direction(NamedTuple):
    """The key of one direction, and the sequence number of the next record."""

    key: bytes
    next: int = 0


class Channel:
    """Sealed records between two attested nodes.

    Args:
        own, peer: the ids of both.
        sends, receives: the state of both directions.
    """

    def __init__(self, own: int, peer: int, sends: Direction, receives: Direction) -> None:
        self.own, self.peer, self.sends, self.receives = own, peer, sends, receives
        self._ciphers: dict[tuple[bytes, int], AESGCM] = {}

    def seal(self, content: bytes, epoch: int) -> bytes:
        """The next record."""
        sequence = self.sends.next
        if sequence >= _LAST:
            raise EnclaveError("The channel has no sequence numbers left.")
        self.sends = self.sends._replace(next=sequence + 1)
        head = struct.pack("<BIIQQ", VERSION, self.own, self.peer, epoch, sequence)
        cipher = self._cipher(self.sends.key, sequence)
        return struct.pack("<Q", sequence) + cipher.encrypt(sequence.to_bytes(12, "little"), content, head)

    def open(self, record: bytes, epoch: int) -> bytes:
        """The content of a record that is newer than all that were opened. Any other is refused."""
        if len(record) < OVERHEAD:
            raise EnclaveError(f"A record has at least {OVERHEAD} bytes. Got {len(record)} instead.")
        sequence = int.from_bytes(record[:8], "little")
        if sequence < self.receives.next:
            raise EnclaveError(f"Record {sequence} was replayed or reordered: the next is {self.receives.next}.")
        head = struct.pack("<BIIQQ", VERSION, self.peer, self.own, epoch, sequence)
        try:
            cipher = self._cipher(self.receives.key, sequence)
            content = cipher.decrypt(sequence.to_bytes(12, "little"), record[8:], head)
        except InvalidTag:
            raise EnclaveError(f"Record {sequence} is not one of node {self.peer} for epoch {epoch}.") from None
        self.receives = self.receives._replace(next=sequence + 1)
        return content

    def _cipher(self, key: bytes, sequence: int) -> AESGCM:
        """The cipher of a record. After 2^32 records comes the next key, derived from the first."""
        number = sequence // _PER_KEY
        found = self._ciphers.get((key, number))
        if found is None:
            derived = HKDF(SHA256(), 32, None, f"rekey {number}".encode()).derive(key) if number else key
            if len(self._ciphers) > 7:
                self._ciphers.clear()
            found = self._ciphers[key, number] = AESGCM(derived)
        return found
