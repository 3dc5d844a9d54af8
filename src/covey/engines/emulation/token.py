"""The secret that the hosts of a run share, in a file."""

from pathlib import Path

from covey.errors import ConfigurationError

_LEAST = 16


def read_token(file: Path) -> bytes:
    """The secret in a file.

    Raises:
        ConfigurationError: it cannot be read, or is too short to be one.
    """
    try:
        token = file.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"The token file {file} cannot be read: {error.strerror}.") from error
    if len(token) < _LEAST:
        raise ConfigurationError(
            f"The token file {file} must hold a secret of at least {_LEAST} bytes. It holds {len(token)}."
        )
    return token
