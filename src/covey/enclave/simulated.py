"""Simulated enclaves: genuine bytes of DCAP v3 quotes, signed under a root of this program.

They show that programs and the verification of evidence work. The root's key is public: they protect nothing.
"""

import hashlib
import json
import warnings
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

import covey
from covey.enclave import dcap
from covey.enclave.provider import Claims, EnclaveProvider
from covey.parts.errors import ConfigurationWarning
from covey.parts.parameters import Setting

_SGX = "1.2.840.113741.1.13.1"
_FMSPC = bytes.fromhex("00906ed50000")
_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_NOTE = bytes(32)
BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2049, 1, 1, tzinfo=UTC)
"""The time in which certificates and collateral are valid."""
_Key = ec.EllipticCurvePrivateKey


class Simulated(EnclaveProvider):
    """A simulated enclave. It protects nothing against its host."""

    kind = "simulated"
    simulated = True

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        warn()

    def measurement(self) -> bytes:
        return measured()

    def quote(self, report_data: bytes) -> bytes:
        return platform().quote(dcap.report(self.measurement(), bytes(32), report_data))

    def verify(self, evidence: bytes, now: int) -> Claims:
        here = platform()
        return dcap.claims_of(evidence, here.collateral, here.root, now, simulated=True)


@cache
def warn() -> None:
    """Warn, once a process."""
    said = "Enclaves are simulated: hosts can read all that nodes hold, and the evidence proves nothing to others."
    warnings.warn(said, ConfigurationWarning, stacklevel=2)


