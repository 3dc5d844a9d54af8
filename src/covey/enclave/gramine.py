"""Enclaves of SGX under Gramine, whose loader offers attestation as files.

The manifest needs `sgx.remote_attestation = "dcap"`. The measurement is the MRENCLAVE of the signed manifest.
"""

import time
from pathlib import Path

from covey.enclave.dcap import HEADER, claims_of
from covey.enclave.provider import Claims, EnclaveError, EnclaveProvider
from covey.parts.parameters import param

REPORT_DATA = 64
_MEASUREMENT = slice(HEADER + 64, HEADER + 96)


class GramineSGX(EnclaveProvider):
    """An SGX enclave under Gramine."""

    kind = "gramine-sgx"
    device: Path = param("The folder of Gramine's attestation files.", default=Path("/dev/attestation"))
    collateral: Path = param(
        "The JSON file with certificates, revocation lists and statements about platforms.",
        default=Path("collateral.json"),
    )

    def measurement(self) -> bytes:
        return self.quote(bytes(REPORT_DATA))[_MEASUREMENT]

    def quote(self, report_data: bytes) -> bytes:
        if len(report_data) != REPORT_DATA:
            raise EnclaveError(f"Report data must have {REPORT_DATA} bytes. Got {len(report_data)} instead.")
        kind = self._read("attestation_type").decode("ascii", "replace").strip()
        if kind != "dcap":
            raise EnclaveError(
                f"Gramine attests by '{kind}'. Set sgx.remote_attestation = \"dcap\" in the manifest of the worker."
            )
        try:
            (self.device / "user_report_data").write_bytes(report_data)
        except OSError as error:
            raise EnclaveError(f"Gramine takes no report data: {error}.") from error
        quote = self._read("quote")
        if quote[HEADER + 320 : HEADER + 384] != report_data:
            raise EnclaveError("Gramine's quote does not hold the report data that was written.")
        return quote

    def verify(self, evidence: bytes, now: int | None = None) -> Claims:
        try:
            collateral = self.collateral.read_text()
        except (OSError, ValueError) as error:
            raise EnclaveError(f"The collateral of quotes cannot be read: {error}.") from error
        return claims_of(evidence, collateral, None, int(time.time()) if now is None else now)

    def sealing_key(self) -> bytes:
        """The 16 bytes that only this enclave, on this processor, can read."""
        key = self._read("keys/_sgx_mrenclave")
        if len(key) != 16:
            raise EnclaveError(f"Gramine's sealing key must have 16 bytes. Got {len(key)} instead.")
        return key

    def _read(self, name: str) -> bytes:
        try:
            return (self.device / name).read_bytes()
        except OSError as error:
            raise EnclaveError(f"This process is not in an enclave of Gramine: {error}.") from error
