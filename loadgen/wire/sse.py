"""Server-sent events: where each event ends, and what its data is.

The rules are the WHATWG's (HTML Living Standard, 9.2.6 "Interpreting an event stream"): lines end in LF, CRLF or CR; a
blank line ends an event; a line that starts with a colon is a comment; several data fields join with LF; one space
after the colon is dropped; a leading BOM is dropped. One departure, because real servers do it: at the end of the
stream an unterminated event is handed out too, and the dialect decides whether it is whole.

Nearly every stream is `data: ...` and a blank line, or that behind an `event: ...`, and nothing else: those shapes are
taken apart by bytes.split; any other block goes through the rules line by line. Both ways give the same events (a
property test holds them together).
"""

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from loadgen.wire.events import Events

BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = re.compile(rb"([^\r\n]*)(\r\n|\r|\n)")
_BLANK_LINE: Final = re.compile(rb"\n[\r\n]|\r\r")

# A block of so many bytes is gone through line by line: a list of all its lines may take ten times its memory.
_LARGE_BLOCK: Final = 64 * 1024


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
    has_returns = b"\r" in buffer
    if has_returns and not buffer.count(b"\r") == buffer.count(b"\n") == buffer.count(b"\r\n"):
        consumed = _split_by_lines(buffer, position, payloads, ends)
    else:
        line_end = b"\r\n" if has_returns else b"\n"
        blocks = (buffer[position:] if position else buffer).split(line_end * 2)
        rest = blocks.pop()
        consumed = len(buffer) - len(rest)
        border_bytes = 2 * len(line_end)
        if (plain := _plain_data(blocks, consumed - position - border_bytes * len(blocks))) is not None:
            payloads = plain
            ends = list(accumulate([len(block) + border_bytes for block in blocks], initial=position))
            del ends[0]
        else:
            for block in blocks:
                position += len(block) + border_bytes
                if (payload := _data_of(_lines_of(block))) is not None:
                    payloads.append(payload)
                    ends.append(position)
        # A third line end is a blank line of its own: leave it out of what is kept.
        if rest == line_end:
            consumed += len(line_end)
    if final and consumed < len(buffer):
        payload = _data_of(_lines_of(buffer[consumed:]))
        if payload is not None:
            payloads.append(payload)
            ends.append(len(buffer))
        consumed = len(buffer)
    return Events(payloads, ends, consumed)


def _plain_data(blocks: list[bytes], n_bytes: int) -> list[bytes] | None:
    """The data of blocks (of `n_bytes` together) that are all of one plain shape, else None: a single data line, behind an
    event line or not."""
    if not blocks:
        return []
    first = blocks[0]
    if first.startswith(b"event:"):
        parts = [block.partition(b"\ndata: ") for block in blocks]
        payloads = [payload for _, _, payload in parts]
        names = b"".join([name for name, _, _ in parts])
        n_named = sum(name.startswith(b"event:") for name, _, _ in parts)
        # With CRLF the return of the event line stays with its name.
        is_plain = names.count(b"event:") == n_named == len(blocks) and b"\n" not in names and all(payloads)
        return payloads if is_plain and b"\n" not in b"".join(payloads) else None
    prefix = b"data: " if first.startswith(b"data: ") else b"data:"
    payloads = [block.removeprefix(prefix) for block in blocks]
    joined = b"".join(payloads)
    # Every block has lost its prefix, and none has a line end left (a CR comes before a LF here): one plain line each.
    if len(joined) != n_bytes - len(prefix) * len(blocks) or b"\n" in joined:
        return None
    if len(prefix) == 5 and any(payload.startswith(b" ") for payload in payloads):  # there the space is not the data's
        return None
    return payloads


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
