"""DCAP v3 quotes of SGX enclaves: their layout, and their verification by dcap-qvl."""

import hashlib
import json
from typing import Any

from covey.enclave.provider import Claims, EnclaveError

HEADER, REPORT = 48, 384
_DEBUG = 0x02


def claims_of(quote: bytes, collateral: str, root: bytes | None, now: int, simulated: bool = False) -> Claims:
    """The claims of a quote, verified under a root certificate, by default Intel's.

    Args:
        quote: the bytes of the quote.
        collateral: JSON with the certificates, revocation lists and statements about platforms.
        root: the root certificate in DER.
        now: the time in seconds since 1970.
        simulated: True if the root is not that of a maker of processors.
    """
    qvl = library()
    if len(quote) < HEADER + REPORT or quote[:2] != b"\x03\x00" or quote[4:8] != bytes(4):
        raise EnclaveError(f"The evidence is no DCAP v3 quote of an SGX enclave: it has {len(quote)} bytes.")
    try:
        known = qvl.QuoteCollateralV3.from_json(collateral)
        report = qvl.verify(quote, known, now) if root is None else qvl.verify_with_root_ca(quote, known, root, now)
    except Exception as error:  # The library raises ValueError and types of its own.
        raise EnclaveError(f"The quote is not genuine or its collateral not valid: {error}.") from error
    return _claims(quote[HEADER : HEADER + REPORT], json.loads(report.to_json()), simulated)


def _claims(body: bytes, verified: dict[str, Any], simulated: bool) -> Claims:
    return Claims(
        measurement=body[64:96],
        signer=body[128:160],
        product=int.from_bytes(body[256:258], "little"),
        svn=int.from_bytes(body[258:260], "little"),
        debug=bool(body[48] & _DEBUG),
        status=str(verified["status"]),
        advisories=tuple(verified.get("advisory_ids", ())),
        report_data=body[320:384],
        simulated=simulated,
    )


def report(measurement: bytes, signer: bytes, report_data: bytes, debug: bool = False) -> bytes:
    """The 384 bytes of an enclave's report."""
    attributes = bytes([0x05 | (_DEBUG if debug else 0)]) + bytes(7) + b"\x03" + bytes(7)
    parts = [bytes(16), bytes(4), bytes(28), attributes, measurement, bytes(32), signer, bytes(96)]
    return b"".join([*parts, (1).to_bytes(2, "little"), (1).to_bytes(2, "little"), bytes(60), report_data])


def report_data_of(attestation_key: bytes, note: bytes) -> bytes:
    """The report data of the quoting enclave, which binds the key that signs quotes."""
    return hashlib.sha256(attestation_key + note).digest() + bytes(32)


def library() -> Any:
    """The library that verifies quotes."""
    try:
        import dcap_qvl
    except ImportError:
        raise EnclaveError("Attestation needs dcap-qvl: pip install 'covey[enclave]'.") from None
    return dcap_qvl
