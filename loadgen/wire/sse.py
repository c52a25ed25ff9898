"""Server-sent events: where each event ends, and what its data is.

The rules are the WHATWG's (HTML Living Standard, 9.2.6 "Interpreting an event stream"): lines end in LF, CRLF or CR; a
blank line ends an event; a line that starts with a colon is a comment; several data fields join with LF; one space
after the colon is dropped; a leading BOM is dropped. One departure, because real servers do it: at the end of the
stream an unterminated event is handed out too, and the dialect decides whether it is whole.

Nearly every stream is `data: ...` LF LF and nothing else, so that shape is taken apart by bytes.split; any other block
goes through the rules line by line. Both ways give the same events (a property test holds them together).
"""

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, NamedTuple

BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = re.compile(rb"([^\r\n]*)(\r\n|\r|\n)")
_BLANK_LINE: Final = re.compile(rb"\n[\r\n]|\r\r")

# A block of so many bytes is gone through line by line: a list of all its lines may take ten times its memory.
_LARGE_BLOCK: Final = 64 * 1024


class Events(NamedTuple):
    """Events cut from a buffer."""

    payloads: list[bytes]
    """The data of each event, fields joined; an event without data is left out."""
    ends: list[int]
    """For each payload the offset in the buffer just behind the blank line that completed it."""
    consumed: int
    """Bytes of the buffer that are done with; the rest belongs to an event that is not whole yet."""


def may_end_event(before: bytes, behind: bytes) -> bool:
    """Whether an event can end within `behind`, which follows `before`; if not, nothing can be split off the two."""
    return _BLANK_LINE.search(before[-1:] + behind) is not None


def split_events(buffer: bytes, *, at_start: bool = False, final: bool = False) -> Events:
    """Take the complete events off `buffer`.

    `at_start`: the buffer begins the stream (a BOM there is dropped). `final`: no more bytes will come; an
    unterminated last event is then handed out as well.
    """
    payloads: list[bytes] = []
    ends: list[int] = []
    position = len(BOM) if at_start and buffer.startswith(BOM) else 0
    if b"\r" in buffer:
        consumed = _split_by_lines(buffer, position, payloads, ends)
    else:
        blocks = (buffer[position:] if position else buffer).split(b"\n\n")
        rest = blocks.pop()
        consumed = len(buffer) - len(rest)
        payloads = [block.removeprefix(b"data: ") for block in blocks]
        joined = b"".join(payloads)
        # Every block has lost its `data: ` and its two line feeds, and none is left in between: one plain line each.
        if len(joined) == consumed - position - 8 * len(blocks) and b"\n" not in joined:
            ends = list(accumulate([len(block) + 2 for block in blocks], initial=position))
            del ends[0]
        else:
            payloads = []
            for block in blocks:
                position += len(block) + 2
                if (payload := _data_of(_lines_of(block))) is not None:
                    payloads.append(payload)
                    ends.append(position)
        # A third line feed is a blank line of its own: leave it out of what is kept.
        if rest == b"\n":
            consumed += 1
    if final and consumed < len(buffer):
        payload = _data_of(_lines_of(buffer[consumed:]))
        if payload is not None:
            payloads.append(payload)
            ends.append(len(buffer))
        consumed = len(buffer)
    return Events(payloads, ends, consumed)


def _split_by_lines(buffer: bytes, position: int, payloads: list[bytes], ends: list[int]) -> int:
    lines: list[bytes] = []
    consumed = position
    for match in _LINE.finditer(buffer, position):
        line = match.group(1)
        if line:
            if line.startswith(b"data"):
                lines.append(line)
            continue
        # A CR that ends the buffer may be half of a CRLF; its LF then comes as one more blank line, which is harmless.
        consumed = match.end()
        payload = _data_of(lines)
        if payload is not None:
            payloads.append(payload)
            ends.append(consumed)
        lines.clear()
    return consumed


def _lines_of(block: bytes) -> Iterable[bytes]:
    if len(block) > _LARGE_BLOCK:
        return (match.group() for match in re.finditer(rb"[^\r\n]+", block))
    return re.split(rb"\r\n|\r|\n", block) if b"\r" in block else block.split(b"\n")


def _data_of(lines: Iterable[bytes]) -> bytes | None:
    """The joined data fields of one event, or None if it has none."""
    data = []
    for line in lines:
        if line == b"data":
            data.append(b"")
        elif line.startswith(b"data:"):
            value = line[5:]
            data.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(data) if data else None