@cache
def measured() -> bytes:
    """The SHA-256 of covey's source files, by name."""
    root, digest = Path(covey.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.digest()


class Platform(NamedTuple):
    """A simulated processor."""

    attestation: _Key
    """The key that signs quotes."""
    suffix: bytes
    """The end of each quote, after the signature: the key, its binding, and the processor's certificates."""
    root: bytes
    collateral: str

    def quote(self, report: bytes) -> bytes:
        """The quote of a report."""
        head = b"\x03\x00\x02\x00" + bytes(4) + bytes(4) + _VENDOR + bytes(20)
        signed = _raw(self.attestation, head + report)
        return head + report + (len(signed) + len(self.suffix)).to_bytes(4, "little") + signed + self.suffix


@cache
def platform(begin: datetime = BEGIN, end: datetime = END) -> Platform:
    """The processor of all simulated enclaves, the same in every process."""
    names = ("root", "platform", "leaf", "statements", "attestation")
    root, ca, leaf, statements, attestation = (_key(name) for name in names)
    valid = (begin, end)
    root_card = _certificate("SGX Root CA", root, "SGX Root CA", root, valid, ca=True)
    ca_card = _certificate("SGX PCK Platform CA", ca, "SGX Root CA", root, valid, ca=True)
    leaf_card = _certificate("SGX PCK Certificate", leaf, "SGX PCK Platform CA", ca, valid, extension=_platform_facts())
    tcb_card = _certificate("SGX TCB Signing", statements, "SGX Root CA", root, valid)
    chain = _pem(leaf_card, ca_card, root_card)
    public, quoting = _point(attestation), bytes(range(32))
    qe = dcap.report(bytes(32), quoting, dcap.report_data_of(public, _NOTE))
    tail = [
        public,
        qe,
        _raw(leaf, qe),
        len(_NOTE).to_bytes(2, "little"),
        _NOTE,
        b"\x05\x00",
        len(chain).to_bytes(4, "little"),
    ]
    tcb, identity = _tcb_info(valid), _quoting_identity(valid, quoting)
    collateral = {
        "pck_crl_issuer_chain": _pem(ca_card, root_card).decode(),
        "root_ca_crl": _revoked("SGX Root CA", root, valid).hex(),
        "pck_crl": _revoked("SGX PCK Platform CA", ca, valid).hex(),
        "tcb_info_issuer_chain": _pem(tcb_card, root_card).decode(),
        "tcb_info": tcb,
        "tcb_info_signature": _raw(statements, tcb.encode()).hex(),
        "qe_identity_issuer_chain": _pem(tcb_card, root_card).decode(),
        "qe_identity": identity,
        "qe_identity_signature": _raw(statements, identity.encode()).hex(),
    }
    return Platform(attestation, b"".join([*tail, chain]), root_card.public_bytes(Encoding.DER), json.dumps(collateral))


def _key(name: str) -> _Key:
    """A key that everybody knows."""
    number = int.from_bytes(hashlib.sha256(f"covey simulated enclave {name}".encode()).digest()[:31], "big")
    return ec.derive_private_key(number, ec.SECP256R1())


def _point(key: _Key) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def _raw(key: _Key, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: str,
    key: _Key,
    issuer: str,
    signer: _Key,
    valid: tuple[datetime, datetime],
    ca: bool = False,
    extension: bytes | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder(_name(issuer), _name(subject), key.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big"))
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True)
    )
    if extension is not None:
        known = x509.UnrecognizedExtension(x509.ObjectIdentifier(_SGX), extension)
        builder = builder.add_extension(known, critical=False)
    return builder.sign(signer, SHA256())


def _revoked(issuer: str, key: _Key, valid: tuple[datetime, datetime]) -> bytes:
    """An empty list of revoked certificates."""
    builder = x509.CertificateRevocationListBuilder(_name(issuer), valid[0], valid[1])
    builder = builder.add_extension(x509.CRLNumber(1), critical=False).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def _pem(*cards: x509.Certificate) -> bytes:
    return b"".join(card.public_bytes(Encoding.PEM) for card in cards)


def _der(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    size = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")
    return bytes([tag]) + size + body


def _fact(place: str, value: bytes) -> bytes:
    """A value with its object identifier under that of SGX."""
    numbers = [int(one) for one in f"{_SGX}.{place}".split(".")]
    coded = bytes([numbers[0] * 40 + numbers[1]])
    for number in numbers[2:]:
        septets = [number & 127]
        while number := number >> 7:
            septets.insert(0, number & 127 | 128)
        coded += bytes(septets)
    return _der(0x30, _der(0x06, coded), value)


def _platform_facts() -> bytes:
    """The extension of the processor's certificate."""
    zero = _der(0x02, b"\x00")
    levels = [*(_fact(f"2.{i}", zero) for i in range(1, 18)), _fact("2.18", _der(0x04, bytes(16)))]
    facts = (
        _fact("1", _der(0x04, bytes(16))),
        _fact("2", _der(0x30, *levels)),
        _fact("3", _der(0x04, bytes(2))),
        _fact("4", _der(0x04, _FMSPC)),
        _fact("5", _der(0x0A, b"\x00")),
    )
    return _der(0x30, *facts)


def _dates(valid: tuple[datetime, datetime]) -> dict[str, str]:
    return {"issueDate": f"{valid[0]:%Y-%m-%dT%H:%M:%SZ}", "nextUpdate": f"{valid[1]:%Y-%m-%dT%H:%M:%SZ}"}


def _level(tcb: dict[str, object]) -> dict[str, object]:
    return {"tcb": tcb, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "UpToDate"}


def _tcb_info(valid: tuple[datetime, datetime]) -> str:
    levels = [_level({"sgxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0})]
    about = {"fmspc": _FMSPC.hex(), "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 1, "tcbLevels": levels}
    return json.dumps({"id": "SGX", "version": 3, **_dates(valid), **about})


def _quoting_identity(valid: tuple[datetime, datetime], signer: bytes) -> str:
    masks = {"miscselect": "00000000", "miscselectMask": "FFFFFFFF"}
    attributes = {"attributes": "05000000000000000300000000000000", "attributesMask": "FF" * 16}
    levels = [_level({"isvsvn": 1})]
    about = {**masks, **attributes, "mrsigner": signer.hex(), "isvprodid": 1, "tcbLevels": levels}
    return json.dumps({"id": "QE", "version": 2, **_dates(valid), "tcbEvaluationDataNumber": 1, **about})
