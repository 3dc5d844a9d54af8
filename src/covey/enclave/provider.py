"""Providers of enclaves: measurement, quotes, their verification, and seals."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from covey.parts.errors import CoveyError
from covey.parts.parameters import Part


class EnclaveError(CoveyError):
    """Evidence, a handshake or a record that was refused."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of verified evidence."""

    measurement: bytes
    signer: bytes
    product: int
    svn: int
    debug: bool
    status: str
    """The status of the platform, such as "UpToDate"."""
    advisories: tuple[str, ...]
    report_data: bytes
    simulated: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """The claims that are accepted. By default neither simulated nor debug enclaves, and platforms that are up to date.

    Args:
        measurements: the accepted measurements.
        simulated: True to accept simulated evidence.
        statuses: the accepted statuses of platforms.
    """

    measurements: frozenset[bytes]
    simulated: bool = False
    statuses: frozenset[str] = field(default_factory=lambda: frozenset({"UpToDate"}))

    def check(self, claims: Claims, report_data: bytes) -> None:
        """Refuse claims, with the reason."""
        if claims.simulated and not self.simulated:
            raise EnclaveError("The evidence is simulated, and the policy accepts only genuine enclaves.")
        if claims.debug:
            raise EnclaveError("The evidence is of a debug enclave, whose host reads its memory.")
        if claims.measurement not in self.measurements:
            known = ", ".join(sorted(one.hex()[:16] for one in self.measurements)) or "none"
            raise EnclaveError(
                f"The measurement {claims.measurement.hex()[:16]} is not accepted. Accepted are: {known}."
            )
        if claims.status not in self.statuses:
            raise EnclaveError(f"The platform's status is {claims.status}, not {' or '.join(sorted(self.statuses))}.")
        if claims.report_data != report_data:
            raise EnclaveError("The report data is not that of this handshake: another nonce, role or key.")


class EnclaveProvider(Part):
    """The provider of a node's enclave."""

    family: ClassVar[str] = "enclave"
    attests: ClassVar[bool] = True
    """True if nodes attest each other and seal what they send."""
    simulated: ClassVar[bool] = False
    """True if the evidence is made by this program and protects nothing against its host."""

    @abstractmethod
    def measurement(self) -> bytes:
        """The 32 bytes that identify the code of this enclave."""

    @abstractmethod
    def quote(self, report_data: bytes) -> bytes:
        """Evidence that holds 64 bytes of report data."""

    @abstractmethod
    def verify(self, evidence: bytes, now: int) -> Claims:
        """The claims of evidence that is genuine at a time in seconds since 1970. Other evidence is refused."""

    def policy(self) -> Policy:
        """The policy of peers that run the same code under the same provider."""
        return Policy(frozenset({self.measurement()}), simulated=self.simulated)


class NoEnclave(EnclaveProvider):
    """No enclave: messages leave as they are. A baseline."""

    kind = "none"
    attests = False

    def measurement(self) -> bytes:
        return bytes(32)

    def quote(self, report_data: bytes) -> bytes:
        raise EnclaveError("Without an enclave there is no quote.")

    def verify(self, evidence: bytes, now: int) -> Claims:
        raise EnclaveError("Without an enclave no evidence is accepted.")
