"""The certificates of a run: its own authority, one certificate for the launcher and one for each host.

Each certificate names its owner, and both sides of every connection check that name: a host cannot pose as another one.
The authority's key is used once and not stored.
"""

import ipaddress
import os
import secrets
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from covey.parts.errors import ConfigurationError, RunError, WireError
from covey.runtime.emulation.transport import tls
from covey.runtime.emulation.transport.address import Address, check_meetings
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.handshake import LAUNCHER, title
from covey.runtime.emulation.transport.token import open_private

LONGEST = 3650
"""The greatest validity of a certificate, in days."""
HOSTS_FILE, TOKEN_FILE = "hosts", "token"
_AUTHORITY, _CERTIFICATE, _KEY = "authority.pem", "certificate.pem", "key.pem"
_SKEW = timedelta(hours=1)
"""The time by which a machine's clock may be behind."""


@dataclass(frozen=True)
class Certificates:
    """The certificates of one machine."""

    owner: str
    """The owner: "launcher", or "host-" and a number."""
    mark: str
    """The mark of the certificate; see `tls.mark`."""
    served: ssl.SSLContext
    """The TLS context for callers."""
    calling: ssl.SSLContext
    """The TLS context for calling a host."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The certificates in one machine's folder.

        Raises:
            ConfigurationError: a file is missing, is not a certificate, has expired, or does not fit the others, or
                other users can read the key.
        """
        try:
            authority = x509.load_pem_x509_certificate((folder / _AUTHORITY).read_bytes())
            own = x509.load_pem_x509_certificate((folder / _CERTIFICATE).read_bytes())
            open_private(folder / _KEY, "key").close()
            (name,) = own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            shown = tls.mark(own.public_bytes(Encoding.DER))
            made = cls(str(name.value), shown, cls._context(folder, server=True), cls._context(folder, server=False))
            problem = _problem(own, authority)
        except OSError as error:  # An error of TLS is one, too.
            problem = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        except ValueError:
            problem = f"{_AUTHORITY} or {_CERTIFICATE} is not a certificate"
        if problem is None:
            return made
        raise ConfigurationError(
            f"The certificates in {folder} cannot be used: {problem}. Make them with `covey certs`, which writes a "
            f"folder for each machine."
        )

    @staticmethod
    def _context(folder: Path, *, server: bool) -> ssl.SSLContext:
        """A context for TLS 1.3 in which both sides must show a certificate of the folder's authority."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(folder / _AUTHORITY)
        made.load_cert_chain(folder / _CERTIFICATE, folder / _KEY)
        if server:
            made.num_tickets = 0  # Every connection must show a certificate.
        return made

    @property
    def number(self) -> int:
        """The number of the host that owns them."""
        return int(self.owner.removeprefix("host-"))

    @staticmethod
    def hold_to(connection: Connection, who: int) -> None:
        """Check that the other side of a connection shows the certificate of the expected owner.

        Raises:
            WireError: its certificate is not that of the launcher, or of the host with this number.
        """
        shown, due = connection.shown_name, title(who)
        if shown != due:
            raise WireError("certificate-other-host", f"it shows the certificate of {shown} instead of that of {due}")

    @staticmethod
    def hold_to_mark(connection: Connection, mark: str) -> None:
        """Check that the other side of a connection shows the certificate with a mark, if there is one.

        A host that came back elsewhere has a new certificate. The old one may be in the hands of a process that was
        given up and still runs.

        Raises:
            WireError: its certificate has been replaced.
        """
        if mark and connection.shown_mark != mark:
            raise WireError("certificate-replaced", "it shows a certificate that another one has replaced")


def _problem(own: x509.Certificate, authority: x509.Certificate) -> str | None:
    """The reason why machines with the same authority will not accept a certificate, or None."""
    try:
        own.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return f"{_CERTIFICATE} is not of {_AUTHORITY}"
    expired = own.not_valid_after_utc
    return f"they expired on {expired:%Y-%m-%d}" if expired < datetime.now(UTC) else None


@dataclass(frozen=True)
class Issued:
    """The answer to a request for a certificate, in PEM."""

    certificate: bytes
    authority: bytes
    mark: str
    """The mark of the certificate; see `tls.mark`."""


class Request:
    """A host's new key, which never leaves its process, and the request for a certificate of it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def pem(self) -> bytes:
        """The request. The authority decides on the name and the address."""
        made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self._key, SHA256())
        return made.public_bytes(Encoding.PEM)

    def accept(self, certificate: bytes, authority: bytes) -> Certificates:
        """The certificates of the host, with the answer of an authority."""
        with tempfile.TemporaryDirectory(prefix="covey-") as name:  # Python reads keys from files only.
            folder = Path(name)
            _write_key(folder, self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            _write_certificates(folder, certificate, authority)
            return Certificates.load(folder)


class Authority:
    """An authority, which issues the certificates of one run.

    Args:
        days: their validity.
    """

    def __init__(self, days: float) -> None:
        self._from = datetime.now(UTC) - _SKEW
        self._until = datetime.now(UTC) + timedelta(days=days)
        self._key = ec.generate_private_key(ec.SECP256R1())
        # Authorities of different runs have different names, so that errors distinguish them.
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"covey {secrets.token_hex(8)}")])
        usage = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = self._sign(self._name, self._key.public_key(), usage, certifies=True)

    def issue(self, folder: Path, who: int, address: Address | None = None) -> None:
        """Write the certificate and the key of the launcher or of a host into a folder.

        Args:
            folder: an existing folder.
            who: LAUNCHER, or the host's number.
            address: the address of the host.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        own = self._certify(key.public_key(), who, address)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write_key(folder, private)
        _write_certificates(folder, own.public_bytes(Encoding.PEM), self.certificate.public_bytes(Encoding.PEM))

    def answer(self, request: bytes, who: int, address: Address) -> Issued:
        """The certificate for a request that a host has made. Only the request's public key is used.

        Raises:
            WireError: it is not a request, or not signed with the key that belongs to it.
        """
        try:
            asked = x509.load_pem_x509_csr(request)
            key = asked.public_key()
            right = asked.is_signature_valid and isinstance(key, ec.EllipticCurvePublicKey)
        except (ValueError, UnsupportedAlgorithm):
            right = False
        if not right:
            raise WireError("bad-request", f"{title(who)} sent no valid request for a certificate")
        assert isinstance(key, ec.EllipticCurvePublicKey)
        own = self._certify(key, who, address)
        shown = tls.mark(own.public_bytes(Encoding.DER))
        return Issued(own.public_bytes(Encoding.PEM), self.certificate.public_bytes(Encoding.PEM), shown)

    def _certify(self, key: ec.EllipticCurvePublicKey, who: int, address: Address | None) -> x509.Certificate:
        """The certificate of the launcher, or of a host at an address."""
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        extensions: list[x509.ExtensionType] = []
        if address is not None:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
            extensions.append(x509.SubjectAlternativeName([_general_name(address)]))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title(who))])
        extensions += [x509.ExtendedKeyUsage(purposes), x509.BasicConstraints(ca=False, path_length=None)]
        return self._sign(name, key, *extensions)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *extensions: x509.ExtensionType,
        certifies: bool = False,
    ) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=not certifies,
            key_cert_sign=certifies,
            crl_sign=certifies,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._from)
            .not_valid_after(self._until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(usage, critical=True)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, SHA256())


def make(folder: Path, hosts: Sequence[str], days: int) -> list[Path]:
    """Write a folder for each machine of a run, with its certificates and the shared secret.

    Args:
        folder: a new folder for all of them.
        hosts: the addresses of hosts, in order of their numbers.
        days: the validity of the certificates.

    Returns:
        The folder of the launcher, whose file `hosts` has the addresses, and those of the hosts.

    Raises:
        ConfigurationError: an address is malformed or occurs twice.
        RunError: the folder exists, or cannot be written.
    """
    addresses = [Address.parse(text) for text in hosts]
    for address in addresses:
        _general_name(address)
        if not address.behind and addresses.count(address) > 1:
            raise ConfigurationError(f"Every host must have an address of its own. Got {address} more than once.")
    if not 1 <= days <= LONGEST:
        raise ConfigurationError(f"The '--days' must be an int in [1, {LONGEST}]. Got {days} instead.")
    check_meetings(addresses)
    authority = Authority(days)
    token = secrets.token_hex(32).encode()
    made = []
    try:
        folder.mkdir(parents=True, mode=0o700)
        for who in range(LAUNCHER, len(addresses)):
            part = folder / title(who)
            part.mkdir(mode=0o700)
            authority.issue(part, who, None if who == LAUNCHER else addresses[who])
            _write(part / TOKEN_FILE, token, mode=0o600)
            made.append(part)
        _write(made[0] / HOSTS_FILE, "".join(f"{address}\n" for address in addresses).encode())
    except FileExistsError:
        raise RunError(f"{folder} exists, and certificates are never overwritten: name a new folder.") from None
    except OSError as error:
        raise RunError(f"The folder {folder} cannot be written: {error.strerror}.") from error
    return made


def _general_name(address: Address) -> x509.GeneralName:
    """The form of an address in a certificate.

    Raises:
        ConfigurationError: the address has none.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(address.host))
    except ValueError:
        pass
    try:
        return x509.DNSName(address.host)
    except ValueError as error:
        raise ConfigurationError(
            f"The host of the address {address} must be an IP address or a name: {error}"
        ) from error


def _write_key(folder: Path, key: bytes) -> None:
    """Write a key in PEM into a folder of certificates."""
    _write(folder / _KEY, key, mode=0o600)


def _write_certificates(folder: Path, own: bytes, authority: bytes) -> None:
    """Write the certificate of a machine and that of the authority, in PEM, into a folder."""
    _write(folder / _CERTIFICATE, own)
    _write(folder / _AUTHORITY, authority)


def _write(file: Path, content: bytes, mode: int = 0o644) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
        opened.write(content)
