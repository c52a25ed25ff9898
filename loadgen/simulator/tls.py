"""TLS over memory, so that the server knows when it hands a record to the kernel.

A transport that encrypts decides itself when it sends; here the records come back to the caller as bytes.
"""

import contextlib
import ssl
from pathlib import Path
from typing import Final

from loadgen.errors import UsageError

READ_BYTES: Final = 256 * 1024


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context that speaks HTTP/1.1 alone; UsageError if the files are no certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"--tls-cert, --tls-key: {certificate} and {key} are no certificate and its key: {error}"
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


class TlsSession:
    """One connection's records. `received` raises ssl.SSLError when the client speaks no TLS or gives up."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shaken = False

    def received(self, data: bytes) -> bytes:
        """Feed what came from the client; returns what it says. Then `to_send` may hold an answer of TLS itself."""
        self._incoming.write(data)
        said = []
        try:
            if not self._shaken:
                self._session.do_handshake()
                self._shaken = True
            while True:
                piece = self._session.read(READ_BYTES)
                if not piece:  # close_notify
                    break
                said.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):  # no whole record is left; the client said goodbye
            pass
        return b"".join(said)

    def encrypted(self, data: bytes) -> bytes:
        self._session.write(data)
        return self._outgoing.read()

    def to_send(self) -> bytes:
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """The close_notify that tells an ordered end from a cut."""
        with contextlib.suppress(ssl.SSLError):  # it wants the client's own close_notify, for which nobody waits
            self._session.unwrap()
        return self._outgoing.read()
