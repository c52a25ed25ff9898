"""What may be wrong with a response on request; each name is a choice of `--fault`."""

from typing import Final

FAULTS: Final = {
    # Refusals: no engine, no stream.
    "error-429": "refused with status 429 and retry-after",
    "error-500": "refused with status 500",
    "error-503": "refused with status 503",
    "html": "status 200 and a page of HTML",
    # A response of another kind than was asked for.
    "not-a-stream": "a whole JSON response to a stream request",
    "empty": "a complete stream without any output event",
    # Silence, for the time that --stall gives; afterwards everything that was held back comes at once.
    "stall-first-byte": "silence before the first byte",
    "stall-mid-stream": "silence after half of the output events",
    # Ends after half of the output events (of a JSON response: of its bytes).
    "reset-mid-stream": "the connection is reset (RST)",
    "truncate": "the connection is closed (FIN) before the end of the body",
    "missing-end": "the body ends in order, but before the finish event and the API's sign of the end",
    "error-event": "an error event in the stream, which then ends as the API ends it",
    # Connections.
    "close-after-response": "`Connection: close`, and the server closes",
    "close-idle": "the connection is announced as kept alive, and closed right after the response",
}

REFUSAL_STATUS: Final = {"error-429": 429, "error-500": 500, "error-503": 503}
HALFWAY: Final = frozenset({"stall-mid-stream", "reset-mid-stream", "truncate", "missing-end", "error-event"})
# What a JSON response cannot show is not done to it, and not logged as done.
OF_JSON_TOO: Final = frozenset(
    {*REFUSAL_STATUS, "html", "stall-first-byte", "reset-mid-stream", "truncate", "close-after-response", "close-idle"}
)
