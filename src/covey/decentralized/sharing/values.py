"""The values of a message of a partial sharing."""

from typing import Any

import torch
from torch import Tensor

from covey.decentralized.sharing.decoded import Decoded
from covey.messages.codecs import decode_values, encode_values, has_pcodec
from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError, WireError
from covey.parts.parameters import Setting, param


def written_as() -> Any:
    """The parameter of the encoding of values."""
    return param(
        "The encoding of the values: as they are, or in fewer bytes without loss, which needs covey[pcodec].",
        default="raw",
        choices=("raw", "pcodec"),
    )


def check_written_as(sharing: str, how: str) -> None:
    """Raise ConfigurationError if the library of an encoding is not installed."""
    if how == "pcodec" and not has_pcodec():
        raise ConfigurationError(
            f"The 'values' of {sharing} must be 'raw' unless pcodec is installed. Got 'pcodec' instead; "
            f"pip install 'covey[pcodec]' brings it."
        )


class Values:
    """Float32 numbers as an entry of messages.

    Args:
        how: the value of the parameter.
        most: the greatest number of them in a message.
        setting: the setting of the sharing.
    """

    def __init__(self, how: str, most: int, setting: Setting) -> None:
        self._packed = how == "pcodec"
        self._most = most
        self._setting = setting
        self._known = Decoded()

    def describe(self, values: Tensor) -> Payload:
        """The entry of a message with values."""
        if not self._packed:
            return {"values": values}
        encoded = encode_values(values)
        # Numbers that are not finite are refused by the receivers.
        if bool(torch.isfinite(values).all()):
            self._known.remember(encoded, values)
        return {"values": encoded}

    def read(self, payload: Payload) -> Tensor:
        """The values of a message.

        Raises:
            WireError: it has no valid values.
        """
        written = payload.get("values")
        wanted = torch.uint8 if self._packed else torch.float32
        if not isinstance(written, Tensor) or written.dtype != wanted or written.dim() != 1:
            raise WireError("bad-field", f"its values are no {str(wanted).removeprefix('torch.')} numbers")
        if not self._packed:
            return written
        values = self._known.recall(written)
        if values is None:
            values = decode_values(written, self._most)
            self._known.remember(written, values)
        return values
