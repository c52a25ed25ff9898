"""Bytes -> messages -> events. No I/O, no clock, no JSON: what comes in is bytes, what goes out is bytes."""

from collections.abc import Callable
from typing import Final

from loadgen.wire.events import Events
from loadgen.wire.ndjson import may_end_line, may_end_whole, split_lines, whole_body
from loadgen.wire.sse import may_end_event, split_events

SPLITTERS: Final[dict[str, Callable[..., Events]]] = {"sse": split_events, "ndjson": split_lines, "json": whole_body}
"""How a body is cut into events, by the framing that a dialect names."""

MAY_END: Final[dict[str, Callable[[bytes, bytes], bool]]] = {
    "sse": may_end_event,
    "ndjson": may_end_line,
    "json": may_end_whole,
}
"""Whether an event may end within some bytes that follow others, none of which ended one."""
