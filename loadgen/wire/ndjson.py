"""A JSON document a line (NDJSON), and one document in all: where each ends.

Lines end in LF or CRLF; an empty line is none. The last one may lack its line end.
"""

from itertools import accumulate

from loadgen.wire.events import Events


def split_lines(buffer: bytes, *, at_start: bool = False, final: bool = False) -> Events:
    """Take the complete lines off `buffer`. `final`: no more bytes will come; what is left is a line as well."""
    lines = buffer.split(b"\n")
    rest = lines.pop()
    if final and rest:
        lines.append(rest)
        rest = b""
    ends = list(accumulate([len(line) + 1 for line in lines]))
    if ends and ends[-1] > len(buffer):
        ends[-1] = len(buffer)
    consumed = len(buffer) - len(rest)
    if b"\r" in buffer:
        lines = [line.removesuffix(b"\r") for line in lines]
    if not all(lines):
        ends = [end for end, line in zip(ends, lines, strict=True) if line]
        lines = [line for line in lines if line]
    return Events(lines, ends, consumed)


def may_end_line(before: bytes, behind: bytes) -> bool:
    """Whether a line ends within `behind`."""
    return b"\n" in behind


def may_end_whole(before: bytes, behind: bytes) -> bool:
    """A body ends where no more bytes come, and not before."""
    return False


def whole_body(buffer: bytes, *, at_start: bool = False, final: bool = False) -> Events:
    """The body as one event, once no more bytes will come."""
    if not final or not buffer:
        return Events([], [], 0)
    return Events([buffer], [len(buffer)], len(buffer))
