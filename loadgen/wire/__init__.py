"""Bytes -> messages -> events. No I/O, no clock, no JSON: what comes in is bytes, what goes out is bytes."""

from collections.abc import Callable
from typing import Final

from loadgen.wire.events import Events
from loadgen.wire.ndjson import split_lines, whole_body
from loadgen.wire.sse import split_events

SPLITTERS: Final[dict[str, Callable[..., Events]]] = {"sse": split_events, "ndjson": split_lines, "json": whole_body}
"""How a body is cut into events, by the framing that a dialect names."""
