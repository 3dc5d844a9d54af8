"""The owner of a TLS certificate, and the reasons of failed TLS handshakes."""

import ssl
from hashlib import sha256
from typing import Any

from covey.parts.errors import WireError

_OTHER_AUTHORITY = ("certificate-other-authority", "its certificate is of another authority")
_OF_CERTIFICATES = {
    **dict.fromkeys((7, 18, 19, 20, 21, 30), _OTHER_AUTHORITY),
    9: ("certificate-not-yet-valid", "its certificate is not valid yet: are the clocks right?"),
    10: ("certificate-expired", "its certificate has expired"),
    26: ("certificate-other-purpose", "its certificate is not for this purpose"),
    62: ("certificate-other-address", "its certificate is of another address"),
    64: ("certificate-other-address", "its certificate is of another address"),
}
"""The reasons by OpenSSL's codes."""
_OF_TLS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("no-certificate", "it shows no certificate"),
    "WRONG_VERSION_NUMBER": ("no-tls", "it speaks without TLS: it was started without certificates"),
    "HTTP_REQUEST": ("no-tls", "it speaks HTTP"),
    "UNSUPPORTED_PROTOCOL": ("old-tls", "it speaks TLS older than 1.3"),
}


def named_by(known: ssl.SSLObject) -> str | None:
    """The owner of the certificate that the other side showed."""
    shown: Any = known.getpeercert() or {}
    names = [value for entry in shown.get("subject", ()) for key, value in entry if key == "commonName"]
    return names[0] if len(names) == 1 else None


def mark(certificate: bytes) -> str:
    """The mark of a certificate in DER: its SHA-256. Two certificates of one owner have different marks."""
    return sha256(certificate).hexdigest()


def mark_of(known: ssl.SSLObject) -> str:
    """The mark of the certificate that the other side showed."""
    return mark(known.getpeercert(binary_form=True) or b"")


def why(error: Exception) -> WireError:
    """The reason and the message of a failed TLS handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return WireError(*_OF_CERTIFICATES.get(error.verify_code, ("certificate-wrong", error.verify_message)))
    if isinstance(error, ssl.SSLError):
        return WireError(*_OF_TLS.get(error.reason, ("no-tls", f"TLS fails: {error.reason}")))
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return WireError("tls-silent", "it does not begin TLS")
    return WireError("tls-broken-off", "it broke off the TLS handshake")
