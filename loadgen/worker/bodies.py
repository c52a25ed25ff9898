"""What --save-bodies keeps: requests and responses in full, for their owner alone.

One JSON object a line: request_id, error, status, request, response, is_cut. Bytes that are no UTF-8 stand as \\xNN.
"""

import os
from typing import Final

import orjson

from loadgen.blotting import blotted
from loadgen.errors import RunError
from loadgen.worker.exchange import MAX_SAVED_BYTES, Exchange

FOR_ITS_OWNER: Final = 0o600


class BodyWriter:
    """Writes one worker's bodies. RunError where the disk does not take them."""

    def __init__(self, path: str, secrets: tuple[str, ...]) -> None:
        self._secrets = secrets
        try:
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FOR_ITS_OWNER), "wb")
        except OSError as error:
            raise RunError(f"the bodies cannot be saved: {error.strerror}") from None

    def write(self, exchange: Exchange) -> None:
        """Add a request that is done with."""
        response = bytes(exchange.saved or b"")
        row = {
            "request_id": exchange.request_id,
            "error": exchange.error,
            "status": exchange.status or None,
            "request": self._text(exchange.data.partition(b"\r\n\r\n")[2]),
            "response": self._text(response[:MAX_SAVED_BYTES]),
            "is_cut": len(response) > MAX_SAVED_BYTES,
        }
        exchange.saved = None
        try:
            self._file.write(orjson.dumps(row) + b"\n")
        except OSError as error:
            raise RunError(f"the bodies cannot be saved: {error.strerror}") from None

    def _text(self, data: bytes) -> str:
        return blotted(data.decode("utf-8", "backslashreplace"), self._secrets)

    def close(self) -> None:
        """Write what is left."""
        try:
            self._file.close()
        except OSError as error:
            raise RunError(f"the bodies cannot be saved: {error.strerror}") from None
