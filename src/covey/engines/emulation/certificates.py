"""Certificates of a run: an authority of its own, one certificate for each host and one for the launcher."""

import ssl
from pathlib import Path

from covey.errors import ConfigurationError


def context(folder: Path, name: str, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 in which both sides must show a certificate of the folder's authority.

    Raises:
        ConfigurationError: a file is missing or is no certificate.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        made.load_verify_locations(folder / "authority.pem")
        made.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"The certificates of {name} in {folder} cannot be used: {error.strerror or error}. "
            f"Make them with `covey certs`."
        ) from error
    made.verify_mode = ssl.CERT_REQUIRED
    return made
