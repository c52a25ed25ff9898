"""Whose fault it was, and the short classes that a failed request is counted under.

UsageError is the user's: one sentence, exit status 2. EndpointError is the endpoint's: its own words, exit
status 1. Everything that goes wrong with one request in a run is no exception at all but a value in the
capture's `error` column, taken from ERROR_CLASSES (or `http-NNN`).
"""

from pathlib import Path
from typing import Final


class LoadgenError(Exception):
    """Any failure that is told to the user as one sentence; `exit_status` is what the command returns."""

    exit_status = 1


class UsageError(LoadgenError):
    """The request itself was wrong: names the field, what was wrong and what is allowed."""

    exit_status = 2


class EndpointError(LoadgenError):
    """The endpoint did not do its part; carries the error class and the server's own words."""

    exit_status = 1

    def __init__(self, error_class: str, words: str) -> None:
        super().__init__(words)
        self.error_class = error_class


class RunError(LoadgenError):
    """A run failed: the load generator's own machinery (a worker died, the disk is full), or every request of a stage.

    `run_dir` is where what was measured until then can be found; None where nothing was.
    """

    exit_status = 1

    def __init__(self, words: str, run_dir: Path | None = None) -> None:
        super().__init__(words)
        self.run_dir = run_dir


ERROR_CLASSES: Final = {
    "dns": "the host name could not be resolved",
    "connect-refused": "nobody listens at the address",
    "connect-failed": "the connection could not be made (unreachable)",
    "client-exhausted": "this machine had no port, descriptor or memory left for the connection: not the endpoint's failure",
    "connect-reset": "the connection was closed before any byte of the response",
    "tls": "the TLS handshake failed",
    "tls-certificate": "the server's certificate was not trusted",
    "timeout-connect": "connecting took longer than the limit",
    "timeout-first-byte": "no byte of the response within the limit",
    "timeout-idle": "the stream fell silent for longer than the limit",
    "timeout-total": "the whole response took longer than the limit",
    "bad-http": "the bytes are no HTTP/1.x response",
    "not-a-stream": "a response of another content type than was asked for",
    "bad-event": "an event that is not valid for the dialect",
    "too-large": "an event, or a whole response, larger than this program takes",
    "server-error": "an error event inside the stream",
    "empty": "a complete response without any output",
    "truncated": "the response ended before its end sign",
    "cancelled": "the user left before the response ended (--cancel); no failure",
    "dropped": "never sent: it waited longer than --late allows, or the stage ended before a place was free; no failure",
    "unfinished": "still in flight when the drain's limit came or the run was stopped",
    "decode-failed": "this program failed to read a response; it is our bug, please report it",
}
"""Every class but `http-NNN` (a status that is not 2xx), with its meaning."""
